"""The switch: from a device's name, or from arrays, to the backend that computes there.

A device is "cpu", "cuda", "cuda:1", "auto" or a `Backend` itself. The device is chosen by asking
what is there, never by trying and falling back: "cuda" without CuPy or without a GPU is an error,
and "auto" takes CUDA exactly if it is usable.
"""

import functools
import logging
import re
import sys
import warnings

import numpy as np

from gpucnn.backends.base import Backend
from gpucnn.backends.cpu import CpuBackend
from gpucnn.backends.cuda import CudaBackend
from gpucnn.backends.cuda.runtime import CupyRuntime, import_cupy
from gpucnn.errors import DeviceError, DTypeError

logger = logging.getLogger("gpucnn")

_DLPACK_HOST = (1, 3)   # the CPU's memory, and that pinned for a GPU
_DLPACK_CUDA = (2, 13)  # a GPU's memory, and that managed by it
_NAME = re.compile(r"(cpu|auto|cuda)|cuda:(\d+)")
_array_types = {}


def get_backend(device="auto"):
    """The backend of a device.

    Raises `DeviceError` if the name is none of a device's, or if that device cannot be used here,
    saying what is missing and what to install.
    """
    if isinstance(device, Backend):
        return device
    match = _NAME.fullmatch(device) if isinstance(device, str) else None
    if match is None:
        raise DeviceError(f"device: expected 'cpu', 'cuda', 'cuda:N' or 'auto', got {device!r}")
    if device == "cpu":
        return _cpu()
    if device == "auto":
        backend = _automatic()
        logger.info("device 'auto': taking %s, %s", backend.device, backend.description)
        return backend
    cupy, problem = import_cupy()
    if problem is not None:
        raise DeviceError(f"device {device!r}: {problem.reason}")
    return _cuda(cupy, int(match.group(2) or 0))


def backend_of(*arrays, where):
    """The one backend that owns all of `arrays` (None among them is passed over).

    Raises `DTypeError` for what is no array, `DeviceError` for arrays of several devices.
    """
    backends = [_owner(array, where) for array in arrays if array is not None]
    if any(backend is not backends[0] for backend in backends):
        devices = ", ".join(sorted({backend.device for backend in backends}))
        raise DeviceError(f"{where}: expected arrays of one device, got arrays of {devices}")
    return backends[0]


def as_array(value, where, backend=None):
    """`value` as an array of its own device: DLPack objects become NumPy or CuPy arrays that share
    their memory; arrays, those of `backend` among them, are returned as they are."""
    if (isinstance(value, np.ndarray) or type(value) in _array_types or _is_cupy(value)
            or (backend is not None and backend.owns(value))):
        return value
    kind, index = _dlpack_device(value, where)
    if kind in _DLPACK_HOST:
        return _shared(value, _cpu(), where)
    if kind in _DLPACK_CUDA:
        return _shared(value, get_backend(f"cuda:{index}"), where)
    raise DeviceError(f"{where}: expected memory of a CPU or an NVIDIA GPU, got a DLPack device of "
                      f"type {kind}")


def host_array(value, where):
    """`value`, an array or DLPack object on the CPU, as a NumPy array that shares its memory.

    Raises `DTypeError` for what is no array, `DeviceError` for one elsewhere.
    """
    if isinstance(value, np.ndarray):
        return value
    kind, _ = _dlpack_device(value, where)
    if kind not in _DLPACK_HOST:
        raise DeviceError(f"{where}: expected an array on the CPU, got a {type(value).__name__} on "
                          f"another device (DLPack device type {kind})")
    return _shared(value, _cpu(), where)


def _dlpack_device(value, where):
    """(type, index) of the device of a DLPack object, as numbers."""
    if not (hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__")):
        raise DTypeError(f"{where}: expected a NumPy or CuPy array or a DLPack object, "
                         f"got {type(value).__name__}")
    try:
        kind, index = value.__dlpack_device__()
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise DTypeError(f"{where}: {type(value).__name__} has no device that DLPack knows: "
                         f"{error}") from error
    return int(kind), int(index)


def _shared(value, backend, where):
    try:
        return backend.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise DTypeError(f"{where}: {type(value).__name__} cannot be shared by DLPack: "
                         f"{error}") from error


def register_arrays(array_type, backend):
    """Let `functional` take arrays of another type, computed by `backend`."""
    _array_types[array_type] = backend


def _owner(array, where):
    if isinstance(array, np.ndarray):
        return _cpu()
    if type(array) in _array_types:
        return _array_types[type(array)]
    if _is_cupy(array):
        return _of_cupy(sys.modules["cupy"], array.device.id)
    raise DTypeError(f"{where}: expected a NumPy or CuPy array, got {type(array).__name__}")


def _is_cupy(value):
    return type(value).__module__.partition(".")[0] == "cupy" and hasattr(value, "device")


@functools.cache
def _cpu():
    return CpuBackend()


@functools.cache
def _of_cupy(cupy, index):
    """The backend of a device on which there are arrays, so that it is asked for once."""
    return get_backend(f"cuda:{index}")


@functools.cache
def _cuda(cupy, index):
    return CudaBackend(CupyRuntime(cupy, index))


@functools.cache
def _automatic():
    cupy, problem = import_cupy()
    if problem is None:
        return _cuda(cupy, 0)
    if problem.expected:
        logger.info("device 'auto': no CUDA: %s", problem.reason)
    else:
        warnings.warn(f"device 'auto' takes the CPU: {problem.reason}", RuntimeWarning,
                      stacklevel=4)
    return _cpu()
