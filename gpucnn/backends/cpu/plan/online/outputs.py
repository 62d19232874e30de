"""The memory of steps' outputs, their activations, and the gradients by what went into them.

A step computes slope * z, and its output is y = scale * stored (`Squash`): who reads it multiplies
by the scale. What a step gives as the gradient by its input is to be multiplied by its
`gradient_factor`. So the constants of an activation cost no calls of their own: the first two go
where inputs are copied, the last one and the scale into the derivatives.
"""

from dataclasses import dataclass

import numpy as np

from gpucnn.backends.cpu.memory import empty, padded, zeros


@dataclass(frozen=True)
class Maps:
    """An array of maps whose rows lie `pitch` numbers apart.

    values: a view (maps, rows, columns). flat: the memory from the first pixel on, with zeros
    between the rows' ends if these are gradients; None where other numbers may be there.
    """

    values: np.ndarray
    flat: np.ndarray | None

    @property
    def pitch(self):
        return self.values.strides[1] // self.values.itemsize

    @classmethod
    def on(cls, flat, size, pitch=None):
        """Maps of `size` (maps, rows, columns) on a flat memory."""
        maps, rows, columns = size
        memory = flat.reshape(maps, rows, pitch or columns)
        return cls(memory[:, :, :columns], flat)

    @classmethod
    def zeros(cls, size, pitch, dtype):
        return cls.on(zeros((size[0] * size[1] * pitch,), dtype), size, pitch)


class TanhOutputs:
    """The outputs of all steps that store a tanh, one behind the other, and their derivatives."""

    def __init__(self, size, dtype):
        self._stored, self._slopes = zeros((size,), dtype), empty((size,), dtype)
        self._factors = np.ones(size, dtype)
        self._one = self._stored.dtype.type(1)
        self._used = 0

    def take(self, size):
        """The next `size` numbers of (what is stored, derivatives, factors of derivatives)."""
        place = slice(self._used, self._used + size)
        self._used += padded(size)
        return self._stored[place], self._slopes[place], self._factors[place]

    def derive(self):
        """Compute the derivatives of all, from what is stored."""
        slopes = self._slopes
        np.multiply(self._stored, self._stored, slopes)
        np.subtract(self._one, slopes, slopes)
        np.multiply(slopes, self._factors, slopes)


class Output:
    """What a step stores of one sample, of `size` (maps, rows, columns) with rows `pitch` apart.

    Forward, the step writes slope * z to `flat` and calls `squash`. Backward, `take_gradient` makes
    `dz`, the gradient by slope * z, from the gradient by what is stored.
    """

    def __init__(self, tanh_outputs, size, pitch, squash, dtype):
        self._squash = squash
        count = size[0] * size[1] * pitch
        self._factors = None
        if squash.stores_tanh:
            flat, self._slopes, self._factors = tanh_outputs.take(count)
        else:
            flat, self._slopes = zeros((count,), dtype), empty((count,), dtype)
        self.maps = Maps.on(flat, size, pitch)
        self.flat = flat
        self.dz = self._slopes
        self._dtype = dtype
        self._size, self._pitch = size, pitch

    def squash(self):
        """Replace slope * z by what is stored."""
        self._squash.forward(self.flat)

    def bind_gradient(self, gradient, factor):
        """Take the `Maps` with the gradient by y, to be multiplied by `factor`."""
        if self._factors is not None:
            self._factors[:] = factor * self._squash.scale
        self._factor = self._dtype.type(factor)
        if gradient.flat is not None and gradient.pitch == self._pitch:
            self._terms = self._slopes, gradient.flat, self.dz
        else:  # the numbers between the rows' ends stay zeros
            slopes = Maps.on(self._slopes, self._size, self._pitch)
            dz = Maps.zeros(self._size, self._pitch, self._dtype)
            self.dz = dz.flat
            self._terms = slopes.values, gradient.values, dz.values

    def take_gradient(self):
        """Compute `dz`."""
        if self._factors is None:
            self._squash.derivative(self.flat, self._factor, self._slopes)
        np.multiply(*self._terms)
