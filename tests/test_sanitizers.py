"""The kernels under the host's sanitizers: no access out of bounds, no race, no order that matters.

A small case of each op runs in every variant; together they launch every kernel there is.
"""

import sys

import numpy as np
import pytest

from gpucnn.backends.cuda import CudaBackend
from gpucnn.backends.cuda.kernels import kernel_directory, kernel_parameters
from tests.cuda_on_cpu.runtime import HostRuntime
from tests.cuda_on_cpu.sanitized import run_sanitized
from tests.representative import SMALL_CASES

ORDERS = ("forward", "reverse", 1, 2)
KERNELS = {name for file in kernel_directory().glob("*.cu")
           for name in kernel_parameters(file.read_text(encoding="utf-8"), np.float32)}


def run_all(max_blocks=3, **options):
    """Check every case against the oracle; returns (results by case, names of launched kernels)."""
    runtime = HostRuntime(max_blocks=max_blocks, **options)
    backend = CudaBackend(runtime)
    results = {name: case.check(backend) for name, case in SMALL_CASES.items()}
    return results, {name for name, _, _ in runtime.launches}


@pytest.fixture(scope="module")
def forward():
    return run_all()


def test_the_cases_launch_every_kernel(forward):
    assert forward[1] == KERNELS


def test_the_cases_make_every_kernel_run_in_several_blocks_but_the_one_that_has_one():
    runtime = HostRuntime(max_blocks=3)
    backend = CudaBackend(runtime)
    for case in SMALL_CASES.values():
        case.run(backend)
    several = {name for name, blocks, _ in runtime.launches if blocks > 1}
    assert several == KERNELS - {"sum_losses"}


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
    same_bits(run_all(max_blocks=max_blocks)[0], forward[0])


@pytest.mark.parametrize("order", ["forward", "reverse", 1])
def test_no_two_threads_race(order):
    assert run_all(sanitizer="thread", order=order)[1] == KERNELS


def test_no_kernel_leaves_its_arrays_or_does_what_is_undefined():
    result = run_sanitized("address", ["-m", "tests.test_sanitizers"])
    assert result.returncode == 0, result.stdout
    assert set(result.stdout.split()) == KERNELS


if __name__ == "__main__":
    sys.stdout.write(" ".join(run_all()[1]))
