"""The shapes of one convolution, and where its maps stand within zeros."""

from dataclasses import dataclass
from functools import cached_property, lru_cache

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

    def unpadded(self, source):
        """The maps within their padding."""
        (top, left), (height, width) = self.padding, self.size
        return source[:, top:top + height, left:left + width]

    def spread(self, source):
        """The pixels of `source`, an input of `transposed` (maps, height, width, samples), where
        the output's gradient stands, `stride` apart; the others are zero."""
        top, left = (kernel - 1 - pad
                     for kernel, pad in zip(self.kernel, self.padding, strict=True))
        height, width = self.out_size
        rows = slice(top, top + (height - 1) * self.stride[0] + 1, self.stride[0])
        pixels = slice(left, left + (width - 1) * self.stride[1] + 1, self.stride[1])
        return source[:, rows, pixels]


@lru_cache(maxsize=1024)
def convolution_of(size, kernel, stride, padding):
    """A `Convolution`, with what was worked out for the last one like it."""
    return Convolution(size, kernel, stride, padding)
