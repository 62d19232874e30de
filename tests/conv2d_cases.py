"""Convolutions by kernels of given names, and small cases that launch all of them."""

from dataclasses import dataclass

from gpucnn import ConnectionTable
from gpucnn.backends.cuda import CudaBackend
from gpucnn.backends.cuda.conv2d_kernels.problem import Problem
from tests.cases import DOUBLE, Conv2dCase

FAMILIES = ("tiles", "ring", "matrix", "tensor_cores", "general")
RING = {"forward": "ring", "grad_input": "ring"}  # it does not compute the gradient by the weights

# Input map 1 has no outputs, the fan-in is uneven, and weights are in no particular order.
UNEVEN = ConnectionTable.from_pairs([[3, 0, 2, 0, 3], [1, 0, 1, 2, 0]], in_maps=4, out_maps=3)
RANDOM = ConnectionTable.random(9, 10, density=0.3, seed=1)


class WithKernel:
    """A CUDA backend that passes `options` to its convolutions."""

    def __init__(self, backend, options):
        self._backend = backend
        self._options = options

    def __getattr__(self, name):
        return getattr(self._backend, name)

    def conv2d(self, *arguments, **keywords):
        return self._backend.conv2d(*arguments, **keywords, **self._options)

    def conv2d_backward(self, *arguments, **keywords):
        return self._backend.conv2d_backward(*arguments, **keywords, **self._options)


def with_kernel(backend, kernel, **options):
    """`backend`, computing convolutions by `kernel`: a name, or names by op."""
    return WithKernel(backend, {"kernel": kernel, **options})


def problem_of(case, op):
    """What the kernel of one op of a case is chosen for."""
    return Problem(op, case.samples, case.size, case.kernel, case.stride, case.padding, case.table,
                   case.dtype, case.activation)


@dataclass(frozen=True)
class KernelCase(Conv2dCase):
    """A convolution that a CUDA backend computes by the kernel of this name, or of these names: a
    tuple of (op, name)."""

    kernel_name: str | tuple = "tiles"

    def call(self, backend, arrays, **memory):
        if isinstance(backend, CudaBackend):
            name = self.kernel_name
            backend = with_kernel(backend, name if isinstance(name, str) else dict(name))
        return super().call(backend, arrays, **memory)


# Together they launch every kernel of a convolution, in several blocks.
KERNEL_CASES = {
    "conv2d, tiles": KernelCase(RANDOM, 2, (9, 8), (3, 3), padding=(1, 1), kernel_name="tiles"),
    "conv2d, ring": KernelCase(RANDOM, 3, (8, 12), (3, 3), padding=(1, 1),
                               kernel_name=tuple(RING.items())),
    "conv2d, matrix": KernelCase(UNEVEN, 5, (5, 6), (3, 2), (2, 1), (1, 0), "relu", DOUBLE,
                                 kernel_name="matrix"),
    "conv2d, tensor cores": KernelCase(ConnectionTable.full(2, 17), 3, (6, 5), (2, 2),
                                       activation="identity", kernel_name="tensor_cores"),
    "conv2d, general": KernelCase(UNEVEN, 3, (7, 6), (3, 2), (1, 2), (1, 1), kernel_name="general"),
}
