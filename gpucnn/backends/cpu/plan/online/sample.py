"""The memory of one sample, and the runs of all steps on it."""

import numpy as np

from gpucnn.backends.cpu.memory import padded, zeros
from gpucnn.backends.cpu.plan.online.answer import OneAnswer
from gpucnn.backends.cpu.plan.online.outputs import Maps, TanhOutputs
from gpucnn.backends.cpu.plan.online.parameters import OwnParameters


class Memory:
    """What runs share: the type of numbers, and where tanh are stored."""

    def __init__(self, steps, dtype):
        self.dtype = np.dtype(dtype)
        self.tanh_outputs = TanhOutputs(sum(padded(step.tanh_size) for step in steps), dtype)


class Sample:
    """Forward, loss and backward of one of some `images` (images, maps, rows, columns)."""

    def __init__(self, steps, images, loss, backend):
        dtype = images.dtype
        self.steps = steps
        self.own = OwnParameters(steps, dtype)
        memory = Memory(steps, dtype)
        self._images, self._x = images, zeros(images[0].shape, dtype)
        self.runs, maps = [], Maps.on(self._x.reshape(-1), self._x.shape)
        for step, values, gradients in zip(steps, self.own.values, self.own.gradients,
                                           strict=True):
            self.runs.append(step.bind(memory, maps, values, gradients))
            maps = self.runs[-1].maps
        self._views = self.runs[0].views(images)
        self.answer = OneAnswer(maps.flat, loss, backend)
        self.derive = memory.tanh_outputs.derive
        gradient, factor = Maps.on(self.answer.gradient, steps[-1].size), 1.0
        for number in reversed(range(len(steps))):
            self.runs[number].bind_backward(gradient, factor, needs_grad_input=number > 0)
            gradient = self.runs[number].grad_input
            factor = steps[number].gradient_factor or factor
        self._forward = [run.forward for run in self.runs]
        self._backward = [run.backward for run in reversed(self.runs)]
        self.low_rank = [run for step, run in zip(steps, self.runs, strict=True)
                         if step.in_low_rank]

    def take(self, number):
        """Make image `number` the input."""
        if self._views is None:
            np.copyto(self._x, self._images[number])
        else:
            self.runs[0].view = self._views[number]

    def train(self, number, label, totals):
        """The gradients for image `number`; its loss."""
        self.take(number)
        for forward in self._forward:
            forward()
        loss = self.answer.evaluate(label, totals)
        self.derive()
        for backward in self._backward:
            backward()
        return loss

    def load(self, parameters, gradients, state):
        """Take a network's flat arrays, and the optimiser's by name."""
        self.own.load(parameters, state)
        for run in self.low_rank:
            run.bind_matrices(parameters, gradients, state)

    def store(self, parameters, gradients, state):
        """Bring them back, and the gradients of the last sample."""
        self.own.store(parameters, gradients, state)
        for run in self.low_rank:
            run.finish()
