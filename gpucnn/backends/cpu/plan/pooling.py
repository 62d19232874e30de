"""Pooling of equal size and stride behind a convolution: each pixel of all windows at once."""

from math import prod

import numpy as np

from gpucnn.backends.cpu.arrays import matmul, sum_rows
from gpucnn.backends.cpu.plan.layout import Layout
from gpucnn.backends.cpu.plan.squash import Squash
from gpucnn.backends.cpu.plan.step import Cost, Run, Step


class TiledSubsample2d(Step):
    """Trainable subsampling of equal size and stride."""

    kind = "subsample2d"

    def __init__(self, layer, input_layout, phases, *, scaled, dtype):
        self.name = layer.name
        self.pool_size = layer.options["pool_size"]
        self.squash = Squash(layer.options["activation"], scaled=scaled)
        self.layout = Layout(layer.output_shape[0], layer.output_shape[1:], phases=phases,
                             scale=self.squash.scale)
        self._input_scale = input_layout.scale
        self._slots = layer.parameters
        self.gradient_size = 2 * self.layout.maps
        mean = input_layout.scale * self.squash.slope / prod(self.pool_size)
        self.coefficient = np.full((self.layout.maps, 1), mean, dtype)
        self.bias = np.zeros((self.layout.maps, 1), dtype)

    def describe(self):
        return f"sums of {prod(self.pool_size)} pixels"

    def cost(self, products):
        outputs = prod(self.layout.shape(1))
        return Cost(outputs * prod(self.pool_size) * products,
                    outputs * (prod(self.pool_size) + 2) * 2)

    def weights(self):
        factors = self._input_scale * self.squash.slope, self.squash.slope
        return list(zip(self._slots, factors, (self.coefficient[:, 0], self.bias[:, 0]),
                        strict=False))

    def weight_gradients(self, sums):
        maps = self.layout.maps
        return [sums[:maps], sums[maps:]] if self._slots else []

    def bind(self, lane, x):
        return TiledSubsample2dRun(self, lane, x)


class TiledSubsample2dRun(Run):
    """The gradient by the input is the same for all pixels of a window: of slabs, one is enough."""

    def __init__(self, step, lane, x):
        self._step = step
        self._lane = lane
        self._x_shape = x.shape
        self._in_slabs = x.shape[1:3] == step.pool_size
        self._grad_pixels = ()
        self._pixels = pooled_pixels(x, step.pool_size, step.layout.phases)
        self.output = lane.empty(step.layout.shape(lane.samples))
        self._stored = self.output.reshape(step.layout.maps, -1)
        self._sums = lane.empty(self.output.shape)
        self._rows = self._sums.reshape(step.layout.maps, -1)
        if self._in_slabs:  # a product by ones is one call, and quicker than additions
            self._slabs = x.reshape(step.layout.maps, prod(step.pool_size), -1, copy=False)
            self._ones = np.ones((1, prod(step.pool_size)), x.dtype)

    def forward(self):
        if self._in_slabs:
            matmul(self._ones, self._slabs, out=self._rows[:, None])
        else:
            self._add_up()
        np.multiply(self._rows, self._step.coefficient, out=self._stored)
        self._stored += self._step.bias
        self._step.squash.forward(self._stored)

    def _add_up(self):
        first, *others = self._pixels
        if others:
            np.add(first, others[0], out=self._sums)
        else:
            np.copyto(self._sums, first)
        for pixel in others[1:]:
            self._sums += pixel

    def bind_backward(self, grad_output, needs_grad_input):
        self._grad_output = grad_output
        if needs_grad_input:
            self._grad_pixel = self._lane.empty(self.output.shape)
            self._grad_rows = self._grad_pixel.reshape(self._stored.shape)
            if self._in_slabs:
                self.grad_input = np.broadcast_to(self._grad_pixel, self._x_shape)
            else:
                self.grad_input = self._lane.zeros(self._x_shape)
                self._grad_pixels = pooled_pixels(self.grad_input, self._step.pool_size,
                                                  self._step.layout.phases)

    def backward(self, sums, first):
        step, dz = self._step, self._stored
        step.squash.backward(self.output, self._grad_output)
        target = sums if first else np.empty_like(sums)
        np.vecdot(self._rows, dz, out=target[:len(dz)])
        sum_rows(dz, target[len(dz):])
        if not first:
            sums += target
        if self.grad_input is not None:
            np.multiply(dz, step.coefficient, out=self._grad_rows)
            for pixel in self._grad_pixels:
                np.copyto(pixel, self._grad_pixel)


