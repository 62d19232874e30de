"""A convolution as products by columns, a matrix of weights for each group of maps.

A column is the window of an output pixel, or of a cell of them: then each pixel of the cell has its
own rows of weights, with zeros where its own window does not reach. Less is copied, and the matrix
is taller, for some more multiply-adds. Where windows of neighbouring rows share `Lines`, less is
copied still, and there is a product for each row of cells.

Where one group is all maps, its matrix has zeros where nothing is joined. (A pixel that is not
finite then reaches output maps that do not see its map, as 0 * infinity is NaN.)
"""

from functools import lru_cache
from math import prod

import numpy as np

from gpucnn.backends.cpu.arrays import scratch
from gpucnn.backends.cpu.columns import COLUMN_BYTES, Columns
from gpucnn.backends.cpu.memory import zeros
from gpucnn.backends.cpu.small_products import multiply, multiply_by_rows


class ColumnProducts:
    """The products of a table's `Groups` by columns. `weight` (n_connections, *kernel); `cell`: the
    output pixels of a column, (rows, columns); `columns`: `Columns` or `Lines`."""

    def __init__(self, convolution, groups, weight, cell=(1, 1), columns=Columns):
        self.cell = cell
        # Cells of several columns lie apart anyway, so that pixels need not lie together.
        self.reads_in_place = cell[1] > 1
        self._columns = columns(convolution.by_cells(cell))
        make = _WholeKernel if cell == (1, 1) else _cell_weights
        self._parts = [make(one, convolution, cell, columns.in_order) for one in groups]
        self._products = [_Product(one, number, matrix, self._columns)
                          for one, part in zip(groups, self._parts, strict=True)
                          for number, matrix in enumerate(part.matrices(weight))]

    def forward(self, source, target, workspace):
        """Convolve source (maps, height, width, samples) into target (out_maps, out_height,
        out_width, samples); yields slices of output rows as they are done."""
        target = in_cells(target, self.cell)
        for rows in self._columns.bands(source, COLUMN_BYTES):
            for product in self._products:
                product.forward(self._columns.of(source, product.inputs, rows, workspace),
                                target[:, :, :, rows], rows, workspace)
            yield slice(rows.start * self.cell[0], rows.stop * self.cell[0])

    def no_gradient(self):
        """Arrays for `add_gradient` to add to."""
        return [product.no_gradient() for product in self._products]

    def add_gradient(self, source, dz, gradients, workspace):
        """Add the gradient by the weights to `gradients`. dz: as the target of `forward`, or
        `in_cells` already."""
        dz = self._in_cells(dz)
        for rows in self._columns.bands(source, COLUMN_BYTES):
            for product, gradient in zip(self._products, gradients, strict=True):
                product.add_gradient(self._columns.of(source, product.inputs, rows, workspace),
                                     dz[:, :, :, rows], gradient, rows, workspace)

    def finish_gradient(self, gradients, grad_weight):
        """Write gradients that are complete into grad_weight."""
        gradients = iter(gradients)
        for part in self._parts:
            part.put_gradient([next(gradients) for _ in range(part.count)], grad_weight)

    def grad_input(self, dz, grad_source, workspace):
        """Set grad_source (maps, height, width, samples), of the input with its padding."""
        dz = self._in_cells(dz)
        with self._columns.addition(grad_source, workspace) as add_back:
            for rows in self._columns.grad_bands(grad_source, COLUMN_BYTES):
                for product in self._products:
                    add_back(product.grad_columns(dz[:, :, :, rows], rows, workspace),
                             product.inputs, rows)

    def _in_cells(self, dz):
        return dz if dz.ndim == 6 else in_cells(dz, self.cell)


def in_cells(maps, cell):
    """A view (maps, *cell, rows of cells, cells in a row, samples) of maps (maps, height, width,
    samples)."""
    count, height, width, samples = maps.shape
    rows, columns = cell
    return maps.reshape(count, height // rows, rows, width // columns, columns, samples,
                        copy=False).transpose(0, 2, 4, 1, 3, 5)


class _WholeKernel:
    """The matrices (outputs, inputs * kernel area) of `Groups` for columns of a pixel, with the
    pixels of a window `in_order`."""

    def __init__(self, groups, convolution, cell, in_order):
        self._groups = groups
        self._in_order = in_order
        self.count = len(groups.inputs)

    def matrices(self, weight):
        """One for each group."""
        return [self._in_order(weights).reshape(len(weights), -1)
                for weights in self._groups.weights(weight)]

    def put_gradient(self, gradients, grad_weight):
        """Write the gradients by all matrices, transposed, where they belong."""
        count, outputs, inputs = self._groups.connections.shape
        ordered = self._in_order(np.empty((inputs, *grad_weight.shape[1:]))).shape
        gradient = np.stack([gradient.T for gradient in gradients])
        self._groups.put_gradient(self._in_order(gradient.reshape(count, outputs, *ordered)),
                                  grad_weight)


