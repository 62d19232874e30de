"""The layers. Each is short: shapes, parameters, and two calls of its backend's op."""

from gpucnn.layers.conv2d import Conv2d
from gpucnn.layers.dense import Dense
from gpucnn.layers.flatten import Flatten
from gpucnn.layers.layer import Layer
from gpucnn.layers.max_pool2d import MaxPool2d
from gpucnn.layers.subsample2d import Subsample2d

__all__ = ["Conv2d", "Dense", "Flatten", "Layer", "MaxPool2d", "Subsample2d"]
