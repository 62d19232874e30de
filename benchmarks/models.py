"""The networks that are trained, each with data that suit it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from benchmarks.pictures import coloured_digits, repeated_digits
from benchmarks.precisions import FLOAT32, TF32, TOLERANCES
from gpucnn import Conv2d, Dense, Flatten, MaxPool2d, Network, lenet5, two_stage


@dataclass(frozen=True)
class Model:
    """A network to train.

    build: the network as a function of `Network`'s keywords. dataset: gives its data. largest_rate:
    a learning rate at which, with momentum 0.9, no batch size diverges. tolerances: by how much a
    parameter may differ between sides after a few steps, norm over norm, by precision.
    """

    build: Callable
    dataset: Callable
    largest_rate: float
    tolerances: Mapping = field(default_factory=lambda: TOLERANCES)


def relu_net(**keywords):
    """ReLU and max pooling, as small colour networks have been built since 2012.

    Input 3 x 32 x 32; three stages of 3x3 convolution with full connections and padding 1, to 16,
    32 and 64 maps, each with max pooling by 2; one `Dense` over all of the last maps. Layers c1 m2
    c3 m4 c5 m6 flatten output.
    """
    return Network([
        Conv2d(3, 16, 3, padding=1, activation="relu", name="c1"),
        MaxPool2d(2, name="m2"),
        Conv2d(16, 32, 3, padding=1, activation="relu", name="c3"),
        MaxPool2d(2, name="m4"),
        Conv2d(32, 64, 3, padding=1, activation="relu", name="c5"),
        MaxPool2d(2, name="m6"),
        Flatten(name="flatten"),
        Dense(1024, 10, activation="identity", name="output"),
    ], (3, 32, 32), **keywords)


# Rounding decides whether a unit near zero is on, and which of two almost equal pixels is the
# maximum: a small change in the outputs, a finite one in a gradient, most of all in the biases,
# which start at zero. float32 differs from float64 by up to 0.004 after 20 steps, and TF32, with
# factors rounded on the host, from float32 by up to 0.07.
KINKED_TOLERANCES = {FLOAT32: 0.02, TF32: 0.2}

MODELS = {"lenet5": Model(lenet5, repeated_digits, 0.05),
          "two_stage": Model(two_stage, repeated_digits, 0.05),
          "relu_net": Model(relu_net, coloured_digits, 0.01, KINKED_TOLERANCES)}
