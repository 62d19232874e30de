"""The kernels under the host's sanitizers: no access out of bounds, no race, no order that matters.

A small case of each op runs in every variant; together they launch every kernel there is.
"""

import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from gpucnn.backends.cuda import CudaBackend
from gpucnn.backends.cuda.kernels import kernel_directory, kernel_parameters
from tests.cuda_on_cpu.runtime import HostRuntime
from tests.cuda_on_cpu.sanitized import run_sanitized
from tests.plan_cases import at_once
from tests.representative import SMALL_CASES, RecordingRuntime

ORDERS = ("forward", "reverse", 1, 2)
KERNELS = {name for file in kernel_directory().glob("*.cu")
           for name in kernel_parameters(file.read_text(encoding="utf-8"), np.float32)}


def run_all(max_blocks=3, cases=SMALL_CASES, **options):
    """Check every case against the oracle; returns (results by case, [kernel, blocks] launched).
    All that they launch is compiled at once before. What runs stays in this thread: the address
    sanitizer's memory grows with every change of threads."""
    sources = set()
    for case in cases.values():
        runtime = RecordingRuntime(replace(case.profile, max_blocks=max_blocks))
        case.run_blind(CudaBackend(runtime))
        sources |= {(source, name) for name, source in runtime.sources.items()}
    at_once({each: partial(HostRuntime(**options).compile, *each) for each in sources})
    results, launches = {}, []
    for name, case in cases.items():
        runtime = HostRuntime(max_blocks=max_blocks, profile=case.profile, **options)
        results[name] = case.check(CudaBackend(runtime))
        launches += [(kernel, blocks) for kernel, blocks, _ in runtime.launches]
    return results, launches


def kernels_of(launches):
    return {kernel for kernel, _ in launches}


@pytest.fixture(scope="module")
def forward():
    return run_all()


def test_the_cases_launch_every_kernel(forward):
    assert kernels_of(forward[1]) == KERNELS


def test_the_cases_make_every_kernel_run_in_several_blocks_but_those_that_have_one(forward):
    several = {kernel for kernel, blocks in forward[1] if blocks > 1}
    assert several == KERNELS - {"sum_losses", "wait"}


def same_bits(results, others):
    """Compare two answers of `run_all`."""
    for name, arrays in results.items():
        for key, array in arrays.items():
            other = others[name][key]
            assert array is other is None or array.tobytes() == other.tobytes(), (name, key)


@pytest.mark.parametrize("order", ORDERS[1:])
def test_results_have_the_same_bits_in_every_order_of_threads_and_blocks(order, forward):
    same_bits(run_all(order=order)[0], forward[0])


@pytest.mark.parametrize("max_blocks", [1, 2, 1000])
def test_results_have_the_same_bits_on_grids_of_every_size(max_blocks, forward):
    """But for sums whose parts are those of the blocks."""
    cases = {name: case for name, case in SMALL_CASES.items() if not case.sums_by_block}
    same_bits(run_all(max_blocks, cases)[0], forward[0])


@pytest.mark.parametrize("order", ["forward", "reverse", 1])
@pytest.mark.thorough
def test_no_two_threads_race(order):
    assert kernels_of(run_all(sanitizer="thread", order=order)[1]) == KERNELS


@pytest.mark.thorough
def test_no_kernel_leaves_its_arrays_or_does_what_is_undefined():
    result = run_sanitized("address", ["-m", "tests.test_sanitizers"])
    assert result.returncode == 0, result.stdout
    assert set(result.stdout.split()) == KERNELS


if __name__ == "__main__":
    sys.stdout.write(" ".join(kernels_of(run_all()[1])))
