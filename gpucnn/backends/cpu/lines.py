"""Windows as columns that share lines: each line of the input is copied once, and not for every row
of windows that reads it.

A line is a row of pixels with the windows of an output row side by side: (input map, window
column) by (output pixel, sample). The windows of one output row are some lines on end, and those of
the next row begin `stride` lines later: matrices that overlap in memory, one for each output row.
"""

import numpy as np
from numpy.lib.stride_tricks import as_strided

from gpucnn.backends.cpu.arrays import scratch
from gpucnn.backends.cpu.columns import Columns, adding


class Lines(Columns):
    """As `Columns` but for the order of a window's pixels: window row, input map, window column;
    and for a matrix for each output row of each group, (groups, rows, window pixels, pixels *
    samples)."""

    adds_by_phases = False

    def row_numbers(self, maps):
        return maps * self.stride[0] * self.kernel[1] * self.out_size[1]

    def copies(self, groups, maps, rows, samples, dtype, workspace):
        return scratch(workspace, "conv2d.columns", (
            groups, self._lines(rows), maps, self.kernel[1], self.out_size[1], samples), dtype)

    def windows(self, source, groups, rows):
        one_map, row, column, sample = source.strides
        maps = len(source) // groups
        shape = (groups, self._lines(rows.stop - rows.start), maps, self.kernel[1],
                 self.out_size[1], source.shape[-1])
        strides = (maps * one_map, row, one_map, column, self.stride[1] * column, sample)
        return as_strided(source[:, rows.start * self.stride[0]:], shape, strides,
                          writeable=False)

    def matrices(self, copies):
        groups, lines, maps, kw, width, samples = copies.shape
        rows = (lines - self.kernel[0]) // self.stride[0] + 1
        group, line, _, pixel, _, number = copies.strides
        return as_strided(copies, (groups, rows, self.kernel[0] * maps * kw, width * samples),
                          (group, self.stride[0] * line, pixel, number))

    def pieces(self, matrices, rows):
        groups, numbers, _ = matrices.shape
        return matrices.reshape(groups, numbers, rows, -1, copy=False).swapaxes(1, 2)

    @staticmethod
    def in_order(windows):
        """An array (..., input maps, window rows, window columns) in the order of the columns; what
        is in this order, (..., window rows, input maps, window columns), as before."""
        return windows.swapaxes(-3, -2)

    def additions(self, grad_columns, sums, maps, rows, workspace):
        """As of `Columns`: lines are added up first, which are long runs, then pixels, of fewer
        numbers."""
        (kh, kw), (down, right) = self.kernel, self.stride
        groups, count, width, samples = (*grad_columns.shape[:2], self.out_size[1], sums.shape[-1])
        steps = -(-kh // down)
        by_line = grad_columns.reshape(groups, count, kh, -1, copy=False)
        lines = scratch(workspace, "conv2d.grad_lines", (
            groups, count + steps - 1, down, by_line.shape[3]), grad_columns.dtype)
        calls = [((lines if kh < down else lines[:, count:]).fill, 0),
                 (np.copyto, lines[:, :count, :kh], by_line[:, :, :down])]
        for step in range(1, steps):
            term = by_line[:, :, step * down:(step + 1) * down]
            calls.append(adding(lines, (slice(None), slice(step, step + count),
                                        slice(term.shape[2])), term))
        n_lines, top = self._lines(count), rows.start * down
        shifted = lines.reshape(groups, -1, by_line.shape[3])[:, :n_lines].reshape(
            groups, n_lines, -1, kw, width, samples, copy=False).swapaxes(1, 2)
        for column in range(kw):
            pixels = slice(column, column + (width - 1) * right + 1, right)
            calls.append(adding(sums, (maps, slice(top, top + n_lines), pixels),
                                shifted[:, :, :, column]))
        return calls

    def _lines(self, rows):
        """How many lines the windows of so many output rows read."""
        return (rows - 1) * self.stride[0] + self.kernel[0]
