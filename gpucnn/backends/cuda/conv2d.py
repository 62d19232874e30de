"""Convolution by the kernels cuda_kernels/conv2d*.cu; conv2d_kernels/ has their launches and the
choice among them."""

from gpucnn.backends.base import Conv2dGradients
from gpucnn.backends.cuda.conv2d_kernels.choice import checked_precision
from gpucnn.backends.cuda.conv2d_kernels.problem import FORWARD, GRAD_INPUT, GRAD_WEIGHT, Problem
from gpucnn.backends.cuda.launch import new_like


def conv2d(backend, x, weight, bias, connections, *, stride, padding, activation, out=None,
           workspace=None, kernel=None, autotune=False, precision="float32"):
    """The kernel that is fastest by estimate, into which bias and activation are fused.

    kernel: "tiles", "ring", "matrix", "tensor_cores" or "general", the name of one of their plans,
    or a dict with a name for some of "forward", "grad_input" and "grad_weight"; "ring", which does
    not compute the last, is taken only by name or measured. autotune: whether to measure the
    candidates once for these sizes, and to remember the fastest. precision: "tf32"
    where products may be rounded to TF32, which tensor cores from compute capability 8.0 on take;
    float32 arrays only.
    """
    problem = _problem(FORWARD, x, weight, connections, stride, padding, activation, precision)
    out = new_like(backend, out, (len(x), connections.out_maps, *problem.out_size), x.dtype)
    if len(x):
        arrays = [backend.contiguous(array, f"conv2d.{name}", workspace)
                  for name, array in (("x", x), ("weight", weight), ("bias", bias))]
        _run(backend, problem, arrays, (out,), kernel, autotune, workspace)
    return out


def conv2d_backward(backend, grad_output, output, x, weight, connections, *, stride, padding,
                    activation, needs_grad_input=True, out=None, workspace=None, kernel=None,
                    autotune=False, precision="float32"):
    """The fastest kernel for each gradient, as in `conv2d`; the derivative of the activation is
    applied while loading."""
    grad_input, grad_weight, grad_bias = out or (None, None, None)
    grad_weight = new_like(backend, grad_weight, weight.shape, x.dtype)
    grad_bias = new_like(backend, grad_bias, (connections.out_maps,), x.dtype)
    if needs_grad_input:
        grad_input = new_like(backend, grad_input, x.shape, x.dtype)
    if len(x) == 0:
        backend.zero(grad_weight)
        backend.zero(grad_bias)
        return Conv2dGradients(grad_input if needs_grad_input else None, grad_weight, grad_bias)
    grad_output, output, x, weight = (
        backend.contiguous(array, f"conv2d.{name}", workspace) for name, array in
        (("grad_output", grad_output), ("output", output), ("x", x), ("weight", weight)))
    for op, arrays, results in ((GRAD_WEIGHT, (grad_output, output, x), (grad_weight, grad_bias)),
                                (GRAD_INPUT, (grad_output, output, weight), (grad_input,))):
        if op == GRAD_WEIGHT or needs_grad_input:
            problem = _problem(op, x, weight, connections, stride, padding, activation, precision)
            _run(backend, problem, arrays, results, kernel, autotune, workspace)
    return Conv2dGradients(grad_input if needs_grad_input else None, grad_weight, grad_bias)


def _problem(op, x, weight, connections, stride, padding, activation, precision):
    return Problem(op, len(x), tuple(x.shape[2:]), tuple(weight.shape[1:]), stride, padding,
                   connections, x.dtype, activation, checked_precision(precision))


def _run(backend, problem, arrays, results, kernel, autotune, workspace):
    backend.conv2d_chooser.run(problem, arrays, results, kernel=kernel, autotune=autotune,
                               workspace=workspace)