class _CellWeights:
    """The matrices (outputs * pixels of a cell, inputs * pixels of its window) of `Groups`, with
    the pixels of a window `in_order`: for each pixel of a cell the weights where its own window
    lies, zeros elsewhere."""

    def __init__(self, groups, convolution, cell, in_order):
        self.count, n_outputs, n_inputs = groups.connections.shape
        area, reach = convolution.area, convolution.by_cells(cell).kernel
        nothing = groups.n_connections * area
        index = np.full((self.count, n_outputs, *cell, n_inputs, *reach), nothing)
        numbers = (groups.connections[..., None, None] * area
                   + np.arange(area).reshape(convolution.kernel))
        for row, column in np.ndindex(cell):
            top, left = row * convolution.stride[0], column * convolution.stride[1]
            index[:, :, row, column, :, top:top + convolution.kernel[0],
                  left:left + convolution.kernel[1]] = np.minimum(numbers, nothing)
        self._index = np.ascontiguousarray(in_order(index)).reshape(
            self.count, n_outputs * prod(cell), -1)
        turned = self._index.swapaxes(1, 2).reshape(-1)
        order = np.argsort(turned, kind="stable")
        held = order[:np.count_nonzero(turned < nothing)].reshape(-1, prod(cell))
        self._weights = turned[held[:, 0]]                     # those that the groups have,
        self._places = np.ascontiguousarray(held.T)            # and where, for each pixel

    def matrices(self, weight):
        """One for each group."""
        return np.take(np.append(weight, weight.dtype.type(0)), self._index)

    def put_gradient(self, gradients, grad_weight):
        """Write the gradients by all matrices, transposed, where they belong."""
        first, *others = np.take(np.stack(gradients), self._places)
        for other in others:
            first += other
        np.put(grad_weight, self._weights, first)


_cell_weights = lru_cache(maxsize=64)(_CellWeights)


class _Product:
    """One group's matrix of weights."""

    def __init__(self, groups, number, matrix, columns):
        self.inputs = groups.input_indices[number]
        self._outputs = groups.output_indices[number]
        self._matrix = matrix
        self._pieces = columns.pieces

    def forward(self, columns, band, rows, workspace):
        """Write the group's maps of an output band (out_maps, *cell, rows, width, samples)."""
        mine = _rows_of(band, self._outputs)
        if mine is not None:
            multiply(self._matrix, columns, out=self._pieces(mine, rows))
        else:
            result = scratch(workspace, "conv2d.product", (
                len(self._matrix), prod(band.shape[3:])), columns.dtype)
            multiply(self._matrix, columns, out=self._pieces(result, rows))
            band[self._outputs] = result.reshape(-1, *band.shape[1:])

    def no_gradient(self):
        return zeros(self._matrix.shape[::-1], self._matrix.dtype)

    def add_gradient(self, columns, dz, gradient, rows, workspace):
        """Add a band's gradient to `gradient`, transposed: BLAS is quicker with few columns than
        with few rows."""
        mine = self._pieces(self._dz(dz, workspace), rows)
        terms = scratch(workspace, "conv2d.gradient_terms", (
            *columns.shape[:-2], *gradient.shape), gradient.dtype)
        multiply_by_rows(columns, mine, out=terms)
        if terms.ndim == 3:
            term = scratch(workspace, "conv2d.gradient_term", gradient.shape, gradient.dtype)
            terms = np.add.reduce(terms, axis=0, out=term)
        gradient += terms

    def grad_columns(self, dz, rows, workspace):
        """The gradient by a band's columns."""
        mine = self._pieces(self._dz(dz, workspace), rows)
        grad_columns = scratch(workspace, "conv2d.grad_columns", (
            *mine.shape[:-2], self._matrix.shape[1], mine.shape[-1]), mine.dtype)
        return multiply(self._matrix.T, mine, out=grad_columns)

    def _dz(self, dz, workspace):
        """The rows of the group's output maps as a matrix (outputs * pixels, cells * samples)."""
        mine = _rows_of(dz, self._outputs)
        if mine is None:
            chosen = dz[self._outputs]
            mine = scratch(workspace, "conv2d.chosen_dz", chosen.shape, dz.dtype)
            np.copyto(mine, chosen)
            mine = mine.reshape(len(self._matrix), -1)
        return mine


def _rows_of(band, outputs):
    """A view (outputs * pixels of a cell, cells * samples) of the band's rows, or None where it
    takes a copy."""
    if not isinstance(outputs, slice):
        return None
    rows = band[outputs]
    try:
        return np.reshape(rows, (prod(rows.shape[:3]), prod(rows.shape[3:])), copy=False)
    except ValueError:
        return None
