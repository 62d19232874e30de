"""What a convolution's kernels are chosen for: `Problem`."""

from dataclasses import dataclass
from math import prod

import numpy as np

from gpucnn.connections import ConnectionTable
from gpucnn.shapes import window_positions

FORWARD, GRAD_INPUT, GRAD_WEIGHT = "forward", "grad_input", "grad_weight"


@dataclass(frozen=True)
class Problem:
    """One of the three ops of a convolution, with all of its sizes; pairs are (vertical,
    horizontal). `precision` says whether products may be rounded to TF32."""

    op: str
    samples: int
    size: tuple[int, int]
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    table: ConnectionTable
    dtype: np.dtype
    activation: str
    precision: str = "float32"

    @property
    def out_size(self):
        """(out_height, out_width)."""
        return tuple(map(window_positions, self.size, self.kernel_size, self.stride, self.padding))

    @property
    def itemsize(self):
        """Bytes of an element."""
        return self.dtype.itemsize

    @property
    def taps(self):
        """Elements of one connection's weight."""
        return prod(self.kernel_size)

    @property
    def multiply_adds(self):
        """What the table's connections ask for."""
        return self.samples * self.table.n_connections * self.taps * prod(self.out_size)

    @property
    def has_slope(self):
        """Whether the gradient's kernels read the output, for the activation's slope."""
        return self.activation != "identity" and self.op != FORWARD

    @property
    def bytes(self):
        """What is read and written at least."""
        inputs = self.samples * self.table.in_maps * prod(self.size)
        outputs = self.samples * self.table.out_maps * prod(self.out_size)
        return self.itemsize * (inputs + outputs * (1 + self.has_slope)
                                + self.table.n_connections * self.taps)

    @property
    def sizes(self):
        """The kernels' common run-time arguments."""
        return (self.samples, self.table.in_maps, *self.size, self.table.out_maps, *self.out_size,
                *self.padding)

    @property
    def constants(self):
        """What all kernels are specialised for."""
        return {"KERNEL_HEIGHT": self.kernel_size[0], "KERNEL_WIDTH": self.kernel_size[1],
                "STRIDE_Y": self.stride[0], "STRIDE_X": self.stride[1]}
