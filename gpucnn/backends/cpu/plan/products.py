"""The matrix products of a convolution: columns filled with windows, forward and backward."""

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.lib.stride_tricks import as_strided

from gpucnn.backends.cpu.plan.tables import evenly_spaced, runs

SMALL_PRODUCT = 900_000  # multiply-adds; up to about 1e6 OpenBLAS does not copy its operands first
SHORTEST_CHUNK = 256     # columns


@dataclass(frozen=True)
class Band:
    """Some rows of cells, and their place among the columns of the products."""

    rows: slice
    columns: slice
    is_whole: bool


class Products:
    """A stack's products in one lane, for one band: (groups, rows, width) by (groups, width,
    columns). `adds`: whether the gradients are added to those of another band."""

    def __init__(self, step, lane, stack, matrix, windows, maps_by_rows, place, band, *, adds):
        groups, rows, width = matrix.shape
        columns = maps_by_rows.shape[2]
        self.inputs = stack.inputs
        self.band = band
        self._adds = adds
        self._lane = lane
        self._stack = stack
        self._matrix = matrix
        self._place = place
        self._bias_row = step.has_bias
        self._window_matrix = matrix[:, :, :width - 1 if step.has_bias else width].swapaxes(1, 2)
        self._is_kept = lane.training and band.is_whole
        shape = groups, width, columns
        self._columns = lane.empty(shape) if self._is_kept else lane.scratch(shape)
        self._behind_columns = 0 if self._is_kept else self._columns.size
        self._copies = [(columns.squeeze(), windows.squeeze())
                        for columns, windows in self._pairs(self._columns, windows)]
        if self._bias_row:
            self._columns[:, -1] = 1
        self._maps = maps_by_rows
        self._product = _product_view(maps_by_rows, stack.outputs)
        self._is_apart = self._product is None
        if self._is_apart:
            self._product = lane.empty((groups, rows, columns))
        self._grad_columns = None
        self._additions = ()
        self._sums = self._gradient = None
        self._chunks = _chunk_count(matrix, columns)
        self._factors = _alone(matrix), self._divided(self._columns)
        self._products = self._divided(self._product)
        self._by_weights = self._factors[1], self._products.swapaxes(-1, -2)
        self._by_columns = _alone(self._window_matrix), self._products
        if self._chunks > 1 and lane.training:
            self._terms = lane.empty((self._chunks, width, rows))

    def _fill(self):
        """Bring the windows into the columns."""
        for columns, windows in self._copies:
            np.copyto(columns, windows)
        if self._bias_row and not self._is_kept:
            self._columns[:, -1] = 1

    def forward(self):
        self._fill()
        np.matmul(*self._factors, out=self._products)
        if self._is_apart:
            self._maps[self._stack.outputs] = self._by_map()

    def bind_grad_input(self, windows):
        """Prepare for the gradient by the input, whose array has these `windows`."""
        groups, _, columns = self._columns.shape
        shape = groups, self._window_matrix.shape[1], columns
        grad_columns = self._lane.scratch(shape, offset=self._behind_columns + self._matrix.size)
        self.bind_grad_columns(grad_columns)
        self._additions = [(pixels[place], term[place])
                           for term, pixels in self._pairs(grad_columns, windows)
                           for place in _without_overlap(pixels.shape)]

    def bind_grad_columns(self, grad_columns):
        """Take the array for the gradient by the columns, ones apart."""
        self._grad_columns = self._divided(grad_columns)

    def backward(self, sums, first):
        """Add the gradient by the weights to `sums`, that by the columns to the input's."""
        if self._is_apart:
            np.take(self._maps, self._stack.outputs, axis=0, out=self._by_map(), mode="clip")
        if sums is not self._sums:
            groups, rows, width = self._matrix.shape
            self._sums = sums
            self._gradient = _alone(sums[self._place].reshape(groups, width, rows))
        first = first and not self._adds
        if not self._is_kept:
            self._fill()
        gradient = self._gradient
        term = gradient if first else self._lane.scratch(gradient.shape,
                                                         offset=self._behind_columns)
        if self._chunks > 1:
            np.matmul(*self._by_weights, out=self._terms)
            np.add.reduce(self._terms, axis=0, out=term)
        else:
            np.matmul(*self._by_weights, out=term)
        if not first:
            gradient += term
        if self._grad_columns is not None:
            np.matmul(*self._by_columns, out=self._grad_columns)
        for pixels, term in self._additions:
            pixels += term

    def _divided(self, stack):
        """(groups, rows, columns), the only group alone, or in chunks of its columns."""
        if self._chunks == 1:
            return _alone(stack)
        return stack[0].reshape(stack.shape[1], self._chunks, -1, copy=False).swapaxes(0, 1)

    def _by_map(self):
        return self._product.reshape(*self._stack.outputs.shape, -1, self._product.shape[2])

    def _pairs(self, columns, windows):
        """(part of the columns, part of the windows) of the same shape, views, that together are
        all of this stack's."""
        groups, n_inputs = self._stack.inputs.shape
        shape = windows.shape[1:]
        rows = n_inputs * prod(shape[:4])
        by_map = columns[:, :rows].reshape(groups, n_inputs, *shape, copy=False)
        chosen = maps_view(windows, self._stack.inputs)
        if chosen is not None:
            return [(by_map, chosen)]
        first, pairs = 0, []
        for maps in runs(self._stack.inputs[0]):
            part = windows[maps]
            pairs.append((by_map[0, first:first + len(part)], part))
            first += len(part)
        return pairs


def _alone(stack):
    """The only matrix of a stack, which is quicker than a stack of one, or the stack."""
    return stack[0] if len(stack) == 1 else stack


def _chunk_count(matrix, columns):
    """Into how many equal chunks of columns a stack's product is divided, so that each is small
    enough for BLAS to start on it at once; 1 where no number fits."""
    if len(matrix) > 1:
        return 1
    least = -(-matrix.size * columns // SMALL_PRODUCT)
    return next((count for count in range(least, columns // SHORTEST_CHUNK + 1)
                 if columns % count == 0), 1)


def maps_view(array, maps):
    """A view (groups, count, ...) of the maps (groups, count) of an array (maps, ...), or None if
    they are not evenly spaced."""
    if not evenly_spaced(maps):
        return None
    from_map = int(maps[0, 1] - maps[0, 0]) if maps.shape[1] > 1 else 0
    from_group = int(maps[1, 0] - maps[0, 0]) if len(maps) > 1 else 0
    one_map, *rest = array.strides
    return as_strided(array[int(maps[0, 0]):], (*maps.shape, *array.shape[1:]),
                      (from_group * one_map, from_map * one_map, *rest))


def _product_view(maps_by_rows, outputs):
    """Where the products (groups, rows, columns) of some output maps go, or None if no matrix of
    even strides lies there."""
    view = maps_view(maps_by_rows, outputs)
    if view is None:
        return None
    try:
        return view.reshape(len(outputs), -1, view.shape[-1], copy=False)
    except ValueError:
        return None


def _without_overlap(shape):
    """Indices that divide windows (..., shifts, phases, slabs, phases, cells, samples), two axes
    each but for the samples, into parts in which no pixel stands twice: by shift, or by column
    where that is fewer."""
    shifts, columns = shape[-11:-9], shape[-7:-1]
    if prod(shifts) <= prod(columns):
        return [(..., *shift, *[slice(None)] * 9) for shift in np.ndindex(shifts)]
    return [(..., *column, slice(None)) for column in np.ndindex(columns)]
