"""Whether CuPy, a GPU and a compiler for it are there, by asking and not by trying."""

import importlib
import warnings
from dataclasses import dataclass

NO_DEVICE = 100  # cudaErrorNoDevice


@dataclass(frozen=True)
class Problem:
    """Why CUDA cannot be used; `expected` is False for a CuPy that is there but broken."""

    reason: str
    expected: bool


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


def software(cupy):
    """The versions of driver and NVRTC; warns if the driver may not load what NVRTC compiles."""
    driver = cupy.cuda.runtime.driverGetVersion()
    major, minor = cupy.cuda.nvrtc.getVersion()
    text = f"driver for CUDA {driver // 1000}.{driver % 1000 // 10}, NVRTC {major}.{minor}"
    if major > driver // 1000:
        warnings.warn(f"CuPy compiles with an NVRTC newer than the driver ({text}): kernels may "
                      f"not load; install NVRTC of CUDA {driver // 1000} or a newer driver",
                      RuntimeWarning, stacklevel=2)
    return text
