"""Flatten: the same memory in another shape."""

from math import prod

from gpucnn.backends.cpu.plan.online.outputs import Maps
from gpucnn.backends.cpu.plan.online.step import Run, Step
from gpucnn.backends.cpu.plan.step import Cost


class Flatten(Step):
    """Maps without gaps as features. What it hands on is that of the step before, and back."""

    kind = "flatten"
    pitch = 1

    gradient_factor = None  # that of the step behind

    def __init__(self, layer, input_scale):
        self.name = layer.name
        self.input_size = layer.input_shape
        self.size = prod(layer.output_shape), 1, 1
        self.scale = input_scale

    def describe(self):
        return "a view"

    def cost(self, products):
        return Cost(0, 0)

    def bind(self, memory, source, values, gradients):
        return FlattenRun(self, source)


class FlattenRun(Run):
    """Nothing to compute."""

    def __init__(self, step, source):
        self._step = step
        self.maps = Maps.on(source.flat, step.size)

    def forward(self):
        """The outputs are the inputs."""

    def bind_backward(self, gradient, factor, needs_grad_input):
        if needs_grad_input:
            self.grad_input = Maps.on(gradient.flat, self._step.input_size)

    def backward(self):
        """The gradients are those by the outputs."""
