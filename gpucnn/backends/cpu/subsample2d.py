"""Trainable subsampling: one shifted, strided addition of the maps for each pixel of the window."""

import numpy as np

from gpucnn.backends.base import Subsample2dGradients
from gpucnn.backends.cpu.activation import squash, times_slope
from gpucnn.backends.cpu.arrays import (
    batch_last,
    batch_last_result,
    given_or_new,
    samples_last,
    scratch,
    sum_rows,
)
from gpucnn.backends.cpu.windows import pooled_size, window_pixels


def subsample2d(x, coefficient, bias, *, pool_size, stride, activation, out=None, workspace=None):
    """Window sums by shifted additions, then scale, bias and squash in place."""
    if out is None:
        size = pooled_size(x.shape[2:], pool_size, stride)
        out = np.empty((*x.shape[:2], *size), x.dtype)
    source = batch_last(x, "subsample2d.x", workspace)
    with batch_last_result(out, "subsample2d.out", workspace) as target:
        _add_windows(source, pool_size, stride, target)
        target *= coefficient[:, None, None, None]
        if bias is not None:
            target += bias[:, None, None, None]
        squash(activation, target)
    return out


def subsample2d_backward(grad_output, output, x, coefficient, *, pool_size, stride, activation,
                         needs_grad_input=True, out=None, workspace=None):
    """dz spread back over its window by shifted assignments, additions where windows overlap."""
    grad_input, grad_coefficient, grad_bias = given_or_new(
        out, (x.shape if needs_grad_input else None, x.shape[1], x.shape[1]), x.dtype)
    last = samples_last(output)
    dz = scratch(workspace, "subsample2d.dz", last.shape, x.dtype)
    times_slope(activation, samples_last(grad_output), last, out=dz)
    sum_rows(dz, grad_bias)
    sums = scratch(workspace, "subsample2d.sums", last.shape, x.dtype)
    _add_windows(batch_last(x, "subsample2d.x", workspace), pool_size, stride, sums)
    sums *= dz
    sum_rows(sums, grad_coefficient)
    if needs_grad_input:
        dz *= coefficient[:, None, None, None]
        with batch_last_result(grad_input, "subsample2d.grad_input", workspace) as target:
            _spread(dz, pool_size, stride, target)
    return Subsample2dGradients(grad_input if needs_grad_input else None, grad_coefficient,
                                grad_bias)


def _add_windows(source, pool_size, stride, out):
    """out[m, oy, ox] = the sum of the window of source at (oy, ox); both batch-last."""
    for number, pixels in enumerate(window_pixels(pool_size, stride, out.shape[1:3])):
        if number == 0:
            np.copyto(out, source[pixels])
        else:
            out += source[pixels]


def _spread(dz, pool_size, stride, out):
    """out = for each pixel the sum of dz over the windows that hold it; both batch-last."""
    covered = tuple(map(int.__mul__, dz.shape[1:3], stride)) == out.shape[1:3]
    overlap = any(pool > step for pool, step in zip(pool_size, stride, strict=True))
    if overlap or not covered or pool_size != stride:
        out.fill(0)
    for pixels in window_pixels(pool_size, stride, dz.shape[1:3]):
        if overlap:
            out[pixels] += dz
        else:
            out[pixels] = dz
