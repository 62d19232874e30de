"""Convolution: windows copied to columns, then matrix products, pooling cells side by side."""

from dataclasses import replace
from itertools import pairwise
from math import prod

import numpy as np

from gpucnn.backends.cpu.memory import empty
from gpucnn.backends.cpu.plan.lines import LineProducts
from gpucnn.backends.cpu.plan.products import Band, Products
from gpucnn.backends.cpu.plan.squash import Squash
from gpucnn.backends.cpu.plan.step import Cost, Run, Step, parts

BAND_BYTES = 2 * 1024 * 1024  # of columns: with fewer, threads wait for each other more often


class Conv2d(Step):
    """One convolution, in the cheapest of the `ways` that were considered.

    Weights are matrices (output maps * slab rows, input maps * window area + 1): the last column is
    the bias, and the last row of the columns is ones. Where windows share lines, their pixels have
    another order, and each step from line to line has a row of ones. Activation constants are
    multiplied in.
    """

    def __init__(self, layer, input_scale, layout, windows, grouping, ways, *, scaled, dtype):
        self.name = layer.name
        self.kind = "conv2d"
        self.windows = windows
        self.grouping = grouping
        self.considered = ways
        self.squash = Squash(layer.options["activation"], scaled=scaled)
        self.layout = replace(layout, scale=self.squash.scale)
        self.has_bias = layer.options["bias"]
        self.padding = layer.options["padding"]
        self._slots = layer.parameters
        self._factors = input_scale * self.squash.slope, self.squash.slope
        self._index = [self._weight_index(layer, stack) for stack in grouping.stacks]
        self.gradient_size = sum(index.size for index in self._index)
        self._source = np.zeros(sum(slot.size for slot in self._slots) + 1, dtype)
        self.matrices = [empty(index.shape, dtype) for index in self._index]
        self._positions = self._gradient_positions()
        self._terms = empty(self._positions.shape, dtype)
        ends = np.cumsum([0] + [slot.size for slot in self._slots])
        self._source_places = [slice(*both) for both in pairwise(ends.tolist())]
        self._is_plain = self._matrix_is_the_weights()

    def describe(self):
        pixels = "pooling cells" if prod(self.windows.slab_rows) > 1 else "pixels"
        rows = [f"{len(stack.inputs)} x " * (len(stack.inputs) > 1)
                + f"({index.shape[1]}, {index.shape[2]})"
                for stack, index in zip(self.grouping.stacks, self._index, strict=True)]
        lines = ", lines shared" * self.windows.lines
        return f"{self.grouping.name}: {' + '.join(rows)} by {self.windows.columns} {pixels}{lines}"

    def cost(self, products):
        rows = sum(index.shape[0] * index.shape[1] for index in self._index)
        multiply_adds = sum(index.size for index in self._index) * self.windows.columns
        moved = 2 * self._column_numbers + 2 * rows * self.windows.columns
        return Cost(products * multiply_adds, products * moved)

    # -- weights -------------------------------------------------------------------------------

    def weights(self):
        parts = (self._plain_parts(self.matrices[0][0]) if self._is_plain
                 else [self._source[place] for place in self._source_places])
        return list(zip(self._slots, self._factors, parts, strict=False))

    def weight_gradients(self, sums):
        if self._is_plain:
            parts = self._plain_parts(sums.reshape(self.matrices[0].shape[:0:-1]).T)
        else:
            parts = [self._terms[0][place] for place in self._source_places]
        return parts[:len(self._slots)]

    def bind_gradients(self, sums, gradients):
        super().bind_gradients(sums, gradients)
        self._sums = sums

    def prepare(self):
        super().prepare()
        if not self._is_plain:
            for index, matrix in zip(self._index, self.matrices, strict=True):
                np.take(self._source, index, out=matrix, mode="clip")

    def finish(self):
        if not self._is_plain:
            np.take(self._sums, self._positions, out=self._terms, mode="clip")
            for term in self._terms[1:]:
                self._terms[0] += term
        super().finish()

    def _plain_parts(self, matrix):
        """The weights (output maps, inputs) and the biases (output maps,) of one matrix."""
        inputs = self._slots[0].size // len(matrix)
        return matrix[:, :inputs], matrix[:, -1]

    def _weight_index(self, layer, stack):
        """Which of (weights, biases, 0) stands where in a stack's matrices (groups, rows, columns):
        rows are (output map, slab rows), columns (input map, window pixel), then the bias."""
        table = layer.connections
        connection = np.full((table.in_maps, table.out_maps), -1)
        connection[table.pairs[0], table.pairs[1]] = np.arange(table.n_connections)
        area = prod(self.windows.kernel)
        n_weights, zero = table.n_connections * area, sum(slot.size for slot in layer.parameters)
        joined = connection[stack.inputs[:, None, :], stack.outputs[:, :, None]]
        joined = joined[:, :, None, :, None]                     # groups, outputs, 1, inputs, 1
        pixels = self.windows.weight_pixels()[None, None, :, None, :]
        index = np.where((joined < 0) | (pixels < 0), zero, joined * area + pixels)
        groups, n_outputs, slabs, n_inputs, window = index.shape
        rows = n_outputs * slabs
        index = index.reshape(groups, rows, n_inputs, window)
        steps = (self.windows.by_lines(index) if self.windows.lines
                 else index.reshape(groups, rows, 1, -1))
        if self.has_bias:  # the last step's ones have its weights, those of others none
            ones = np.full((groups, rows, steps.shape[2], 1), zero)
            ones[:, :, -1, 0] = np.repeat(n_weights + stack.outputs, slabs, axis=1)
            steps = np.concatenate([steps, ones], axis=3)
        return steps.reshape(groups, rows, -1)

    def _matrix_is_the_weights(self):
        """Whether there is one matrix, whose rows are the weights as they are stored."""
        index = self._index[0]
        if len(self._index) > 1 or len(index) > 1 or self.gradient_size != self._source.size - 1:
            return False
        weights = index[0, :, :-1] if self.has_bias else index[0]
        return np.array_equal(weights.reshape(-1), np.arange(weights.size))

    def _gradient_positions(self):
        """Where the sums of all runs (the stacks' transposed matrices, one behind the other) have
        each parameter: (slab rows, parameters)."""
        flat = np.concatenate([index.swapaxes(1, 2).reshape(-1) for index in self._index])
        order = np.argsort(flat, kind="stable")
        count = np.count_nonzero(flat < sum(slot.size for slot in self._slots))
        return np.ascontiguousarray(order[:count].reshape(-1, prod(self.windows.slab_rows)).T)

    # -- lanes ---------------------------------------------------------------------------------

    @property
    def numbers(self):
        return self._column_numbers + prod(self.layout.shape(1))

    @property
    def _column_numbers(self):
        """Numbers in the columns of one sample."""
        return sum(
            prod(self.products.column_shape(self.windows, index.shape, 1, self.windows.columns))
            for index in self._index)

    @property
    def products(self):
        """The class of its products."""
        return LineProducts if self.windows.lines else Products

    def scratch_size(self, samples):
        columns = max(band.columns.stop - band.columns.start for band in self.bands(samples))
        return max(self.products.scratch_size(self.windows, index.shape, samples, columns)
                   for index in self._index)

    def bands(self, samples):
        """Output rows whose columns are made together: all, or where each row's columns lie
        together as many as stay within `BAND_BYTES`; these are made again for backward."""
        windows = self.windows
        whole = Band(slice(None), slice(0, samples * windows.columns), True)
        rows, width = windows.cells
        if windows.run or prod(windows.slabs) * prod(windows.out_phases) > 1 or rows == 1:
            return [whole]
        row = max(index.shape[0] * index.shape[2] for index in self._index) * width * samples
        rows_at_once = max(1, BAND_BYTES // (row * self._source.itemsize))
        if rows_at_once >= rows:
            return [whole]
        return [Band(part, slice(part.start * width * samples, part.stop * width * samples), False)
                for part in parts(rows, rows_at_once)]

    def bind(self, lane, x):
        return Conv2dRun(self, lane, x)


class Conv2dRun(Run):
    """Columns, product and activation; backward the same columns, and their gradient added back."""

    def __init__(self, step, lane, x):
        self._squash = step.squash
        self._lane = lane
        self._x = x
        self._padding = step.padding
        self._source = lane.zeros(self._padded(x.shape)) if any(step.padding) else x
        self._grad_source = self._grad = None
        maps_by_rows = self._make_output(step)
        bands = step.bands(lane.samples)
        self._parts, first = [], 0
        for stack, matrix in zip(step.grouping.stacks, step.matrices, strict=True):
            place = slice(first, first + matrix.size)
            first = place.stop
            for number, band in enumerate(bands):
                self._parts.append(step.products(
                    step, lane, stack, matrix, self._source, maps_by_rows[:, :, band.columns],
                    place, band, adds=number > 0))

    def _make_output(self, step):
        """Set `output`, and `_stored` on which the activation works; the matrices of products
        (output maps, slab rows, columns) within."""
        self.output = self._stored = self._lane.empty(step.layout.shape(self._lane.samples))
        return self.output.reshape(step.layout.maps, prod(step.windows.slab_rows), -1)

    def forward(self):
        if self._source is not self._x:
            np.copyto(self._inner(self._source), self._x)
        for part in self._parts:
            part.forward()
        self._squash.forward(self._stored)

    def bind_backward(self, grad_output, needs_grad_input):
        self._grad = grad_output
        if needs_grad_input:
            self._grad_source = self._like_source()
            self.grad_input = self._inner(self._grad_source)
            self._bind_grad_source()

    def _like_source(self):
        return self._lane.zeros(self._source.shape)

    def _bind_grad_source(self):
        for part in self._parts:
            part.bind_grad_input(self._grad_source)

    def backward(self, sums, first):
        if self._grad is not self._stored:  # or it has been put there already
            self._squash.backward(self._stored, self._grad)
        if self._grad_source is not None:
            self._grad_source.fill(0)
        for part in self._parts:
            part.backward(sums, first)

    def _padded(self, shape):
        (top, left), (rows, columns) = self._padding, shape[5:7]
        return (*shape[:5], rows + 2 * top, columns + 2 * left, shape[7])

    def _inner(self, source):
        """The maps within their padding."""
        (top, left), (rows, columns) = self._padding, source.shape[5:7]
        return source[:, :, :, :, :, top:rows - top, left:columns - left]
