"""Convolution through a connection table: matrix products by columns or by rows of pixels.

Each pass (forward, gradient by the weights, gradient by the input) takes the way that `ways`
estimates to be the cheapest for the table. Samples are computed some at a time, so that what they
share stays in the cache, in threads where NumPy's matrix products may use several.
"""

import contextlib
from functools import lru_cache

import numpy as np

from gpucnn.backends.base import Conv2dGradients, Workspace
from gpucnn.backends.cpu.activation import squash, times_slope
from gpucnn.backends.cpu.arrays import (
    batch_last_result,
    given_or_new,
    samples_last,
    scratch,
    sum_rows,
)
from gpucnn.backends.cpu.columns import COLUMN_BYTES
from gpucnn.backends.cpu.convolution import Convolution
from gpucnn.backends.cpu.memory import LineMemory
from gpucnn.backends.cpu.products import in_cells
from gpucnn.backends.cpu.threads import blas_threads, can_limit_blas, one_blas_thread
from gpucnn.backends.cpu.ways import forward_ways, input_ways, weight_ways
from gpucnn.backends.cpu.workers import Workers

MOST_SAMPLES, FEWEST_SAMPLES = 128, 8  # computed together, of a batch that has them
EVEN_SAMPLES = 16  # a multiple of: products of other widths are up to twice as slow
WORTH_A_THREAD = 40_000_000  # multiply-adds
LANES = 8  # in each, blocks of samples are added up one after the other, by whatever thread


def conv2d(x, weight, bias, connections, *, stride, padding, activation, out=None, workspace=None):
    """By columns or rows, a block of samples at a time."""
    convolution = Convolution(x.shape[2:], weight.shape[1:], stride, padding)
    if out is None:
        out = np.empty((len(x), connections.out_maps, *convolution.out_size), x.dtype)
    blocks = _blocks(len(x), connections, convolution, x.itemsize)
    if not blocks:
        return out
    way = forward_ways(connections, convolution, _samples(blocks))[0]
    products = way.products(convolution, weight)

    def compute(block, lane, memory):
        source = _source(products, convolution, x[block], memory)
        with _target(products, out[block], memory) as target:
            for rows in products.forward(source, target, memory):
                band = target[:, rows]
                if bias is not None:
                    band += bias[:, None, None, None]
                squash(activation, band)

    _in_lanes(compute, blocks, workspace)
    return out


def conv2d_backward(grad_output, output, x, weight, connections, *, stride, padding, activation,
                    needs_grad_input=True, out=None, workspace=None):
    """The gradient by the input is that of columns, added back, or a convolution by rows of the
    output's gradient with the mirrored kernel."""
    convolution = Convolution(x.shape[2:], weight.shape[1:], stride, padding)
    grad_input, grad_weight, grad_bias = given_or_new(
        out, (x.shape if needs_grad_input else None, weight.shape, connections.out_maps), x.dtype)
    blocks = _blocks(len(x), connections, convolution, x.itemsize)
    if not blocks:
        grad_weight.fill(0)
        grad_bias.fill(0)
        return Conv2dGradients(grad_input if needs_grad_input else None, grad_weight, grad_bias)
    samples = _samples(blocks)
    by_weight = weight_ways(connections, convolution, samples)[0].products(convolution, weight)
    to_input = _ToInput(weight, connections, convolution, samples) if needs_grad_input else None
    sums = [(by_weight.no_gradient(), np.zeros_like(grad_bias)) for _ in _lanes(blocks)]
    cell = by_weight.cell if to_input is None or to_input.cell == by_weight.cell else (1, 1)

    def compute(block, lane, memory):
        gradients, bias_sum = sums[lane]
        source = _source(by_weight, convolution, x[block], memory)
        grad, y = (in_cells(samples_last(array[block]), cell) for array in (grad_output, output))
        dz = scratch(memory, "conv2d.dz", y.shape, x.dtype)
        times_slope(activation, grad, y, out=dz)
        if cell == (1, 1):
            dz = dz[:, 0, 0]
        block_bias = scratch(memory, "conv2d.block_bias", grad_bias.shape, grad_bias.dtype)
        sum_rows(dz, block_bias)
        bias_sum += block_bias
        by_weight.add_gradient(source, dz, gradients, memory)
        if needs_grad_input:
            to_input(dz, grad_input[block], memory)

    _in_lanes(compute, blocks, workspace)
    (gradients, bias_sum), *others = sums
    for more, more_bias in others:
        bias_sum += more_bias
        for total, term in zip(gradients, more, strict=True):
            total += term
    by_weight.finish_gradient(gradients, grad_weight)
    np.copyto(grad_bias, bias_sum)
    return Conv2dGradients(grad_input if needs_grad_input else None, grad_weight, grad_bias)


