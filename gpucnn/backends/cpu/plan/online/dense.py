"""A matrix by one column, whose last number is the constant input of the biases."""

from math import prod

import numpy as np

from gpucnn.backends.cpu.memory import empty
from gpucnn.backends.cpu.plan.online.outputs import Maps, Output
from gpucnn.backends.cpu.plan.online.parameters import Block
from gpucnn.backends.cpu.plan.online.step import Run, Step
from gpucnn.backends.cpu.plan.squash import Squash
from gpucnn.backends.cpu.plan.step import Cost


class VectorDense(Step):
    """Weights as a matrix (outputs, inputs and one for the biases)."""

    pitch = 1

    def __init__(self, layer, input_scale, *, scaled):
        self.name = layer.name
        self.kind = "dense" if layer.op == "dense" else "conv2d over whole maps"
        self.out_features = layer.output_shape[0]
        self.size = self.out_features, 1, 1
        self.input_size = (*layer.input_shape, 1, 1)[:3]
        self.in_features = prod(self.input_size)
        self.squash = Squash(layer.options["activation"], scaled=scaled)
        self.scale = self.squash.scale
        self.gradient_factor = self.squash.slope
        self.input_factor = input_scale * self.squash.slope
        self.tanh_size = self.out_features * self.squash.stores_tanh
        weight, *bias = layer.parameters
        self.shape = self.out_features, self.in_features + len(bias)
        self.parts = [Block((slice(None), slice(self.in_features)), weight,
                            (self.out_features, self.in_features))]
        self.parts += [Block((slice(None), -1), slot, (self.out_features,)) for slot in bias]

    def describe(self):
        return f"{self.shape} matrix by a column"

    def cost(self, products):
        return Cost(products * prod(self.shape), products * prod(self.shape))

    def bind(self, memory, source, values, gradients):
        return VectorDenseRun(self, memory, source, values, gradients)


class VectorDenseRun(Run):
    """A product of the matrix and a column; backward an outer product, and a row by the matrix."""

    def __init__(self, step, memory, source, values, gradients):
        self._step = step
        self._x = source.flat
        self._factor = memory.dtype.type(step.input_factor)
        self._output = Output(memory.tanh_outputs, step.size, 1, step.squash, memory.dtype)
        self.maps, self._stored = self._output.maps, self._output.flat
        self._weights, self._gradients = values, gradients
        self._column = np.full(step.shape[1], step.squash.slope, memory.dtype)
        self._inputs, self._row = self._column[:step.in_features], self._column[None]

    def forward(self):
        np.multiply(self._x, self._factor, self._inputs)
        np.dot(self._weights, self._column, self._stored)
        self._output.squash()

    def bind_backward(self, gradient, factor, needs_grad_input):
        self._output.bind_gradient(gradient, factor)
        self._dz = self._output.dz
        self._dz_column = self._dz[:, None]
        self._grad_column = None
        if needs_grad_input:
            self._grad_column = empty(self._column.shape, self._column.dtype)
            self.grad_input = Maps.on(self._grad_column[:self._step.in_features],
                                      self._step.input_size)

    def backward(self):
        self._output.take_gradient()
        # A matrix product of inner length one takes NumPy's slow path; np.dot does not.
        np.dot(self._dz_column, self._row, self._gradients)
        if self._grad_column is not None:
            np.dot(self._dz, self._weights, self._grad_column)
