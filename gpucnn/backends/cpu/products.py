"""A convolution as products by columns, matrices of weights for groups of maps.

A column is the window of an output pixel, or of a cell of them: then each pixel of the cell has its
own rows of weights, with zeros where its own window does not reach. Less is copied, and the matrix
is taller, for some more multiply-adds. Where windows of neighbouring rows share `Lines`, less is
copied still, and there is a product for each row of cells.

Where one group is all maps, its matrix has zeros where nothing is joined. (A pixel that is not
finite then reaches output maps that do not see its map, as 0 * infinity is NaN.)
"""

from functools import cached_property, lru_cache
from math import prod

import numpy as np

from gpucnn.backends.cpu.column_lane import (
    ColumnForward,
    ColumnInputGradient,
    ColumnWeightGradient,
)
from gpucnn.backends.cpu.columns import Columns
from gpucnn.backends.cpu.memory import empty, zeros


class ColumnProducts:
    """The products of a table's `Groups` by columns. `cell`: the output pixels of a column, (rows,
    columns); `columns`: `Columns` or `Lines`. Load weights before use."""

    writes_any_strides = True

    def __init__(self, convolution, groups, dtype, cell=(1, 1), columns=Columns):
        self.cell = cell
        self.columns = columns(convolution.by_cells(cell))
        make = _WholeKernel if cell == (1, 1) else _cell_weights
        self._parts = [make(one, convolution, cell, columns.in_order) for one in groups]
        self.matrices = [empty(part.shape, dtype) for part in self._parts]
        self.groups = groups
        # Whether maps may lie apart in memory, where they are read.
        self.reads_any_strides = all(one.input_run is not None for one in groups)

    @cached_property
    def inputs_are_apart(self):
        """Whether no input map is in two groups."""
        inputs = np.concatenate([one.inputs.reshape(-1) for one in self.groups])
        return len(np.unique(inputs)) == len(inputs)

    def load(self, weight):
        """Compute with these weights (n_connections, *kernel) from now on."""
        for part, matrices in zip(self._parts, self.matrices, strict=True):
            part.put_matrices(weight, matrices)

    def forward(self, samples, workspace):
        """What convolves blocks of so many samples."""
        return ColumnForward(self, samples, workspace)

    def weight_gradient(self, dz, workspace):
        """What gives the gradient by the weights, from an array that holds blocks' dz."""
        return ColumnWeightGradient(self, dz, workspace)

    def input_gradient(self, dz, maps, workspace, beside=None):
        """What gives that by an input of so many maps; `beside` as of `ColumnInputGradient`."""
        return ColumnInputGradient(self, dz, maps, workspace, beside)

    def no_gradient(self):
        """Arrays for blocks' gradients to be added to."""
        return [zeros(matrices.swapaxes(1, 2).shape, matrices.dtype) for matrices in self.matrices]

    def finish_gradient(self, gradients, grad_weight):
        """Write gradients that are complete into grad_weight."""
        for part, gradient in zip(self._parts, gradients, strict=True):
            part.put_gradient(gradient, grad_weight)


class _WholeKernel:
    """The matrices (outputs, inputs * kernel area) of `Groups` for columns of a pixel, with the
    pixels of a window `in_order`."""

    def __init__(self, groups, convolution, cell, in_order):
        self._groups = groups
        self._in_order = in_order
        count, outputs, inputs = groups.connections.shape
        self._ordered = in_order(np.empty((inputs, *convolution.kernel))).shape
        self.shape = count, outputs, prod(self._ordered)

    def put_matrices(self, weight, matrices):
        """Set one for each group."""
        weights = self._in_order(self._groups.weights(weight))
        np.copyto(matrices.reshape(weights.shape), weights)

    def put_gradient(self, gradient, grad_weight):
        """Write the gradients by all matrices, transposed, where they belong."""
        count, outputs, _ = self.shape
        gradient = gradient.swapaxes(1, 2).reshape(count, outputs, *self._ordered)
        self._groups.put_gradient(self._in_order(gradient), grad_weight)


class _CellWeights:
    """The matrices (outputs * pixels of a cell, inputs * pixels of its window) of `Groups`, with
    the pixels of a window `in_order`: for each pixel of a cell the weights where its own window
    lies, zeros elsewhere."""

    def __init__(self, groups, convolution, cell, in_order):
        count, n_outputs, n_inputs = groups.connections.shape
        area, reach = convolution.area, convolution.by_cells(cell).kernel
        nothing = groups.n_connections * area
        index = np.full((count, n_outputs, *cell, n_inputs, *reach), nothing)
        numbers = (groups.connections[..., None, None] * area
                   + np.arange(area).reshape(convolution.kernel))
        for row, column in np.ndindex(cell):
            top, left = row * convolution.stride[0], column * convolution.stride[1]
            index[:, :, row, column, :, top:top + convolution.kernel[0],
                  left:left + convolution.kernel[1]] = np.minimum(numbers, nothing)
        self._index = np.ascontiguousarray(in_order(index)).reshape(
            count, n_outputs * prod(cell), -1)
        self.shape = self._index.shape
        turned = self._index.swapaxes(1, 2).reshape(-1)
        order = np.argsort(turned, kind="stable")
        held = order[:np.count_nonzero(turned < nothing)].reshape(-1, prod(cell))
        self._weights = turned[held[:, 0]]                     # those that the groups have,
        self._places = np.ascontiguousarray(held.T)            # and where, for each pixel

    def put_matrices(self, weight, matrices):
        """Set one for each group."""
        np.take(np.append(weight, weight.dtype.type(0)), self._index, out=matrices, mode="clip")

    def put_gradient(self, gradient, grad_weight):
        """Write the gradients by all matrices, transposed, where they belong."""
        first, *others = np.take(gradient, self._places)
        for other in others:
            first += other
        np.put(grad_weight, self._weights, first)


_cell_weights = lru_cache(maxsize=64)(_CellWeights)
