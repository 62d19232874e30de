"""Every kernel compiles for the GPUs of five generations, without spilling registers.

The specialisations are those that the op tests launch, and those of plans of the library's models
and of a net with ReLU and max pooling. NVRTC compiles them without a GPU.
"""

import hashlib
import importlib.metadata
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cache

import numpy as np
import pytest

from benchmarks.models import relu_net
from gpucnn import SGD, ConnectionTable, lenet5, two_stage
from gpucnn.backends.cuda import CudaBackend
from gpucnn.backends.cuda.kernels import Specialisation, kernel_directory, kernel_parameters
from tests import nvrtc
from tests.cases import Conv2dCase, DenseCase, MaxPool2dCase, Subsample2dCase
from tests.cuda_on_cpu.build import ROOT
from tests.cuda_on_cpu.profiles import PROFILES
from tests.cuda_on_cpu.runtime import PROFILE
from tests.plan_cases import SMALL_PLANS
from tests.representative import (
    CONV2D,
    DENSE,
    MAX_POOL2D,
    SMALL_CASES,
    SMALL_OPS,
    SUBSAMPLE2D,
    RecordingRuntime,
    recorded_sources,
)

pytestmark = pytest.mark.thorough  # compiles for minutes where nothing is remembered

ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_100", "sm_120")
CACHE = ROOT / "build" / "nvrtc"
STATIC_SHARED_BYTES = 48 * 1024
SYSTEM_SHARED_BYTES = 1024  # what some architectures take for themselves in every block


# Plans as each GPU would have them: one each, as large networks take long to compile.
PLANS = {"sm_75": (lenet5, 64), "sm_80": (relu_net, 64), "sm_90": (lenet5, 16384),
         "sm_100": (two_stage, 64), "sm_120": (two_stage, 16384)}


def planned_sources(architecture):
    """Name -> source text of the kernels that a plan launches on a GPU of an architecture."""
    runtime = RecordingRuntime(PROFILES[architecture])
    build, batch_size = PLANS[architecture]
    network = build(device=CudaBackend(runtime))
    network.compile_step(loss="cross_entropy", optimizer=SGD(lr=0.1, momentum=0.9),
                         batch_size=batch_size)
    return runtime.sources


def launch_op_cases(backend):
    """Small cases, and every specialisation of which the generated cases are. TF32 and large plans
    are for some architectures only."""
    backend.runtime.profile = SMALL_PLANS["plan, several groups"].profile
    SMALL_PLANS["plan, several groups"].run_blind(backend)
    backend.runtime.profile = PROFILE
    for name in (*SMALL_OPS, "update", "update, shares", "online", "wait"):
        SMALL_CASES[name].run_blind(backend)
    table = ConnectionTable.full(2, 3)
    for kernel, stride, activation, dtype in CONV2D:
        size = tuple(5 * step + length for step, length in zip(stride, kernel, strict=True))
        Conv2dCase(table, 3, size, kernel, stride, (1, 1), activation, dtype).run_blind(backend)
    for pool_size, stride, activation, dtype in SUBSAMPLE2D:
        Subsample2dCase((2, 2, 9, 9), pool_size, stride, activation, dtype).run_blind(backend)
    for pool_size, stride, dtype in MAX_POOL2D:
        MaxPool2dCase((2, 2, 9, 9), pool_size, stride, dtype).run_blind(backend)
    for activation, dtype in DENSE:
        DenseCase(40, 20, 20, None, activation, dtype).run_blind(backend)


def compiled_once(source, name, architecture):
    """`nvrtc.compile_for`, remembered in a file for each text, architecture and compiler."""
    hashed = hashlib.sha256("\0".join((source, architecture, compiler())).encode()).hexdigest()
    path = CACHE / f"{hashed[:32]}.json"
    if not path.exists():
        kernels = nvrtc.compile_for(source, name, architecture)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        unfinished.write_text(json.dumps({kernel: asdict(taken)
                                          for kernel, taken in kernels.items()}))
        unfinished.replace(path)
    return {kernel: nvrtc.Resources(**taken)
            for kernel, taken in json.loads(path.read_text()).items()}


@cache
def compiler():
    """The versions of all NVRTC packages that are installed."""
    return " ".join(sorted(f"{package.name} {package.version}"
                           for package in importlib.metadata.distributions()
                           if package.name.startswith("nvidia-cuda-nvrtc")))


@pytest.fixture(scope="module")
def resources():
    """(specialisation, kernel, architecture) -> what it takes. NVRTC releases Python's lock."""
    CACHE.mkdir(parents=True, exist_ok=True)
    of_ops = recorded_sources(launch_op_cases)
    jobs = [(name, source, architecture) for architecture in ARCHITECTURES  # the longest first
            for name, source in (planned_sources(architecture) | of_ops).items()]
    with ThreadPoolExecutor() as pool:
        compiled = pool.map(lambda job: compiled_once(job[1], job[0], job[2]), jobs)
        return {(name, kernel, architecture): taken
                for (name, _, architecture), kernels in zip(jobs, compiled, strict=True)
                for kernel, taken in kernels.items()}


def test_every_kernel_of_every_file_is_compiled(resources):
    in_files = {name for file in kernel_directory().glob("*.cu")
                for name in kernel_parameters(file.read_text(encoding="utf-8"), np.float32)}
    for architecture in ARCHITECTURES:
        assert {kernel for _, kernel, other in resources if other == architecture} == in_files


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_kernel_spills_registers(dtype, resources):
    spilling = {key: taken.spill_bytes for key, taken in resources.items()
                if dtype in key[0] and taken.spill_bytes}
    assert not spilling


def test_no_kernel_takes_more_than_48_kilobytes_of_static_shared_memory(resources):
    too_large = {key: taken.shared_bytes for key, taken in resources.items()
                 if taken.shared_bytes > STATIC_SHARED_BYTES + SYSTEM_SHARED_BYTES}
    assert not too_large


@pytest.mark.parametrize(("file", "kernel", "more"), [
    ("conv2d.cu", "conv2d_forward", {"MAPS": 2, "WARPS": 8, "PRODUCERS": 0, "SKEWED": 1}),
    ("conv2d.cu", "conv2d_forward", {"MAPS": 1, "WARPS": 16, "PRODUCERS": 4, "SKEWED": 1}),
    ("conv2d_grad_input.cu", "conv2d_grad_input", {
        "MAPS": 2, "WARPS": 8, "PRODUCERS": 0, "SKEWED": 1}),
    ("conv2d_grad_weight.cu", "conv2d_grad_weight", {
        "TAP_ROWS": 3, "TAP_COLUMNS": 3, "SHARED": 2, "LANES": 8, "THREADS": 256,
        "BLOCKS_AT_ONCE": 2, "DZ_ALIGNMENT": 4})])
def test_tiles_read_their_windows_by_vectors(file, kernel, more):
    """A compiler does not join loads of single floats; one by one they take twice the time."""
    sizes = {"KERNEL_HEIGHT": 3, "KERNEL_WIDTH": 3, "STRIDE_Y": 1, "STRIDE_X": 1, "TILE_ROWS": 4,
             "TILE_COLUMNS": 8}
    loads = {alignment: nvrtc.ptx_for(Specialisation(
        file, np.dtype(np.float32), "identity",
        tuple((sizes | more | {"WINDOW_ALIGNMENT": alignment}).items())).source(),
        kernel, "compute_90").count("ld.shared.v4.f32") for alignment in (1, 4)}
    assert loads[4] >= loads[1] + 12  # two for each of six rows
