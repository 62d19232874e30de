"""Specialise, compile and launch the kernels of `cuda_kernels/`.

A kernel file is compiled once for each *specialisation*: an element type, an activation and a few
sizes that are constants to the compiler. They reach it as a generated header, which the file
includes as `constants.h`:

    using real = float;
    using Squash = ScaledTanh;
    constexpr int THREADS = 128;
    constexpr int KERNEL_HEIGHT = 5;

All headers are pasted into one source text, because CuPy's kernel cache does not look into
included files; `#line` keeps the files' own names in every compiler's messages.

Every launch passes `Kernels.launch`. It reads the kernel's parameters from the source itself and
checks each argument against them: CuPy would pass a Python float as a double and ignore strides.
"""

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from gpucnn.errors import KernelError

_INCLUDE = re.compile(r'^#include "([\w.]+)".*$', re.MULTILINE)
_KERNEL = re.compile(
    r'extern "C" __global__ void\s+((?:(?:CLUSTER_OF|__launch_bounds__)\([^()]*\)\s+)*)'
    r'(\w+)\(([^()]*)\)')
_CLUSTER = re.compile(r"CLUSTER_OF\(\s*(\w+)\s*\)")
LARGEST_CLUSTER = 8  # blocks, on every device that has clusters
_SCALAR_TYPES = {"int": np.int32, "long long": np.int64, "unsigned char": np.uint8,
                 "float": np.float32, "double": np.float64}
_REAL_TYPES = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}


