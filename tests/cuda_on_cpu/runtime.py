"""`HostRuntime`: the CUDA backend's runtime on a machine without a GPU.

    runtime = HostRuntime(order="reverse", sanitizer="thread", max_blocks=3)

- `order` is that of the blocks, and of the threads in each round between barriers: "forward",
  "reverse", or the seed of a random one. A kernel that lacks a barrier gives other results in
  another order. Blocks run one after another, those of a cluster by turns.
- `sanitizer="thread"` finds data races, in this process and in any order (races.cpp);
  `sanitizer="address"` finds accesses out of bounds and undefined behaviour, and needs a process
  that `sanitized.run_sanitized` started.
- `max_blocks` is the largest grid: a small one makes kernels loop.

Always found: divergent barriers, warps that wait for each other, shuffles from a lane that does
not take part, writes to another block of the cluster beyond its shared memory, before it begins or
after it ends, more threads than `__launch_bounds__`, too much shared memory, and (as NaN) values
that were never written.
"""

import ctypes
import os
import time
from dataclasses import replace

import numpy as np

from gpucnn.backends.cuda.kernels import cluster_sizes, kernel_parameters
from gpucnn.backends.cuda.runtime import DeviceProfile, Graph, Runtime
from gpucnn.errors import ArgumentError, DeviceError, DTypeError, KernelError, ShapeError

from .arrays import DeviceArray
from .build import kernel_library
from .launcher import KernelFault, Launcher
from .translate import real_type, translated

__all__ = ["PROFILE", "SANITIZERS", "SANITIZER_VARIABLE", "HostGraph", "HostRuntime",
           "KernelFault"]

SANITIZER_VARIABLE = "GPUCNN_TEST_SANITIZER"
SANITIZERS = (None, "address", "thread")
# The limits of an A100, so that kernels for it run, on few multiprocessors, so that they loop.
PROFILE = DeviceProfile("CUDA on CPU", compute_capability=(8, 0), multiprocessors=4,
                        dynamic_shared_bytes=163 * 1024,
                        shared_bytes_of_multiprocessor=164 * 1024, threads_of_multiprocessor=2048)


class HostRuntime(Runtime):
    """Arrays in host memory, launches as fibres; see the module's text.

    `profile` is the GPU to pass for, `device` its name. Runtimes with the same name share arrays.
    Without `sanitizer`, it is the one that `run_sanitized` set for the process, if any.
    `launches` lists every launch as (kernel name, blocks, threads), those of a graph when it is
    launched.
    """

    def __init__(self, *, order="forward", sanitizer=None, max_blocks=None, profile=PROFILE,
                 device="cuda-on-cpu"):
        super().__init__()
        self.device = device
        self.profile = profile if max_blocks is None else replace(profile, max_blocks=max_blocks)
        self.sanitizer = sanitizer or os.environ.get(SANITIZER_VARIABLE) or None
        self.launches = []
        self._order = _order_number(order)
        if self.sanitizer not in SANITIZERS:
            raise ArgumentError(f"expected a sanitizer of {SANITIZERS}, got {self.sanitizer!r}")
        if self.sanitizer == "address" and not hasattr(ctypes.CDLL(None), "__asan_init"):
            raise DeviceError("the address sanitizer is not in this process: start it with "
                              "tests.cuda_on_cpu.sanitized.run_sanitized")

    def owns(self, array):
        return isinstance(array, DeviceArray) and array.device == self.device

    def empty(self, shape, dtype):
        self._refuse_in_capture("empty")
        return DeviceArray.empty(shape, dtype, self.device)

    def zero(self, array):
        self._refuse_in_capture("zero")
        values = self._values(array)
        if not values.flags.c_contiguous:
            raise DeviceError(f"zero: expected a C-contiguous array, got {array} with strides "
                              f"{array.strides}")
        values[...] = 0

    def upload(self, host, out=None):
        self._refuse_in_capture("upload")
        host = np.asarray(host, order="C")
        if out is None:
            out = self.empty(host.shape, host.dtype)
        elif not out.flags.c_contiguous:
            raise DeviceError(f"upload: expected a C-contiguous `out`, got strides {out.strides}")
        self._write(host, out, "upload")
        return out

    def download(self, array):
        self._refuse_in_capture("download")
        return self._values(array).copy()

    def copy(self, source, out):
        self._refuse_in_capture("copy")
        self._write(self._values(source), out, "copy")

    def from_dlpack(self, external):
        if not self.owns(external):
            raise DeviceError(f"expected an array on {self.device}, got "
                              f"{type(external).__name__}")
        return DeviceArray(self._values(external), self.device)

    def compile(self, source, name):
        self._refuse_in_capture(f"compile {name}")
        real = np.float64 if real_type(source) == "double" else np.float32
        kernels = kernel_parameters(source, np.dtype(real))
        clusters = cluster_sizes(source)
        path = kernel_library(translated(source, kernels), name, self.sanitizer)
        library = ctypes.CDLL(str(path))

        def function(kernel_name):
            if kernel_name not in kernels:
                raise KernelError(f"{name}: expected one of the kernels {', '.join(kernels)}, got "
                                  f"{kernel_name!r}")
            return Launcher(self, kernel_name, kernels[kernel_name], clusters[kernel_name],
                            library, path)

        return function

    def synchronize(self):
        self._refuse_in_capture("synchronize")  # and a launch returns when it is done

    def seconds(self, work, repetitions=10):
        self._refuse_in_capture("seconds")
        for _ in range(2):
            work()
        start = time.perf_counter()
        for _ in range(repetitions):
            work()
        return (time.perf_counter() - start) / repetitions

    def _capture(self, work, captured):
        work()
        return HostGraph(self, captured)

    def _values(self, array):
        if not self.owns(array):
            raise DeviceError(f"expected an array on {self.device}, got {type(array).__name__}")
        return array._values

    def _write(self, values, out, what):
        target = self._values(out)
        if target.shape != values.shape:
            raise ShapeError(f"{what}: expected `out` of shape {values.shape}, got {target.shape}")
        if target.dtype != values.dtype:
            raise DTypeError(f"{what}: expected `out` of type {values.dtype}, got {target.dtype}")
        target[...] = values


class HostGraph(Graph):
    """Recorded launches of a `HostRuntime`."""

    def __init__(self, runtime, recorded):
        self._runtime = runtime
        self._recorded = recorded

    def launch(self):
        self._runtime._refuse_in_capture("launch of a graph")
        for run, _ in self._recorded:
            run()


def _order_number(order):
    """launch.h's number of an order."""
    named = {"forward": 0, "reverse": -1}
    if order in named:
        return named[order]
    if not isinstance(order, int) or order < 0:
        raise ArgumentError(f"expected the order 'forward', 'reverse' or a seed, got {order!r}")
    return order + 1
