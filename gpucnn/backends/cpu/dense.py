"""A matrix product over the map axis; positions and samples together are its columns."""

from math import prod

import numpy as np

from gpucnn.backends.base import DenseGradients
from gpucnn.backends.cpu.activation import squash, times_slope
from gpucnn.backends.cpu.arrays import (
    batch_last,
    batch_last_result,
    given_or_new,
    matmul,
    samples_last,
    scratch,
    sum_rows,
)


def dense(x, weight, bias, *, activation, out=None, workspace=None):
    """weight @ x with x as (in_features, positions * samples)."""
    if out is None:
        out = np.empty((len(x), len(weight), *x.shape[2:]), x.dtype)
    source = batch_last(x, "dense.x", workspace)
    with batch_last_result(out, "dense.out", workspace) as target:
        flat = target.reshape(len(weight), _columns(source))
        np.matmul(weight, source.reshape(len(source), _columns(source)), out=flat)
        if bias is not None:
            flat += bias[:, None]
        squash(activation, flat)
    return out


def dense_backward(grad_output, output, x, weight, *, activation, needs_grad_input=True,
                   out=None, workspace=None):
    """Two matrix products with dz (out_features, positions * samples)."""
    grad_input, grad_weight, grad_bias = given_or_new(
        out, (x.shape if needs_grad_input else None, weight.shape, len(weight)), x.dtype)
    last = samples_last(output)
    dz = scratch(workspace, "dense.dz", last.shape, x.dtype)
    times_slope(activation, samples_last(grad_output), last, out=dz)
    sum_rows(dz, grad_bias)
    source = batch_last(x, "dense.x", workspace)
    columns = _columns(source)
    dz = dz.reshape(len(weight), columns)
    matmul(dz, source.reshape(len(source), columns).T, out=grad_weight)
    if needs_grad_input:
        with batch_last_result(grad_input, "dense.grad_input", workspace) as target:
            np.matmul(weight.T, dz, out=target.reshape(len(source), columns))
    return DenseGradients(grad_input if needs_grad_input else None, grad_weight, grad_bias)


def _columns(source):
    """positions * samples; written out since NumPy infers no -1 for an empty batch."""
    return prod(source.shape[1:])
