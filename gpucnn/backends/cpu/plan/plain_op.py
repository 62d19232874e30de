"""Any layer by the backend's plain op, on batch-last arrays: what has no lowering of its own."""

from math import prod

import numpy as np

from gpucnn.backends.base import Workspace
from gpucnn.backends.cpu.max_pool2d import max_pool2d, max_pool2d_backward
from gpucnn.backends.cpu.plan.layout import Layout
from gpucnn.backends.cpu.plan.step import Cost, Run, Step
from gpucnn.backends.cpu.subsample2d import subsample2d, subsample2d_backward


class PlainOp(Step):
    """A pooling layer of any windows: overlapping, with gaps, or without a convolution before."""

    def __init__(self, layer, *, dtype):
        self.name = layer.name
        self.kind = layer.op
        self.layout = Layout(layer.output_shape[0], layer.output_shape[1:])
        self._layer = layer
        self.options = {name: layer.options[name] for name in ("pool_size", "stride", "activation")
                        if name in layer.options}
        self.coefficient = self.bias = None
        self.has_weights = self.kind == "subsample2d"
        self.gradient_size = 2 * self.layout.maps if self.has_weights else 0
        if self.has_weights:
            mean = 1 / prod(self.options["pool_size"])
            self.coefficient = np.full(self.layout.maps, mean, dtype)
        if layer.parameters:
            self.bias = np.empty(self.layout.maps, dtype)

    def describe(self):
        return "the plain op, window pixel by window pixel"

    def cost(self, products):
        moved = prod(self._layer.input_shape) + prod(self._layer.output_shape)
        return Cost(self._layer.multiply_adds * products,
                    moved * 2)

    def weights(self):
        return list(zip(self._layer.parameters, (1, 1), (self.coefficient, self.bias),
                        strict=False))

    def weight_gradients(self, sums):
        maps = self.layout.maps
        return [sums[:maps], sums[maps:]] if self._layer.parameters else []

    def bind(self, lane, x):
        return PlainOpRun(self, lane, x)


class PlainOpRun(Run):
    """Views with the samples first, as the op wants them; batch-last memory is its favourite."""

    def __init__(self, step, lane, x):
        self._step = step
        self._lane = lane
        self._workspace = Workspace(_Arrays)
        self._x = _samples_first(x)
        self._x_shape = x.shape
        self.output = lane.empty(step.layout.shape(lane.samples))
        self._out = _samples_first(self.output)
        self._grad_x = None

    def forward(self):
        step = self._step
        if step.has_weights:
            subsample2d(self._x, step.coefficient, step.bias, **step.options, out=self._out,
                        workspace=self._workspace)
        else:
            max_pool2d(self._x, **step.options, out=self._out, workspace=self._workspace)

    def bind_backward(self, grad_output, needs_grad_input):
        self._grad_output = _samples_first(grad_output)
        if needs_grad_input:
            self.grad_input = self._lane.empty(self._x_shape)
            self._grad_x = _samples_first(self.grad_input)

    def backward(self, sums, first):
        step, needed = self._step, self._grad_x is not None
        if step.has_weights:
            maps = step.layout.maps
            target = sums if first else np.empty_like(sums)
            subsample2d_backward(
                self._grad_output, self._out, self._x, step.coefficient, **step.options,
                needs_grad_input=needed, out=(self._grad_x, target[:maps], target[maps:]),
                workspace=self._workspace)
            if not first:
                sums += target
        elif needed:
            max_pool2d_backward(self._grad_output, self._out, self._x, **step.options,
                                out=self._grad_x, workspace=self._workspace)


class _Arrays:
    """What a `Workspace` needs of a backend."""

    empty = staticmethod(np.empty)


def _samples_first(array):
    """A view (samples, maps, height, width) of an array without slabs and phases."""
    return np.moveaxis(array[:, 0, 0, 0, 0], -1, 0)
