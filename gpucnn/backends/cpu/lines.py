"""Windows as columns that share lines: each line of the input is copied once, and not for every row
of windows that reads it.

A line is a row of pixels with the windows of an output row side by side: (input map, window
column) by (output pixel, sample). The windows of one output row are some lines on end, and those of
the next row begin `stride` lines later: matrices that overlap in memory, one for each output row.
"""

from contextlib import contextmanager

import numpy as np
from numpy.lib.stride_tricks import as_strided

from gpucnn.backends.cpu.arrays import scratch
from gpucnn.backends.cpu.columns import Columns


class Lines(Columns):
    """As `Columns` but for the order of a window's pixels: window row, input map, window column."""

    def bands(self, source, most_bytes):
        """Slices of output rows, as many a band as keep its lines within `most_bytes`."""
        return self._rows_at_once(source, self.stride[0], most_bytes)

    def grad_bands(self, source, most_bytes):
        """The same of the gradients by its columns, which share nothing."""
        return self._rows_at_once(source, self.kernel[0], most_bytes)

    def of(self, source, inputs, rows, workspace):
        """The windows as matrices (rows, kernel area * inputs, pixels * samples), a view of
        lines."""
        source = source[inputs]
        samples = source.shape[-1]
        one_map, row, column, sample = source.strides
        shape = (self._lines(rows), len(source), self.kernel[1], self.out_size[1], samples)
        windows = as_strided(source[:, rows.start * self.stride[0]:], shape, (
            row, one_map, column, self.stride[1] * column, sample), writeable=False)
        lines = scratch(workspace, "conv2d.columns", shape, source.dtype)
        np.copyto(lines, windows)
        numbers, width = len(source) * self.kernel[1], self.out_size[1] * samples
        a_number = width * lines.itemsize
        return as_strided(lines, (rows.stop - rows.start, self.kernel[0] * numbers, width),
                          (self.stride[0] * numbers * a_number, a_number, lines.itemsize))

    def pieces(self, matrix, rows):
        """A matrix (..., rows * columns) as those of each output row."""
        parts = matrix.reshape(len(matrix), rows.stop - rows.start, -1, copy=False)
        return parts.swapaxes(0, 1)

    @staticmethod
    def in_order(windows):
        """An array (..., input maps, window rows, window columns) in the order of the columns; what
        is in this order, (..., window rows, input maps, window columns), as before."""
        return windows.swapaxes(-3, -2)

    @contextmanager
    def addition(self, grad_source, workspace):
        """What adds a band's gradient by the columns, (columns, inputs, rows), to the pixels that
        they were copied from; in the end grad_source is their sum."""
        grad_source.fill(0)
        yield lambda columns, inputs, rows: self._add_back(columns, grad_source, inputs, rows,
                                                           workspace)

    def _add_back(self, grad_columns, grad_source, inputs, rows, workspace):
        """Add up lines first, which are long runs, then pixels, of fewer numbers."""
        (kh, kw), (down, right) = self.kernel, self.stride
        count, width, samples = len(grad_columns), self.out_size[1], grad_source.shape[-1]
        steps = -(-kh // down)
        by_line = grad_columns.reshape(count, kh, -1)
        sums = scratch(workspace, "conv2d.grad_lines", (count + steps - 1, down, by_line.shape[2]),
                       grad_columns.dtype)
        if kh < down:
            sums.fill(0)
        np.copyto(sums[:count, :kh], by_line[:, :down])
        sums[count:] = 0
        for step in range(1, steps):
            lines = by_line[:, step * down:(step + 1) * down]
            sums[step:step + count, :lines.shape[1]] += lines
        n_lines, top = self._lines(rows), rows.start * down
        shifted = sums.reshape(-1, by_line.shape[2])[:n_lines].reshape(
            n_lines, -1, kw, width, samples).swapaxes(0, 1)
        for column in range(kw):
            pixels = slice(column, column + (width - 1) * right + 1, right)
            grad_source[inputs, top:top + n_lines, pixels] += shifted[:, :, column]

    def _lines(self, rows):
        """How many lines the windows of some output rows read."""
        return (rows.stop - rows.start - 1) * self.stride[0] + self.kernel[0]
