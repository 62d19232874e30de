"""Convolution through a connection table: windows copied to columns, then matrix products.

A band of output rows at a time becomes columns (in_maps * kernel area, pixels * samples), small
enough to stay in the cache, and one matrix product gives that band of every output map that shares
the same inputs.
"""

import numpy as np

from gpucnn.backends.base import Conv2dGradients
from gpucnn.backends.cpu.activation import squash, times_slope
from gpucnn.backends.cpu.arrays import (
    batch_last_result,
    given_or_new,
    samples_last,
    scratch,
    sum_rows,
)
from gpucnn.backends.cpu.columns import Columns
from gpucnn.backends.cpu.products import products

COLUMN_BYTES = 512 * 1024  # half of a common core's L2 cache
GRAD_COLUMN_BYTES = 4 * 1024 * 1024  # longer bands: adding them back is many short loops
SAMPLES_AT_ONCE = 128


def conv2d(x, weight, bias, connections, *, stride, padding, activation, out=None, workspace=None):
    """As columns and matrix products, a block of samples and a band of rows at a time."""
    columns = Columns(x, weight, stride, padding)
    if out is None:
        out = np.empty((len(x), connections.out_maps, *columns.out_size), x.dtype)
    groups = products(connections, weight, workspace)
    for block in _sample_blocks(len(x)):
        source = columns.padded(x[block], workspace)
        with batch_last_result(out[block], "conv2d.out", workspace) as target:
            for rows in columns.bands(source, COLUMN_BYTES):
                band = target[:, rows]
                for group in groups:
                    group.forward(columns.of(source, group.inputs, rows, workspace), band,
                                  workspace)
                if bias is not None:
                    band += bias[:, None, None, None]
                squash(activation, band)
    return out


def conv2d_backward(grad_output, output, x, weight, connections, *, stride, padding, activation,
                    needs_grad_input=True, out=None, workspace=None):
    """The same columns; the gradient by the input is added up from the columns' gradient."""
    columns = Columns(x, weight, stride, padding)
    grad_input, grad_weight, grad_bias = given_or_new(
        out, (x.shape if needs_grad_input else None, weight.shape, connections.out_maps), x.dtype)
    groups = products(connections, weight, workspace)
    grad_bias.fill(0)
    block_bias = scratch(workspace, "conv2d.block_bias", grad_bias.shape, grad_bias.dtype)
    for block in _sample_blocks(len(x)):
        source = columns.padded(x[block], workspace)
        dz = scratch(workspace, "conv2d.dz", (*output.shape[1:], source.shape[-1]), x.dtype)
        times_slope(activation, samples_last(grad_output[block]), samples_last(output[block]),
                    out=dz)
        sum_rows(dz, block_bias)
        grad_bias += block_bias
        for rows in columns.bands(source, COLUMN_BYTES):
            for group in groups:
                group.add_gradient(columns.of(source, group.inputs, rows, workspace), dz[:, rows],
                                   workspace)
        if needs_grad_input:
            grad_source = scratch(workspace, "conv2d.grad_source", source.shape, x.dtype)
            grad_source.fill(0)
            for rows in columns.bands(source, GRAD_COLUMN_BYTES):
                for group in groups:
                    columns.add_back(group.grad_columns(dz[:, rows], workspace), grad_source,
                                     group.inputs, rows)
            np.copyto(samples_last(grad_input[block]), columns.unpadded(grad_source))
    for group in groups:
        group.finish_gradient(grad_weight)
    return Conv2dGradients(grad_input if needs_grad_input else None, grad_weight, grad_bias)


def _sample_blocks(samples):
    return [slice(first, min(first + SAMPLES_AT_ONCE, samples))
            for first in range(0, samples, SAMPLES_AT_ONCE)]
