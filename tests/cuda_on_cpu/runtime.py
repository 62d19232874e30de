"""`HostRuntime`: the CUDA backend's runtime on a machine without a GPU.

    runtime = HostRuntime(order="reverse", sanitizer="thread", max_blocks=3)

- `order` is that of the blocks, and of the threads in each round between barriers: "forward",
  "reverse", or the seed of a random one. A kernel that lacks a barrier gives other results in
  another order.
- `sanitizer="thread"` finds data races, in this process and in any order (races.cpp);
  `sanitizer="address"` finds accesses out of bounds and undefined behaviour, and needs a process
  that `sanitized.run_sanitized` started.
- `max_blocks` is the largest grid: a small one makes kernels loop.

Always found: divergent barriers, warps that wait for each other, shuffles from a lane that does
not take part, more threads than `__launch_bounds__`, too much shared memory, and (as NaN) values
that were never written.
"""

import ctypes
import os
import subprocess
import threading
from dataclasses import replace

import numpy as np

from gpucnn.backends.cuda.kernels import kernel_parameters
from gpucnn.backends.cuda.runtime import DeviceProfile, Runtime
from gpucnn.errors import (
    ArgumentError,
    DeviceError,
    DTypeError,
    GpucnnError,
    KernelError,
    ShapeError,
)

from .arrays import DeviceArray
from .build import ROOT, kernel_library
from .translate import real_type, translated

SANITIZER_VARIABLE = "GPUCNN_TEST_SANITIZER"
SANITIZERS = (None, "address", "thread")
PROFILE = DeviceProfile("CUDA on CPU", compute_capability=(8, 0), multiprocessors=4)
MAX_THREADS = 1024
_running = threading.Lock()  # a scheduler library runs one launch at a time


class KernelFault(GpucnnError, RuntimeError):
    """A kernel did something that is undefined on a GPU."""


class HostRuntime(Runtime):
    """Arrays in host memory, launches as fibres; see the module's text.

    `profile` is the GPU to pass for, `device` its name. Runtimes with the same name share arrays.
    Without `sanitizer`, it is the one that `run_sanitized` set for the process, if any.
    `launches` lists every launch as (kernel name, blocks, threads).
    """

    def __init__(self, *, order="forward", sanitizer=None, max_blocks=None, profile=PROFILE,
                 device="cuda-on-cpu"):
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
        return DeviceArray.empty(shape, dtype, self.device)

    def zero(self, array):
        values = self._values(array)
        if not values.flags.c_contiguous:
            raise DeviceError(f"zero: expected a C-contiguous array, got {array} with strides "
                              f"{array.strides}")
        values[...] = 0

    def upload(self, host, out=None):
        host = np.asarray(host, order="C")
        if out is None:
            out = self.empty(host.shape, host.dtype)
        elif not out.flags.c_contiguous:
            raise DeviceError(f"upload: expected a C-contiguous `out`, got strides {out.strides}")
        self._write(host, out, "upload")
        return out

    def download(self, array):
        return self._values(array).copy()

    def copy(self, source, out):
        self._write(self._values(source), out, "copy")

    def from_dlpack(self, external):
        if not self.owns(external):
            raise DeviceError(f"expected an array on {self.device}, got "
                              f"{type(external).__name__}")
        return DeviceArray(self._values(external), self.device)

    def compile(self, source, name):
        real = np.float64 if real_type(source) == "double" else np.float32
        kernels = kernel_parameters(source, np.dtype(real))
        path = kernel_library(translated(source, kernels), name, self.sanitizer)
        library = ctypes.CDLL(str(path))

        def function(kernel_name):
            if kernel_name not in kernels:
                raise KernelError(f"{name}: expected one of the kernels {', '.join(kernels)}, got "
                                  f"{kernel_name!r}")
            return _Launcher(self, kernel_name, kernels[kernel_name], library, path)

        return function

    def synchronize(self):
        pass  # a launch returns when it is done

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


class _Launch(ctypes.Structure):
    """launch.h's Launch."""

    _fields_ = [(name, ctypes.c_longlong)
                for name in ("blocks", "threads", "order", "dynamic_bytes", "shared_limit")]


