"""Run Python with the kernels' sanitizer on: a script, or a whole file of tests.

    result = run_sanitized("address", ["-m", "pytest", "tests/backends/test_conv2d.py"])
    assert result.returncode == 0, result.stdout

In that process `HostRuntime()` builds its kernels with the sanitizer. The address sanitizer ends
the process at the first fault, with a report that names the kernel's line. Python itself is not
checked.
"""

import os
import subprocess
import sys

from gpucnn.errors import DeviceError

from .build import ROOT
from .runtime import SANITIZER_VARIABLE


def run_sanitized(kind, arguments, **options):
    """Run `python *arguments` with sanitizer `kind`, "address" or "thread".

    Returns the completed process; its `stdout` holds the error output too. `options` are those
    of `subprocess.run`.
    """
    environment = os.environ | {SANITIZER_VARIABLE: kind, "PYTHONPATH": str(ROOT)}
    if kind == "address":
        environment["LD_PRELOAD"] = _runtime_library("libasan.so")
        # what pytest has captured is lost when a fault ends its process
        environment["PYTEST_ADDOPTS"] = f"{os.environ.get('PYTEST_ADDOPTS', '')} --capture=no"
        # Python never frees some of its memory
        environment["ASAN_OPTIONS"] = "detect_leaks=0:detect_stack_use_after_return=0"
        environment["UBSAN_OPTIONS"] = "print_stacktrace=1"
    return subprocess.run((sys.executable, *arguments), cwd=ROOT, env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **options)


def _runtime_library(name):
    try:
        path = subprocess.run(("g++", f"-print-file-name={name}"), text=True,
                              capture_output=True, check=True).stdout.strip()
    except FileNotFoundError:
        raise DeviceError("g++ is not installed; the kernels' tests need it") from None
    if not os.path.isabs(path):
        raise DeviceError(f"g++ has no {name}: install its sanitizer libraries")
    return path
