"""Where a CUDA backend's arrays and launches come from.

`Runtime` is all that the CUDA backend asks of a machine. `CupyRuntime` gives it on a GPU. The
tests have one of their own, which runs the same `.cu` files on the host (tests/cuda_on_cpu/).
This module imports without CuPy; `problem()` says whether CuPy and a GPU are there.
"""

import importlib
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from gpucnn.errors import DeviceError, DTypeError, KernelError, ShapeError

NO_DEVICE = 100  # cudaErrorNoDevice


@dataclass(frozen=True)
class DeviceProfile:
    """What a kernel's launch code needs to know about its device.

    `shared_bytes` is the shared memory a block may have when it is declared statically;
    `max_blocks` is the largest grid that is launched: kernels loop over what is left. `software`
    names the versions of driver and compiler, for people.
    """

    name: str
    compute_capability: tuple[int, int]
    multiprocessors: int
    shared_bytes: int = 48 * 1024
    max_blocks: int = 2**20
    software: str = ""


class Runtime(ABC):
    """Arrays and launches of one device. Its arrays offer `shape`, `dtype`, `ndim`, `size`,
    `nbytes`, `flags.c_contiguous`, `reshape` and basic slicing, as CuPy's do, and nothing else
    is asked of them."""

    device: str
    profile: DeviceProfile

    @abstractmethod
    def owns(self, array):
        """Whether `array` is an array on this runtime's device."""

    @abstractmethod
    def empty(self, shape, dtype):
        """A C-contiguous array of unset values."""

    @abstractmethod
    def zero(self, array):
        """Set every element of a contiguous array to zero."""

    @abstractmethod
    def upload(self, host, out=None):
        """A host array's values on the device: in `out` if given, else in a new array."""

    @abstractmethod
    def download(self, array):
        """A NumPy copy of a device array; waits for the work that writes it."""

    @abstractmethod
    def copy(self, source, out):
        """Copy a device array of any strides to another of the same shape and type."""

    @abstractmethod
    def from_dlpack(self, external):
        """A device array that shares the memory of a DLPack object."""

    @abstractmethod
    def compile(self, source, name):
        """Compile CUDA C++ `source`; returns a function from a kernel's name to its launcher,
        which is called as `launcher(blocks, threads, arguments)`. An argument is a device array,
        a NumPy scalar of the parameter's own type, or None for a null pointer."""

    @abstractmethod
    def synchronize(self):
        """Wait until all work that was launched has ended."""


def import_cupy():
    """(cupy, None), or (None, what is wrong): CuPy is missing, broken, or finds no GPU."""
    try:
        cupy = importlib.import_module("cupy")
    except ModuleNotFoundError as error:
        if error.name == "cupy":
            return None, Problem("CuPy is not installed: pip install gpucnn[cuda12] "
                                 "(or gpucnn[cuda13] for CUDA 13)", expected=True)
        return None, Problem(f"CuPy is installed but does not import ({error})", expected=False)
    except Exception as error:  # a broken installation may raise anything while it is imported
        return None, Problem(f"CuPy is installed but does not import ({error})", expected=False)
    problem = _no_gpu(cupy) or _no_compiler(cupy)
    return (None, problem) if problem else (cupy, None)


def _no_gpu(cupy):
    """The `Problem` of a machine without a usable GPU, or None."""
    if cupy.cuda.is_available():
        return None
    if cupy.cuda.runtime.driverGetVersion() == 0:
        return Problem("CuPy is installed but finds no NVIDIA driver: check that `nvidia-smi` "
                       "lists a GPU", expected=True)
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return Problem(f"CuPy is installed but cannot use the NVIDIA driver ({error})",
                       expected=error.status == NO_DEVICE)
    return Problem("CuPy is installed but finds no NVIDIA GPU", expected=True)


