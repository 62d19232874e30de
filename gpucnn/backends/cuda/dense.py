"""Launches of the dense kernels: cuda_kernels/dense.cu."""

from math import prod

from gpucnn.backends.base import DenseGradients
from gpucnn.backends.cuda.kernels import Specialisation
from gpucnn.backends.cuda.launch import blocks_for, new_like, shares_for, sum_partials

TILE = 16
LARGEST_SIDE = 4
THREADS = TILE * TILE


def dense(backend, x, weight, bias, *, activation, out=None, workspace=None):
    """One launch, a thread per output or per 16 of them."""
    out_features, in_features = weight.shape
    positions = prod(x.shape[2:])
    out = new_like(backend, out, (len(x), out_features, *x.shape[2:]), x.dtype)
    side = _side(backend, out_features, len(x) * positions)
    backend.kernels.launch(
        _specialised(x.dtype, activation, side), "dense_forward",
        _parts(side, out_features, len(x) * positions), THREADS,
        backend.contiguous(x, "dense.x", workspace),
        backend.contiguous(weight, "dense.weight", workspace),
        backend.contiguous(bias, "dense.bias", workspace), out, len(x), in_features, out_features,
        positions)
    return out


def dense_backward(backend, grad_output, output, x, weight, *, activation, needs_grad_input=True,
                   out=None, workspace=None):
    """A launch for each gradient; the derivative of the activation is applied while loading."""
    out_features, in_features = weight.shape
    samples, positions = len(x), prod(x.shape[2:])
    grad_input, grad_weight, grad_bias = out or (None, None, None)
    grad_weight = new_like(backend, grad_weight, weight.shape, x.dtype)
    grad_bias = new_like(backend, grad_bias, (out_features,), x.dtype)
    grad_output = backend.contiguous(grad_output, "dense.grad_output", workspace)
    output = backend.contiguous(output, "dense.output", workspace)
    if samples == 0:
        backend.zero(grad_weight)
        backend.zero(grad_bias)
    else:
        side = _side(backend, out_features, in_features)
        specialisation = _specialised(x.dtype, activation, side)
        parts = _parts(side, out_features, in_features)
        shares = shares_for(backend, parts, blocks_for(samples * positions, TILE))
        with sum_partials(backend, grad_weight, shares, "dense.weight_partials",
                          workspace) as partials:
            backend.kernels.launch(
                specialisation, "dense_grad_weight", parts * shares, THREADS, grad_output, output,
                backend.contiguous(x, "dense.x", workspace), partials, samples, in_features,
                out_features, positions, shares)
        shares = shares_for(backend, out_features, samples)
        with sum_partials(backend, grad_bias, shares, "dense.bias_partials", workspace) as partials:
            backend.kernels.launch(
                specialisation, "dense_grad_bias", out_features * shares, THREADS, grad_output,
                output, partials, samples, out_features, positions, shares)
    if needs_grad_input:
        grad_input = new_like(backend, grad_input, x.shape, x.dtype)
        side = _side(backend, in_features, samples * positions)
        backend.kernels.launch(
            _specialised(x.dtype, activation, side), "dense_grad_input",
            _parts(side, in_features, samples * positions), THREADS,
            grad_output, output, backend.contiguous(weight, "dense.weight", workspace), grad_input,
            samples, in_features, out_features, positions)
    return DenseGradients(grad_input if needs_grad_input else None, grad_weight, grad_bias)


def _side(backend, rows, columns):
    """How many rows and columns of a result a thread computes: several, once there are enough of
    them to keep every multiprocessor busy all the same."""
    parts = _parts(LARGEST_SIDE, rows, columns)
    return LARGEST_SIDE if parts >= backend.runtime.profile.multiprocessors else 1


def _parts(side, rows, columns):
    return blocks_for(rows, TILE * side) * blocks_for(columns, TILE * side)


def _specialised(dtype, activation, side):
    return Specialisation("dense.cu", dtype, activation, (("TILE", TILE), ("SIDE", side)))
