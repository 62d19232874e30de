"""Convolution through a connection table: matrix products by columns or by rows of pixels.

Each pass (forward, gradient by the weights, gradient by the input) takes the way that `ways`
estimates to be the cheapest for the table. Samples are computed some at a time, so that what they
share stays in the cache, in threads where NumPy's matrix products may use several.
"""

from functools import lru_cache
from itertools import chain

import numpy as np

from gpucnn.backends.base import Conv2dGradients, Workspace
from gpucnn.backends.cpu.activation import squash, times_slope
from gpucnn.backends.cpu.arrays import given_or_new, samples_last, scratch, sum_rows
from gpucnn.backends.cpu.blocks import Source, Target
from gpucnn.backends.cpu.column_lane import in_cells
from gpucnn.backends.cpu.convolution import convolution_of
from gpucnn.backends.cpu.gradients import Gradient
from gpucnn.backends.cpu.lanes import Lanes, lanes_of
from gpucnn.backends.cpu.memory import LineMemory, zeros
from gpucnn.backends.cpu.stacks import COLUMN_BYTES
from gpucnn.backends.cpu.ways import forward_ways, gradient_ways, input_ways, weight_ways

MOST_SAMPLES, FEWEST_SAMPLES = 64, 8  # computed together, of a batch that has them
EVEN_SAMPLES = 16  # a multiple of: products of other widths are up to twice as slow
WORTH_A_THREAD = 8_000_000  # multiply-adds


def conv2d(x, weight, bias, connections, *, stride, padding, activation, out=None, workspace=None):
    """By columns or rows, a block of samples at a time."""
    convolution = convolution_of(x.shape[2:], weight.shape[1:], stride, padding)
    if out is None:
        out = np.empty((len(x), connections.out_maps, *convolution.out_size), x.dtype)
    blocks = _blocks(len(x), connections, convolution, x.itemsize)
    if not blocks:
        return out
    memory = workspace or Workspace(LineMemory)
    key = "conv2d", connections, convolution, _samples(blocks), x.dtype
    products = memory.keep(key, lambda: forward_ways(connections, convolution, _samples(blocks))[0]
                           .products(convolution, x.dtype))
    products.load(weight)

    def bind(samples, memory):
        source = Source(x, convolution, samples, products, memory)
        target = Target(out, samples, products, "conv2d.out", memory)
        lane = memory.keep((products, samples), lambda: products.forward(samples, memory))
        convolve = lane.on(source.maps, target.maps, memory)

        def compute(block, _):
            read, written = source.load(block), target.place(block)
            for rows in convolve(read, written):
                band = target.maps[:, rows, :, written]
                if bias is not None:
                    band += bias[:, None, None, None]
                squash(activation, band)
            target.store(block)

        return source.begin, compute

    lanes = memory.keep((products, activation), Lanes)
    lanes.run(bind, blocks, (x, bias, out), [None] * lanes_of(blocks), memory)
    return out


def conv2d_backward(grad_output, output, x, weight, connections, *, stride, padding, activation,
                    needs_grad_input=True, out=None, workspace=None):
    """The gradient by the input is that of columns, added back, or a convolution by rows of the
    output's gradient with the mirrored kernel."""
    convolution = convolution_of(x.shape[2:], weight.shape[1:], stride, padding)
    grad_input, grad_weight, grad_bias = given_or_new(
        out, (x.shape if needs_grad_input else None, weight.shape, connections.out_maps), x.dtype)
    if not needs_grad_input:
        grad_input = None
    blocks = _blocks(len(x), connections, convolution, x.itemsize)
    if not blocks:
        grad_weight.fill(0)
        grad_bias.fill(0)
        return Conv2dGradients(grad_input, grad_weight, grad_bias)
    memory = workspace or Workspace(LineMemory)
    key = "conv2d_backward", connections, convolution, _samples(blocks), x.dtype, needs_grad_input
    gradient = memory.keep(key, lambda: Gradient(*key[1:]))
    gradient.load(weight)
    totals = memory.keep((gradient, lanes_of(blocks)), lambda: [
        [zeros(grad_bias.shape, x.dtype), *gradient.by_weight.no_gradient()]
        for _ in range(lanes_of(blocks))])
    for array in chain.from_iterable(totals):
        array.fill(0)

    def bind(samples, memory):
        source = Source(x, convolution, samples, gradient.by_weight, memory)
        grad, y = (in_cells(samples_last(array), gradient.cell) for array in (grad_output, output))
        block_bias = scratch(memory, "conv2d.block_bias", grad_bias.shape, grad_bias.dtype)
        lane = memory.keep((gradient, samples), lambda: gradient.lane(samples, memory))
        add_gradient = lane.by_weight.on(source.maps, memory)
        set_grad_input = lane.by_input and lane.by_input.on(grad_input, memory)

        def begin():
            source.begin()
            if lane.by_input:
                lane.by_input.begin()

        def compute(block, total):
            read = source.load(block)
            bias_sum, *gradients = total
            times_slope(activation, grad[..., block], y[..., block], out=lane.dz)
            sum_rows(lane.dz, block_bias)
            np.add(bias_sum, block_bias, out=bias_sum)
            add_gradient(read, gradients)
            if set_grad_input:
                set_grad_input(block)

        return begin, compute

    lanes = memory.keep((gradient, activation), Lanes)
    lanes.run(bind, blocks, (grad_output, output, x, grad_input), totals, memory)
    first, *others = totals
    for total, *terms in zip(first, *others, strict=True):
        for term in terms:
            total += term
    gradient.by_weight.finish_gradient(first[1:], grad_weight)
    np.copyto(grad_bias, first[0])
    return Conv2dGradients(grad_input, grad_weight, grad_bias)


def conv2d_ways(x_shape, kernel_size, connections, *, stride=(1, 1), padding=(0, 0), itemsize=4):
    """The `ways.Way`s that are considered for forward, grad_input and grad_weight of arrays of
    these shapes, the one that is taken first, of gradients where both are needed; nothing is
    computed."""
    convolution = convolution_of(tuple(x_shape[2:]), tuple(kernel_size), stride, padding)
    samples = _samples(_blocks(x_shape[0], connections, convolution, itemsize))
    by_weight, by_input = gradient_ways(connections, convolution, samples, True)
    every = {"grad_input": (by_input, *input_ways(connections, convolution, samples)),
             "grad_weight": (by_weight, *weight_ways(connections, convolution, samples))}
    return {"forward": forward_ways(connections, convolution, samples)} | {
        name: tuple(dict.fromkeys(found)) for name, found in every.items()}


# -- samples ---------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _blocks(samples, connections, convolution, itemsize):
    """Slices of samples that are computed together: so many that a row of columns stays in the
    cache, and an even number of blocks where that is worth two threads."""
    if samples == 0:
        return ()
    row_bytes = connections.in_maps * convolution.area * convolution.out_size[1] * itemsize
    fitting = min(MOST_SAMPLES, max(FEWEST_SAMPLES, COLUMN_BYTES // row_bytes))
    count = -(-samples // fitting)
    work = (samples * connections.n_connections * convolution.area
            * convolution.out_size[0] * convolution.out_size[1])
    if count % 2 and samples > 1 and work > count * WORTH_A_THREAD:
        count += 1
    size = -(-samples // count)
    if size > EVEN_SAMPLES:
        size = EVEN_SAMPLES * -(-size // EVEN_SAMPLES)
    return tuple(slice(first, min(first + size, samples)) for first in range(0, samples, size))


def _samples(blocks):
    return blocks[0].stop - blocks[0].start
