"""The activations in NumPy: z to y in place, and a gradient times the slope taken from y."""

import numpy as np

from gpucnn.activations import SCALED_TANH_AMPLITUDE, SCALED_TANH_SLOPE


def squash(activation, z):
    """Replace z by y(z), in place."""
    if activation == "scaled_tanh":
        z *= SCALED_TANH_SLOPE
        np.tanh(z, out=z)
        z *= SCALED_TANH_AMPLITUDE
    elif activation == "tanh":
        np.tanh(z, out=z)
    elif activation == "sigmoid":  # by tanh, which does not overflow
        z *= 0.5
        np.tanh(z, out=z)
        z *= 0.5
        z += 0.5
    elif activation == "relu":
        np.maximum(z, 0, out=z)


def times_slope(activation, grad_output, y, out):
    """out = grad_output * dy/dz, all of one shape; `out` overlaps neither of the others."""
    if activation == "scaled_tanh":
        np.subtract(SCALED_TANH_AMPLITUDE, y, out=out)
        out *= grad_output
        out *= y + SCALED_TANH_AMPLITUDE
        out *= SCALED_TANH_SLOPE / SCALED_TANH_AMPLITUDE
    elif activation == "tanh":
        np.subtract(1, y, out=out)
        out *= grad_output
        out *= y + 1
    elif activation == "sigmoid":
        np.subtract(1, y, out=out)
        out *= grad_output
        out *= y
    elif activation == "relu":
        np.multiply(grad_output, y > 0, out=out)
    else:
        np.copyto(out, grad_output)
