"""Compile kernels for the host with g++, once for each text, in `build/cuda_on_cpu/`.

A library's file name is a hash of everything that goes into it, so that a stale one is never
used; it is written under another name and renamed, so that tests may run in several processes.
"""

import hashlib
import os
import re
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from gpucnn.errors import KernelError

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "cuda_on_cpu"
_HERE = Path(__file__).resolve().parent
_HEADERS = ("launch.h", "vectors.h", "mathematics.h", "cuda_on_cpu.h", "scheduler.h")
_SCHEDULER = ("fibres.cpp", "scheduler.cpp", "shared_memory.cpp", "meetings.cpp", "mbarriers.cpp",
              "products.cpp", "races.cpp")
_COMMON = ("-std=c++17", "-fPIC", "-shared", "-fno-gnu-unique", "-fvisibility=hidden",
           "-fno-exceptions", "-fno-rtti", "-Wall", "-Wextra", "-Wno-unknown-pragmas",
           "-Wno-sign-compare", "-Wno-unused-parameter", "-I", str(_HERE))

# For each variant: flags of a kernel library, and of the scheduler library that it needs. Of the
# thread sanitizer only the calls that g++ inserts are used; races.cpp answers them.
_VARIANTS = {
    None: (("-Og", "-Werror", "-Wno-error=maybe-uninitialized", "-Wno-error=array-bounds"), ()),
    "address": (("-O0", "-gdwarf-4", "-w", "-fsanitize=address,undefined,float-cast-overflow",
                 "-fno-sanitize-recover=all", "-fno-omit-frame-pointer",
                 "-DCUDA_ON_CPU_ADDRESS"),
                ("-DCUDA_ON_CPU_ADDRESS",)),
    "thread": (("-O1", "-gdwarf-4", "-w", "-fsanitize=thread",
                "--param=tsan-instrument-func-entry-exit=0", "-nodefaultlibs",
                "-DCUDA_ON_CPU_THREAD"),
               ("-DCUDA_ON_CPU_THREAD",)),
}


def kernel_library(text, name, variant=None):
    """The path of a shared library with the translated kernels of `text`.

    `variant` is None, "address" or "thread". Raises KernelError with g++'s messages, which speak
    of `name`, if it does not compile.
    """
    flags = _VARIANTS[variant][0]
    scheduler = scheduler_library(variant)

    def compile_to(path):
        libraries = (str(scheduler), "-Wl,-rpath,$ORIGIN", "-lm", "-lc", "-lgcc")
        _compile((*flags, "-x", "c++", "-", "-x", "none", *libraries), path, name, text)

    return _cached("kernels", variant, (text, scheduler.name, *_COMMON, *flags), compile_to)


def scheduler_library(variant=None):
    """The path of the shared library that runs the threads of one variant's kernels."""
    return _scheduler_library(variant, _stamp())


@cache
def _scheduler_library(variant, _):
    flags = ("-O2", "-Werror", *_VARIANTS[variant][1])
    sources = [str(_HERE / file) for file in _SCHEDULER]
    texts = [(_HERE / file).read_text() for file in (*_HEADERS, *_SCHEDULER)]

    def compile_to(path):
        final = path.with_name(path.name.partition(".")[0] + ".so")
        _compile((*flags, *sources, f"-Wl,-soname,{final.name}", "-ldl"), path, "the scheduler")

    return _cached("scheduler", variant, (*_COMMON, *flags, *texts), compile_to)


def _stamp():
    """Changes whenever one of the scheduler's files does."""
    return tuple((_HERE / file).stat().st_mtime_ns for file in (*_HEADERS, *_SCHEDULER))


def _cached(kind, variant, ingredients, compile_to):
    hashed = hashlib.sha256()
    for ingredient in (*ingredients, _compiler_version()):
        hashed.update(ingredient.encode() + b"\0")
    path = BUILD / f"{kind}-{variant or 'plain'}-{hashed.hexdigest()[:32]}.so"
    if not path.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(prefix=f"{path.stem}.", suffix=".part", dir=BUILD)
        os.close(handle)
        try:
            compile_to(Path(unfinished))
            os.replace(unfinished, path)
        finally:
            Path(unfinished).unlink(missing_ok=True)
    return path


@cache
def _compiler_version():
    return _run(("--version",), "g++").stdout.partition("\n")[0]


def _compile(flags, path, name, text=None):
    result = _run((*_COMMON, *flags, "-o", str(path)), name, text)
    if result.returncode:
        message = re.sub(r"^cc1plus: .*\n", "", result.stdout, flags=re.MULTILINE)
        raise KernelError(f"{name} does not compile for the host:\n{message}")


def _run(arguments, name, text=None):
    # the sanitizer that is preloaded for the tests is not for the compiler
    environment = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
    environment["LC_ALL"] = "C"
    try:
        return subprocess.run(("g++", *arguments), input=text, text=True, cwd=ROOT,
                              env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              check=False)
    except FileNotFoundError:
        raise KernelError(f"{name}: g++ is not installed; the kernels' tests compile with it on "
                          f"the host") from None
