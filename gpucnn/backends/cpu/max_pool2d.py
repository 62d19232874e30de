"""Max pooling: running maxima over the shifted maps; backward finds each window's first maximum."""

import numpy as np

from gpucnn.backends.cpu.arrays import batch_last, batch_last_result, scratch
from gpucnn.backends.cpu.windows import pooled_size, window_pixels


def max_pool2d(x, *, pool_size, stride, out=None, workspace=None):
    """The running maximum of the window's pixels; NumPy's maximum keeps a NaN."""
    if out is None:
        size = pooled_size(x.shape[2:], pool_size, stride)
        out = np.empty((*x.shape[:2], *size), x.dtype)
    source = batch_last(x, "max_pool2d.x", workspace)
    with batch_last_result(out, "max_pool2d.out", workspace) as target:
        for number, pixels in enumerate(window_pixels(pool_size, stride, target.shape[1:3])):
            if number == 0:
                np.copyto(target, source[pixels])
            else:
                np.maximum(target, source[pixels], out=target)
    return out


def max_pool2d_backward(grad_output, output, x, *, pool_size, stride, out=None, workspace=None):
    """Goes through the window's pixels in row-major order; a window is open until one of them
    equals its maximum, and that pixel gets the gradient."""
    if out is None:
        out = np.empty(x.shape, x.dtype)
    source = batch_last(x, "max_pool2d.x", workspace)
    highest = batch_last(output, "max_pool2d.output", workspace)
    grad = batch_last(grad_output, "max_pool2d.grad_output", workspace)
    still_open = scratch(workspace, "max_pool2d.open", highest.shape, bool)
    still_open.fill(True)
    with batch_last_result(out, "max_pool2d.grad_input", workspace) as target:
        target.fill(0)
        for pixels in window_pixels(pool_size, stride, highest.shape[1:3]):
            pixel = source[pixels]
            first = still_open & ((pixel == highest) | np.isnan(pixel))
            still_open &= ~first
            target[pixels] += np.where(first, grad, grad.dtype.type(0))
    return out
