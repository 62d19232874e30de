"""Windows as columns: batch-last maps copied to the matrix of a convolution, and added back."""

from itertools import product
from math import prod

import numpy as np
from numpy.lib.stride_tricks import as_strided

from gpucnn.backends.cpu.arrays import scratch


class Columns:
    """The windows of one `Convolution`, as matrices (window pixels, output pixels * samples) of
    groups of maps."""

    adds_by_phases = True  # pixels that a stride takes together

    def __init__(self, convolution):
        self.kernel = convolution.kernel
        self.stride = convolution.stride
        self.out_size = convolution.out_size
        self._size = convolution.padded_size
        self._has_phases = self.adds_by_phases and self.stride != (1, 1) and not any(
            length % step for lengths in (self.kernel, self._size)
            for length, step in zip(lengths, self.stride, strict=True))

    def row_numbers(self, maps):
        """Numbers of the columns of one output row of one sample."""
        return self.grad_row_numbers(maps)

    def grad_row_numbers(self, maps):
        """Numbers of the gradients by them."""
        return maps * prod(self.kernel) * self.out_size[1]

    def copies(self, groups, maps, rows, samples, dtype, workspace):
        """Memory for the windows of `groups` groups of `maps` maps in so many output rows."""
        return scratch(workspace, "conv2d.columns", (
            groups, maps, *self.kernel, rows, self.out_size[1], samples), dtype)

    def windows(self, source, groups, rows):
        """A view of the windows of a slice of output rows, of the shape of their `copies`; source
        (groups * maps, height, width, samples), of any strides."""
        vertical, horizontal = self.stride
        one_map, row, column, sample = source.strides
        maps = len(source) // groups
        shape = (groups, maps, *self.kernel, rows.stop - rows.start, self.out_size[1],
                 source.shape[-1])
        strides = (maps * one_map, one_map, row, column, vertical * row, horizontal * column,
                   sample)
        return as_strided(source[:, rows.start * vertical:], shape, strides, writeable=False)

    def matrices(self, copies):
        """The copies as matrices (groups, maps * kernel area, pixels * samples)."""
        groups, maps, kh, kw, *pixels = copies.shape
        return copies.reshape(groups, maps * kh * kw, prod(pixels), copy=False)

    def pieces(self, matrices, rows):
        """Matrices (groups, ..., pixels * samples) of so many output rows as they are multiplied
        by those of the windows: all rows at once."""
        return matrices

    @staticmethod
    def in_order(windows):
        """An array (..., input maps, window rows, window columns) in the order of the columns; and
        what is in this order, as before."""
        return windows

    def sums(self, maps, samples, dtype, workspace):
        """Memory for the gradient by so many maps. Where windows are as many strides long as a
        whole number, the pixels that a window has at the same place lie together: (maps, *stride,
        rows, columns, samples)."""
        (height, width), (vertical, horizontal) = self._size, self.stride
        shape = ((maps, vertical, horizontal, height // vertical, width // horizontal, samples)
                 if self._has_phases else (maps, height, width, samples))
        return scratch(workspace, "conv2d.sums", shape, dtype)

    def put(self, sums, target, order=None):
        """Write complete sums to target (maps, height, width, samples), of any strides; `order`:
        the maps that they belong to, if it is not their own order."""
        if self._has_phases:
            maps, vertical, horizontal, rows, columns, samples = sums.shape
            target = target.reshape(maps, rows, vertical, columns, horizontal, samples, copy=False)
            sums = sums.transpose(0, 3, 1, 4, 2, 5)
        target[... if order is None else order] = sums

    def additions(self, grad_columns, sums, maps, rows, workspace):
        """Calls, (function, *arguments), that add the gradient by the columns of a slice of output
        rows, as `matrices`, to the sums of `maps`, an index of one or several groups' maps: shift
        by shift, or window by window where there are fewer windows than shifts."""
        (kh, kw), (vertical, horizontal) = self.kernel, self.stride
        count, width, samples = rows.stop - rows.start, self.out_size[1], sums.shape[-1]
        if self._has_phases:
            shifted = grad_columns.reshape(-1, kh // vertical, vertical, kw // horizontal,
                                           horizontal, count, width, samples, copy=False)
            return [adding(sums, (maps, slice(None), slice(None),
                                  slice(rows.start + ky, rows.start + ky + count),
                                  slice(kx, kx + width)), shifted[:, ky, :, kx])
                    for ky, kx in product(range(kh // vertical), range(kw // horizontal))]
        shifted = grad_columns.reshape(-1, kh, kw, count, width, samples, copy=False)
        top = rows.start * vertical
        if count * width < kh * kw:
            return [adding(sums, (maps, slice(top + line * vertical, top + line * vertical + kh),
                                  slice(pixel * horizontal, pixel * horizontal + kw)),
                           shifted[:, :, :, line, pixel])
                    for line, pixel in product(range(count), range(width))]
        lines = [_steps(top + ky, count, vertical) for ky in range(kh)]
        pixels = [_steps(kx, width, horizontal) for kx in range(kw)]
        return [adding(sums, (maps, lines[ky], pixels[kx]), shifted[:, ky, kx])
                for ky, kx in product(range(kh), range(kw))]


def adding(sums, index, term):
    """The call that adds a term to sums[index], a term whose first axis may be divided in two."""
    if isinstance(index[0], slice):
        part = sums[index].reshape(term.shape, copy=False)
        return np.add, part, term, part
    return _add, sums, index, term.reshape(-1, *term.shape[-sums.ndim + 1:], copy=False)


def _add(sums, index, term):
    sums[index] += term


def _steps(first, count, step):
    return slice(first, first + (count - 1) * step + 1, step)
