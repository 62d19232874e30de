"""A convolution as products of each input map by itself, added up in the outputs that see it.

A map's lines are copied once for all of these, and multiplied by the weights of its own
connections: none are zeros, and no windows are gathered. Instead each connection writes a number
for each pixel, and adds it.
"""

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
        self.additions, begun = [], np.zeros(products.out_maps, bool)
        for matrix, outputs in zip(products.matrices, products.outputs, strict=True):
            self.additions.append(self._adding(matrix, outputs, factor, memory, begun[outputs]))
            begun[outputs] = True
        self.zeros = [(self.sums[output].fill, 0) for output in np.flatnonzero(~begun)]

    def _adding(self, matrix, outputs, factor, memory, begun):
        product = memory[:len(outputs)]
        calls = [(matmul, *pieces(matrix[None], factor, product.swapaxes(0, 1)))]
        for rows, maps in _runs(outputs, begun):
            total, term = self.sums[maps].reshape(-1), product[rows].reshape(-1)
            calls.append((np.add, total, term, total) if begun[rows.start] else
                         (np.copyto, total, term))
        return calls


def _rows(products, samples):
    """Slices of output rows, as many as keep an input map's products within `PRODUCT_BYTES`."""
    height, width = products.lines.out_size
    most = max(map(len, products.outputs))
    fitting = PRODUCT_BYTES // (most * width * samples * products.matrices[0].itemsize)
    bands = -(-height // min(height, max(1, fitting)))
    count = -(-height // bands)
    return [slice(first, min(first + count, height)) for first in range(0, height, count)]


def _runs(maps, begun):
    """Slices of rows, and of the maps that these are, where both go on by one and are alike in
    whether their sums have begun."""
    goes_on = (np.diff(maps) == 1) & (begun[1:] == begun[:-1])
    ends = [*(np.flatnonzero(~goes_on) + 1).tolist(), len(maps)]
    return [(slice(first, end), slice(int(maps[first]), int(maps[first]) + end - first))
            for first, end in zip([0, *ends[:-1]], ends, strict=True)]
