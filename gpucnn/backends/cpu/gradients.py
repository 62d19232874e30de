"""Both gradients of a convolution, a block of samples at a time."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucnn.backends.cpu.arrays import samples_last, scratch
from gpucnn.backends.cpu.blocks import ALL, Target
from gpucnn.backends.cpu.ways import gradient_ways


class Gradient:
    """The cheapest ways for blocks of so many samples. `cell`: the output pixels that lie together
    in a block's dz. Load weights before use: those that the gradient by the input multiplies by."""

    def __init__(self, connections, convolution, samples, dtype, needs_grad_input):
        by_weight, by_input = gradient_ways(connections, convolution, samples, needs_grad_input)
        self.by_weight = by_weight.products(convolution, dtype)
        self._by_input, self.cell = None, by_weight.cell
        if by_input is not None:
            shares = by_input.shares_columns_with(by_weight)
            products = self.by_weight if shares else by_input.products(convolution, dtype)
            make = _ByConvolving if by_input.is_transposed else _ByInput
            self._by_input = make(connections, convolution, products)
            self._shares = shares
            self.cell = by_weight.cell if by_input.cell == by_weight.cell else (1, 1)
        self._shape = connections.out_maps, *convolution.out_size
        self._dtype = dtype

    def load(self, weight):
        """Compute with these weights (n_connections, *kernel) from now on."""
        if self._by_input is not None:
            self._by_input.load(weight)

    def lane(self, samples, memory):
        """A `Lane` for blocks of so many samples."""
        (maps, height, width), cell = self._shape, self.cell
        dz = scratch(memory, "conv2d.dz", (
            maps, *cell, height // cell[0], width // cell[1], samples), self._dtype)
        pixels = dz if cell != (1, 1) else dz[:, 0, 0]
        by_weight, by_input = self.by_weight.weight_gradient(pixels, memory), None
        if self._by_input is not None:
            beside = by_weight if self._shares else None
            by_input = self._by_input.lane(pixels, memory, beside)
        return Lane(dz, by_weight, by_input)


@dataclass(frozen=True)
class Lane:
    """What computes the gradients of a block from its dz (out_maps, *cell, rows of cells, cells of
    a row, samples). `by_input` is None where nobody needs it, and asked after `by_weight`."""

    dz: np.ndarray
    by_weight: Any
    by_input: Any


class _ByInput:
    """The gradient by the input that products by columns or rows add up."""

    def __init__(self, connections, convolution, products):
        self.maps = connections.in_maps
        self.convolution = convolution
        self.products = products

    def load(self, weight):
        self.products.load(weight)

    def lane(self, dz, memory, beside):
        padded = None
        if self.convolution.padding != (0, 0):
            padded = scratch(memory, "conv2d.grad_source", (
                self.maps, *self.convolution.padded_size, dz.shape[-1]), dz.dtype)
        options = {} if beside is None else {"beside": beside}
        lane = self.products.input_gradient(dz, self.maps, memory, **options)
        return _InputLane(self, lane, padded, dz.shape[-1])


class _InputLane:
    """The same for blocks of so many samples; `padded`: memory for the gradient by an input with
    padding, None without."""

    def __init__(self, gradient, lane, padded, samples):
        self._gradient = gradient
        self._lane = lane
        self._padded = padded
        self._samples = samples

    def begin(self):
        """Nothing is to be cleared."""

    def on(self, grad_input, memory):
        """A function (block) that sets the block's samples of grad_input (samples, maps, height,
        width)."""
        if self._padded is not None:
            return self._within_padding(samples_last(grad_input), memory)
        target = Target(grad_input, self._samples, self._gradient.products, "conv2d.grad_source",
                        memory)
        compute = self._lane.on(target.maps, memory)

        def work(block):
            compute(target.place(block))
            target.store(block)

        return work

    def _within_padding(self, target, memory):
        compute = self._lane.on(self._padded, memory)
        inner = self._gradient.convolution.unpadded(self._padded)

        def work(block):
            compute(ALL)
            np.copyto(target[..., block], inner)

        return work


class _ByConvolving:
    """The gradient by the input as a convolution of dz, spread out, with the mirrored kernel."""

    def __init__(self, connections, convolution, products):
        self.unseen = np.flatnonzero(connections.fan_out == 0)
        self.products = products
        self._convolution = convolution

    def load(self, weight):
        self.products.load(weight[:, ::-1, ::-1])

    def lane(self, dz, memory, beside):
        samples = dz.shape[-1]  # no other block size writes to this memory while a call uses it
        spread = scratch(memory, f"conv2d.spread of {samples}", (
            len(dz), *self._convolution.transposed.size, samples), dz.dtype)
        return _ConvolvingLane(self, self.products.forward(samples, memory), dz, spread,
                               self._convolution.spread(spread))


class _ConvolvingLane:
    """The same for blocks of so many samples; `inner`: where dz stands in `spread`."""

    def __init__(self, gradient, lane, dz, spread, inner):
        self._gradient = gradient
        self._lane = lane
        self._dz = dz
        self._spread = spread
        self._inner = inner

    def begin(self):
        """Clear what lies between dz and around it, at the beginning of a call."""
        self._spread.fill(0)

    def on(self, grad_input, memory):
        """A function (block) that sets the block's samples of grad_input (samples, maps, height,
        width)."""
        gradient = self._gradient
        target = Target(grad_input, self._dz.shape[-1], gradient.products, "conv2d.grad_source",
                        memory)
        convolve = self._lane.on(self._spread, target.maps, memory)

        def work(block):
            np.copyto(self._inner, self._dz)
            written = target.place(block)
            for _ in convolve(ALL, written):
                pass
            target.maps[gradient.unseen, ..., written] = 0
            target.store(block)

        return work
