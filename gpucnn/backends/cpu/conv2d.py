"""Convolution through a connection table: windows copied to columns, then matrix products.

A band of output rows at a time becomes columns (in_maps * kernel area, pixels * samples), small
enough to stay in the cache, and one matrix product gives that band of every output map. Output maps
that see the same input maps share a product. Where a table has too many distinct sets of inputs for
that, the weights go into one matrix with zeros.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product

import numpy as np

from gpucnn.backends.base import Conv2dGradients
from gpucnn.backends.cpu.activation import squash, times_slope
from gpucnn.backends.cpu.arrays import (
    batch_last,
    batch_last_result,
    given_or_new,
    samples_last,
    scratch,
    sum_rows,
)
from gpucnn.shapes import window_positions

COLUMN_BYTES = 512 * 1024  # half of a common core's L2 cache
SAMPLES_AT_ONCE = 128
ROWS_WORTH_A_PRODUCT = 4  # a matrix product with fewer rows costs as much as with this many


def conv2d(x, weight, bias, connections, *, stride, padding, activation, out=None, workspace=None):
    """As columns and matrix products, a block of samples and a band of rows at a time."""
    geometry = _Geometry(x, weight, stride, padding)
    if out is None:
        out = np.empty((len(x), connections.out_maps, *geometry.out_size), x.dtype)
    products = [_Product(group, weight, workspace, number)
                for number, group in enumerate(_groups(connections))]
    for block in _sample_blocks(len(x)):
        source = geometry.padded(x[block], workspace)
        with batch_last_result(out[block], "conv2d.out", workspace) as target:
            for rows in geometry.bands(source):
                band = target[:, rows]
                for each in products:
                    each.forward(geometry.columns(source, each.group.inputs, rows, workspace),
                                    band, workspace)
                if bias is not None:
                    band += bias[:, None, None, None]
                squash(activation, band)
    return out


def conv2d_backward(grad_output, output, x, weight, connections, *, stride, padding, activation,
                    needs_grad_input=True, out=None, workspace=None):
    """The same columns; the gradient by the input is added up from the columns' gradient."""
    geometry = _Geometry(x, weight, stride, padding)
    grad_input, grad_weight, grad_bias = given_or_new(
        out, (x.shape if needs_grad_input else None, weight.shape, connections.out_maps), x.dtype)
    products = [_Product(group, weight, workspace, number)
                for number, group in enumerate(_groups(connections))]
    grad_bias.fill(0)
    block_bias = scratch(workspace, "conv2d.block_bias", grad_bias.shape, grad_bias.dtype)
    for block in _sample_blocks(len(x)):
        source = geometry.padded(x[block], workspace)
        dz = scratch(workspace, "conv2d.dz", (*output.shape[1:], source.shape[-1]), x.dtype)
        times_slope(activation, samples_last(grad_output[block]),
                    samples_last(output[block]), out=dz)
        sum_rows(dz, block_bias)
        grad_bias += block_bias
        grad_source = None
        if needs_grad_input:
            grad_source = scratch(workspace, "conv2d.grad_source", source.shape, x.dtype)
            grad_source.fill(0)
        for rows in geometry.bands(source):
            for each in products:
                columns = geometry.columns(source, each.group.inputs, rows, workspace)
                grad_columns = each.backward(columns, dz[:, rows], needs_grad_input, workspace)
                if needs_grad_input:
                    geometry.add_columns(grad_columns, grad_source, each.group.inputs, rows)
        if needs_grad_input:
            np.copyto(samples_last(grad_input[block]), geometry.unpadded(grad_source))
    for each in products:
        each.finish_gradient(grad_weight)
    return Conv2dGradients(grad_input if needs_grad_input else None, grad_weight, grad_bias)


def _sample_blocks(samples):
    return [slice(first, min(first + SAMPLES_AT_ONCE, samples))
            for first in range(0, samples, SAMPLES_AT_ONCE)]


