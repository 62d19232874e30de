"""Flatten: the same memory in another shape."""

from math import prod

from gpucnn.backends.cpu.plan.layout import Layout
from gpucnn.backends.cpu.plan.step import Cost, Run, Step


class Flatten(Step):
    """Maps as features, without moving anything."""

    kind = "flatten"

    def __init__(self, layer, input_scale):
        self.name = layer.name
        self.layout = Layout(prod(layer.output_shape), (1, 1), scale=input_scale)

    def describe(self):
        return "a view"

    def cost(self, products):
        return Cost(0, 0)

    def bind(self, lane, x):
        return FlattenRun(self, lane, x)


class FlattenRun(Run):
    """Nothing to compute."""

    def __init__(self, step, lane, x):
        self._x_shape = x.shape
        self.output = x.reshape(step.layout.shape(lane.samples), copy=False)

    def forward(self):
        """The output is the input."""

    def bind_backward(self, grad_output, needs_grad_input):
        if needs_grad_input:
            self.grad_input = grad_output.reshape(self._x_shape, copy=False)
