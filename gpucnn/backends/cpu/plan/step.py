"""What a plan is made of: steps, and their runs on one micro-batch's memory."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import numpy as np

from gpucnn.backends.cpu.memory import Arena


@dataclass(frozen=True)
class Cost:
    """The work of one sample in a step: multiply-adds and numbers moved, forward and backward."""

    multiply_adds: int
    numbers: int


class Step(ABC):
    """One named step of a plan: what all lanes share of it, its geometry and its weights.

    A new layer gets its fast lowering by a subclass of this and of `Run`, and a line in
    `lowering.py`; without one it runs by its plain op (`plain_op.py`).
    """

    name: str           # the layer's
    kind: str           # what it does, in a word or two
    layout: object      # the `Layout` of its output
    considered = ()     # (way, estimated seconds of a sample) of each that could have been chosen
    gradient_size = 0   # numbers in the gradients by its weights, in the form it computes with

    @abstractmethod
    def describe(self):
        """How it does it, in a line, for `explain`."""

    @abstractmethod
    def cost(self, products):
        """`Cost` of one sample: `products` are forward, by weights and, but for the first step, by
        inputs."""

    @property
    def numbers(self):
        """How many numbers of one sample it keeps from forward to backward."""
        return 2 * prod(self.layout.shape(1))

    def scratch_size(self, samples):
        """How many numbers of a lane's shared memory its run needs."""
        return 0

    def weights(self):
        """(slot, factor, array) of each parameter: `prepare` fills the array, of as many numbers in
        whatever shape, with factor times the parameter's values."""
        return []

    def weight_gradients(self, sums):
        """The gradients by the arrays of `weights`, as parts of the sums of all runs' gradients."""
        return []

    def bind_parameters(self, parameters):
        """Take a network's flat array of parameters."""
        self._preparing = [(slot_of(slot, parameters).reshape(array.shape), factor, array)
                           for slot, factor, array in self.weights()]

    def bind_gradients(self, sums, gradients):
        """Take the sums, `gradient_size` numbers, and a network's flat array of gradients."""
        self._finishing = [
            (part, factor, slot_of(slot, gradients).reshape(part.shape)) for part, (slot, factor, _)
            in zip(self.weight_gradients(sums), self.weights(), strict=True)]

    def prepare(self):
        """Bring the weights into the form that is computed with; once before the lanes run."""
        for values, factor, array in self._preparing:
            np.multiply(values, factor, out=array)

    def finish(self):
        """Turn the sums into gradients by the parameters."""
        for part, factor, gradient in self._finishing:
            np.multiply(part, factor, out=gradient)

    @abstractmethod
    def bind(self, lane, x):
        """A `Run` of this step on an input array of a lane."""


class Run(ABC):
    """A step bound to one lane's memory: all views are made beforehand, so that `forward` and
    `backward` are nothing but NumPy calls.

    `output` is the array of the step's layout that `forward` fills, `grad_input` the one of the
    input's shape that `backward` fills. Backward may overwrite `output`, and what it reads where
    the step before needs that no more; `grad_input` may then be that array.
    """

    output: np.ndarray
    grad_input: np.ndarray | None = None

    @abstractmethod
    def forward(self):
        """Compute the output."""

    def bind_backward(self, grad_output, needs_grad_input):
        """Take the array with the gradient by the output; make `grad_input` if it is needed."""

    def backward(self, sums, first):
        """Compute the gradients. Those by the weights go to `sums`, `gradient_size` numbers; they
        are written if this is the `first` micro-batch, else added."""


class Lane:
    """The memory of one micro-batch of `samples` in one worker.

    `scratch_size`: numbers in the memory that steps use for nothing that must outlive their own
    forward or backward.
    """

    def __init__(self, samples, dtype, training, scratch_size):
        self.samples = samples
        self.dtype = np.dtype(dtype)
        self.training = training
        self._arena = Arena()
        self._scratch = self.empty((scratch_size,))

    def empty(self, shape):
        """An array of unset values."""
        return self._arena.empty(shape, self.dtype)

    def zeros(self, shape):
        """An array of zeros."""
        array = self.empty(shape)
        array.fill(0)
        return array

    def scratch(self, shape, offset=0):
        """An array of the shared memory, `offset` numbers behind its beginning."""
        return self._scratch[offset:offset + prod(shape)].reshape(shape)


def slot_of(slot, flat):
    """A slot's part of a flat array of parameters."""
    return flat[slot.offset:slot.offset + slot.size]


def parts(samples, most):
    """So many samples (or rows) as nearly equal slices of at most `most`."""
    count = -(-samples // most)
    ends = [samples * number // max(1, count) for number in range(count + 1)]
    return [slice(*both) for both in pairwise(ends)]