@dataclass(frozen=True)
class Specialisation:
    """One compiled form of a kernel file: `file` such as "conv2d.cu", element type `dtype`, an
    activation's name (or None where the file uses none), and named int constants."""

    file: str
    dtype: np.dtype
    activation: str | None = None
    constants: tuple[tuple[str, int], ...] = ()

    def header(self):
        """The generated `constants.h`."""
        lines = [f"using real = {_REAL_TYPES[self.dtype]};"]
        if self.activation is not None:
            struct = "".join(word.capitalize() for word in self.activation.split("_"))
            lines.append(f"using Squash = {struct};")
        lines += [f"constexpr int {name} = {value};" for name, value in self.constants]
        return "\n".join(lines) + "\n"

    def source(self):
        """The whole source text, every header pasted in at its first `#include`."""
        return pasted_source(self.file, {"constants.h": self.header()})

    def __str__(self):
        words = [self.dtype.name, *filter(None, [self.activation])]
        words += [f"{name}={value}" for name, value in self.constants]
        return f"{self.file} ({', '.join(words)})"


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel, as declared in its source."""

    name: str
    dtype: np.dtype
    is_array: bool


@cache
def kernel_directory():
    """The folder of the `.cu` files: inside an installed package, beside an editable one."""
    package = Path(__file__).parents[2]
    for folder in (package / "cuda_kernels", package.parent / "cuda_kernels"):
        if (folder / "conv2d.cu").is_file():
            return folder
    raise KernelError(f"expected the CUDA kernels in {package / 'cuda_kernels'} or beside "
                      f"{package}; the installation is incomplete")


@cache
def _text(file):
    return (kernel_directory() / file).read_text(encoding="utf-8")


def pasted_source(file, headers):
    """The text of `file`, every header pasted in at its first `#include`. `headers` are generated
    texts by name, such as {"constants.h": "using real = float;\\n"}; what is not among them is
    a file of `cuda_kernels/`. `#line` keeps the names and numbers of all."""
    return _pasted(file, headers, set())


def _pasted(file, headers, seen):
    def paste(match):
        name = match.group(1)
        if name in seen:
            return ""
        seen.add(name)
        line = text.count("\n", 0, match.start()) + 2
        return f'{_pasted(name, headers, seen)}\n#line {line} "{label}"'

    generated = file in headers
    text, label = (headers[file], file) if generated else (_text(file), f"cuda_kernels/{file}")
    return f'#line 1 "{label}"\n' + _INCLUDE.sub(paste, text)


def kernel_parameters(source, dtype):
    """The parameters of every `extern "C"` kernel in `source`: name -> tuple of `Parameter`.

    `dtype` is what `real` stands for.
    """
    types = _SCALAR_TYPES | {"real": dtype}
    return {name: tuple(_parameter(text, types) for text in parameters.split(","))
            for _, name, parameters in _KERNEL.findall(source)}


def _parameter(text, types):
    words = text.replace("__restrict__", " ").replace("*", " * ").split()
    kind = " ".join(word for word in words[:-1] if word not in ("const", "*"))
    if kind not in types:
        raise KernelError(f"kernel parameter {' '.join(words)!r}: expected one of the types "
                          f"{', '.join(types)}")
    return Parameter(words[-1], np.dtype(types[kind]), "*" in words)


def cluster_sizes(source):
    """How many blocks a cluster of each kernel in `source` has: name -> number, 1 where the kernel
    has no CLUSTER_OF (cuda_kernels/cluster.cuh)."""
    return {name: _cluster_size(name, attributes, source)
            for attributes, name, _ in _KERNEL.findall(source)}


def _cluster_size(kernel, attributes, source):
    if "CLUSTER_OF" not in attributes:
        return 1
    match = _CLUSTER.search(attributes)
    number = match and match.group(1)
    if number and not number.isdecimal():
        constant = re.search(rf"\bconstexpr int {number} = (\d+);", source)
        number = constant and constant.group(1)
    if not number:
        raise KernelError(f"kernel {kernel}: expected CLUSTER_OF a number or of the name of a "
                          f"`constexpr int` of the source, got {attributes.strip()}")
    if not 1 <= int(number) <= LARGEST_CLUSTER:
        raise KernelError(f"kernel {kernel}: expected a cluster of 1 to {LARGEST_CLUSTER} blocks, "
                          f"got {number}")
    return int(number)


def check_clusters(kernel, blocks, size, profile):
    """Raise KernelError where a device cannot launch `blocks` blocks in clusters of `size`."""
    if size == 1:
        return
    if profile.compute_capability < (9, 0):
        raise KernelError(f"kernel {kernel}: clusters of {size} blocks need compute capability "
                          f"9.0, {profile.name} has "
                          "{}.{}".format(*profile.compute_capability))
    if blocks % size:
        raise KernelError(f"kernel {kernel}: expected a multiple of {size} blocks, those of its "
                          f"clusters, got {blocks}")
    if profile.max_blocks < size:
        raise KernelError(f"kernel {kernel}: clusters of {size} blocks are more than the largest "
                          f"grid, {profile.max_blocks}")


class Kernels:
    """The compiled kernels of one runtime, made when they are first launched, or prepared.

    A specialisation is a `Specialisation` or anything else that can be hashed and has `source()`,
    the `dtype` that `real` stands for, and a name as `str`.
    """

    def __init__(self, runtime):
        self._runtime = runtime
        self._compiled = {}

    def launch(self, specialisation, name, blocks, threads, *arguments, shared_bytes=0):
        """Launch kernel `name` with `blocks` blocks (cut to whole clusters within the device's
        largest grid; kernels loop over the rest) of `threads` threads, and `shared_bytes` of
        `extern __shared__` memory for each block. Nothing is launched for 0 blocks."""
        if blocks == 0:
            return
        launcher, parameters, cluster = self._kernel(specialisation, name)
        if len(arguments) != len(parameters):
            raise KernelError(f"kernel {name}: expected {len(parameters)} arguments "
                              f"({', '.join(p.name for p in parameters)}), got {len(arguments)}")
        checked = tuple(self._checked(value, parameter, name)
                        for value, parameter in zip(arguments, parameters, strict=True))
        dynamic = {"shared_bytes": shared_bytes} if shared_bytes else {}
        profile = self._runtime.profile
        check_clusters(name, blocks, cluster, profile)
        largest = profile.max_blocks // cluster * cluster
        launcher(min(blocks, largest), threads, checked, **dynamic)

    def prepare(self, specialisation):
        """Compile a specialisation and load its kernels, so that launches do neither."""
        if specialisation not in self._compiled:
            source = specialisation.source()
            function = self._runtime.compile(source, str(specialisation))
            parameters = kernel_parameters(source, specialisation.dtype)
            clusters = cluster_sizes(source)
            self._compiled[specialisation] = {
                kernel: (function(kernel), parameters[kernel], clusters[kernel])
                for kernel in parameters}

    def prepare_all(self, specialisations):
        """`prepare` several at once, in threads: the compiler releases Python's lock."""
        missing = [each for each in dict.fromkeys(specialisations) if each not in self._compiled]
        if missing:
            with ThreadPoolExecutor() as pool:
                list(pool.map(self.prepare, missing))

    def resources(self, specialisation, name):
        """The `KernelResources` of kernel `name`, or None where the runtime does not know them."""
        return getattr(self._kernel(specialisation, name)[0], "resources", None)

    def _kernel(self, specialisation, name):
        kernels = self._compiled.get(specialisation)
        if kernels is None:
            self.prepare(specialisation)
            kernels = self._compiled[specialisation]
        if name not in kernels:
            raise KernelError(f"{specialisation}: expected one of the kernels "
                              f"{', '.join(kernels)}, got {name!r}")
        return kernels[name]

    def _checked(self, value, parameter, kernel):
        where = f"kernel {kernel}, argument {parameter.name!r}"
        if not parameter.is_array:
            return _scalar(value, parameter.dtype, where)
        if value is None:
            return None
        if not self._runtime.owns(value):
            raise KernelError(f"{where}: expected an array on {self._runtime.device}, "
                              f"got {type(value).__name__}")
        if value.dtype != parameter.dtype:
            raise KernelError(f"{where}: expected {parameter.dtype}, got {value.dtype}")
        if not value.flags.c_contiguous:
            raise KernelError(f"{where}: expected a C-contiguous array, got one of shape "
                              f"{value.shape} with strides {value.strides}")
        return value


_limits = cache(np.iinfo)  # made once for each type: launches come by the thousand a second


def _scalar(value, dtype, where):
    if dtype.kind in "iu":
        limits = _limits(dtype)
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
            raise KernelError(f"{where}: expected an int, got {value!r}")
        if not limits.min <= value <= limits.max:
            raise KernelError(f"{where}: expected a value that fits {dtype}, got {value}")
    elif not isinstance(value, (int, float, np.number)):
        raise KernelError(f"{where}: expected a number, got {value!r}")
    return dtype.type(value)
