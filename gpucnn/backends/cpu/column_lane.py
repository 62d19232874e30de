"""What computes blocks of samples by columns: views of memory are made once, for many blocks.

Threads share Python's lock: what Python does between two of NumPy's calls, all of them wait for.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product

import numpy as np

from gpucnn.backends.cpu.arrays import scratch
from gpucnn.backends.cpu.column_bands import Band, GradBand, run
from gpucnn.backends.cpu.stacks import COLUMN_BYTES, adding_stacks, reading_stacks


class ColumnForward:
    """Convolves blocks of so many samples by `ColumnProducts`, in scratch arrays of a workspace."""

    def __init__(self, products, samples, workspace):
        self._cell = products.cell
        self._bands = _bands(products, samples, workspace)

    def on(self, source, target, workspace):
        """A function (read, written) that convolves the samples `read` of source (maps, height,
        width, samples) into those `written` of target (out_maps, out_height, out_width, samples);
        it yields slices of output rows as they are done."""
        target, rows_of_cell = in_cells(target, self._cell), self._cell[0]
        bands = [(slice(rows.start * rows_of_cell, rows.stop * rows_of_cell),
                  [band.convolving(source, target[:, :, :, rows], workspace) for band in bands])
                 for rows, bands in self._bands]

        def convolve(read, written):
            for rows, calls in bands:
                for call in calls:
                    call(read, written)
                yield rows

        return convolve


@dataclass
class _Step:
    """The gradient by the weights of one stack in one band. `ready`: calls, (function,
    *arguments), that make ready the `factor` that stands for dz; `add(gradients)` adds once the
    band's columns are filled; `behind` are calls of whoever else needs the factor."""

    band: Band
    ready: list
    factor: np.ndarray
    add: Callable
    behind: list = field(default_factory=list)


class ColumnWeightGradient:
    """The gradient by the weights that blocks' dz give: a contiguous array, as the target of
    `ColumnForward` or `in_cells`."""

    def __init__(self, products, dz, workspace):
        dz = _in_cells(dz, products.cell)
        self.steps = []
        for rows, bands in _bands(products, dz.shape[-1], workspace):
            ready, band_dz = _band_of(dz, rows, [band.stack for band in bands], workspace)
            for band in bands:
                calls, factor = band.dz(band_dz, workspace)
                add = band.adding(factor, workspace)
                self.steps.append(_Step(band, ready + calls, factor, add))
                ready = []

    def on(self, source, workspace):
        """A function (read, gradients) that adds what the samples `read` of source give."""
        steps = [(step, step.band.filling(source, workspace)) for step in self.steps]

        def add_all(read, gradients):
            for step, fill in steps:
                run(step.ready)
                fill(read)
                step.add(gradients)
                run(step.behind)

        return add_all


class ColumnInputGradient:
    """The gradient by the input, of so many maps, that blocks' dz give. `beside`: the
    `ColumnWeightGradient` of the same products and dz, which then computes both, so that what it
    gathers from dz is used twice; this one is asked for a block's result after it."""

    def __init__(self, products, dz, maps, workspace, beside=None):
        self._columns = columns = products.columns
        dz = _in_cells(dz, products.cell)
        samples = dz.shape[-1]
        self._sums = columns.sums(maps, samples, dz.dtype, workspace)
        self._calls = [(self._sums.fill, 0)]
        stacks, self._order = adding_stacks(products, samples, maps)
        bands = _rows(columns, columns.grad_row_numbers, stacks, samples)
        if beside is not None:
            for (rows, stack), step in zip(product(bands, stacks), beside.steps, strict=True):
                step.behind += [*self._calls, *self._adding(stack, rows, step.factor, workspace)]
                self._calls = []
            return
        for rows in bands:
            ready, band_dz = _band_of(dz, rows, stacks, workspace)
            self._calls += ready
            for stack in stacks:
                calls, factor = GradBand(columns, stack, rows, samples).dz(band_dz, workspace)
                self._calls += [*calls, *self._adding(stack, rows, factor, workspace)]

    def _adding(self, stack, rows, factor, workspace):
        """Calls that add a stack's gradient in one band."""
        band = GradBand(self._columns, stack, rows, self._sums.shape[-1])
        multiply, grad_columns = band.multiplying(factor, workspace)
        return [multiply, *self._columns.additions(grad_columns, self._sums, stack.place, rows,
                                                   workspace)]

    def on(self, target, workspace):
        """A function (written) that sets those samples of target (maps, height, width, samples), of
        the input with its padding."""
        def compute(written):
            run(self._calls)
            self._columns.put(self._sums, target[..., written], self._order)

        return compute


def in_cells(maps, cell):
    """A view (maps, *cell, rows of cells, cells in a row, samples) of maps (maps, height, width,
    samples)."""
    count, height, width, samples = maps.shape
    rows, columns = cell
    return maps.reshape(count, height // rows, rows, width // columns, columns, samples,
                        copy=False).transpose(0, 2, 4, 1, 3, 5)


def _in_cells(dz, cell):
    return dz if dz.ndim == 6 else in_cells(dz, cell)


def _bands(products, samples, workspace):
    """(slice of rows of cells, `Band` of each stack)."""
    columns, stacks = products.columns, reading_stacks(products, samples)
    return [(rows, [Band(columns, stack, rows, samples, workspace) for stack in stacks])
            for rows in _rows(columns, columns.row_numbers, stacks, samples)]


def _band_of(dz, rows, stacks, workspace):
    """Calls that make ready a band of dz, and the band: contiguous if maps are gathered from it."""
    band = dz[:, :, :, rows]
    if band.flags.c_contiguous or all(stack.outputs is not None for stack in stacks):
        return [], band
    copy = scratch(workspace, "conv2d.band_dz", band.shape, band.dtype)
    return [(np.copyto, copy, band)], copy


def _rows(columns, row_numbers, stacks, samples):
    """Slices of rows of cells, as many as keep a stack's columns, and what is gathered to multiply
    them by, within `COLUMN_BYTES`."""
    height, width = columns.out_size

    def numbers(stack):
        groups, outputs, _ = stack.matrices.shape
        gathered = outputs * width if stack.outputs is None else 0
        return groups * (row_numbers(stack.n_inputs) + gathered) * stack.matrices.itemsize

    count = max(1, COLUMN_BYTES // (max(map(numbers, stacks)) * samples))
    return [slice(first, min(first + count, height)) for first in range(0, height, count)]