class TiledMaxPool2d(Step):
    """Max pooling of equal size and stride, then an `activation` that is left to it. in_place:
    whether backward may put the gradient by the input in the place of the input."""

    kind = "max_pool2d"

    def __init__(self, layer, input_layout, phases, activation, *, in_place):
        self.name = layer.name
        self.in_place = in_place
        self.pool_size = layer.options["pool_size"]
        self.squash = Squash(activation, scaled=False)
        self.layout = Layout(layer.output_shape[0], layer.output_shape[1:], phases=phases,
                             scale=input_layout.scale)

    def describe(self):
        activation = self.squash.activation
        then = f", then {activation}" * (activation != "identity")
        return f"maxima of {prod(self.pool_size)} pixels{then}"

    def cost(self, products):
        outputs = prod(self.layout.shape(1))
        return Cost(0, outputs * (prod(self.pool_size) + 1) * 2)

    def bind(self, lane, x):
        return TiledMaxPool2dRun(self, lane, x)


class TiledMaxPool2dRun(Run):
    """The first pixel that holds the maximum takes the gradient."""

    def __init__(self, step, lane, x):
        self._step = step
        self._lane = lane
        self._x = x
        self._pixels = pooled_pixels(x, step.pool_size, step.layout.phases)
        self.output = lane.empty(step.layout.shape(lane.samples))
        # Pixels that lie apart are brought together once, since backward reads them again.
        self._in_slabs = x.shape[1:3] == step.pool_size
        self._together = self._pixels if self._in_slabs else [
            lane.empty(self.output.shape) for _ in self._pixels]

    def forward(self):
        if not self._in_slabs:
            for together, pixel in zip(self._together, self._pixels, strict=True):
                np.copyto(together, pixel)
        first, *others = self._together
        if others:
            np.maximum(first, others[0], out=self.output)
        else:
            np.copyto(self.output, first)
        for pixel in others[1:]:
            np.maximum(self.output, pixel, out=self.output)
        self._step.squash.forward(self.output)

    def bind_backward(self, grad_output, needs_grad_input):
        self._grad_output = self._grad = grad_output
        if not needs_grad_input:
            return
        self.grad_input = self._x if self._step.in_place else self._lane.zeros(self._x.shape)
        self._grad_pixels = pooled_pixels(self.grad_input, self._step.pool_size,
                                          self._step.layout.phases)
        # Masks of the arrays' own type: a product with bools would be converted piece by piece.
        self._takes = self._lane.empty(self.output.shape)
        self._free = self._lane.empty(self.output.shape)
        if self._step.squash.activation != "identity":
            self._grad = self._lane.empty(self.output.shape)

    def backward(self, sums, first):
        if self.grad_input is None:
            return
        if self._grad is not self._grad_output:
            self._step.squash.derivative(self.output, 1, out=self._grad)
            self._grad *= self._grad_output
        self._free.fill(1)
        for pixel, grad in zip(self._together[:-1], self._grad_pixels[:-1], strict=True):
            np.equal(pixel, self.output, out=self._takes, casting="unsafe")
            self._takes *= self._free
            self._free -= self._takes
            np.multiply(self._grad, self._takes, out=grad)
        np.multiply(self._grad, self._free, out=self._grad_pixels[-1])


def pooled_pixels(x, pool_size, phases):
    """Views of each pixel of all windows, in row-major order, all of the shape of an output with
    `phases`: slabs, or every so many pixels of an array without slabs."""
    if x.shape[1:3] == pool_size:
        return [x[:, row:row + 1, column:column + 1] for row, column in np.ndindex(pool_size)]
    (height, width), (rows, columns) = pool_size, x.shape[5:7]
    covered = x[:, :, :, :, :, :rows // height * height, :columns // width * width]
    return [_split(covered[:, 0, 0, 0, 0, row::height, column::width], phases)
            for row, column in np.ndindex(pool_size)]


def _split(maps, phases):
    """A view (maps, 1, 1, phase rows, phase columns, rows, columns, samples) of maps (maps, height,
    width, samples)."""
    count, height, width, samples = maps.shape
    rows, columns = phases
    parts = maps.reshape(count, 1, 1, height // rows, rows, width // columns, columns, samples,
                         copy=False)
    return parts.transpose(0, 1, 2, 4, 6, 3, 5, 7)
