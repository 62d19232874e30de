"""Trainable subsampling by equal size and stride: sums of windows by a product with a matrix of
ones, which leaves out what lies between the rows' ends."""

from math import prod

import numpy as np

from gpucnn.backends.cpu.memory import empty
from gpucnn.backends.cpu.plan.online.outputs import Maps, Output
from gpucnn.backends.cpu.plan.online.parameters import Block
from gpucnn.backends.cpu.plan.online.step import Run, Step
from gpucnn.backends.cpu.plan.squash import Squash
from gpucnn.backends.cpu.plan.step import Cost


class WideSubsample2d(Step):
    """Sums of windows, then coefficient, bias and activation."""

    kind = "subsample2d"

    def __init__(self, layer, input_pitch, input_scale, *, scaled):
        self.name = layer.name
        self.pool_size = layer.options["pool_size"]
        self.input_size, self.input_pitch = layer.input_shape, input_pitch
        self.size = layer.output_shape
        self.pitch = self.size[2]
        self.squash = Squash(layer.options["activation"], scaled=scaled)
        self.scale = self.squash.scale
        self.gradient_factor = self.squash.slope
        self.input_factor = input_scale * self.squash.slope
        self.tanh_size = prod(self.size) * self.squash.stores_tanh
        maps = self.size[0]
        self.has_weights = bool(layer.parameters)
        if self.has_weights:
            self.shape = 2, maps, 1
            self.parts = [Block(kind, slot, (maps, 1)) for kind, slot
                          in enumerate(layer.parameters)]

    def describe(self):
        return f"sums of {self.pool_size[0]}x{self.pool_size[1]} pixels by a product"

    def cost(self, products):
        maps, rows, columns = self.size
        taken = maps * rows * self.pool_size[0] * self.input_pitch
        return Cost(2 * taken * columns, 2 * products * (taken + prod(self.size)))

    def bind(self, memory, source, values, gradients):
        return WideSubsample2dRun(self, memory, source, values, gradients)


class WideSubsample2dRun(Run):
    """A window's pixels that lie in one row of the matrix: its rows, one behind the other."""

    def __init__(self, step, memory, source, values, gradients):
        maps, rows, columns = step.size
        dtype = memory.dtype
        self._step, self._dtype = step, dtype
        self._output = Output(memory.tanh_outputs, step.size, columns, step.squash, dtype)
        self.maps = self._output.maps
        self._stored = self._output.flat.reshape(maps, rows * columns)
        self._sums = empty((maps, rows * columns), dtype)
        self._source = self._windows(source.flat)
        self._by_window = self._sums.reshape(*self._source.shape[:-1], columns)
        self._ones = self._matrix(step.input_factor)
        self._multiply = np.dot if self._source.ndim == 2 else np.matmul  # the first is quicker
        self._bias = self._slope = None
        if step.has_weights:
            self._coefficient, self._bias = values
            self._grad_coefficient, self._grad_bias = gradients[:, :, 0]
            self._slopes = np.full(rows * columns, step.squash.slope, dtype)
        else:
            self._coefficient = np.full((maps, 1), 1 / prod(step.pool_size), dtype)
        if self._bias is not None and step.squash.slope != 1:
            self._slope, self._unscaled = dtype.type(step.squash.slope), self._bias
            self._bias = np.empty_like(self._unscaled)

    def _windows(self, flat):
        """(maps * rows, pool rows * pitch) of the input's memory, or with an axis for the maps
        where rows are left over that no window covers."""
        (maps, rows, _), (height, _), pitch = (self._step.size, self._step.pool_size,
                                               self._step.input_pitch)
        windows = flat.reshape(maps, -1)[:, :rows * height * pitch].reshape(
            maps, rows, height * pitch, copy=False)
        if rows * height == self._step.input_size[1]:
            return windows.reshape(maps * rows, height * pitch, copy=False)
        return windows

    def _matrix(self, value):
        """(pool rows * pitch, columns) with `value` where a window has its pixels, else zeros."""
        (height, width), pitch, columns = (self._step.pool_size, self._step.input_pitch,
                                           self._step.size[2])
        window = np.arange(pitch)[:, None] // width
        return np.tile(value * (window == np.arange(columns)), (height, 1)).astype(self._dtype)

    def forward(self):
        self._multiply(self._source, self._ones, self._by_window)
        np.multiply(self._sums, self._coefficient, self._stored)
        if self._bias is not None:
            if self._slope is not None:
                np.multiply(self._unscaled, self._slope, self._bias)
            np.add(self._stored, self._bias, self._stored)
        self._output.squash()

    def bind_backward(self, gradient, factor, needs_grad_input):
        self._output.bind_gradient(gradient, factor)
        self._dz = self._output.dz.reshape(self._stored.shape)
        self._spread = None
        if needs_grad_input:
            step = self._step
            self.grad_input = Maps.zeros(step.input_size, step.input_pitch, self._dtype)
            self._spread = self._windows(self.grad_input.flat)
            self._dz_by_window = self._dz.reshape(self._by_window.shape)
            self._ones_back = np.ascontiguousarray(self._matrix(1).T)

    def backward(self):
        self._output.take_gradient()
        if self._step.has_weights:
            np.vecdot(self._sums, self._dz, self._grad_coefficient)
            np.dot(self._dz, self._slopes, self._grad_bias)
        if self._spread is not None:
            np.multiply(self._dz, self._coefficient, self._dz)
            self._multiply(self._dz_by_window, self._ones_back, self._spread)