def _no_compiler(cupy):
    """The `Problem` of a CuPy without NVRTC, which compiles the kernels, or None."""
    try:
        cupy.cuda.nvrtc.getVersion()
    except (ImportError, OSError, RuntimeError) as error:
        return Problem(f"CuPy is installed and finds a GPU but no compiler, NVRTC: pip install "
                       f"gpucnn[cuda12] or gpucnn[cuda13] ({error})", expected=False)
    return None


@dataclass(frozen=True)
class Problem:
    """Why CUDA cannot be used; `expected` is False for a CuPy that is there but broken."""

    reason: str
    expected: bool


def _software(cupy):
    """The versions of driver and NVRTC; warns if the driver may not load what NVRTC compiles."""
    driver = cupy.cuda.runtime.driverGetVersion()
    major, minor = cupy.cuda.nvrtc.getVersion()
    text = f"driver for CUDA {driver // 1000}.{driver % 1000 // 10}, NVRTC {major}.{minor}"
    if major > driver // 1000:
        warnings.warn(f"CuPy compiles with an NVRTC newer than the driver ({text}): kernels may "
                      f"not load; install NVRTC of CUDA {driver // 1000} or a newer driver",
                      RuntimeWarning, stacklevel=2)
    return text


class CupyRuntime(Runtime):
    """A GPU through CuPy: launches go to the current stream, kernels are compiled by NVRTC and
    kept in CuPy's cache on disk."""

    def __init__(self, cupy, index=0):
        count = cupy.cuda.runtime.getDeviceCount()
        if not 0 <= index < count:
            raise DeviceError(f"device 'cuda:{index}': expected an index below {count}, "
                              f"the number of GPUs here")
        self._cupy = cupy
        self._index = index
        self.device = f"cuda:{index}"
        properties = cupy.cuda.runtime.getDeviceProperties(index)
        self.profile = DeviceProfile(
            name=properties["name"].decode(),
            compute_capability=(properties["major"], properties["minor"]),
            multiprocessors=properties["multiProcessorCount"],
            software=_software(cupy),
        )

    def _here(self):
        return self._cupy.cuda.Device(self._index)

    def owns(self, array):
        return isinstance(array, self._cupy.ndarray) and array.device.id == self._index

    def empty(self, shape, dtype):
        with self._here():
            return self._cupy.empty(shape, dtype)

    def zero(self, array):
        with self._here():
            array.data.memset_async(0, array.nbytes)

    def upload(self, host, out=None):
        host = np.asarray(host, order="C")  # ascontiguousarray gives a scalar an axis
        with self._here():
            if out is None:
                out = self._cupy.empty(host.shape, host.dtype)
            out.set(host)
        return out

    def download(self, array):
        with self._here():
            return array.get()

    def copy(self, source, out):
        if source.shape != out.shape:  # CuPy would broadcast
            raise ShapeError(f"copy: expected `out` of shape {source.shape}, got {out.shape}")
        if source.dtype != out.dtype:  # CuPy would cast
            raise DTypeError(f"copy: expected `out` of type {source.dtype}, got {out.dtype}")
        with self._here():
            self._cupy.copyto(out, source)

    def from_dlpack(self, external):
        with self._here():
            return self._cupy.from_dlpack(external)

    def compile(self, source, name):
        cupy = self._cupy
        with self._here():
            module = cupy.RawModule(code=source, backend="nvrtc", options=("--std=c++17",))
            try:
                module.compile()
            except cupy.cuda.compiler.CompileException as error:
                raise KernelError(f"{name} does not compile for {self.device}: {error}") from error

        def function(kernel_name):
            with self._here():
                kernel = module.get_function(kernel_name)

            def launch(blocks, threads, arguments):
                pointers = tuple(np.uintp(0) if a is None else a for a in arguments)
                with self._here():
                    kernel((blocks,), (threads,), pointers)

            return launch

        return function

    def synchronize(self):
        with self._here():
            self._cupy.cuda.get_current_stream().synchronize()
