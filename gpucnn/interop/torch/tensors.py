"""Tensors as arrays: on which backend, on which stream, and in whose memory an op computes."""

import threading
from contextlib import contextmanager, nullcontext
from functools import cache

import numpy as np
import torch

from gpucnn.backends.base import Workspace
from gpucnn.backends.cuda.runtime import import_cupy
from gpucnn.devices import get_backend
from gpucnn.errors import DeviceError, DTypeError

TYPES = (torch.float32, torch.float64)


class Sharing:
    """The arrays of one call, in the memory of tensors on one device, and its `workspace`."""

    def __init__(self, backend, workspace):
        self._backend = backend
        self.workspace = workspace

    def array(self, tensor):
        """An array of the backend that shares a tensor's memory; None stays None."""
        return None if tensor is None else self._backend.from_dlpack(tensor.detach())


class HostMemory:
    """A module's scratch memory on the CPU, kept from one call to the next: making it, and all that
    an op works out from its table, takes as long as a small op. A copy of a module has its own; so
    has a call while another thread's goes on."""

    def __init__(self):
        self._workspace = _HostWorkspace(get_backend("cpu"))
        self._lock = threading.Lock()

    def __reduce__(self):
        return HostMemory, ()

    @contextmanager
    def lent(self):
        """The workspace, for one call."""
        if not self._lock.acquire(blocking=False):
            yield _HostWorkspace(get_backend("cpu"))
            return
        try:
            yield self._workspace
        finally:
            self._lock.release()


class _HostWorkspace(Workspace):
    may_hold_arrays = False  # those of tensors, which come in new arrays each time


class _TorchMemory:
    """What the workspace's buffers are made of. It does not know the workspace, so that these are
    given back at once and not when Python next looks for cycles."""

    def __init__(self, backend, device):
        self._backend = backend
        self._device = device

    def empty(self, shape, dtype):
        return self._backend.from_dlpack(torch.empty(
            shape, dtype=getattr(torch, np.dtype(dtype).name), device=self._device))


@contextmanager
def sharing(device, where, memory):
    """A `Sharing` for tensors on a `torch.device`; on a GPU the ops run on torch's current stream.

    On the CPU its workspace is that of `memory`, a `HostMemory`; on a GPU it is scratch memory from
    torch's allocator, which takes it back after the call and, in a captured CUDA graph, keeps it
    for the graph. Raises `DeviceError` if the device is neither the CPU nor a CUDA device, or CuPy
    cannot use that.
    """
    backend, context = place_of(device, where)
    with context:
        if backend.device == "cpu":
            with memory.lent() as workspace:
                yield Sharing(backend, workspace)
        else:
            yield Sharing(backend, Workspace(_TorchMemory(backend, device)))


def place_of(device, where):
    """(the backend of a `torch.device`, a context in which it works where torch does)."""
    if device.type == "cpu":
        return get_backend("cpu"), nullcontext()
    if device.type == "cuda":
        cupy, backend = _cuda(device.index)
        return backend, _on_torchs_stream(cupy, device.index)
    raise DeviceError(f"{where}: expected a tensor on the CPU or a CUDA device, got one on "
                      f"{device}")


@cache
def _cuda(index):
    backend = get_backend(f"cuda:{index}")  # says what is missing, if anything is
    return import_cupy()[0], backend


@contextmanager
def _on_torchs_stream(cupy, index):
    """Make a device and torch's current stream on it those of torch and of CuPy: torch shares a
    tensor with DLPack on its current device alone."""
    with torch.cuda.device(index), cupy.cuda.Device(index):
        stream = torch.cuda.current_stream(index).cuda_stream
        with cupy.cuda.ExternalStream(stream, index):
            yield


def in_full_precision(tensor):
    """`tensor`, in float32 if it has half of that precision and autocast is on."""
    halves = (torch.float16, torch.bfloat16)
    if (isinstance(tensor, torch.Tensor) and tensor.dtype in halves
            and torch.is_autocast_enabled(tensor.device.type)):
        return tensor.float()
    return tensor


def check_tensors(where, **tensors):
    """Check that `tensors` (None among them is passed over) are numbers of one type on one device;
    raises `DTypeError` or `DeviceError`."""
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    for name, tensor in given.items():
        if not isinstance(tensor, torch.Tensor):
            raise DTypeError(f"{where}: expected {name} to be a tensor, got "
                             f"{type(tensor).__name__}")
    first, x = next(iter(given.items()))
    for name, tensor in given.items():
        if tensor.dtype not in TYPES or tensor.layout != torch.strided:
            raise DTypeError(f"{where}: expected {name} to be a dense tensor of torch.float32 or "
                             f"torch.float64, got {tensor.dtype} ({tensor.layout})")
        if tensor.dtype != x.dtype:
            raise DTypeError(f"{where}: expected {name} of {x.dtype} like {first}, got "
                             f"{tensor.dtype}")
        if tensor.device != x.device:
            raise DeviceError(f"{where}: expected {name} on {x.device} like {first}, got it on "
                              f"{tensor.device}")
