"""Launches of the max pooling kernels: cuda_kernels/max_pool2d.cu."""

from gpucnn.backends.cuda.launch import THREADS, blocks_for, new_like
from gpucnn.backends.cuda.subsample2d import pooling
from gpucnn.shapes import window_positions


def max_pool2d(backend, x, *, pool_size, stride, out=None, workspace=None):
    """One launch, a thread per output pixel."""
    out_size = tuple(map(window_positions, x.shape[2:], pool_size, stride))
    out = new_like(backend, out, (*x.shape[:2], *out_size), x.dtype)
    backend.kernels.launch(
        pooling("max_pool2d.cu", x.dtype, pool_size, stride), "max_pool2d_forward",
        blocks_for(out.size, THREADS), THREADS, backend.contiguous(x, "max_pool2d.x", workspace),
        out, len(x) * x.shape[1], *x.shape[2:], *out_size)
    return out


def max_pool2d_backward(backend, grad_output, output, x, *, pool_size, stride, out=None,
                        workspace=None):
    """One launch, a thread per input pixel; the maxima are found anew from x."""
    out = new_like(backend, out, x.shape, x.dtype)
    backend.kernels.launch(
        pooling("max_pool2d.cu", x.dtype, pool_size, stride), "max_pool2d_grad_input",
        blocks_for(x.size, THREADS), THREADS,
        backend.contiguous(grad_output, "max_pool2d.grad_output", workspace),
        backend.contiguous(x, "max_pool2d.x", workspace), out, len(x) * x.shape[1], *x.shape[2:],
        *output.shape[2:])
    return out