def conv2d_ways(x_shape, kernel_size, connections, *, stride=(1, 1), padding=(0, 0), itemsize=4):
    """The `ways.Way`s that are considered for forward, grad_input and grad_weight of arrays of
    these shapes, the one that is taken first; nothing is computed."""
    convolution = Convolution(tuple(x_shape[2:]), tuple(kernel_size), stride, padding)
    samples = _samples(_blocks(x_shape[0], connections, convolution, itemsize))
    return {"forward": forward_ways(connections, convolution, samples),
            "grad_input": input_ways(connections, convolution, samples),
            "grad_weight": weight_ways(connections, convolution, samples)}


class _ToInput:
    """The gradient by the input of a block."""

    def __init__(self, weight, connections, convolution, samples):
        self._convolution = convolution
        self._unseen = np.flatnonzero(connections.fan_out == 0)
        way = input_ways(connections, convolution, samples)[0]
        self._is_transposed = way.is_transposed
        self.cell = way.cell
        self._products = way.products(convolution, weight)

    def __call__(self, dz, grad_input, memory):
        convolution = self._convolution
        if not self._is_transposed:
            grad_source = scratch(memory, "conv2d.grad_source",
                                  (grad_input.shape[1], *convolution.padded_size, dz.shape[-1]),
                                  dz.dtype)
            self._products.grad_input(dz, grad_source, memory)
            np.copyto(samples_last(grad_input), convolution.unpadded(grad_source))
            return
        spread = convolution.spread(dz, "conv2d.spread", memory)
        with batch_last_result(grad_input, "conv2d.grad_source", memory) as target:
            for _ in self._products.forward(spread, target, memory):
                pass
            target[self._unseen] = 0


def _source(products, convolution, x, memory):
    """Samples x (samples, maps, height, width) as products read them, samples last."""
    if products.reads_in_place and convolution.padding == (0, 0) and _is_batch_last(x):
        return samples_last(x)
    return convolution.padded(x, "conv2d.x", memory)


def _target(products, out, memory):
    """A context with an array, samples last, in which products compute `out`."""
    if products.reads_in_place and _is_batch_last(out):
        return contextlib.nullcontext(samples_last(out))
    return batch_last_result(out, "conv2d.out", memory)


def _is_batch_last(array):
    """Whether the samples of a pixel lie together; there may be others between the pixels."""
    return array.strides[0] == array.itemsize


# -- samples and threads ---------------------------------------------------------------------------


def _blocks(samples, connections, convolution, itemsize):
    """Slices of samples that are computed together: so many that a row of columns stays in the
    cache, and an even number of blocks where that is worth two threads."""
    if samples == 0:
        return []
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
    return [slice(first, min(first + size, samples)) for first in range(0, samples, size)]


def _samples(blocks):
    return blocks[0].stop - blocks[0].start


def _lanes(blocks):
    return range(min(LANES, len(blocks)))


def _in_lanes(compute, blocks, workspace):
    """Call compute(block, lane, workspace) for every block: those of a lane in order, lanes in
    threads. So sums have one order, whatever the number of threads."""
    lanes = _lanes(blocks)
    threads = min(len(lanes), blas_threads() or 1) if can_limit_blas() else 1
    memory = [_Memory(workspace or Workspace(LineMemory), worker) for worker in range(threads)]

    def work(worker, lane):
        for block in blocks[lane::len(lanes)]:
            compute(block, lane, memory[worker])

    if threads == 1:
        for lane in lanes:
            work(0, lane)
        return
    with one_blas_thread(always=True):
        _workers(threads).run(work, len(lanes))


class _Memory:
    """One worker's scratch arrays in a workspace."""

    def __init__(self, workspace, worker):
        self._workspace = workspace
        self._worker = worker

    def take(self, name, shape, dtype):
        return self._workspace.take((name, self._worker), shape, dtype)


_workers = lru_cache(maxsize=8)(Workers)
