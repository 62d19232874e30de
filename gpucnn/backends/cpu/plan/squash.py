"""Activations within a plan: constants that the weights can carry are left to them."""

import numpy as np

from gpucnn.activations import SCALED_TANH_AMPLITUDE, SCALED_TANH_SLOPE


class Squash:
    """An activation y(z) in place, as stored = s(slope * z) and y = scale * stored.

    Whoever computes z multiplies its weights by `slope`; whoever reads what is stored multiplies by
    `scale`, which is 1 unless `scaled` allows another.
    """

    def __init__(self, activation, *, scaled):
        self.activation = activation
        self.slope = {"scaled_tanh": SCALED_TANH_SLOPE, "sigmoid": 0.5}.get(activation, 1.0)
        self._amplitude = SCALED_TANH_AMPLITUDE if activation == "scaled_tanh" else 1.0
        self.scale = self._amplitude if scaled else 1.0
        self._zeros = {}

    @property
    def stores_tanh(self):
        """Whether what is stored is the tanh of slope * z."""
        return (self.activation in ("tanh", "scaled_tanh")
                and self._amplitude == self.scale)

    def forward(self, z):
        """Replace slope * z by what is stored."""
        if self.activation == "relu":
            np.maximum(z, self._zeros_for(z), out=z)
        elif self.activation != "identity":
            np.tanh(z, out=z)
            if self.activation == "sigmoid":  # 1 / (1 + exp(-z)) = (1 + tanh(z / 2)) / 2
                z *= 0.5
                z += 0.5
            elif self.scale != self._amplitude:
                z *= self._amplitude

    def _zeros_for(self, z):
        """Zeros as large as one map: against them NumPy compares four times as fast as with 0."""
        key = z.shape[1:], z.dtype
        if key not in self._zeros:
            self._zeros[key] = np.zeros(*key)
        return self._zeros[key]

    def backward(self, stored, grad):
        """Replace what is stored by the gradient by slope * z, given the gradient by what is
        stored, of the same shape."""
        if self.activation == "identity":
            np.copyto(stored, grad)
        elif self.activation == "relu":
            np.greater(stored, 0, out=stored, casting="unsafe")
            stored *= grad
        elif self.activation == "sigmoid":  # y (1 - y) = 1/4 - (y - 1/2)^2
            stored -= 0.5
            stored *= stored
            np.subtract(0.25, stored, out=stored)
            stored *= grad
            stored *= 2
        else:
            stored *= stored
            if self.scale != self._amplitude:
                stored *= 1 / self._amplitude
            np.subtract(self._amplitude / self.scale, stored, out=stored)
            stored *= grad

    def derivative(self, stored, factor, out):
        """out = factor times the derivative of y by slope * z, all of one shape."""
        if self.activation == "identity":
            out.fill(factor)
        elif self.activation == "relu":
            np.greater(stored, 0, out=out, casting="unsafe")
            if factor != 1:
                out *= factor
        elif self.activation == "sigmoid":
            np.subtract(1, stored, out=out)
            out *= stored
            out *= 2 * factor
        else:  # a tanh: y = amplitude * t, amplitude * (1 - t^2)
            np.multiply(stored, stored, out=out)
            out *= -factor / self._amplitude
            out += self._amplitude * factor
