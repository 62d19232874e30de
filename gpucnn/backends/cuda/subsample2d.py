"""Launches of the subsampling kernels: cuda_kernels/subsample2d.cu."""

from gpucnn.backends.base import Subsample2dGradients
from gpucnn.backends.cuda.kernels import Specialisation
from gpucnn.backends.cuda.launch import (
    BLOCK,
    THREADS,
    blocks_for,
    new_like,
    shares_for,
    sum_partials,
)
from gpucnn.shapes import window_positions


def subsample2d(backend, x, coefficient, bias, *, pool_size, stride, activation, out=None,
                workspace=None):
    """One launch, a thread per output pixel."""
    out_size = tuple(map(window_positions, x.shape[2:], pool_size, stride))
    out = new_like(backend, out, (*x.shape[:2], *out_size), x.dtype)
    backend.kernels.launch(
        pooling("subsample2d.cu", x.dtype, pool_size, stride, activation), "subsample2d_forward",
        blocks_for(out.size, THREADS), THREADS, backend.contiguous(x, "subsample2d.x", workspace),
        backend.contiguous(coefficient, "subsample2d.coefficient", workspace),
        backend.contiguous(bias, "subsample2d.bias", workspace), out, len(x) * x.shape[1],
        *x.shape[1:], *out_size)
    return out


def subsample2d_backward(backend, grad_output, output, x, coefficient, *, pool_size, stride,
                         activation, needs_grad_input=True, out=None, workspace=None):
    """A launch for the parameters' gradients and one, a thread per input pixel, for the input's."""
    specialisation = pooling("subsample2d.cu", x.dtype, pool_size, stride, activation)
    samples, maps = x.shape[:2]
    sizes = (*x.shape[1:], *output.shape[2:])
    grad_input, grad_coefficient, grad_bias = out or (None, None, None)
    grad_coefficient = new_like(backend, grad_coefficient, (maps,), x.dtype)
    grad_bias = new_like(backend, grad_bias, (maps,), x.dtype)
    grad_output = backend.contiguous(grad_output, "subsample2d.grad_output", workspace)
    output = backend.contiguous(output, "subsample2d.output", workspace)
    if samples == 0:
        backend.zero(grad_coefficient)
        backend.zero(grad_bias)
    else:
        shares = shares_for(backend, maps, samples)
        with (sum_partials(backend, grad_coefficient, shares, "subsample2d.coefficient_partials",
                           workspace) as coefficient_partials,
              sum_partials(backend, grad_bias, shares, "subsample2d.bias_partials",
                           workspace) as bias_partials):
            backend.kernels.launch(
                specialisation, "subsample2d_grad_parameters", maps * shares, THREADS, grad_output,
                output, backend.contiguous(x, "subsample2d.x", workspace), coefficient_partials,
                bias_partials, samples, *sizes, shares)
    if needs_grad_input:
        grad_input = new_like(backend, grad_input, x.shape, x.dtype)
        backend.kernels.launch(
            specialisation, "subsample2d_grad_input", blocks_for(x.size, THREADS), THREADS,
            grad_output, output,
            backend.contiguous(coefficient, "subsample2d.coefficient", workspace), grad_input,
            samples * maps, *sizes)
    return Subsample2dGradients(grad_input if needs_grad_input else None, grad_coefficient,
                                grad_bias)


def pooling(file, dtype, pool_size, stride, activation=None):
    """The specialisation of a pooling kernel."""
    return Specialisation(file, dtype, activation, (
        ("POOL_HEIGHT", pool_size[0]), ("POOL_WIDTH", pool_size[1]),
        ("STRIDE_Y", stride[0]), ("STRIDE_X", stride[1]), BLOCK))
