"""A dense layer whose matrix is updated once for several samples, where it lies.

A sample's gradient is an outer product, and SGD is linear: after t samples the matrix is

    a * W + b * V + sum over s of c[s] * outer(dz[s], x[s])

with the matrix W and the velocity V as they were before. So t pairs of vectors stand for t updates:
a product takes the terms of this sum apart, and W and V are computed anew when there are `SAMPLES`
pairs, or an epoch ends. The numbers are those of updating at once, but for the order of additions.
"""

from math import prod
from operator import is_

import numpy as np

from gpucnn.backends.cpu.memory import empty, zeros
from gpucnn.backends.cpu.optimizers import sgd_step
from gpucnn.backends.cpu.plan.online.dense import VectorDense
from gpucnn.backends.cpu.plan.online.outputs import Maps, Output
from gpucnn.backends.cpu.plan.online.parameters import Block
from gpucnn.backends.cpu.plan.online.step import Run
from gpucnn.backends.cpu.plan.step import Cost, slot_of

SAMPLES = 32
# Weights from which on it is faster, by measurement: a sample takes two passes over the matrix
# (four with momentum) and some more calls instead of six passes (ten with momentum).
LEAST_WEIGHTS = 16_000


def pays(layer, optimizer):
    """Whether a layer's matrix is large enough, and the optimiser linear."""
    return optimizer.is_linear and layer.parameters[0].size >= LEAST_WEIGHTS


class LowRankDense(VectorDense):
    """The matrix (outputs, inputs) in the network's own array; the biases are here."""

    in_low_rank = True

    def __init__(self, layer, input_scale, optimizer, *, scaled):
        super().__init__(layer, input_scale, scaled=scaled)
        self.optimizer = optimizer
        self.weight, *bias = layer.parameters
        self.matrix = self.out_features, self.in_features
        self.shape = (self.out_features,) if bias else None
        self.parts = [Block(..., slot, self.shape) for slot in bias]

    def describe(self):
        return f"{self.matrix} matrix by a column, updated once for {SAMPLES} samples"

    def cost(self, products):
        passes = products * (2 if self.optimizer.momentum else 1)
        return Cost(passes * prod(self.matrix), passes * prod(self.matrix))

    def bind(self, memory, source, values, gradients):
        return LowRankDenseRun(self, memory, source, values, gradients)


