"""The kernels of conv2d, each forced by name, against plain loops and under sanitizers; on real
GPUs they compile without spills."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from gpucnn import ConnectionTable
from gpucnn.backends.base import Workspace
from gpucnn.backends.cuda import CudaBackend
from gpucnn.backends.cuda.conv2d_kernels import ring, tiles, weight
from gpucnn.backends.cuda.conv2d_kernels.choice import conv2d_kernels
from gpucnn.backends.cuda.conv2d_kernels.problem import (
    FORWARD,
    GRAD_INPUT,
    GRAD_WEIGHT,
    Problem,
)
from gpucnn.backends.cuda.conv2d_kernels.speed import Speed
from tests import oracle
from tests.cases import DOUBLE, FLOAT, Conv2dCase
from tests.conv2d_cases import (
    FAMILIES,
    KERNEL_CASES,
    RANDOM,
    RING,
    UNEVEN,
    problem_of,
    with_kernel,
)
from tests.cuda_on_cpu.profiles import PROFILES
from tests.cuda_on_cpu.runtime import PROFILE, HostRuntime
from tests.cuda_on_cpu.sanitized import run_sanitized
from tests.test_kernels_compile import CACHE, compiled_once

OPS = (FORWARD, GRAD_INPUT, GRAD_WEIGHT)
FULL = ConnectionTable.full
# so little shared memory that maps are staged some at a time, and cut into several regions
NARROW = replace(PROFILE, dynamic_shared_bytes=20 * 1024, shared_bytes_of_multiprocessor=21 * 1024)


def plans(case, op, profile=PROFILE, kind="walk"):
    problem, speed = problem_of(case, op), Speed.of(profile)
    if kind == "ring":
        return [plan for warps in ring.WARPS for plan in ring.plans(problem, speed, warps)]
    return (weight if op == GRAD_WEIGHT else tiles).plans(problem, speed)


def labels(case, wanted, profile=PROFILE):
    """Names by op: of the fastest plan for which `wanted[op](plan)`, or wanted["walk"] or
    wanted["ring"] for forward and grad_input, holds."""
    names, kind = {}, "ring" if "ring" in wanted else "walk"
    for op in OPS:
        holds = wanted.get(op, wanted.get(kind) if op != GRAD_WEIGHT else None)
        if holds:
            fitting = [plan for plan in plans(case, op, profile, kind) if holds(plan)]
            names[op] = min(fitting, key=lambda plan: plan.cycles).label
    return names


# -- every kernel gives what plain loops give ------------------------------------------------------
# --------------------------------------------------------

SHAPES = {
    "a table of a few maps": Conv2dCase(UNEVEN, 3, (8, 12), (3, 3), padding=(1, 1)),
    "identity, rows of 16 bytes": Conv2dCase(RANDOM, 3, (8, 12), (3, 3), activation="identity"),
    "odd rows": Conv2dCase(FULL(2, 3), 2, (7, 9), (3, 2), padding=(0, 1), activation="relu"),
    "a kernel as large as the map": Conv2dCase(FULL(3, 20), 33, (5, 5), (5, 5)),
    "one pixel": Conv2dCase(FULL(5, 3), 9, (1, 1), (1, 1)),
    "one sample": Conv2dCase(ConnectionTable.one_to_one(3), 1, (10, 10), (5, 5)),
}


@pytest.mark.parametrize("case", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_matches_plain_loops_for(case, family, cuda_on_cpu):
    case.check(with_kernel(cuda_on_cpu, RING if family == "ring" else family))


@pytest.mark.parametrize("family", ["matrix", "general"])
def test_strides_and_doubles_match_plain_loops(family, cuda_on_cpu):
    Conv2dCase(UNEVEN, 3, (9, 10), (3, 2), (2, 3), (1, 0), "sigmoid", DOUBLE).check(
        with_kernel(cuda_on_cpu, family))


STRIDED = {FORWARD: "tiles", GRAD_WEIGHT: "tiles"}
SPECIAL = {
    "strides": (STRIDED, Conv2dCase(RANDOM, 3, (12, 13), (3, 3), (2, 3), (1, 1))),
    "doubles": ("tiles", Conv2dCase(UNEVEN, 2, (8, 10), (3, 3), padding=(2, 2), dtype=DOUBLE)),
    "taps in several bands": ("tiles", Conv2dCase(UNEVEN, 2, (14, 15), (7, 7), padding=(3, 3))),
    "taps that do not fit into registers": ("tiles", Conv2dCase(FULL(2, 2), 2, (3, 50), (1, 41))),
    "more padding than kernel": ("tiles", Conv2dCase(FULL(2, 2), 2, (5, 6), (2, 2),
                                                     padding=(4, 5))),
    "an unused input map": ("tiles", Conv2dCase(UNEVEN, 5, (6, 6), (3, 3))),
}


@pytest.mark.parametrize(("kernel", "case"), SPECIAL.values(), ids=SPECIAL)
def test_tiles_match_plain_loops_with(kernel, case, cuda_on_cpu):
    case.check(with_kernel(cuda_on_cpu, kernel))


WIDE = Conv2dCase(RANDOM, 5, (16, 20), (3, 3), padding=(1, 1), activation="relu")
PLANS = {
    "two maps a warp": {"walk": lambda plan: plan.maps == 2 and plan.cut.columns == 8},
    "all maps staged once": {"walk": lambda plan: plan.turns > 1 and plan.cut.columns == 4},
    "samples by each warp": {"walk": lambda plan: plan.map_warps == 1},
    "skewed rows": {"walk": lambda plan: plan.window.skew > 0,
                    GRAD_WEIGHT: lambda plan: plan.x.skew > 0 and plan.dz.skew > 0},
    "a ring of few stages": {"ring": lambda plan: plan.chunk == 4 and plan.stages <= 7},
    "a ring of single maps": {"ring": lambda plan: plan.chunk == 1},
    "sixteen warps and a ring": {"ring": lambda plan: plan.warps == 16 and plan.maps == 1},
    "four maps a warp and a ring": {"ring": lambda plan: plan.maps == 4},
    "samples by each warp and a ring": {"ring": lambda plan: plan.map_warps == 1},
    "one connection a team": {GRAD_WEIGHT: lambda plan: plan.cut.shared == 1},
    "four connections a team": {GRAD_WEIGHT: lambda plan: plan.cut.shared == 4},
    "many threads": {GRAD_WEIGHT: lambda plan: plan.cut.threads == 512},
    "slices of samples": {GRAD_WEIGHT: lambda plan: plan.cut.slices > 1},
    "runs of outputs": {GRAD_WEIGHT: lambda plan: plan.cut.run < 18},
    "a few input maps at a time": {GRAD_WEIGHT: lambda plan: plan.x_slots < 9},
}


@pytest.mark.parametrize("wanted", PLANS.values(), ids=PLANS)
def test_plans_match_plain_loops_with(wanted, cuda_on_cpu):
    table = ConnectionTable.random(9, 18, density=0.3, seed=2)
    case = replace(WIDE, table=table)
    case.check(with_kernel(cuda_on_cpu, labels(case, wanted)))


def test_a_ring_has_no_more_blocks_than_there_are_at_a_time():
    """So that each goes from one piece of work to the next without an end."""
    runtime = HostRuntime()
    case = RING_SHAPES["more work than blocks"]
    case.check(with_kernel(CudaBackend(runtime), RING))
    rings = {name: (blocks, threads) for name, blocks, threads in runtime.launches
             if name in ("conv2d_forward", "conv2d_grad_input")}
    assert len(rings) == 2
    for blocks, threads in rings.values():
        assert blocks == PROFILE.multiprocessors
        assert threads in {32 * (warps + ring.PRODUCERS) for warps in ring.WARPS}


RING_SHAPES = {
    "rows that a bulk store takes": Conv2dCase(RANDOM, 5, (10, 10), (3, 3), activation="relu"),
    "more pixels than producers": Conv2dCase(UNEVEN, 3, (20, 40), (3, 3), padding=(1, 1)),
    "odd rows of many pixels": Conv2dCase(UNEVEN, 3, (20, 37), (3, 2), padding=(1, 1)),
    "strides": Conv2dCase(RANDOM, 5, (12, 13), (3, 3), (2, 3), (1, 1)),
    "doubles": Conv2dCase(RANDOM, 3, (8, 10), (3, 3), padding=(2, 2), dtype=DOUBLE),
    "taps in several bands": Conv2dCase(UNEVEN, 2, (14, 15), (7, 7), padding=(3, 3)),
    "more work than blocks": Conv2dCase(ConnectionTable.random(9, 40, density=0.2, seed=3), 40,
                                        (6, 6), (3, 3), padding=(1, 1)),
    "fewer maps than warps": Conv2dCase(FULL(3, 1), 2, (8, 8), (3, 3), activation="identity"),
}


@pytest.mark.parametrize("order", ["forward", "reverse", 1])
@pytest.mark.parametrize("case", RING_SHAPES.values(), ids=RING_SHAPES)
def test_a_ring_matches_plain_loops_with(case, order):
    """Blocks go round it several times, and whoever is ahead waits for the others."""
    backend = CudaBackend(HostRuntime(max_blocks=3, order=order))
    kernel = RING if case.stride == (1, 1) else {FORWARD: "ring"}
    case.check(with_kernel(backend, kernel))


def test_maps_that_do_not_fit_are_staged_some_at_a_time():
    case = replace(WIDE, size=(24, 37), samples=3)
    backend = CudaBackend(HostRuntime(max_blocks=3, profile=NARROW))
    names = labels(case, {"walk": lambda plan: plan.regions > 3 and plan.chunk <= 4,
                          GRAD_WEIGHT: lambda plan: plan.regions > 3}, NARROW)
    assert set(names) == set(OPS)
    case.check(with_kernel(backend, names))


def test_a_map_wider_than_a_warps_tiles_is_cut():
    case = Conv2dCase(FULL(1, 2), 2, (3, 150), (2, 3), padding=(1, 1))
    names = labels(case, {"walk": lambda plan: plan.cut.columns == 4,
                          GRAD_WEIGHT: lambda plan: plan.cut.columns == 2})
    case.check(with_kernel(CudaBackend(HostRuntime(max_blocks=3)), names))


def test_tf32_rounds_the_operands_alone(cuda_on_cpu):
    case = Conv2dCase(FULL(4, 9), 3, (9, 8), (3, 3), activation="identity")
    results = case.run(with_kernel(cuda_on_cpu, "tensor_cores", precision="tf32"))
    for name, expected in case.expected(results).items():
        if name != "grad_bias":
            assert 1e-5 < oracle.relative_error(results[name], expected) < 1e-3, name


def test_no_batch_launches_nothing_and_has_zero_gradients():
    runtime = HostRuntime()
    results = replace(WIDE, samples=0).check(CudaBackend(runtime))
    assert runtime.launches == [] and not results["grad_weight"].any()


def test_arrays_that_are_not_aligned_are_copied_in_smaller_parts(cuda_on_cpu):
    """The first row of 16 bytes begins 4 bytes behind a multiple of 16."""
    case = SHAPES["identity, rows of 16 bytes"]
    arrays = case.arrays()
    moved = {}
    for name, array in arrays.items():
        flat = cuda_on_cpu.from_host(np.concatenate(([0], array.ravel())).astype(FLOAT))
        moved[name] = flat[1:].reshape(array.shape)
    results = case.call(with_kernel(cuda_on_cpu, "tiles"), moved)
    results = {name: cuda_on_cpu.to_host(array) for name, array in results.items()}
    oracle.assert_close(results, case.expected(results), FLOAT)


# -- the same bits in every order, no races, nothing undefined -------------------------------------
# ---------------------------------------


def run_all(max_blocks=3, **options):
    """Results of KERNEL_CASES by name, and the kernels launched."""
    runtime = HostRuntime(max_blocks=max_blocks, **options)
    backend = CudaBackend(runtime)
    return ({name: case.check(backend) for name, case in KERNEL_CASES.items()},
            {name for name, _, _ in runtime.launches})


@pytest.fixture(scope="module")
def forward():
    return run_all()


@pytest.mark.parametrize("options", [{"order": "reverse"}, {"order": 1}, {"max_blocks": 1000}],
                         ids=str)
def test_results_have_the_same_bits_in_every_order_and_grid(options, forward):
    others = run_all(**options)[0]
    for name, arrays in forward[0].items():
        for key, array in arrays.items():
            assert array.tobytes() == others[name][key].tobytes(), (name, key)


def test_no_two_threads_race(forward):
    assert run_all(sanitizer="thread")[1] == forward[1]


@pytest.mark.thorough
def test_kernels_do_nothing_undefined():
    result = run_sanitized("address", ["-m", "pytest", "-q", "-n", "0", "-x",
                                       "tests/test_conv2d_kernels.py",
                                       "-k", "in_every_order or some_at_a_time or not_aligned"])
    assert result.returncode == 0, result.stdout


def test_a_workspace_serves_calls_by_different_kernels(cuda_on_cpu):
    workspace = Workspace(cuda_on_cpu)
    for case in KERNEL_CASES.values():
        for samples in (3, 1, 4):
            replace(case, samples=samples).check(cuda_on_cpu, workspace=workspace)


# -- real GPUs -------------------------------------------------------------------------------------


def random(maps, density):
    return ConnectionTable.random(maps, maps, density=density, seed=1)


# ----------------------------------------------------------------------------------------

ISSUE = {  # shape of x, kernel size, table
    "C1": ((256, 1, 32, 32), 5, FULL(1, 6)),
    "C3": ((4096, 6, 14, 14), 5, ConnectionTable.lenet5_c3()),
    "64 maps, 3x3": ((128, 64, 32, 32), 3, random(64, 0.25)),
    "64 maps, 5x5": ((128, 64, 32, 32), 5, random(64, 0.125)),
    "256 maps": ((64, 256, 16, 16), 3, random(256, 0.0625)),
    "128 maps": ((64, 128, 28, 28), 5, random(128, 0.0625)),
}


def sources(shape, kernel_size, table, architecture, family=None, **options):
    """The sources that the chosen kernels, or all candidates of a family, are compiled from, by
    their names."""
    class Recording(HostRuntime):
        def compile(self, source, name):
            found[name] = source
            return lambda kernel: lambda *launch, shared_bytes=0: None

    found = {}
    backend = CudaBackend(Recording(profile=PROFILES[architecture]))
    for choice in conv2d_kernels(PROFILES[architecture], shape, kernel_size, table, **options):
        problem = Problem(choice.op, 1, shape[2:], (kernel_size,) * 2, (1, 1), (0, 0), table,
                          np.dtype(options.get("dtype", "float32")), options.get("activation",
                                                                                 "identity"))
        x = backend.empty((1, 1), problem.dtype)
        bias = backend.empty(table.out_maps, problem.dtype)
        results = (x, bias) if choice.op == GRAD_WEIGHT else (x,)
        for candidate in choice.candidates:
            if candidate.family == family or (family is None and candidate is choice.candidates[0]):
                backend.conv2d_chooser.launch(problem, candidate, (x, x, x), results, None)
    return found


def spills(found, architecture):
    """Bytes that the kernels of these sources spill, by specialisation and kernel."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:
        compiled = pool.map(lambda name: compiled_once(found[name], name, architecture), found)
        return {(name, kernel): taken.spill_bytes for name,
                kernels in zip(found, compiled, strict=True)
                for kernel, taken in kernels.items() if taken.spill_bytes}


@pytest.mark.thorough
def test_kernels_chosen_for_the_issues_shapes_compile_without_spills():
    found = {}
    for shape, kernel_size, table in ISSUE.values():
        found |= sources(shape, kernel_size, table, "sm_90", activation="scaled_tanh")
    assert len(found) > 12
    assert not spills(found, "sm_90")


@pytest.mark.thorough
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_120"])
def test_rings_that_are_considered_compile_without_spills(architecture):
    found = {}
    for name in ("C3", "64 maps, 3x3", "64 maps, 5x5"):
        for activation in ("identity", "scaled_tanh"):
            found |= sources(*ISSUE[name], architecture, "ring", activation=activation)
    assert len(found) > 12
    assert not spills(found, architecture)


@pytest.mark.thorough
@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_100", "sm_120"])
def test_the_largest_tiles_compile_without_spills_elsewhere(architecture):
    found = sources(*ISSUE["64 maps, 3x3"], architecture, activation="scaled_tanh")
    assert not spills(found, architecture)


@pytest.mark.thorough
def test_tensor_cores_compile_without_spills():
    found = sources((64, 256, 16, 16), 3, FULL(256, 256), "sm_90", kernel="tensor_cores")
    assert not spills(found, "sm_90")