class _Geometry:
    """Where windows lie on the maps, and how they become columns and come back."""

    def __init__(self, x, weight, stride, padding):
        self.kernel = weight.shape[1:]
        self.stride = stride
        self.padding = padding
        self.size = x.shape[2:]
        self.out_size = tuple(map(window_positions, self.size, self.kernel, stride, padding))

    def padded(self, x, workspace):
        """A block of samples with its zero padding, batch-last."""
        if self.padding == (0, 0):
            return batch_last(x, "conv2d.x", workspace)
        (top, left), (height, width) = self.padding, self.size
        source = scratch(workspace, "conv2d.x",
                         (x.shape[1], height + 2 * top, width + 2 * left, len(x)), x.dtype)
        source.fill(0)
        np.copyto(self.unpadded(source), samples_last(x))
        return source

    def unpadded(self, source):
        (top, left), (height, width) = self.padding, self.size
        return source[:, top:top + height, left:left + width]

    def bands(self, source):
        """Slices of output rows, as many a band as keep its columns within `COLUMN_BYTES`."""
        maps, samples = source.shape[0], source.shape[-1]
        row_bytes = (maps * self.kernel[0] * self.kernel[1] * self.out_size[1] * samples
                     * source.itemsize)
        rows = max(1, COLUMN_BYTES // max(1, row_bytes))
        return [slice(first, min(first + rows, self.out_size[0]))
                for first in range(0, self.out_size[0], rows)]

    def _windows(self, source, inputs, rows):
        """A view (inputs, kh, kw, rows, out_width, samples) of the windows of some output rows."""
        vertical, horizontal = self.stride
        first, last, step = inputs.indices(len(source))
        one_map, row, column, sample = source.strides
        shape = (len(range(first, last, step)), *self.kernel, rows.stop - rows.start,
                 self.out_size[1], source.shape[-1])
        strides = (step * one_map, row, column, vertical * row, horizontal * column, sample)
        return np.ndarray(shape, source.dtype, source,
                          first * one_map + rows.start * vertical * row, strides)

    def columns(self, source, inputs, rows, workspace):
        """The windows copied to a matrix (inputs * kernel area, pixels * samples)."""
        if not isinstance(inputs, slice):
            source, inputs = source[inputs], slice(None)
        windows = self._windows(source, inputs, rows)
        columns = scratch(workspace, "conv2d.columns", windows.shape, source.dtype)
        np.copyto(columns, windows)
        return columns.reshape(windows.shape[0] * self.kernel[0] * self.kernel[1], -1)

    def add_columns(self, grad_columns, grad_source, inputs, rows):
        """Add each column's gradient to the pixels that it was copied from: shift by shift, or
        window by window where there are fewer windows than shifts."""
        (kh, kw), (vertical, horizontal) = self.kernel, self.stride
        count, width = rows.stop - rows.start, self.out_size[1]
        shifted = grad_columns.reshape(-1, kh, kw, count, width, grad_source.shape[-1])
        if count * width < kh * kw:
            for line, pixel in product(range(count), range(width)):
                top, left = (rows.start + line) * vertical, pixel * horizontal
                grad_source[inputs, top:top + kh, left:left + kw] += shifted[:, :, :, line, pixel]
            return
        for ky, kx in product(range(kh), range(kw)):
            top = rows.start * vertical + ky
            lines = slice(top, top + (count - 1) * vertical + 1, vertical)
            pixels = slice(kx, kx + (width - 1) * horizontal + 1, horizontal)
            grad_source[inputs, lines, pixels] += shifted[:, ky, kx]


@dataclass(frozen=True)
class _Group:
    """Output maps that share one matrix product, of shape (outputs, inputs) in kernels.

    `inputs` and `outputs` index their maps, as slices where possible. Connection `connections[k]`
    stands in cell `cells[k]` of the matrix, counted row by row, ascending.
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
    return _Group(_as_slice(inputs), _as_slice(outputs), len(inputs), len(outputs),
                  members[order], cells[order])


def _as_slice(indices):
    """The same maps as a slice if they are evenly spaced, since a slice needs no copy."""
    step = int(indices[1] - indices[0]) if len(indices) > 1 else 1
    if (np.diff(indices) == step).all():
        return slice(int(indices[0]), int(indices[-1]) + 1, step)
    return indices


class _Product:
    """One group's weights as a matrix (outputs, inputs * kernel area), and its gradient."""

    def __init__(self, group, weight, workspace, number):
        self.group = group
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
        mine = _rows_of(band, self.group.outputs)
        if mine is not None:
            np.matmul(self._matrix, columns, out=mine)
        else:
            result = scratch(workspace, "conv2d.product", (len(self._matrix), columns.shape[1]),
                             columns.dtype)
            np.matmul(self._matrix, columns, out=result)
            band[self.group.outputs] = result.reshape(-1, *band.shape[1:])

    def backward(self, columns, dz, needs_grad_columns, workspace):
        """Add a band's gradient by the weights; returns its gradient by the columns."""
        mine = _rows_of(dz, self.group.outputs)
        if mine is None:
            mine = dz[self.group.outputs].reshape(self.group.n_outputs, -1)
        shape, dtype = self._matrix.shape, self._matrix.dtype
        if not self._has_gradient:
            self._gradient = scratch(workspace, f"conv2d.grad_matrix{self._number}", shape, dtype)
            np.matmul(mine, columns.T, out=self._gradient)
            self._has_gradient = True
        else:
            term = scratch(workspace, "conv2d.grad_term", shape, dtype)
            self._gradient += np.matmul(mine, columns.T, out=term)
        if not needs_grad_columns:
            return None
        grad_columns = scratch(workspace, "conv2d.grad_columns", columns.shape, columns.dtype)
        return np.matmul(self._matrix.T, mine, out=grad_columns)

    def finish_gradient(self, grad_weight):
        """Write the gradients of the group's weights, zeros if there was no band."""
        area = grad_weight.shape[1] * grad_weight.shape[2]
        by_connection = grad_weight.reshape(-1, area)
        if not self._has_gradient:
            by_connection[self.group.connections] = 0
        elif len(by_connection) == len(self.group.connections):
            np.take(self._gradient.reshape(-1, area), self.group.cell_of_connection, axis=0,
                    out=by_connection, mode="clip")
        else:
            by_cell = self._gradient.reshape(-1, area)
            by_connection[self.group.connections] = by_cell[self.group.cells]


def _rows_of(band, outputs):
    """A view (outputs, pixels * samples) of the band's rows, or None where it takes a copy."""
    if not isinstance(outputs, slice):
        return None
    rows = band[outputs]
    view = rows.view()
    try:
        view.shape = (len(rows), -1)
    except (AttributeError, ValueError):
        return None
    return view
