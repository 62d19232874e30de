"""Pooling of equal size and stride behind a convolution: whole slabs are added, or compared."""

from math import prod

import numpy as np

from gpucnn.backends.cpu.arrays import sum_rows
from gpucnn.backends.cpu.plan.layout import Layout
from gpucnn.backends.cpu.plan.squash import Squash
from gpucnn.backends.cpu.plan.step import Cost, Run, Step


class SlabSubsample2d(Step):
    """Trainable subsampling whose windows' pixels lie in slabs."""

    kind = "subsample2d"

    def __init__(self, layer, input_layout, phases, *, scaled, dtype):
        self.name = layer.name
        self.slabs = prod(input_layout.slabs)
        self.squash = Squash(layer.options["activation"], scaled=scaled)
        self.layout = Layout(layer.output_shape[0], layer.output_shape[1:], phases=phases,
                             scale=self.squash.scale)
        self._input_scale = input_layout.scale
        self._slots = layer.parameters
        self.gradient_size = 2 * self.layout.maps
        mean = input_layout.scale * self.squash.slope / self.slabs
        self.coefficient = np.full((self.layout.maps, 1), mean, dtype)
        self.bias = np.zeros((self.layout.maps, 1), dtype)

    def describe(self):
        return f"sums of {self.slabs} slabs"

    def cost(self, training):
        outputs = prod(self.layout.shape(1))
        return Cost(outputs * self.slabs * (3 if training else 1),
                    4 * outputs * (self.slabs + 2) * (2 if training else 1))

    def prepare(self, parameters):
        maps = self.layout.maps
        for slot, array, factor in zip(self._slots, (self.coefficient, self.bias),
                                       self._factors(), strict=False):
            np.multiply(parameters[slot.offset:slot.offset + maps], factor, out=array[:, 0])

    def finish(self, sums, gradients):
        maps = self.layout.maps
        for number, (slot, factor) in enumerate(zip(self._slots, self._factors(), strict=False)):
            np.multiply(sums[number * maps:(number + 1) * maps], factor,
                        out=gradients[slot.offset:slot.offset + maps])

    def _factors(self):
        """What is multiplied into the coefficients and into the biases."""
        return self._input_scale * self.squash.slope, self.squash.slope

    def bind(self, lane, x):
        return SlabSubsample2dRun(self, lane, x)


class SlabSubsample2dRun(Run):
    """The gradient by the input is one slab's, seen once for each."""

    def __init__(self, step, lane, x):
        self._step = step
        self._lane = lane
        self._x_shape = x.shape
        self._slabs = _slabs(x)
        self.output = lane.empty(step.layout.shape(lane.samples))
        self._stored = self.output.reshape(step.layout.maps, -1)
        self._sums = lane.empty(self.output.shape)
        self._rows = self._sums.reshape(step.layout.maps, -1)

    def forward(self):
        first, *others = self._slabs
        if others:
            np.add(first, others[0], out=self._sums)
        else:
            np.copyto(self._sums, first)
        for slab in others[1:]:
            self._sums += slab
        np.multiply(self._rows, self._step.coefficient, out=self._stored)
        self._stored += self._step.bias
        self._step.squash.forward(self._stored)

    def bind_backward(self, grad_output, needs_grad_input):
        self._grad_output = grad_output
        if needs_grad_input:
            self._grad_slab = self._lane.empty(self._stored.shape)
            shape = self._x_shape
            one = self._grad_slab.reshape(shape[0], 1, 1, *shape[3:])
            self.grad_input = np.broadcast_to(one, shape)

    def backward(self, sums, first):
        step, dz = self._step, self._stored
        step.squash.backward(self.output, self._grad_output)
        target = sums if first else np.empty_like(sums)
        np.vecdot(self._rows, dz, out=target[:len(dz)])
        sum_rows(dz, target[len(dz):])
        if not first:
            sums += target
        if self.grad_input is not None:
            np.multiply(dz, step.coefficient, out=self._grad_slab)


class SlabMaxPool2d(Step):
    """Max pooling whose windows' pixels lie in slabs."""

    kind = "max_pool2d"

    def __init__(self, layer, input_layout, phases):
        self.name = layer.name
        self.slabs = prod(input_layout.slabs)
        self.layout = Layout(layer.output_shape[0], layer.output_shape[1:], phases=phases,
                             scale=input_layout.scale)

    def describe(self):
        return f"maxima of {self.slabs} slabs"

    def cost(self, training):
        outputs = prod(self.layout.shape(1))
        return Cost(0, 4 * outputs * (self.slabs + 1) * (2 if training else 1))

    def bind(self, lane, x):
        return SlabMaxPool2dRun(self, lane, x)


class SlabMaxPool2dRun(Run):
    """The first slab that holds the maximum takes the gradient."""

    def __init__(self, step, lane, x):
        self._lane = lane
        self._x_shape = x.shape
        self._slabs = _slabs(x)
        self.output = lane.empty(step.layout.shape(lane.samples))

    def forward(self):
        first, *others = self._slabs
        if others:
            np.maximum(first, others[0], out=self.output)
        else:
            np.copyto(self.output, first)
        for slab in others[1:]:
            np.maximum(self.output, slab, out=self.output)

    def bind_backward(self, grad_output, needs_grad_input):
        self._grad_output = grad_output
        if needs_grad_input:
            self.grad_input = self._lane.empty(self._x_shape)
            self._grad_slabs = _slabs(self.grad_input)
            self._takes = np.empty(self.output.shape, bool)
            self._free = np.empty(self.output.shape, bool)

    def backward(self, sums, first):
        if self.grad_input is None:
            return
        self._free.fill(True)
        for slab, grad in zip(self._slabs[:-1], self._grad_slabs[:-1], strict=True):
            np.equal(slab, self.output, out=self._takes)
            self._takes &= self._free
            self._free ^= self._takes
            np.multiply(self._grad_output, self._takes, out=grad)
        np.multiply(self._grad_output, self._free, out=self._grad_slabs[-1])


def _slabs(x):
    """Views of the slabs of an array of a layout, each of the shape of one without slabs."""
    return [x[:, row:row + 1, column:column + 1] for row, column in np.ndindex(x.shape[1:3])]
