"""Convolution of stride 1 by one matrix product, on long runs of memory.

The columns of the product are all pixels from the first of the output to the last, with what lies
between the rows' ends; its rows are window pixels, (row, column, input map), then one for the bias.
So each window pixel of each map is one run of the input, and backward all gradients by one window
pixel are added as one run.
"""

from math import prod

import numpy as np
from numpy.lib.stride_tricks import as_strided

from gpucnn.backends.cpu.memory import empty, zeros
from gpucnn.backends.cpu.plan.online.outputs import Maps, Output
from gpucnn.backends.cpu.plan.online.parameters import Block, Scattered
from gpucnn.backends.cpu.plan.online.step import Run, Step
from gpucnn.backends.cpu.plan.squash import Squash
from gpucnn.backends.cpu.plan.step import Cost
from gpucnn.connections import ConnectionTable

# From so many output maps on, the gradient by the weights is faster by way of a copy of dz with the
# maps last: OpenBLAS is slow where both factors run along the sum.
LEAST_ROWS_TURNED = 8


class WideConv2d(Step):
    """One dense product, with zeros where the table joins nothing.

    input_pitch, input_scale: those of the step before. compact: the reader wants rows without gaps.
    """

    kind = "conv2d"

    def __init__(self, layer, input_pitch, input_scale, ways, *, compact, scaled):
        self.name = layer.name
        self.considered = ways
        self.kernel = layer.options["kernel_size"]
        self.padding = layer.options["padding"]
        self.input_size = layer.input_shape
        self.size = layer.output_shape
        self.inner_pitch = source_pitch(layer, input_pitch)
        self.pitch = self.size[2] if compact else self.inner_pitch
        self.squash = Squash(layer.options["activation"], scaled=scaled)
        self.scale = self.squash.scale
        self.gradient_factor = self.squash.slope
        self.has_bias = layer.options["bias"]
        self.input_factor = input_scale * self.squash.slope
        self.run = run_of(self.size, self.inner_pitch)
        self.tanh_size = prod(self.size[:2]) * self.inner_pitch * self.squash.stores_tanh
        weight, *bias = layer.parameters
        window = prod(self.kernel) * self.input_size[0]
        self.shape = self.size[0], window + len(bias)
        joined = np.tile(layer.connections.matrix.T != 0, prod(self.kernel))
        self.joined = np.hstack([joined, np.ones((self.size[0], len(bias)), bool)])
        self.parts = [self._weights(layer.connections, weight)]
        self.parts += [Block((slice(None), -1), slot, (self.size[0],)) for slot in bias]

    def _weights(self, table, slot):
        """Where weights lie: rows (window pixels, input maps), zeros where nothing is joined."""
        out_maps, in_maps, area = table.out_maps, table.in_maps, prod(self.kernel)
        if table == ConnectionTable.full(in_maps, out_maps):
            return Block((slice(None), slice(area * in_maps)), slot, (out_maps, in_maps, area),
                         (0, 2, 1))
        joined = np.full((out_maps, in_maps), -1)
        joined[table.pairs[1], table.pairs[0]] = np.arange(table.n_connections)
        pixels = joined[:, None] * area + np.arange(area)[:, None]
        index = np.full(self.shape, -1)
        index[:, :area * in_maps] = np.where(joined[:, None] < 0, -1, pixels).reshape(out_maps, -1)
        return Scattered(index, slot)

    def describe(self):
        rows, width = self.shape
        return f"one dense product: ({rows}, {width}) by {self.run} pixels"

    def cost(self, products):
        rows, width = self.shape
        return Cost(products * rows * width * self.run, 2 * products * (rows + width) * self.run)

    def bind(self, memory, source, values, gradients):
        return WideConv2dRun(self, memory, source, values, gradients)


