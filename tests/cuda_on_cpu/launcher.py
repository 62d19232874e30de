"""Launches of one kernel on the host: what is checked, packed and run."""

import ctypes
import subprocess
import threading

import numpy as np

from gpucnn.backends.cuda.kernels import check_clusters
from gpucnn.errors import GpucnnError, KernelError

from .arrays import DeviceArray
from .build import ROOT

MAX_THREADS = 1024
_running = threading.Lock()  # a scheduler library runs one launch at a time


class KernelFault(GpucnnError, RuntimeError):
    """A kernel did something that is undefined on a GPU."""


class _Launch(ctypes.Structure):
    """launch.h's Launch."""

    _fields_ = [(name, ctypes.c_longlong)
                for name in ("blocks", "blocks_of_cluster", "threads", "order", "dynamic_bytes",
                             "static_limit", "shared_limit")]


class _Fault(ctypes.Structure):
    """launch.h's Fault."""

    _fields_ = [("message", ctypes.c_char * 1024), ("file", ctypes.c_char_p),
                ("line", ctypes.c_int), ("offsets", ctypes.c_ulonglong * 2)]


class Launcher:
    """Runs one kernel: `launcher(blocks, threads, arguments, shared_bytes=0)`."""

    def __init__(self, runtime, name, parameters, blocks_of_cluster, library, path):
        self._runtime = runtime
        self._name = name
        self._parameters = parameters
        self._blocks_of_cluster = blocks_of_cluster
        self._path = path
        self._launch = library[f"launch_{name}"]
        self._launch.argtypes = [ctypes.POINTER(_Launch), ctypes.c_char_p, ctypes.POINTER(_Fault)]

    def __call__(self, blocks, threads, arguments, shared_bytes=0):
        """Run `blocks` blocks of `threads` threads, or record that in a capture; `shared_bytes` is
        the size of the kernel's `extern __shared__` memory. Raises KernelFault where the kernel
        is at fault."""
        profile = self._runtime.profile
        for what, number, least, most in (
                ("blocks", blocks, 1, profile.max_blocks), ("threads", threads, 1, MAX_THREADS),
                ("bytes of dynamic shared memory", shared_bytes, 0, profile.dynamic_shared_bytes)):
            if not least <= number <= most:
                raise KernelError(f"kernel {self._name}: expected {least} to {most} {what}, got "
                                  f"{number}")
        check_clusters(self._name, blocks, self._blocks_of_cluster, profile)
        slots = self._packed(arguments)

        def run():
            self._run(blocks, threads, slots, shared_bytes)

        if self._runtime._captured is None:
            run()
        else:
            self._runtime._captured.append((run, arguments))

    def _run(self, blocks, threads, slots, shared_bytes):
        profile = self._runtime.profile
        launch = _Launch(
            blocks, self._blocks_of_cluster, threads, self._runtime._order, shared_bytes,
            profile.shared_bytes,
            profile.dynamic_shared_bytes if shared_bytes else profile.shared_bytes)
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