class _Fault(ctypes.Structure):
    """launch.h's Fault."""

    _fields_ = [("message", ctypes.c_char * 1024), ("file", ctypes.c_char_p),
                ("line", ctypes.c_int), ("offsets", ctypes.c_ulonglong * 2)]


class _Launcher:
    """Runs one kernel: `launcher(blocks, threads, arguments)`."""

    def __init__(self, runtime, name, parameters, library, path):
        self._runtime = runtime
        self._name = name
        self._parameters = parameters
        self._path = path
        self._launch = library[f"launch_{name}"]
        self._launch.argtypes = [ctypes.POINTER(_Launch), ctypes.c_char_p, ctypes.POINTER(_Fault)]

    def __call__(self, blocks, threads, arguments, shared_bytes=0):
        """Run `blocks` blocks of `threads` threads; `shared_bytes` is the size of the kernel's
        `extern __shared__` memory. Raises KernelFault where the kernel is at fault."""
        profile = self._runtime.profile
        for what, number, most in (("blocks", blocks, profile.max_blocks),
                                   ("threads", threads, MAX_THREADS)):
            if not 1 <= number <= most:
                raise KernelError(f"kernel {self._name}: expected 1 to {most} {what}, got "
                                  f"{number}")
        slots = self._packed(arguments)
        launch = _Launch(blocks, threads, self._runtime._order, shared_bytes,
                         max(profile.shared_bytes, shared_bytes))
        fault = _Fault()
        self._runtime.launches.append((self._name, blocks, threads))
        with _running:
            failed = self._launch(ctypes.byref(launch), slots, ctypes.byref(fault))
        if failed:
            raise KernelFault(f"kernel {self._name}: {self._described(fault)}")

    def _packed(self, arguments):
        """The arguments' values, each in a slot of eight bytes."""
        if len(arguments) != len(self._parameters):
            raise TypeError(f"kernel {self._name}: expected {len(self._parameters)} arguments, "
                            f"got {len(arguments)}")
        return b"".join(self._slot(value, parameter).ljust(8, b"\0") for value, parameter
                        in zip(arguments, self._parameters, strict=True))

    def _slot(self, value, parameter):
        expected = f"an array of {parameter.dtype}" if parameter.is_array else parameter.dtype.name
        if parameter.is_array and value is None:
            return b""
        if parameter.is_array and self._runtime.owns(value) and value.dtype == parameter.dtype:
            return np.uintp(value._values.ctypes.data).tobytes()
        if not parameter.is_array and isinstance(value, parameter.dtype.type):
            return value.tobytes()
        got = value if isinstance(value, DeviceArray) else f"{value!r} ({type(value).__name__})"
        raise TypeError(f"kernel {self._name}, argument {parameter.name!r}: expected {expected}, "
                        f"got {got}")

    def _described(self, fault):
        message = fault.message.decode()
        if fault.file:
            return f"{message} (at {fault.file.decode()}:{fault.line})"
        if fault.offsets[0]:
            later, earlier = (_source_line(self._path, offset) for offset in fault.offsets)
            return f"{message} (at {later}, after {earlier})"
        return message


def _order_number(order):
    """launch.h's number of an order."""
    named = {"forward": 0, "reverse": -1}
    if order in named:
        return named[order]
    if not isinstance(order, int) or order < 0:
        raise ArgumentError(f"expected the order 'forward', 'reverse' or a seed, got {order!r}")
    return order + 1


def _source_line(library, offset):
    """The line of a kernel's file that the code before `offset` was made from."""
    try:
        result = subprocess.run(("addr2line", "-i", "-e", str(library), hex(offset - 1)),
                                text=True, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return f"{library.name}+{offset:#x}"
    lines = [line.split(" (")[0].removeprefix(f"{ROOT}/") for line in result.stdout.split("\n")]
    in_kernels = [line for line in lines if line and "tests/cuda_on_cpu/" not in line]
    return (in_kernels or lines)[0]
