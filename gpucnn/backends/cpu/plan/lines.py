"""Products whose columns share lines: each line of the input is copied once, and not for every row
of windows that reads it.

A line is a row of pixels with the windows of a row of cells side by side: (input map, window
column) by (cell, sample). Windows of one row of cells are some lines on end, and those of the next
row begin `pitch` lines later: matrices that overlap in memory. Lines form groups of `pitch`, and
each group ends with a row of ones for the bias, which has weights in a window's last group alone.
"""

from math import prod

import numpy as np
from numpy.lib.stride_tricks import as_strided

from gpucnn.backends.cpu.plan.products import Products, squeezed


class LineProducts(Products):
    """As `Products`. Pieces are (phase rows, phase columns, rows) of the output's cells: the cells
    of a row that lie together."""

    @staticmethod
    def column_shape(windows, matrix, samples, columns):
        groups, _, width = matrix
        in_a_row = windows.cells[1] * samples
        line_groups = windows.line_groups(columns // in_a_row)
        return groups, line_groups, width // windows.steps, in_a_row

    @classmethod
    def scratch_size(cls, windows, matrix, samples, columns):
        lines = prod(cls.column_shape(windows, matrix, samples, columns))
        pieces = prod(windows.out_phases) * columns // (windows.cells[1] * samples)
        by_columns = matrix[0] * matrix[2] * columns
        return lines + prod(matrix) + max(pieces * prod(matrix), by_columns + lines)

    def _pairs(self, columns, source):
        view = self._windows.line_view(source, self._band.rows)
        groups, line_groups, numbers, _ = columns.shape
        _, _, down, row_phases, *line = view.shape
        by_map = columns[:, :, :numbers - 1 if self._has_bias else numbers].reshape(
            groups, line_groups, down, row_phases, self._stack.inputs.shape[1], *line, copy=False)
        return self._by_inputs(np.moveaxis(by_map, 4, 1), view)

    def _piece_shape(self):
        phases = self._windows.out_phases
        rows = self._maps.shape[2] // self._columns.shape[3]
        return *phases, rows // phases[0]

    def _factor(self):
        groups, _, numbers, columns = self._columns.shape
        phase_rows, phase_columns, _ = self._pieces
        a_group, a_line, a_row, a_column = self._columns.strides
        width = columns // phase_columns
        return squeezed(as_strided(
            self._columns, (groups, *self._pieces, self._windows.steps * numbers, width),
            (a_group, a_line, width * a_column, phase_rows * a_line, a_row, a_column)))

    def bind_grad_input(self, grad_source):
        groups, _, width = self._matrix.shape
        rows, steps = self._pieces[0] * self._pieces[2], self._windows.steps
        first = self._behind_columns + self._matrix.size
        columns = self._columns.shape[3] // self._pieces[1]
        grad_columns = self._lane.scratch((groups, *self._pieces, width, columns), first)
        self._by_columns = self._for_pieces(self._matrix.swapaxes(1, 2)), self._product_pieces
        self._grad_columns = squeezed(grad_columns)
        grad_lines = self._lane.scratch(self._columns.shape, first + grad_columns.size)
        by_step = grad_columns.reshape(groups, *self._pieces, steps, -1, columns)
        by_step = by_step.transpose(4, 0, 3, 1, 5, 2, 6)
        self._first_step = self._by_pieces(grad_lines[:, :rows]), by_step[0]
        self._behind_first = grad_lines[:, rows:]
        self._additions = [(self._by_pieces(grad_lines[:, step:step + rows]), by_step[step])
                           for step in range(1, steps)]
        self._additions += [(pixels[place], lines[place])
                            for lines, pixels in self._pairs(grad_lines, grad_source)
                            for place in _without_overlap(pixels.shape)]

    def _by_pieces(self, lines):
        """A view (groups, rows, phase rows, numbers, phase columns, cells * samples) of lines, as
        many groups of them as there are rows."""
        phase_rows, phase_columns, rows = self._pieces
        return lines.reshape(len(lines), rows, phase_rows, lines.shape[2], phase_columns, -1,
                             copy=False)

    def _add_back(self):
        np.copyto(*self._first_step)
        self._behind_first.fill(0)
        super()._add_back()


def _without_overlap(shape):
    """Indices that divide lines (..., shift columns, phase columns, phases of cells, cells,
    samples) into parts in which no pixel stands twice: by shift, or by cell where that is fewer."""
    shifts, _, *cells, _ = shape[-5:]
    if shifts <= prod(cells):
        return [(..., shift, *[slice(None)] * 4) for shift in range(shifts)]
    return [(..., *cell, slice(None)) for cell in np.ndindex(*cells)]
