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
    """A stack's products in one lane, for one band: (groups, rows, width) by columns, (groups,
    width, columns), which are windows copied from `source`. `adds`: whether the gradients are added
    to those of another band."""

    def __init__(self, step, lane, stack, matrix, source, maps_by_rows, place, band, *, adds):
        groups, rows, _ = matrix.shape
        self._adds = adds
        self._band = band
        self._lane = lane
        self._stack = stack
        self._matrix = matrix
        self._place = place
        self._windows = step.windows
        self._has_bias = step.has_bias
        self._is_kept = lane.training and band.is_whole
        self._maps = maps_by_rows
        self._product = _product_view(maps_by_rows, stack.outputs)
        self._is_apart = self._product is None
        if self._is_apart:
            self._product = lane.empty((groups, rows, maps_by_rows.shape[2]))
        self._additions = ()
        self._sums = self._gradient = self._grad_columns = None

        shape = self.column_shape(step.windows, matrix.shape, lane.samples, maps_by_rows.shape[2])
        self._columns = lane.empty(shape) if self._is_kept else lane.scratch(shape)
        self._behind_columns = 0 if self._is_kept else self._columns.size
        self._copies = [(columns.squeeze(), windows.squeeze())
                        for columns, windows in self._pairs(self._columns, source)]
        self._fill_ones()
        self._pieces = self._piece_shape()
        by_columns = self._factor()
        self._product_pieces = self._divided(self._product)
        self._forward = self._for_pieces(matrix), by_columns
        self._by_weights = by_columns, self._product_pieces.swapaxes(-1, -2)

    # -- columns -------------------------------------------------------------------------------

    @staticmethod
    def column_shape(windows, matrix, samples, columns):
        """The shape of so many columns, of so many samples, for a `matrix` of this shape."""
        groups, _, width = matrix
        return groups, width, columns

    @classmethod
    def scratch_size(cls, windows, matrix, samples, columns):
        """How many numbers of a lane's shared memory it needs."""
        numbers = prod(cls.column_shape(windows, matrix, samples, columns))
        terms = (1 + _chunk_count(matrix, columns)) * prod(matrix)
        return numbers + max(terms, prod(matrix) + numbers)

    def _pairs(self, columns, source):
        """(part of the columns, part of the windows of `source`) of the same shape, views, that
        together are all of this stack's."""
        windows = self._windows.view(source, self._band.rows)
        n_inputs = self._stack.inputs.shape[1]
        shape = windows.shape[1:]
        by_map = columns[:, :n_inputs * prod(shape[:4])].reshape(
            len(columns), n_inputs, *shape, copy=False)
        return self._by_inputs(by_map, windows)

    def _by_inputs(self, columns, windows):
        """Pairs of columns (groups, inputs, ...) and the windows (maps, ...) of all input maps."""
        chosen = maps_view(windows, self._stack.inputs)
        if chosen is not None:
            return [(columns, chosen)]
        first, pairs = 0, []
        for maps in runs(self._stack.inputs[0]):
            part = windows[maps]
            pairs.append((columns[0, first:first + len(part)], part))
            first += len(part)
        return pairs

    def _fill(self):
        """Bring the windows into the columns."""
        for columns, windows in self._copies:
            np.copyto(columns, windows)
        if not self._is_kept:
            self._fill_ones()

    def _fill_ones(self):
        if self._has_bias:
            self._columns[..., -1, :] = 1

    # -- products ------------------------------------------------------------------------------

    def _piece_shape(self):
        """Into how many pieces the columns are divided, along as many axes as that takes."""
        return (_chunk_count(self._matrix.shape, self._maps.shape[2]),)

    def _factor(self):
        """The columns, as pieces by which products are computed."""
        return self._divided(self._columns)

    def _divided(self, stack):
        """A stack (groups, rows, columns) as pieces of its columns, (groups, *pieces, rows, columns
        of a piece) less axes of length one in front."""
        pieces = stack.reshape(*stack.shape[:2], *self._pieces, -1, copy=False)
        return squeezed(np.moveaxis(pieces, 1, -2))

    def _for_pieces(self, matrices):
        """A matrix of each group, to be multiplied by all pieces of the group's columns."""
        if len(matrices) == 1:
            return matrices[0]
        pieces = sum(count > 1 for count in self._pieces)
        return matrices.reshape(len(matrices), *[1] * pieces, *matrices.shape[1:], copy=False)

    def forward(self):
        self._fill()
        np.matmul(*self._forward, out=self._product_pieces)
        if self._is_apart:
            self._maps[self._stack.outputs] = self._by_map()

    def bind_grad_input(self, grad_source):
        """Prepare for the gradient by the input, to be added to an array like `source`."""
        groups, _, width = self._matrix.shape
        window_matrix = self._matrix[:, :, :width - 1 if self._has_bias else width]
        shape = groups, window_matrix.shape[2], self._maps.shape[2]
        grad_columns = self._lane.scratch(shape, self._behind_columns + self._matrix.size)
        self._by_columns = self._for_pieces(window_matrix.swapaxes(1, 2)), self._product_pieces
        self._grad_columns = self._divided(grad_columns)
        self._additions = [(pixels[place], term[place])
                           for term, pixels in self._pairs(grad_columns, grad_source)
                           for place in _without_overlap(pixels.shape)]

    def backward(self, sums, first):
        """Add the gradient by the weights to `sums`, that by the columns to the input's."""
        if self._is_apart:
            np.take(self._maps, self._stack.outputs, axis=0, out=self._by_map(), mode="clip")
        if sums is not self._sums:
            self._bind_sums(sums)
        first = first and not self._adds
        if not self._is_kept:
            self._fill()
        term = self._gradient if first else self._term
        if prod(self._pieces) > 1:
            np.matmul(*self._by_weights, out=self._piece_terms)
            np.add.reduce(self._terms, axis=-3, out=term)
        else:
            np.matmul(*self._by_weights, out=term)
        if not first:
            self._gradient += term
        if self._grad_columns is not None:
            np.matmul(*self._by_columns, out=self._grad_columns)
            self._add_back()

    def _bind_sums(self, sums):
        groups, rows, width = self._matrix.shape
        shape = groups, width, rows
        self._sums = sums
        self._gradient = alone(sums[self._place].reshape(shape))
        self._term = self._lane.scratch(self._gradient.shape, self._behind_columns)
        if prod(self._pieces) > 1:
            terms = self._lane.scratch((groups, *self._pieces, width, rows),
                                       self._behind_columns + self._matrix.size)
            self._piece_terms = squeezed(terms)
            self._terms = alone(terms.reshape(groups, -1, width, rows))

    def _add_back(self):
        for pixels, term in self._additions:
            pixels += term

    def _by_map(self):
        return self._product.reshape(*self._stack.outputs.shape, -1, self._product.shape[2])


def alone(stack):
    """The only matrix of a stack, which is quicker than a stack of one, or the stack."""
    return stack[0] if len(stack) == 1 else stack


def squeezed(pieces):
    """A stack (groups, *pieces, rows, columns) less axes of length one in front."""
    return pieces.squeeze(tuple(axis for axis in range(pieces.ndim - 2)
                                if pieces.shape[axis] == 1))


def _chunk_count(matrix, columns):
    """Into how many equal chunks of columns the product by a stack of this shape is divided, so
    that each is small enough for BLAS to start on it at once; 1 where no number fits."""
    if matrix[0] > 1:
        return 1
    least = -(-prod(matrix) * columns // SMALL_PRODUCT)
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
