"""A connection table as matrix products: output maps that see the same input maps share one.

Where a table has too many distinct sets of inputs for that to pay, all weights go into one matrix,
with zeros where nothing is joined. (A pixel that is not finite then reaches output maps that do not
see its map, as 0 * infinity is NaN.)
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod

import numpy as np

from gpucnn.backends.cpu.arrays import matmul, scratch

ROWS_WORTH_A_PRODUCT = 4  # a matrix product with fewer rows costs as much as with this many


def products(connections, weight, workspace):
    """The `Product`s of a table with these weights (n_connections, kernel_height, kernel_width)."""
    return [Product(group, weight, workspace, number)
            for number, group in enumerate(_groups(connections))]


class Product:
    """One group's weights as a matrix (outputs, inputs * kernel area), and its gradient."""

    def __init__(self, group, weight, workspace, number):
        self._group = group
        self.inputs = group.inputs
        self._number = number
        area = weight.shape[1] * weight.shape[2]
        shape = group.n_outputs, group.n_inputs * area
        self._has_gradient = False
        if group.is_in_order:
            self._matrix = weight[:len(group.connections)].reshape(shape)
            return
        self._matrix = scratch(workspace, f"conv2d.matrix{number}", shape, weight.dtype)
        by_cell, by_connection = self._matrix.reshape(-1, area), weight.reshape(-1, area)
        if group.is_full:
            np.take(by_connection, group.connections, axis=0, out=by_cell, mode="clip")
        else:
            by_cell.fill(0)
            by_cell[group.cells] = by_connection[group.connections]

    def forward(self, columns, band, workspace):
        """Write the group's maps of an output band (out_maps, rows, width, samples)."""
        mine = _rows_of(band, self._group.outputs)
        if mine is not None:
            np.matmul(self._matrix, columns, out=mine)
        else:
            result = scratch(workspace, "conv2d.product", (len(self._matrix), columns.shape[1]),
                             columns.dtype)
            np.matmul(self._matrix, columns, out=result)
            band[self._group.outputs] = result.reshape(-1, *band.shape[1:])

    def add_gradient(self, columns, dz, workspace):
        """Add a band's gradient by the weights; dz (out_maps, rows, width, samples)."""
        shape, dtype = self._matrix.shape, self._matrix.dtype
        name = "conv2d.grad_term" if self._has_gradient else f"conv2d.grad_matrix{self._number}"
        term = scratch(workspace, name, shape, dtype)
        matmul(self._dz(dz), columns.T, out=term)
        if self._has_gradient:
            self._gradient += term
        else:
            self._gradient, self._has_gradient = term, True

    def grad_columns(self, dz, workspace):
        """The gradient by a band's columns."""
        mine = self._dz(dz)
        grad_columns = scratch(workspace, "conv2d.grad_columns",
                               (self._matrix.shape[1], mine.shape[1]), mine.dtype)
        return np.matmul(self._matrix.T, mine, out=grad_columns)

    def _dz(self, dz):
        """The rows of the group's output maps as a matrix (outputs, pixels * samples)."""
        mine = _rows_of(dz, self._group.outputs)
        if mine is None:
            mine = dz[self._group.outputs].reshape(self._group.n_outputs, -1)
        return mine

    def finish_gradient(self, grad_weight):
        """Write the gradients of the group's weights, zeros if there was no band."""
        area = grad_weight.shape[1] * grad_weight.shape[2]
        by_connection = grad_weight.reshape(-1, area)
        if not self._has_gradient:
            by_connection[self._group.connections] = 0
        elif len(by_connection) == len(self._group.connections):
            np.take(self._gradient.reshape(-1, area), self._group.cell_of_connection, axis=0,
                    out=by_connection, mode="clip")
        else:
            by_cell = self._gradient.reshape(-1, area)
            by_connection[self._group.connections] = by_cell[self._group.cells]


@dataclass(frozen=True)
class Group:
    """Output maps that share one matrix product; a cell of it is one pair of maps.

    `inputs` and `outputs` index their maps, as slices where possible. Connection `connections[k]`
    stands in cell `cells[k]` of the (outputs, inputs) cells, counted row by row, ascending.
    """

    inputs: slice | np.ndarray
    outputs: slice | np.ndarray
    n_inputs: int
    n_outputs: int
    connections: np.ndarray
    cells: np.ndarray

    @cached_property
    def is_full(self):
        """Whether every cell has a connection."""
        return len(self.cells) == self.n_inputs * self.n_outputs

    @cached_property
    def cell_of_connection(self):
        """The cells in the connections' own order, of a group that has all of them."""
        return self.cells[np.argsort(self.connections)]

    @cached_property
    def is_in_order(self):
        """Whether the matrix is the first weights in their own order."""
        return self.is_full and np.array_equal(self.connections, np.arange(len(self.cells)))


@lru_cache(maxsize=256)
def _groups(connections):
    """One group per distinct set of inputs where that saves half of the work, else one for all."""
    matrix = connections.matrix
    sets, members = np.unique(matrix, axis=1, return_inverse=True)
    outputs_of = [np.flatnonzero(members.reshape(-1) == number) for number in range(sets.shape[1])]
    cost = sum(np.count_nonzero(sets[:, number]) * max(len(outputs), ROWS_WORTH_A_PRODUCT)
               for number, outputs in enumerate(outputs_of))
    if 2 * cost > connections.in_maps * max(connections.out_maps, ROWS_WORTH_A_PRODUCT):
        everything = np.arange(connections.in_maps), np.arange(connections.out_maps)
        return (_group(connections, *everything),)
    return tuple(_group(connections, np.flatnonzero(sets[:, number]), outputs)
                 for number, outputs in enumerate(outputs_of))


def _group(connections, inputs, outputs):
    in_maps, out_maps = connections.pairs
    members = np.flatnonzero(np.isin(out_maps, outputs))
    cells = (np.searchsorted(outputs, out_maps[members]) * len(inputs)
             + np.searchsorted(inputs, in_maps[members]))
    order = np.argsort(cells)
    return Group(_as_slice(inputs), _as_slice(outputs), len(inputs), len(outputs),
                  members[order], cells[order])


def _as_slice(indices):
    """The same maps as a slice if they are evenly spaced, since a slice needs no copy."""
    step = int(indices[1] - indices[0]) if len(indices) > 1 else 1
    if (np.diff(indices) == step).all():
        return slice(int(indices[0]), int(indices[-1]) + 1, step)
    return indices


def _rows_of(band, outputs):
    """A view (outputs, pixels * samples) of the band's rows, or None where it takes a copy."""
    if not isinstance(outputs, slice):
        return None
    rows = band[outputs]
    try:
        return np.reshape(rows, (len(rows), prod(rows.shape[1:])), copy=False)
    except ValueError:
        return None
