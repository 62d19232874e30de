"""Windows as columns: batch-last maps copied to the matrix of a convolution, and added back."""

from contextlib import contextmanager
from itertools import product

import numpy as np
from numpy.lib.stride_tricks import as_strided

from gpucnn.backends.cpu.arrays import scratch

# Of columns that are made at once. It is more than a core's L2 cache, since between NumPy's calls
# threads wait for each other.
COLUMN_BYTES = 3 * 1024 * 1024


class Columns:
    """The windows of one `Convolution`."""

    def __init__(self, convolution):
        self.kernel = convolution.kernel
        self.stride = convolution.stride
        self.out_size = convolution.out_size

    def bands(self, source, most_bytes):
        """Slices of output rows, as many a band as keep its columns within `most_bytes`."""
        return self._rows_at_once(source, self.kernel[0], most_bytes)

    grad_bands = bands

    def _rows_at_once(self, source, lines, most_bytes):
        """Slices of output rows, as many as keep so many `lines` of windows for each of them within
        `most_bytes`."""
        maps, samples = source.shape[0], source.shape[-1]
        row_bytes = (maps * lines * self.kernel[1] * self.out_size[1] * samples
                     * source.itemsize)
        rows, height = max(1, most_bytes // max(1, row_bytes)), self.out_size[0]
        return [slice(first, min(first + rows, height)) for first in range(0, height, rows)]

    def _windows(self, source, inputs, rows):
        """A view (inputs, kh, kw, rows, out_width, samples) of the windows of some output rows."""
        vertical, horizontal = self.stride
        first, last, step = inputs.indices(len(source))
        one_map, row, column, sample = source.strides
        shape = (len(range(first, last, step)), *self.kernel, rows.stop - rows.start,
                 self.out_size[1], source.shape[-1])
        strides = (step * one_map, row, column, vertical * row, horizontal * column, sample)
        return as_strided(source[first:, rows.start * vertical:], shape, strides, writeable=False)

    def of(self, source, inputs, rows, workspace):
        """The windows copied to a matrix (inputs * kernel area, pixels * samples)."""
        if not isinstance(inputs, slice):
            source, inputs = source[inputs], slice(None)
        windows = self._windows(source, inputs, rows)
        columns = scratch(workspace, "conv2d.columns", windows.shape, source.dtype)
        np.copyto(columns, windows)
        return columns.reshape(windows.shape[0] * self.kernel[0] * self.kernel[1], -1)

    @staticmethod
    def pieces(matrix, rows):
        """A matrix by whose columns a product is computed: all at once."""
        return matrix

    @staticmethod
    def in_order(windows):
        """An array (..., input maps, window rows, window columns) in the order of the columns; and
        what is in this order, as before."""
        return windows

    @contextmanager
    def addition(self, grad_source, workspace):
        """What adds a band's gradient by the columns, (columns, inputs, rows), to the pixels that
        they were copied from; in the end grad_source is their sum. Where windows are as many
        strides long as a whole number, pixels are added up in the order in which they lie
        together, and brought to their places then."""
        maps, height, width, samples = grad_source.shape
        vertical, horizontal = self.stride
        if self.stride == (1, 1) or any(
                length % step for lengths in (self.kernel, (height, width))
                for length, step in zip(lengths, self.stride, strict=True)):
            grad_source.fill(0)
            yield lambda columns, inputs, rows: self._add_back(columns, grad_source, inputs, rows)
            return
        sums = scratch(workspace, "conv2d.grad_phases", (
            maps, vertical, horizontal, height // vertical, width // horizontal, samples),
            grad_source.dtype)
        sums.fill(0)
        yield lambda columns, inputs, rows: self._add_phases(columns, sums, inputs, rows)
        np.copyto(grad_source.reshape(maps, height // vertical, vertical, width // horizontal,
                                      horizontal, samples, copy=False),
                  sums.transpose(0, 3, 1, 4, 2, 5))

    def _add_phases(self, grad_columns, sums, inputs, rows):
        """As `_add_back`, for pixels (maps, phase rows, phase columns, rows, columns, samples)."""
        (kh, kw), (vertical, horizontal) = self.kernel, self.stride
        count, width = rows.stop - rows.start, self.out_size[1]
        shifted = grad_columns.reshape(-1, kh // vertical, vertical, kw // horizontal, horizontal,
                                       count, width, sums.shape[-1])
        for ky, kx in product(range(kh // vertical), range(kw // horizontal)):
            lines = slice(rows.start + ky, rows.start + ky + count)
            sums[inputs, :, :, lines, kx:kx + width] += shifted[:, ky, :, kx]

    def _add_back(self, grad_columns, grad_source, inputs, rows):
        """Add each column's gradient to the pixels that it was copied from: shift by shift, or
        window by window where there are fewer windows than shifts."""
        (kh, kw), (vertical, horizontal) = self.kernel, self.stride
        count, width = rows.stop - rows.start, self.out_size[1]
        shifted = grad_columns.reshape(-1, kh, kw, count, width, grad_source.shape[-1])
        if count * width < kh * kw:
            for line, pixel in product(range(count), range(width)):
                top, left = (rows.start + line) * vertical, pixel * horizontal
                grad_source[inputs, top:top + kh, left:left + kw] += shifted[:, :, :, line, pixel]
            return
        for ky, kx in product(range(kh), range(kw)):
            top = rows.start * vertical + ky
            lines = slice(top, top + (count - 1) * vertical + 1, vertical)
            pixels = slice(kx, kx + (width - 1) * horizontal + 1, horizontal)
            grad_source[inputs, lines, pixels] += shifted[:, ky, kx]
