"""The machine that a benchmark runs on."""

import os
import platform
from pathlib import Path

import numpy as np

from gpucnn.backends.cpu.cores import cores


def machine():
    """Name -> value of what a reader needs to judge a measurement by."""
    return {"CPU": cpu_model(), "cores": cores(), "load": _load(),
            "system": f"{platform.system()} {platform.machine()}",
            "Python": platform.python_version()}


def cpu_model():
    """The processor's name, with family and model where Linux tells them, since a virtual machine's
    name for it says little."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    found = {}
    for line in lines:
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    name = found.get("model name") or platform.machine()
    if "cpu family" in found and "model" in found:
        name += f" (family {found['cpu family']}, model {found['model']})"
    return name


def blas_version():
    """Name, version and threads of NumPy's BLAS; threads only with threadpoolctl."""
    blas = np.show_config(mode="dicts").get("Build Dependencies", {}).get("blas", {})
    text = f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return text
    threads = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    return f"{text}, {max(threads)} threads" if threads else text


def _load():
    """How many programs ran in the last minute, on average, or None where that is not told."""
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
