"""Steps of the batch plan, for a single sample: what has no step of its own here."""

from dataclasses import replace

import numpy as np

from gpucnn.backends.cpu.plan.online.outputs import Maps
from gpucnn.backends.cpu.plan.online.parameters import Block
from gpucnn.backends.cpu.plan.online.step import Run, Step
from gpucnn.backends.cpu.plan.step import Lane


class General(Step):
    """A step that `make` builds from a layer; it reads true values, and stores them.

    Its weights are brought into its own form before each sample, and their gradients back.
    """

    def __init__(self, layer, make):
        self.name = layer.name
        self.size = (*layer.output_shape, 1, 1)[:3]
        self.pitch = self.size[2]
        slots = layer.parameters
        if slots:
            first, last = slots[0].offset, slots[-1].offset + slots[-1].size
            self.shape = (last - first,)
            self.parts = [Block(slice(slot.offset - first, slot.offset - first + slot.size), slot,
                                (slot.size,)) for slot in slots]
            layer = replace(layer, parameters=tuple(
                replace(slot, offset=slot.offset - first) for slot in slots))
        self.inner = make(layer)
        self.kind, self.considered = self.inner.kind, self.inner.considered

    def describe(self):
        return self.inner.describe()

    def cost(self, products):
        return self.inner.cost(products)

    def bind(self, memory, source, values, gradients):
        return GeneralRun(self, memory, source, values, gradients)


class GeneralRun(Run):
    """The batch plan's run, on a lane of one sample."""

    def __init__(self, step, memory, source, values, gradients):
        self._step, self._inner, self._dtype = step, step.inner, memory.dtype
        lane = Lane(1, memory.dtype, True, self._inner.scratch_size(1))
        self._run = self._inner.bind(lane, source.values[:, None, None, None, None, :, :, None])
        self.maps = Maps.on(self._run.output.reshape(-1), step.size)
        self._sums = np.zeros(self._inner.gradient_size, memory.dtype)
        self._has_weights = values is not None
        if self._has_weights:
            self._inner.bind_parameters(values)
            self._inner.bind_gradients(self._sums, gradients)

    def forward(self):
        if self._has_weights:
            self._inner.prepare()
        self._run.forward()

    def bind_backward(self, gradient, factor, needs_grad_input):
        self._given, self._factor = gradient.values, self._dtype.type(factor)
        grad = np.empty(self._run.output.shape, self._dtype)
        self._grad = Maps.on(grad.reshape(-1), self._step.size).values
        self._run.bind_backward(grad, needs_grad_input)
        if needs_grad_input:
            grad_input = self._run.grad_input
            values = grad_input[:, 0, 0, 0, 0, :, :, 0]
            is_flat = grad_input.flags.c_contiguous
            self.grad_input = Maps(values, grad_input.reshape(-1) if is_flat else None)

    def backward(self):
        np.multiply(self._given, self._factor, self._grad)
        self._run.backward(self._sums, True)
        if self._has_weights:
            self._inner.finish()
