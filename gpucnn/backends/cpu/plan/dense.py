"""A matrix product over the map axis, or over whole maps where a convolution covers its input."""

from math import prod

import numpy as np

from gpucnn.backends.cpu.arrays import matmul, sum_rows
from gpucnn.backends.cpu.memory import empty
from gpucnn.backends.cpu.plan.layout import Layout
from gpucnn.backends.cpu.plan.squash import Squash
from gpucnn.backends.cpu.plan.step import Cost, Run, Step
from gpucnn.connections import ConnectionTable


def covers(layer):
    """Whether a convolution is a dense layer over its whole input: a full table in its usual
    order, and a kernel as large as the maps."""
    table, options = layer.connections, layer.options
    return (options["kernel_size"] == layer.input_shape[1:] and options["padding"] == (0, 0)
            and table == ConnectionTable.full(table.in_maps, table.out_maps))


class Dense(Step):
    """Weights as a matrix (out_features, in_features), activation constants multiplied in."""

    def __init__(self, layer, input_scale, size, *, scaled, dtype):
        self.name = layer.name
        self.squash = Squash(layer.options["activation"], scaled=scaled)
        self.out_features = layer.output_shape[0]
        self.layout = Layout(self.out_features, size, scale=self.squash.scale)
        self.positions = prod(size)
        self.kind = "dense" if layer.op == "dense" else "conv2d over whole maps"
        self.in_features = layer.parameters[0].size // self.out_features
        self._factor = input_scale * self.squash.slope
        self._weight_slot, *bias = layer.parameters
        self._bias_slot = bias[0] if bias else None
        self.gradient_size = sum(slot.size for slot in layer.parameters)
        self.weight = empty((self.out_features, self.in_features), dtype)
        self.bias = np.zeros((self.out_features, 1), dtype)

    def describe(self):
        return (f"({self.out_features}, {self.in_features}) matrix by {self.positions} column"
                f"{'s' * (self.positions > 1)} a sample")

    def cost(self, products):
        weights = self.out_features * self.in_features
        moved = 2 * (self.in_features + 2 * self.out_features) * self.positions
        return Cost(products * weights * self.positions, products * moved)

    def scratch_size(self, samples):
        return self.gradient_size

    # -- weights -------------------------------------------------------------------------------

    def weights(self):
        arrays = ((self._weight_slot, self._factor, self.weight),
                  (self._bias_slot, self.squash.slope, self.bias[:, 0]))
        return [one for one in arrays if one[0] is not None]

    def weight_gradients(self, sums):
        return [part for part in self.split(sums) if part is not None]

    def split(self, sums):
        """(gradient by the weight matrix, gradient by the bias or None) within the sums."""
        size = self._weight_slot.size
        weight = sums[:size].reshape(self.out_features, self.in_features)
        return weight, sums[size:] if self._bias_slot is not None else None

    def bind(self, lane, x):
        return DenseRun(self, lane, x)


class DenseRun(Run):
    """Product, bias and activation; backward two products."""

    def __init__(self, step, lane, x):
        self._step = step
        self._lane = lane
        self._x = x.reshape(step.in_features, -1, copy=False)
        self._x_shape = x.shape
        self.output = lane.empty(step.layout.shape(lane.samples))
        self._stored = self.output.reshape(step.out_features, -1)
        self._grad_source = None

    def forward(self):
        np.matmul(self._step.weight, self._x, out=self._stored)
        self._stored += self._step.bias
        self._step.squash.forward(self._stored)

    def bind_backward(self, grad_output, needs_grad_input):
        self._grad_output = grad_output
        if needs_grad_input:
            self.grad_input = self._lane.empty(self._x_shape)
            self._grad_source = self.grad_input.reshape(self._x.shape)

    def backward(self, sums, first):
        self._step.squash.backward(self.output, self._grad_output)
        weight, bias = self._step.split(sums)
        if first:
            self._by_weights(weight, bias)
        else:
            term = self._lane.scratch((self._step.gradient_size,))
            self._by_weights(*self._step.split(term))
            sums += term
        if self._grad_source is not None:
            np.matmul(self._step.weight.T, self._stored, out=self._grad_source)

    def _by_weights(self, weight, bias):
        matmul(self._stored, self._x.T, out=weight)
        if bias is not None:
            sum_rows(self._stored, bias)
