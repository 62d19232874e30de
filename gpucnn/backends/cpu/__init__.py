"""The NumPy backend: one file per op, under the op's name."""

import platform

import numpy as np

from gpucnn.backends.base import Backend
from gpucnn.backends.cpu.arrays import empty_batch
from gpucnn.backends.cpu.conv2d import conv2d, conv2d_backward
from gpucnn.backends.cpu.dense import dense, dense_backward
from gpucnn.backends.cpu.gather import gather
from gpucnn.backends.cpu.losses import cross_entropy, mse
from gpucnn.backends.cpu.max_pool2d import max_pool2d, max_pool2d_backward
from gpucnn.backends.cpu.memory import empty
from gpucnn.backends.cpu.optimizers import adam_step, sgd_step
from gpucnn.backends.cpu.plan.inference import CpuOutputs
from gpucnn.backends.cpu.plan.many import compile_many, compile_step
from gpucnn.backends.cpu.subsample2d import subsample2d, subsample2d_backward
from gpucnn.backends.cpu.threads import one_blas_thread


class CpuBackend(Backend):
    """NumPy on the host. Arrays may have any strides; batches like batch-last memory best."""

    device = "cpu"

    @property
    def description(self):
        return f"CPU ({platform.machine()}, NumPy {np.__version__})"

    def owns(self, array):
        return isinstance(array, np.ndarray)

    def empty(self, shape, dtype):
        return empty(shape, dtype)

    def zero(self, array):
        array.fill(0)

    def empty_batch(self, shape, dtype):
        return empty_batch(shape, dtype)

    def from_host(self, host, out=None):
        out = empty(host.shape, host.dtype) if out is None else out
        np.copyto(out, host)
        return out

    def to_host(self, array):
        return np.array(array, order="C")

    def from_dlpack(self, external):
        return np.from_dlpack(external)

    def copy(self, source, out):
        np.copyto(out, source)

    def computing(self):
        return one_blas_thread()

    def synchronize(self):
        """Nothing to wait for: NumPy's calls return when they have ended."""

    def compile(self, program, parameters, gradients, *, threads=None):
        return compile_step(program, parameters, gradients, self, threads)

    def compile_many(self, program, parameters, *, threads=None):
        return compile_many(program, parameters, self, threads)

    def compile_outputs(self, layers, input_shape, input_range, parameters, *, threads=None):
        return CpuOutputs(layers, input_shape, input_range, parameters, threads)

    conv2d = staticmethod(conv2d)
    conv2d_backward = staticmethod(conv2d_backward)
    subsample2d = staticmethod(subsample2d)
    subsample2d_backward = staticmethod(subsample2d_backward)
    max_pool2d = staticmethod(max_pool2d)
    max_pool2d_backward = staticmethod(max_pool2d_backward)
    dense = staticmethod(dense)
    dense_backward = staticmethod(dense_backward)
    gather = staticmethod(gather)
    mse = staticmethod(mse)
    cross_entropy = staticmethod(cross_entropy)
    sgd_step = staticmethod(sgd_step)
    adam_step = staticmethod(adam_step)
