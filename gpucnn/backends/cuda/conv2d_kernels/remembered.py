"""What `autotune` has measured: the fastest kernel of each problem, in a file of the user's cache.

The file is JSON, {"version": ..., "kernels": {device: {problem: name}}}. The version is a hash of
the kernels' source, so that other kernels are measured anew. A file that cannot be read is ignored
with a warning, one that cannot be written too; it is replaced in one step.
"""

import hashlib
import json
import os
import sys
import warnings
from functools import cache
from pathlib import Path

from gpucnn.backends.cuda.kernels import kernel_directory
from gpucnn.files import write_atomically

DIRECTORY_VARIABLE = "GPUCNN_CACHE_DIR"


def path():
    """The file. `GPUCNN_CACHE_DIR` names its directory, else it is the platform's for caches."""
    given = os.environ.get(DIRECTORY_VARIABLE)
    if given:
        directory = Path(given)
    elif sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")
        directory = Path(local) / "gpucnn"
    elif sys.platform == "darwin":
        directory = Path.home() / "Library" / "Caches" / "gpucnn"
    else:
        directory = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gpucnn"
    return directory / "conv2d_kernels.json"


def recall(device, problem, names):
    """The name of the kernel that was fastest among `names` for a problem on `device`, or None."""
    name = _read().get(device, {}).get(_key(problem, names))
    return name if name in names else None


def remember(device, problem, names, name):
    """Keep the fastest kernel of a problem among `names`."""
    kernels = _read()
    kernels.setdefault(device, {})[_key(problem, names)] = name
    file = path()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {"version": version(), "kernels": kernels}
        write_atomically(file, json.dumps(content, indent=1).encode())
    except OSError as error:
        warnings.warn(f"cannot remember the fastest kernels in {file}: {error}", stacklevel=2)


@cache
def version():
    """A hash of everything that convolutions are compiled from."""
    hashed = hashlib.sha256()
    for file in sorted(kernel_directory().glob("*.cu*")):
        hashed.update(file.name.encode() + b"\0" + file.read_bytes())
    return hashed.hexdigest()[:16]


def _read():
    """The kernels by device and problem, as far as they are of this version."""
    file = path()
    try:
        content = json.loads(file.read_bytes())
        kernels = content["kernels"] if content["version"] == version() else {}
        if not all(isinstance(name, str) for names in kernels.values() for name in names.values()):
            raise ValueError("names of kernels are to be strings")
        return kernels
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        warnings.warn(f"the fastest kernels remembered in {file} are ignored: {error!r}",
                      stacklevel=2)
        return {}


def _key(problem, names):
    table = hashlib.sha256(problem.table.pairs.tobytes()).hexdigest()[:16]
    kernels = hashlib.sha256("\0".join(sorted(names)).encode()).hexdigest()[:8]
    return " ".join(map(str, (
        problem.op, problem.samples, *problem.size, "kernel", *problem.kernel_size, "stride",
        *problem.stride, "padding", *problem.padding, "maps", problem.table.in_maps,
        problem.table.out_maps, table, problem.dtype, problem.activation, problem.precision,
        kernels)))
