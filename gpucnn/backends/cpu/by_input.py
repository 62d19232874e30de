"""A convolution as products of each input map by itself, added up in the outputs that see it.

A map's lines are copied once for all of these, and multiplied by the weights of its own
connections: none are zeros, and no windows are gathered. Instead each connection writes a number
for each pixel, and adds it.
"""

from functools import cache

import numpy as np

from gpucnn.backends.cpu.arrays import matmul, scratch
from gpucnn.backends.cpu.column_bands import run
from gpucnn.backends.cpu.lines import Lines
from gpucnn.backends.cpu.memory import empty
from gpucnn.backends.cpu.small_products import pieces

PRODUCT_BYTES = 1024 * 1024  # of an input map's products: they are read again at once


class InputProducts:
    """The products of a table's connections, `pairs` (input maps, output maps), of so many output
    maps. Load weights before use."""

    cell = (1, 1)
    reads_any_strides = writes_any_strides = True

    def __init__(self, convolution, pairs, out_maps, dtype):
        inputs, outputs = pairs
        self.lines = Lines(convolution)
        self.out_maps = out_maps
        self._order = np.lexsort((outputs, inputs))
        self._matrix = empty((len(inputs), convolution.area), dtype)
        self.inputs, first = np.unique(inputs[self._order], return_index=True)
        self.outputs = np.split(outputs[self._order], first[1:])
        self.matrices = np.split(self._matrix, first[1:])

    def load(self, weight):
        """Compute with these weights (n_connections, *kernel) from now on."""
        np.take(weight, self._order, axis=0, mode="clip",
                out=self._matrix.reshape(-1, *weight.shape[1:]))

    def forward(self, samples, workspace):
        """What convolves blocks of so many samples."""
        return InputForward(self, samples, workspace)


class InputForward:
    """Convolves blocks of so many samples by `InputProducts`, in scratch arrays of a workspace."""

    def __init__(self, products, samples, workspace):
        self._lines = products.lines
        self._inputs = products.inputs.tolist()
        self._bands = [_Band(products, rows, samples, workspace)
                       for rows in _rows(products, samples)]

    def on(self, source, target, workspace):
        """A function as that of `ColumnForward.on`."""
        maps = len(source)
        bands = [(self._lines.windows(source, maps, band.rows), band, target[:, band.rows])
                 for band in self._bands]

        def convolve(read, written):
            for windows, band, out in bands:
                windows = windows[..., read]
                run(band.zeros)
                for number, calls in zip(self._inputs, band.additions, strict=True):
                    np.copyto(band.copies, windows[number])
                    run(calls)
                np.copyto(out[..., written], band.sums)
                yield band.rows

        return convolve


class _Band:
    """A slice of output rows. `additions`: for each input map the calls, (function, *arguments),
    that add what it gives to `sums` (output maps, rows, width, samples), once its lines are in
    `copies`; what is the first in a sum is put there. `zeros`: those that clear sums of nothing."""

    def __init__(self, products, rows, samples, workspace):
        lines, dtype = products.lines, products.matrices[0].dtype
        count, width = rows.stop - rows.start, lines.out_size[1]
        self.rows = rows
        copies = lines.copies(1, 1, count, samples, dtype, workspace)
        self.copies = copies[0]
        self.sums = scratch(workspace, "conv2d.output_sums", (
            products.out_maps, count, width, samples), dtype)
        memory = scratch(workspace, "conv2d.product", (
            max(map(len, products.outputs)), count, width * samples), dtype)
        factor = lines.matrices(copies)[0]
        totals, terms = _flat_runs(self.sums), _flat_runs(memory)
        self.additions, begun = [], np.zeros(products.out_maps, bool)
        for matrix, outputs in zip(products.matrices, products.outputs, strict=True):
            product = memory[:len(outputs)].swapaxes(0, 1)
            calls = [(matmul, *pieces(matrix[None], factor, product))]
            for row, output, length in _runs(outputs, begun[outputs]):
                total, term = totals(output, length), terms(row, length)
                calls.append((np.add, total, term, total) if begun[output] else
                             (np.copyto, total, term))
            self.additions.append(calls)
            begun[outputs] = True
        self.zeros = [(self.sums[output].fill, 0) for output in np.flatnonzero(~begun)]


def rows_at_once(out_size, most_outputs, samples, itemsize):
    """Output rows that are computed together, in bands of nearly the same size: as many as keep the
    products of an input map with so many outputs within `PRODUCT_BYTES`."""
    height, width = out_size
    fitting = PRODUCT_BYTES // (most_outputs * width * samples * itemsize)
    bands = -(-height // min(height, max(1, fitting)))
    return -(-height // bands)


def _rows(products, samples):
    """Slices of output rows."""
    height = products.lines.out_size[0]
    count = rows_at_once(products.lines.out_size, max(map(len, products.outputs)), samples,
                         products.matrices[0].itemsize)
    return [slice(first, min(first + count, height)) for first in range(0, height, count)]


def _flat_runs(maps):
    """A function (first, length) that gives so many maps as one run of numbers: a view of each is
    made once, as there may be many connections."""
    return cache(lambda first, length: maps[first:first + length].reshape(-1))


def _runs(maps, begun):
    """(row, the map that it is, how many rows and maps go on by one from there and are alike in
    whether their sums have begun)."""
    goes_on = (np.diff(maps) == 1) & (begun[1:] == begun[:-1])
    firsts = [0, *(np.flatnonzero(~goes_on) + 1).tolist()]
    return [(first, int(maps[first]), end - first)
            for first, end in zip(firsts, [*firsts[1:], len(maps)], strict=True)]
