"""Compile kernels for real GPUs with NVRTC, which needs neither a GPU nor a driver.

    resources = compile_for(source, "conv2d.cu", "sm_80")["conv2d_forward"]
    assert resources.spill_bytes == 0

NVRTC comes from the package `nvidia-cuda-nvrtc`.
"""

import ctypes
import importlib.util
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gpucnn.errors import KernelError, MissingDependencyError

_KERNEL = re.compile(r"Compiling entry function '(\w+)' for")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers(.*)")


@dataclass(frozen=True)
class Resources:
    """What one thread (registers, spills, stack) or block (shared memory, barriers) takes."""

    registers: int
    spill_bytes: int
    shared_bytes: int
    stack_bytes: int
    barriers: int


def compile_for(source, name, architecture, options=()):
    """Compile CUDA C++ `source` for `architecture`, such as "sm_90", with more `options` of NVRTC
    if wanted.

    Returns a dictionary from each kernel's name to its `Resources`; shared memory is what the
    kernel declares, without the dynamic memory that a launch adds. Raises KernelError with the
    compiler's log, which names file and line, if it does not compile.
    """
    return _resources(_compiled(source, name, architecture, ("-Xptxas=-v", *options), _log))


def ptx_for(source, name, architecture):
    """The PTX of CUDA C++ `source` for a virtual architecture, such as "compute_90"."""
    return _compiled(source, name, architecture, (), _ptx)


def _compiled(source, name, architecture, more, answer):
    """`answer(nvrtc, program, name)` of the compiled program."""
    options = ("--std=c++17", f"--gpu-architecture={architecture}", *more)
    nvrtc = _nvrtc()
    program = ctypes.c_void_p()
    _check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), name.encode(), 0, None,
                                    None), name)
    try:
        encoded = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        failed = nvrtc.nvrtcCompileProgram(program, len(options), encoded)
        if failed:
            raise KernelError(f"{name} does not compile for {architecture}:\n"
                              f"{_log(nvrtc, program, name)}")
        return answer(nvrtc, program, name)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def architectures():
    """The names of all architectures that this NVRTC compiles for."""
    nvrtc = _nvrtc()
    count = ctypes.c_int()
    _check(nvrtc.nvrtcGetNumSupportedArchs(ctypes.byref(count)), "NVRTC")
    numbers = (ctypes.c_int * count.value)()
    _check(nvrtc.nvrtcGetSupportedArchs(numbers), "NVRTC")
    return tuple(f"sm_{number}" for number in numbers)


@cache
def _nvrtc():
    """The NVRTC library of the package, loaded with the built-in functions that it needs."""
    package = importlib.util.find_spec("nvidia")
    folders = [Path(folder) for folder in (package.submodule_search_locations if package else ())]
    # cu13/lib, or cuda_nvrtc/lib in packages for CUDA 12
    found = sorted(file for folder in folders for file in folder.glob("*/lib/libnvrtc.so.*"))
    if not found:
        raise MissingDependencyError("NVRTC is not installed: pip install nvidia-cuda-nvrtc")
    newest = found[-1]
    for builtins in newest.parent.glob("libnvrtc-builtins.so.*"):
        ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(newest))


def _check(status, name):
    if status:
        raise KernelError(f"{name}: NVRTC answers with error {status}")


def _log(nvrtc, program, name):
    return _text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program, name)


def _ptx(nvrtc, program, name):
    return _text(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX, program, name)


def _text(size_of, write, program, name):
    size = ctypes.c_size_t()
    _check(size_of(program, ctypes.byref(size)), name)
    text = ctypes.create_string_buffer(size.value)
    _check(write(program, text), name)
    return text.value.decode()


def _resources(log):
    found = {}
    for part in re.split(r"(?=Compiling entry function)", log)[1:]:
        kernel, used = _KERNEL.match(part).group(1), _USED.search(part)
        stack, stores, loads = map(int, _STACK.search(part).groups())
        found[kernel] = Resources(
            registers=int(used.group(1)), spill_bytes=stores + loads,
            shared_bytes=_number(r"(\d+) bytes smem", used.group(2)), stack_bytes=stack,
            barriers=_number(r"used (\d+) barriers", used.group(2)))
    return found


def _number(pattern, text):
    match = re.search(pattern, text)
    return int(match.group(1)) if match else 0
