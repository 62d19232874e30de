"""One sample at a time: steps with few NumPy calls, each on long runs of memory.

Maps keep the row pitch of the image that they were computed from: a convolution copies each shift
of the whole map as one run, and what it computes between the rows' ends is never read.
"""

import numpy as np
from numpy.lib.stride_tricks import as_strided

from gpucnn.backends.cpu.plan.conv2d import Conv2d, Conv2dRun
from gpucnn.backends.cpu.plan.layout import Layout
from gpucnn.backends.cpu.plan.pooling import TiledSubsample2d
from gpucnn.backends.cpu.plan.squash import Squash
from gpucnn.backends.cpu.plan.step import Cost, Run, Step, slot_of


def pitch_of(x):
    """How many numbers lie between two rows of an array of a layout, for a single sample."""
    return x.strides[5] // x.itemsize


def wide(x):
    """The memory (maps, rows, pitch) of maps whose rows are `pitch` numbers apart."""
    maps, rows = x.shape[0], x.shape[5]
    return as_strided(x, (maps, rows, pitch_of(x)), (x.strides[0], x.strides[5], x.itemsize))


def zeros_like(lane, x):
    """Zeros with the shape and the pitch of an array of maps."""
    maps, rows, columns = x.shape[0], x.shape[5], x.shape[6]
    memory = lane.zeros((maps, 1, 1, 1, 1, rows, pitch_of(x), 1))
    return memory[:, :, :, :, :, :, :columns]


class WideConv2d(Conv2d):
    """A convolution of stride 1 by long runs. `compact`: the reader wants rows without gaps."""

    def __init__(self, *arguments, compact, **keywords):
        super().__init__(*arguments, **keywords)
        self.compact = compact

    def bind(self, lane, x):
        return WideConv2dRun(self, lane, x)


class WideConv2dRun(Conv2dRun):
    """Between the rows' ends lie numbers that belong to no pixel: forward, what the products give
    there; backward, zeros."""

    def _make_output(self, step):
        maps, (rows, columns) = step.layout.maps, step.layout.size
        self._stored = self._lane.zeros((maps, 1, 1, 1, 1, rows, pitch_of(self._source), 1))
        self._pixels = self._stored[:, :, :, :, :, :, :columns]
        self.output = self._lane.empty(self._pixels.shape) if step.compact else self._pixels
        return self._stored.reshape(maps, 1, -1)[:, :, :self._windows.run]

    def forward(self):
        super().forward()
        if self.output is not self._pixels:
            np.copyto(self.output, self._pixels)

    def bind_backward(self, grad_output, needs_grad_input):
        super().bind_backward(grad_output, needs_grad_input)
        self._given = grad_output
        self._is_shared = (self.output is self._pixels
                           and grad_output.strides == self._pixels.strides)
        if self._is_shared:
            self._grad = wide(grad_output).reshape(self._stored.shape)
        else:
            self._grad = self._lane.zeros(self._stored.shape)
            self._grad_pixels = self._grad[:, :, :, :, :, :, :self._pixels.shape[6]]

    def _like_source(self):
        return zeros_like(self._lane, self._source)

    def _bind_grad_source(self):
        """Where one product gives the gradient by all columns, every pixel's sum is taken at once,
        along a skew: the gradient by shift (ky, kx) is read ky rows and kx columns earlier."""
        inputs = [part.inputs for part in self._parts]
        self._skewed = len(inputs) == 1 and len(inputs[0]) == 1 and (
            np.array_equal(inputs[0][0], np.arange(len(self._grad_source))))
        if not self._skewed:
            super()._bind_grad_source()
            return
        (kh, kw), run = self._windows.kernel, self._windows.run
        maps, pitch = len(self._grad_source), pitch_of(self._source)
        ahead = (kh - 1) * pitch + kw - 1
        length = ahead + run
        flat = self._lane.zeros(maps * kh * kw * length + ahead)
        item = flat.itemsize
        columns = flat[:-ahead or None].reshape(1, -1, length)[:, :, ahead:]
        self._parts[0].bind_grad_columns(columns)
        self._by_shift = as_strided(flat[ahead:], (maps, kh, kw, length), (
            kh * kw * length * item, (kw * length - pitch) * item, (length - 1) * item, item))
        self._grad_runs = wide(self._grad_source).reshape(maps, -1)[:, :length]

    def backward(self, sums, first):
        if not self._is_shared:
            np.copyto(self._grad_pixels, self._given)
        if self._grad_source is None or not self._skewed:
            super().backward(sums, first)
            return
        self._squash.backward(self._stored, self._grad)
        self._parts[0].backward(sums, first)
        np.add.reduce(self._by_shift, axis=(1, 2), out=self._grad_runs)


class WideSubsample2d(TiledSubsample2d):
    """Trainable subsampling by equal size and stride: rows are added, then a product with a matrix
    of ones adds columns and leaves out what lies between the rows' ends."""

    def describe(self):
        return f"sums of {self.pool_size[0]} rows, then of {self.pool_size[1]} columns by a product"

    def bind(self, lane, x):
        return WideSubsample2dRun(self, lane, x)


