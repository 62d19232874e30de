"""The networks of the literature that this library was made for."""

from gpucnn.connections import ConnectionTable
from gpucnn.layers import Conv2d, Dense, Subsample2d
from gpucnn.network import Network

TWO_STAGE_C3 = ConnectionTable.from_matrix([[int(joined) for joined in row] for row in (
    "1100110011001100", "0011001100110011", "0011001100110011", "1100110011001100")])


def lenet5(classes=10, output_activation="identity", **keywords):
    """LeNet-5 of LeCun et al. 1998, section II.B, with F6 and the output as `Dense` layers.

    Input 1 x 32 x 32. Layers c1 s2 c3 s4 c5 f6 output; c3 has the connections of Table I.
    output_activation: "identity" for cross_entropy, "scaled_tanh" for mse. Further keywords are
    those of `Network`.
    """
    return Network([
        Conv2d(1, 6, 5, name="c1"),
        Subsample2d(6, 2, name="s2"),
        Conv2d(6, 16, 5, connections=ConnectionTable.lenet5_c3(), name="c3"),
        Subsample2d(16, 2, name="s4"),
        Conv2d(16, 120, 5, name="c5"),
        Dense(120, 84, name="f6"),
        Dense(84, classes, activation=output_activation, name="output"),
    ], (1, 32, 32), **keywords)


def two_stage(classes=10, output_activation="identity", **keywords):
    """A small network of two stages of convolution and subsampling, and a two-layer head.

    Input 1 x 28 x 28; 4 maps of 5x5, subsampling by 2, 16 maps of 5x5 through a table in which each
    sees two of the four, subsampling by 2, 20 hidden units over all maps, the outputs. Layers c1 s2
    c3 s4 hidden output. Arguments as in `lenet5`.
    """
    return Network([
        Conv2d(1, 4, 5, name="c1"),
        Subsample2d(4, 2, name="s2"),
        Conv2d(4, 16, 5, connections=TWO_STAGE_C3, name="c3"),
        Subsample2d(16, 2, name="s4"),
        Conv2d(16, 20, 4, name="hidden"),
        Dense(20, classes, activation=output_activation, name="output"),
    ], (1, 28, 28), **keywords)


MODELS = {"lenet5": lenet5, "two_stage": two_stage}
