"""The shapes of one convolution, and its input in batch-last memory with zeros around it."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gpucnn.backends.cpu.arrays import batch_last, samples_last, scratch
from gpucnn.shapes import window_positions


@dataclass(frozen=True)
class Convolution:
    """Maps of `size`, windows of `kernel`; all pairs are (vertical, horizontal)."""

    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    @cached_property
    def out_size(self):
        return tuple(map(window_positions, self.size, self.kernel, self.stride, self.padding))

    @cached_property
    def padded_size(self):
        return tuple(size + 2 * pad for size, pad in zip(self.size, self.padding, strict=True))

    @property
    def area(self):
        """Pixels of a window."""
        return self.kernel[0] * self.kernel[1]

    @property
    def can_be_transposed(self):
        """Whether `transposed` exists: padding that no window needs would have to be cut off."""
        return all(pad < kernel for pad, kernel in zip(self.padding, self.kernel, strict=True))

    @cached_property
    def transposed(self):
        """The convolution with the mirrored kernel that gives the gradient by the input: of the
        output's gradient, its pixels `stride` apart with zeros between and around them."""
        size = tuple(size + kernel - 1 for size, kernel
                     in zip(self.size, self.kernel, strict=True))
        return Convolution(size, self.kernel, (1, 1), (0, 0))

    def by_cells(self, cell):
        """The convolution that takes all windows of a cell of output pixels (rows, columns) as one;
        `cell` divides the output's size."""
        reach = tuple(size + step * (pixels - 1) for size, step, pixels
                      in zip(self.kernel, self.stride, cell, strict=True))
        stride = tuple(step * pixels for step, pixels in zip(self.stride, cell, strict=True))
        return Convolution(self.size, reach, stride, self.padding)

    def padded(self, x, name, workspace):
        """Samples x (samples, maps, height, width) with their padding, batch-last."""
        if self.padding == (0, 0):
            return batch_last(x, name, workspace)
        source = scratch(workspace, name, (x.shape[1], *self.padded_size, len(x)), x.dtype)
        source.fill(0)
        np.copyto(self.unpadded(source), samples_last(x))
        return source

    def unpadded(self, source):
        """The maps within their padding."""
        (top, left), (height, width) = self.padding, self.size
        return source[:, top:top + height, left:left + width]

    def spread(self, dz, name, workspace):
        """The input of `transposed`: dz (out_maps, out_height, out_width, samples) spread out."""
        maps, height, width, samples = dz.shape
        spread = scratch(workspace, name, (maps, *self.transposed.size, samples), dz.dtype)
        spread.fill(0)
        top, left = (kernel - 1 - pad
                     for kernel, pad in zip(self.kernel, self.padding, strict=True))
        rows = slice(top, top + (height - 1) * self.stride[0] + 1, self.stride[0])
        pixels = slice(left, left + (width - 1) * self.stride[1] + 1, self.stride[1])
        spread[:, rows, pixels] = dz
        return spread
