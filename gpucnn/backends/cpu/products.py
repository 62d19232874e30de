"""A convolution as products by columns, a matrix of weights for each group of maps.

Where one group is all maps, its matrix has zeros where nothing is joined. (A pixel that is not
finite then reaches output maps that do not see its map, as 0 * infinity is NaN.)
"""

from math import prod

import numpy as np

from gpucnn.backends.cpu.arrays import scratch
from gpucnn.backends.cpu.columns import COLUMN_BYTES, GRAD_COLUMN_BYTES, Columns
from gpucnn.backends.cpu.small_products import multiply, multiply_by_rows


class ColumnProducts:
    """The products of a table's `Groups` by columns. `weight` (n_connections, *kernel)."""

    def __init__(self, convolution, groups, weight):
        self._columns = Columns(convolution)
        self._groups = groups
        self._products = [_Product(one, number, weights.reshape(len(weights), -1))
                          for one in groups
                          for number, weights in enumerate(one.weights(weight))]

    def forward(self, source, target, workspace):
        """Convolve source (maps, height, width, samples) into target (out_maps, out_height,
        out_width, samples); yields slices of output rows as they are done."""
        for rows in self._columns.bands(source, COLUMN_BYTES):
            for product in self._products:
                product.forward(self._columns.of(source, product.inputs, rows, workspace),
                                target[:, rows], workspace)
            yield rows

    def no_gradient(self):
        """Arrays for `add_gradient` to add to."""
        return [product.no_gradient() for product in self._products]

    def add_gradient(self, source, dz, gradients, workspace):
        """Add the gradient by the weights to `gradients`."""
        for rows in self._columns.bands(source, COLUMN_BYTES):
            for product, gradient in zip(self._products, gradients, strict=True):
                product.add_gradient(self._columns.of(source, product.inputs, rows, workspace),
                                     dz[:, rows], gradient, workspace)

    def finish_gradient(self, gradients, grad_weight):
        """Write gradients that are complete into grad_weight."""
        gradients = iter(gradients)
        for groups in self._groups:
            mine = [next(gradients).T for _ in groups.inputs]
            groups.put_gradient(np.stack(mine).reshape(*groups.connections.shape,
                                                       *grad_weight.shape[1:]), grad_weight)

    def grad_input(self, dz, grad_source, workspace):
        """Set grad_source (maps, height, width, samples), of the input with its padding."""
        grad_source.fill(0)
        for rows in self._columns.bands(grad_source, GRAD_COLUMN_BYTES):
            for product in self._products:
                self._columns.add_back(product.grad_columns(dz[:, rows], workspace), grad_source,
                                       product.inputs, rows)


class _Product:
    """One group's weights as a matrix (outputs, inputs * kernel area)."""

    def __init__(self, groups, number, matrix):
        self.inputs = groups.input_indices[number]
        self._outputs = groups.output_indices[number]
        self._matrix = matrix

    def forward(self, columns, band, workspace):
        """Write the group's maps of an output band (out_maps, rows, width, samples)."""
        mine = _rows_of(band, self._outputs)
        if mine is not None:
            multiply(self._matrix, columns, out=mine)
        else:
            result = scratch(workspace, "conv2d.product", (len(self._matrix), columns.shape[1]),
                             columns.dtype)
            multiply(self._matrix, columns, out=result)
            band[self._outputs] = result.reshape(-1, *band.shape[1:])

    def no_gradient(self):
        return np.zeros(self._matrix.shape[::-1], self._matrix.dtype)

    def add_gradient(self, columns, dz, gradient, workspace):
        """Add a band's gradient to `gradient` (inputs * kernel area, outputs): BLAS is quicker with
        few columns than with few rows."""
        term = scratch(workspace, "conv2d.gradient_term", gradient.shape, gradient.dtype)
        gradient += multiply_by_rows(columns, self._dz(dz), out=term)

    def grad_columns(self, dz, workspace):
        """The gradient by a band's columns."""
        mine = self._dz(dz)
        grad_columns = scratch(workspace, "conv2d.grad_columns",
                               (self._matrix.shape[1], mine.shape[1]), mine.dtype)
        return multiply(self._matrix.T, mine, out=grad_columns)

    def _dz(self, dz):
        """The rows of the group's output maps as a matrix (outputs, pixels * samples)."""
        mine = _rows_of(dz, self._outputs)
        return dz[self._outputs].reshape(len(self._matrix), -1) if mine is None else mine


def _rows_of(band, outputs):
    """A view (outputs, pixels * samples) of the band's rows, or None where it takes a copy."""
    if not isinstance(outputs, slice):
        return None
    rows = band[outputs]
    try:
        return np.reshape(rows, (len(rows), prod(rows.shape[1:])), copy=False)
    except ValueError:
        return None