class WideSubsample2dRun(Run):
    """Sums of rows, sums of columns, then scale, bias and activation."""

    def __init__(self, step, lane, x):
        self._step = step
        self._lane = lane
        self._x = x
        self.output = lane.empty(step.layout.shape(1))
        maps, (height, width) = step.layout.maps, step.layout.size
        pool_height, pool_width = step.pool_size
        pitch = pitch_of(x)
        self._shape = maps, height, pool_height, pitch
        rows = wide(x)[:, :height * pool_height].reshape(self._shape, copy=False)
        self._rows = [rows[:, :, number] for number in range(pool_height)]
        self._row_sums = lane.empty((maps, height, pitch))
        column = np.arange(pitch)[:, None] // pool_width
        ones = (column == np.arange(width)).astype(lane.dtype)
        self._ones, self._ones_back = ones, np.ascontiguousarray(ones.T)
        self._row_matrix = self._row_sums.reshape(-1, pitch)
        self._one_each = np.ones(height * width, lane.dtype)
        self._sums = lane.empty((maps, height * width))
        self._sum_matrix = self._sums.reshape(-1, width)
        self._stored = self.output.reshape(maps, height * width)
        self._stored_matrix = self._stored.reshape(-1, width)
        self._spread = None

    def forward(self):
        first, *others = self._rows
        if others:
            np.add(first, others[0], out=self._row_sums)
        else:
            np.copyto(self._row_sums, first)
        for row in others[1:]:
            self._row_sums += row
        np.dot(self._row_matrix, self._ones, out=self._sum_matrix)
        np.multiply(self._sums, self._step.coefficient, out=self._stored)
        self._stored += self._step.bias
        self._step.squash.forward(self._stored)

    def bind_backward(self, grad_output, needs_grad_input):
        self._grad_output = grad_output
        if needs_grad_input:
            self.grad_input = zeros_like(self._lane, self._x)
            maps, height, pool_height, pitch = self._shape
            self._spread = wide(self.grad_input)[:, :height * pool_height].reshape(
                self._shape, copy=False)
            self._expanded = self._row_sums.reshape(maps, height, 1, pitch)

    def backward(self, sums, first):
        step, dz = self._step, self._stored
        step.squash.backward(self.output, self._grad_output)
        np.vecdot(self._sums, dz, out=sums[:len(dz)])
        np.dot(dz, self._one_each, out=sums[len(dz):])
        if self._spread is not None:
            dz *= step.coefficient
            np.dot(self._stored_matrix, self._ones_back, out=self._row_matrix)
            np.copyto(self._spread, self._expanded)


class DirectDense(Step):
    """A matrix by one column, in the network's own arrays."""

    def __init__(self, layer, input_scale, parameters, gradients, *, scaled):
        self.name = layer.name
        self.kind = "dense" if layer.op == "dense" else "conv2d over whole maps"
        self.squash = Squash(layer.options["activation"], scaled=scaled)
        self.out_features = layer.output_shape[0]
        self.layout = Layout(self.out_features, (1, 1), scale=self.squash.scale)
        weight, *bias = layer.parameters
        self.in_features = weight.size // self.out_features
        shape = self.out_features, self.in_features
        self.weight = slot_of(weight, parameters).reshape(shape)
        self.grad_weight = slot_of(weight, gradients).reshape(shape)
        self.bias = slot_of(bias[0], parameters) if bias else None
        self.grad_bias = slot_of(bias[0], gradients) if bias else None
        self.input_scale = input_scale

    def describe(self):
        return f"({self.out_features}, {self.in_features}) matrix by one column"

    def cost(self, products):
        weights = self.out_features * self.in_features
        return Cost(weights * products, weights * products)

    def bind(self, lane, x):
        return DirectDenseRun(self, lane, x)


class DirectDenseRun(Run):
    """Matrix by vector; backward an outer product, and the vector by the matrix."""

    def __init__(self, step, lane, x):
        self._step = step
        self._lane = lane
        self._x_shape = x.shape
        self._x = x.reshape(step.in_features, copy=False)
        self.output = lane.empty(step.layout.shape(1))
        self._stored = self.output.reshape(step.out_features)
        self._grad_source = None

    def forward(self):
        step, stored = self._step, self._stored
        np.dot(step.weight, self._x, out=stored)
        if step.input_scale != 1:
            stored *= step.input_scale
        if step.bias is not None:
            stored += step.bias
        if step.squash.slope != 1:
            stored *= step.squash.slope
        step.squash.forward(stored)

    def bind_backward(self, grad_output, needs_grad_input):
        self._grad_output = grad_output.reshape(self._stored.shape, copy=False)
        if needs_grad_input:
            self.grad_input = self._lane.empty(self._x_shape)
            self._grad_source = self.grad_input.reshape(self._x.shape)

    def backward(self, sums, first):
        step, dz = self._step, self._stored
        step.squash.backward(dz, self._grad_output)
        if step.squash.slope != 1:
            dz *= step.squash.slope
        if step.bias is not None:
            step.grad_bias[:] = dz
        if step.input_scale != 1:
            dz *= step.input_scale
        # A matrix product of inner length one takes NumPy's slow path; np.dot does not.
        np.dot(dz[:, None], self._x[None], out=step.grad_weight)
        if self._grad_source is not None:
            np.dot(dz, step.weight, out=self._grad_source)
