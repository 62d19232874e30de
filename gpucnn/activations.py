"""The activations' names and constants; each backend has its own code for them.

| name        | y(z)                | dy/dz, from the output y              |
| ----------- | ------------------- | ------------------------------------- |
| scaled_tanh | 1.7159 tanh(2z/3)   | (2/3)/1.7159 (1.7159 - y)(1.7159 + y) |
| tanh        | tanh z              | 1 - y^2                               |
| sigmoid     | 1 / (1 + e^-z)      | y (1 - y)                             |
| relu        | max(z, 0)           | 1 where y > 0, else 0                 |
| identity    | z                   | 1                                     |

`scaled_tanh` is the squashing function of LeCun et al. 1998, appendix A.
"""

from gpucnn.errors import ArgumentError

NAMES = ("identity", "scaled_tanh", "tanh", "sigmoid", "relu")

SCALED_TANH_AMPLITUDE = 1.7159
SCALED_TANH_SLOPE = 2.0 / 3.0


def checked(name, *, where):
    """`name` if it is an activation's; raises `ArgumentError` otherwise."""
    if name not in NAMES:
        raise ArgumentError(f"{where}: expected an activation of {', '.join(NAMES)}, got {name!r}")
    return name
