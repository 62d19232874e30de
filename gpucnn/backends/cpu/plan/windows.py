"""The windows of a convolution as columns of a matrix: which pixel stands where."""

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.lib.stride_tricks import as_strided


@dataclass(frozen=True)
class Windows:
    """The windows of one convolution on maps of a `Layout`.

    One column of the matrix is one window; its rows are (input map, window pixel). Where pooling
    follows and is `aligned`, a column is a whole pooling cell: the window is that of all the cell's
    pixels, and each has its own row of weights. Otherwise each pixel of a cell has its own column.
    Window pixel y of column cell c is input pixel `pitch * c + y` in all cases.

    kernel, stride: the convolution's. cells: (rows, columns) of cells in the output. slabs: the
    pixels of a cell, (1, 1) without pooling. out_phases: how the cells are ordered in the output.
    in_phases: how the pixels are ordered in the input, (1, 1) or `pitch`. run: if not 0, columns
    are not cells but the `run` numbers from the first pixel of the output to its last, all rows and
    what lies between them, one sample's; for estimates alone (`online`). lines: whether the windows
    of one row of cells share their pixels with those of the next (`lines`).
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    cells: tuple[int, int]
    slabs: tuple[int, int]
    out_phases: tuple[int, int]
    in_phases: tuple[int, int]
    aligned: bool
    run: int = 0
    lines: bool = False

    @property
    def pitch(self):
        """Input pixels from one cell to the next."""
        return tuple(map(int.__mul__, self.stride, self.slabs))

    @property
    def reach(self):
        """The window's size."""
        if not self.aligned:
            return self.kernel
        return tuple(size + step * (slab - 1) for size, step, slab
                     in zip(self.kernel, self.stride, self.slabs, strict=True))

    @property
    def area(self):
        """Pixels of a window: the rows of the matrix for each input map."""
        return prod(self.reach)

    @property
    def columns(self):
        """Columns of the matrix for each sample."""
        if self.run:
            return self.run
        return prod(self.cells) * (1 if self.aligned else prod(self.slabs))

    def run_length(self, samples):
        """How many numbers that lie together in the input stay together in the columns."""
        if self.run:
            return self.run * samples
        split = not self.aligned and self.slabs[1] > 1
        together = not split and self.out_phases[1] == 1 and self.pitch[1] == self.in_phases[1]
        return samples * (self.cells[1] if together else 1)

    @property
    def can_share_lines(self):
        """Whether rows of cells read the same pixels, in whole steps from one row to the next."""
        (rows, _), (reach, _), (pitch, _) = self.cells, self.reach, self.pitch
        return (self.aligned and not self.run and rows > 1
                and reach > pitch and reach % pitch == 0)

    @property
    def steps(self):
        """Groups of `pitch` lines in a window."""
        return self.reach[0] // self.pitch[0]

    def line_groups(self, rows):
        """Groups of lines that so many rows of cells read."""
        return rows + self.steps - 1

    @property
    def slab_rows(self):
        """The pixels of a cell that have rows of weights of their own."""
        return self.slabs if self.aligned else (1, 1)

    def view(self, x, rows=slice(None)):
        """The windows of an input array of the layout, those of some `rows` of cells: a view of
        shape (maps, shift rows, shift columns, phase rows, phase columns, *columns, samples). Shift
        and phase are the window pixel, y = phases * shift + phase; columns are (slabs, phases,
        cells) of the output, both axes of each. For one shift no pixel stands twice in the view."""
        maps, _, _, _, _, _, _, samples = x.shape
        one_map, _, _, *phase, row, column, sample = x.strides
        along = row, column
        slabs = (1, 1) if self.aligned else self.slabs
        step = tuple(pitch // phases for pitch, phases
                     in zip(self.pitch, self.in_phases, strict=True))
        shape = (maps, *_divided(self.reach, self.in_phases), *self.in_phases, *slabs,
                 *self.out_phases, *_divided(self.cells, self.out_phases), samples)
        strides = (one_map, *along, *phase, *_times(along, self.stride), *_times(along, step),
                   *_times(_times(along, step), self.out_phases), sample)
        return as_strided(x, shape, strides)[..., rows, :, :]

    def line_view(self, x, rows):
        """The lines of an input array that some `rows` of cells read, `pitch` lines a group: a view
        of shape (maps, line groups, shift rows, phase rows, shift columns, phase columns, phases of
        the output's cells in a row, cells, samples). For one shift column no pixel stands twice in
        the view."""
        maps, _, _, _, _, _, _, samples = x.shape
        one_map, _, _, *phase, row, column, sample = x.strides
        first, last, _ = rows.indices(self.cells[0])
        down, right = (pitch // phases for pitch, phases
                       in zip(self.pitch, self.in_phases, strict=True))
        phases = self.out_phases[1]
        shape = (maps, self.line_groups(last - first), down, self.in_phases[0],
                 self.reach[1] // self.in_phases[1], self.in_phases[1], phases,
                 self.cells[1] // phases, samples)
        strides = (one_map, down * row, row, phase[0], column, phase[1], right * column,
                   phases * right * column, sample)
        return as_strided(x[:, :, :, :, :, first * down:], shape, strides)

    def weight_pixels(self):
        """For each pixel of a cell and each window pixel, which pixel of the kernel joins them:
        an array (slab rows * slab columns, window area), -1 for none."""
        rows, columns = (self._along(axis) for axis in (0, 1))
        (slab_y, shift_y, phase_y), (slab_x, shift_x, phase_x) = rows.shape, columns.shape
        rows = rows.reshape(slab_y, 1, shift_y, 1, phase_y, 1)
        columns = columns.reshape(1, slab_x, 1, shift_x, 1, phase_x)
        pixels = np.where((rows < 0) | (columns < 0), -1, rows * self.kernel[1] + columns)
        return pixels.reshape(slab_y * slab_x, self.area)

    def by_lines(self, windows):
        """An array (..., input maps, window area) with the pixels of each window in the order of
        its lines: (..., steps, numbers of a line group)."""
        *others, maps, _ = windows.shape
        (row_phases, column_phases), steps = self.in_phases, self.steps
        parts = windows.reshape(*others, maps, steps, -1, self.reach[1] // column_phases,
                                row_phases, column_phases)
        first = len(others)
        maps, step, down, right, row_phase, column_phase = range(first, first + 6)
        ordered = parts.transpose(*range(first), step, down, row_phase, maps, right, column_phase)
        return ordered.reshape(*others, steps, -1)

    def _along(self, axis):
        """(slabs, shifts, phases) along one axis: which row of the kernel, -1 for none."""
        slabs, phases = self.slab_rows[axis], self.in_phases[axis]
        y = np.arange(self.reach[axis]).reshape(-1, phases)
        taps = y - self.stride[axis] * np.arange(slabs)[:, None, None]
        return np.where((taps >= 0) & (taps < self.kernel[axis]), taps, -1)


def _times(left, right):
    return tuple(map(int.__mul__, left, right))


def _divided(left, right):
    return tuple(map(int.__floordiv__, left, right))