class LowRankDenseRun(Run):
    """`_terms` are the rows W x, V x (with momentum) and dz of the pairs; `_grad_terms` likewise
    dz W, dz V and x of the pairs. What is wanted is a sum of either with the same coefficients,
    those of the pairs times the products of this sample's vector and theirs."""

    def __init__(self, step, memory, source, values, gradients):
        dtype = memory.dtype
        self._step, self._x = step, source.flat
        self._factor, self._slope = dtype.type(step.input_factor), dtype.type(step.squash.slope)
        self._output = Output(memory.tanh_outputs, step.size, 1, step.squash, dtype)
        self.maps, self._stored = self._output.maps, self._output.flat
        self._bias, self._grad_bias = values, gradients
        if values is not None:
            self._scaled_bias = np.empty_like(values)
        self._kinds = 2 if step.optimizer.momentum else 1
        self._coefficients = Coefficients(step.optimizer, SAMPLES, dtype)
        self._terms = zeros((self._kinds + SAMPLES, step.out_features), dtype)
        self._grad_terms = zeros((self._kinds + SAMPLES, step.in_features), dtype)
        self._products = np.ones(self._kinds + SAMPLES, dtype)  # of the first kinds always 1
        self._factors = np.empty(self._kinds + SAMPLES, dtype)
        self._by_pairs = [self._views(pairs) for pairs in range(SAMPLES)]
        self._changes = empty((2, *step.matrix), dtype)
        self._pairs = self._last = 0
        self._rate = None
        self._bound = ()

    def _views(self, pairs):
        """With so many pairs: what becomes the next one, (x, dz) of the pairs, the places for
        products with them, for all products and factors, the coefficients, the terms."""
        first, last = self._kinds, self._kinds + pairs
        return (self._grad_terms[last], self._terms[last],
                self._grad_terms[first:last], self._terms[first:last],
                self._products[first:last], self._products[:last], self._factors[:last],
                self._coefficients.of_values(pairs), self._terms[:last], self._grad_terms[:last])

    def bind_matrices(self, parameters, gradients, state):
        """Take a network's flat arrays."""
        bound = (parameters, gradients, *state.values())
        if self._bound and all(map(is_, bound, self._bound)):
            return
        self._bound = bound
        self._state = {name: self._matrix(array) for name, array in state.items()}
        self._matrices = [self._matrix(parameters), *self._state.values()]
        self._gradient = self._matrix(gradients)
        self._forward = list(zip(self._matrices, self._terms, strict=False))
        self._backward = list(zip(self._matrices, self._grad_terms, strict=False))

    def _matrix(self, flat):
        return slot_of(self._step.weight, flat).reshape(self._step.matrix)

    def forward(self):
        x, _, xs, _, products, all_products, factors, coefficients, terms, _ = (
            self._by_pairs[self._pairs])
        np.multiply(self._x, self._factor, x)
        for matrix, term in self._forward:
            np.dot(matrix, x, term)
        np.dot(xs, x, products)
        np.multiply(all_products, coefficients, factors)
        np.dot(factors, terms, self._stored)
        if self._bias is not None:
            np.multiply(self._bias, self._slope, self._scaled_bias)
            np.add(self._stored, self._scaled_bias, self._stored)
        self._output.squash()

    def bind_backward(self, gradient, factor, needs_grad_input):
        self._output.bind_gradient(gradient, factor)
        self._grad_inputs = None
        if needs_grad_input:
            self._grad_inputs = empty((self._step.in_features,), self._x.dtype)
            self.grad_input = Maps.on(self._grad_inputs, self._step.input_size)

    def backward(self):
        _, dz, _, dzs, products, all_products, factors, coefficients, _, terms = (
            self._by_pairs[self._pairs])
        self._output.take_gradient()
        np.copyto(dz, self._output.dz)
        if self._bias is not None:
            np.multiply(dz, self._slope, self._grad_bias)
        if self._grad_inputs is not None:
            for matrix, term in self._backward:
                np.dot(dz, matrix, term)
            np.dot(dzs, dz, products)
            np.multiply(all_products, coefficients, factors)
            np.dot(factors, terms, self._grad_inputs)

    def update(self, rate):
        """Take the last sample into account, by a step at learning rate `rate`."""
        self._last, self._rate = self._pairs, rate
        self._coefficients.advance(self._pairs, rate)
        self._pairs += 1
        if self._pairs == SAMPLES:
            self._settle()

    def finish(self):
        """Bring the network's matrices up to date; write the gradient of the last sample."""
        place = self._kinds + self._last
        np.dot(self._terms[place][:, None], self._grad_terms[place][None], self._gradient)
        if self._pairs == 1:  # then it is the only one
            self._pairs = 0
            sgd = self._step.optimizer
            sgd_step(self._matrices[0], self._gradient, self._state.get("velocity"), (self._rate,),
                     momentum=sgd.momentum, nesterov=sgd.nesterov, weight_decay=sgd.weight_decay)
        elif self._pairs:
            self._settle()

    def _settle(self):
        """Compute the matrices anew, so that no pairs are left."""
        pairs, self._pairs = self._pairs, 0
        table = self._coefficients.of_all(pairs)
        dzs = self._terms[self._kinds:self._kinds + pairs]
        xs = self._grad_terms[self._kinds:self._kinds + pairs]
        for row, change in zip(table, self._changes, strict=False):
            np.dot((dzs * row[self._kinds:, None]).T, xs, change)
        self._add_changes(table.tolist())

    def _add_changes(self, table):
        values, (change, scratch) = self._matrices[0], self._changes
        if self._kinds == 1:
            if table[0][0] != 1:  # weight decay
                values *= table[0][0]
            values += change
            return
        (by_values, by_velocity), (velocity_by_values, velocity_by_velocity) = (
            row[:2] for row in table)
        velocity = self._matrices[1]
        change_of_velocity = scratch
        if velocity_by_values:
            change_of_velocity += velocity_by_values * values
        if by_values != 1:
            values *= by_values
        values += change
        np.multiply(velocity, by_velocity, change)
        values += change
        velocity *= velocity_by_velocity
        velocity += change_of_velocity


class Coefficients:
    """How the matrix and the velocity after t steps depend on what they were, and on the gradients
    of these steps: arrays (t + 1, kinds, kinds + steps), for the matrix alone or for both."""

    def __init__(self, optimizer, steps, dtype):
        self._optimizer = optimizer
        self._kinds = 2 if optimizer.momentum else 1
        self._table = np.zeros((steps + 1, self._kinds, self._kinds + steps), dtype)
        self._table[0, :, :self._kinds] = np.eye(self._kinds)
        self._rates = [None] * steps  # those that the table was computed with

    def of_values(self, step):
        """The matrix's after so many steps."""
        return self._table[step, 0, :self._kinds + step]

    def of_all(self, step):
        """The same for all kinds, in their first axis."""
        return self._table[step, :, :self._kinds + step]

    def advance(self, step, rate):
        """Compute those after one more step than `step`, which has learning rate `rate`."""
        if self._rates[step] == rate:
            return
        self._rates[step:] = [rate] + [None] * (len(self._rates) - step - 1)
        by_kinds, by_gradient = map(np.array, self._one_step(rate))
        place = self._kinds + step
        after = self._table[step + 1]
        after[:, :place] = by_kinds @ self._table[step, :, :place]
        after[:, place] = by_gradient

    def _one_step(self, rate):
        """What a step makes of (matrix, velocity): by themselves, and by the gradient."""
        momentum, decay = self._optimizer.momentum, self._optimizer.weight_decay
        if not momentum:
            return [[1 - rate * decay]], [-rate]
        if self._optimizer.nesterov:
            more = rate * (1 + momentum)
            return [[1 - more * decay, -rate * momentum**2], [decay, momentum]], [-more, 1]
        return [[1 - rate * decay, -rate * momentum], [decay, momentum]], [-rate, 1]