class WideConv2dRun(Run):
    """Columns and product; backward the same columns, and their gradients added along a skew."""

    def __init__(self, step, memory, source, values, gradients):
        self._step, self._dtype = step, memory.dtype
        self._weights, self._gradients = values, gradients
        (kh, kw), in_maps = step.kernel, step.input_size[0]
        self._window_rows = kh * kw * in_maps
        self._factor = memory.dtype.type(step.input_factor)
        self._read(source)
        self._columns = empty((values.shape[1], step.run), memory.dtype)
        if step.has_bias:
            self._columns[-1] = step.squash.slope
        self._copied = self._columns[:self._window_rows].reshape(kh, kw, in_maps, step.run)
        self._output = Output(memory.tanh_outputs, step.size, step.inner_pitch, step.squash,
                              memory.dtype)
        self._product = self._runs(self._output.flat)
        self.maps = self._output.maps
        self._compact = None
        if step.pitch != step.inner_pitch:
            self._compact = empty((prod(step.size),), memory.dtype)
            self._pixels = self.maps.values
            self.maps = Maps.on(self._compact, step.size)
        self._is_turned = step.size[0] >= LEAST_ROWS_TURNED
        if self._is_turned:
            self._dz_columns = empty((step.run, step.size[0]), memory.dtype)
            self._by_input = empty(step.shape[::-1], memory.dtype)
        self._joined = None if step.joined.all() else step.joined.astype(memory.dtype)

    def _read(self, source):
        """Set the view of windows, and `_scaling`: what to multiply by the input's factor first, to
        where; it is the source itself that is read if the factor is 1 and nothing is padded."""
        step, self._scaling = self._step, None
        if any(step.padding):
            maps, rows, columns = step.input_size
            top, left = step.padding
            size = maps, rows + 2 * top, columns + 2 * left
            padded = Maps.zeros(size, size[2], self._dtype)
            inner = padded.values[:, top:top + rows, left:left + columns]
            self._scaling = source.values, inner
            source = padded
        elif step.input_factor != 1:
            scaled = Maps.on(zeros(source.flat.shape, self._dtype), source.values.shape,
                             source.pitch)
            self._scaling = source.flat, scaled.flat
            source = scaled
        self._source_size = source.values.shape
        self.view = self._windows(source.values)

    def _windows(self, x):
        """(kernel rows, kernel columns, input maps, run) of maps."""
        shape = (*self._step.kernel, len(x), self._step.run)
        one_map, row, pixel = x.strides
        return as_strided(x, shape, (row, pixel, one_map, pixel), writeable=False)

    def _runs(self, flat):
        """(output maps, run) of the memory of maps with the output's pitch."""
        return flat.reshape(self._step.size[0], -1)[:, :self._step.run]

    def views(self, images):
        return None if self._scaling else [self._windows(x) for x in images]

    def forward(self):
        if self._scaling:
            unscaled, scaled = self._scaling
            np.multiply(unscaled, self._factor, scaled)
        np.copyto(self._copied, self.view)
        np.matmul(self._weights, self._columns, self._product)
        self._output.squash()
        if self._compact is not None:
            np.copyto(self.maps.values, self._pixels)

    def bind_backward(self, gradient, factor, needs_grad_input):
        self._output.bind_gradient(gradient, factor)
        self._dz = self._runs(self._output.dz)
        self._by_shift = None
        if needs_grad_input:
            self._bind_grad_input()

    def _bind_grad_input(self):
        """The gradient by window pixel (y, x) of an output pixel belongs to the input pixel that
        lies y rows and x columns further: all gradients by one window pixel are read as many
        numbers earlier, where the zeros behind each map's run come in from the map before."""
        step, (kh, kw) = self._step, self._step.kernel
        maps, rows, columns = self._source_size
        pitch, length = step.inner_pitch, rows * step.inner_pitch
        ahead = (kh - 1) * pitch + kw - 1
        memory = zeros((ahead + kh * kw * maps * length,), self._dtype)
        self._grad_columns = memory[ahead:].reshape(-1, length)[:, :step.run]
        item = memory.itemsize
        self._by_shift = as_strided(memory[ahead:], (kh, kw, maps * length), (
            (kw * maps * length - pitch) * item, (maps * length - 1) * item, item))
        self._window_weights = self._weights[:, :self._window_rows].T
        source = Maps.zeros(self._source_size, pitch, self._dtype)
        self._grad_source = source.flat
        self.grad_input = source
        if any(step.padding):
            (top, left), (_, rows, columns) = step.padding, step.input_size
            self.grad_input = Maps(source.values[:, top:top + rows, left:left + columns], None)

    def backward(self):
        self._output.take_gradient()
        if self._is_turned:
            np.copyto(self._dz_columns, self._dz.T)
            np.dot(self._columns, self._dz_columns, self._by_input)
            np.copyto(self._gradients, self._by_input.T)
        else:
            np.matmul(self._dz, self._columns.T, self._gradients)
        if self._joined is not None:
            np.multiply(self._gradients, self._joined, self._gradients)
        if self._by_shift is not None:
            np.matmul(self._window_weights, self._dz, self._grad_columns)
            np.add.reduce(self._by_shift, (0, 1), None, self._grad_source)


def source_pitch(layer, input_pitch):
    """The pitch of the array that a convolution reads: padding takes an array without gaps."""
    padding = layer.options["padding"]
    return layer.input_shape[2] + 2 * padding[1] if any(padding) else input_pitch


def run_of(size, pitch):
    """How many numbers lie from the first pixel of maps of `size` to the last."""
    return (size[1] - 1) * pitch + size[2]
