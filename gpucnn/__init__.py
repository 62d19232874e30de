"""gpucnn trains LeNet-family networks: feature maps joined by a connection table, trainable
subsampling, a fully connected head, every gradient written by hand. The same layer code runs on
NumPy and, through this library's own CUDA kernels, on CuPy.
"""

import logging

from gpucnn import errors, functional
from gpucnn.checkpoint import load_network, save_network
from gpucnn.connections import ConnectionTable
from gpucnn.data import (
    Dataset,
    digits,
    download_mnist,
    fit_digit,
    load_mnist,
    read_idx,
    read_picture,
    write_idx,
)
from gpucnn.devices import get_backend
from gpucnn.ensemble import Ensemble
from gpucnn.functional import (
    classifier,
    classifier_backward,
    conv2d,
    conv2d_backward,
    dense,
    dense_backward,
    max_pool2d,
    max_pool2d_backward,
    subsample2d,
    subsample2d_backward,
)
from gpucnn.gradcheck import gradcheck
from gpucnn.layers import Conv2d, Dense, Flatten, Layer, MaxPool2d, Subsample2d
from gpucnn.losses import CrossEntropy, Mse
from gpucnn.many import fit_many
from gpucnn.models import lenet5, two_stage
from gpucnn.network import Network
from gpucnn.optimizers import SGD, Adam
from gpucnn.schedules import Constant, Cosine, StepDecay
from gpucnn.training import EpochRecord, History, evaluate, fit

__version__ = "0.1.0"

__all__ = [
    "SGD", "Adam", "ConnectionTable", "Constant", "Conv2d", "Cosine", "CrossEntropy", "Dataset",
    "Dense", "Ensemble", "EpochRecord", "Flatten", "History", "Layer", "MaxPool2d", "Mse",
    "Network", "StepDecay", "Subsample2d", "classifier", "classifier_backward", "conv2d",
    "conv2d_backward", "dense", "dense_backward", "digits", "download_mnist", "errors",
    "evaluate", "fit", "fit_digit", "fit_many", "functional", "get_backend", "gradcheck",
    "lenet5", "load_mnist", "load_network", "max_pool2d", "max_pool2d_backward", "read_idx",
    "read_picture", "save_network", "subsample2d", "subsample2d_backward", "two_stage",
    "write_idx",
]

logging.getLogger("gpucnn").addHandler(logging.NullHandler())
