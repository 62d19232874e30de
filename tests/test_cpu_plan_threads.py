"""The CPU's plan gives the same bits on any number of threads, and in several at once."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from gpucnn import SGD, two_stage
from gpucnn.backends.cuda import CudaBackend
from gpucnn.errors import ArgumentError
from tests.cuda_on_cpu.runtime import HostRuntime
from tests.plan_cases import (
    MODELS,
    SOME_CHAINS,
    assert_same_step,
    batch,
    each_of,
    with_both_plans,
    with_plan,
)


def trained_bits(build, batch_size=50, **options):
    """The bytes of the parameters, and the losses, of three steps in float32."""
    network, plan = with_plan(build, dtype="float32", batch_size=batch_size, **options)
    losses = [float(plan.step(*batch(network, batch_size, seed=step))) for step in range(3)]
    return network.parameters.flat.tobytes(), losses


@each_of(SOME_CHAINS | MODELS)
def test_any_number_of_threads_gives_the_same_bits(build):
    bits = trained_bits(build, threads=1)
    assert trained_bits(build, threads=2) == bits
    assert trained_bits(build, threads=3) == bits


def test_more_threads_than_cores_and_many_micro_batches_give_the_same_bits():
    bits = [trained_bits(MODELS["two_stage"], batch_size=150, threads=n) for n in (1, 2, 3, 5)]
    assert all(others == bits[0] for others in bits)


@each_of(SOME_CHAINS | MODELS)
def test_the_same_steps_give_the_same_bits_twice(build):
    assert trained_bits(build) == trained_bits(build)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_same_threads_give_the_same_bits_twice(threads):
    bits = [trained_bits(MODELS["two_stage"], threads=threads) for _ in range(2)]
    assert bits[0] == bits[1]


@pytest.mark.parametrize("options", [{}, {"threads": 1}, {"threads": 2}], ids=str)
def test_plans_used_at_once_from_several_threads_of_the_program_do_not_disturb_each_other(options):
    builders = [*list(SOME_CHAINS.values())[:4], *MODELS.values()] * 2
    alone = [trained_bits(build, **options) for build in builders]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda build: trained_bits(build, **options), builders)) == alone


def test_a_plan_may_be_used_from_another_thread_than_the_one_that_compiled_it():
    planned, plain = with_both_plans(MODELS["two_stage"])
    with ThreadPoolExecutor(1) as pool:
        pool.submit(assert_same_step, planned, plain, *batch(plain[0], 50)).result()
    assert_same_step(planned, plain, *batch(plain[0], 50, seed=1))


@pytest.mark.parametrize("threads", [0, -1, "2", True, 1.5])
def test_a_wrong_number_of_threads_is_refused(threads):
    with pytest.raises(ArgumentError, match="threads: expected"):
        with_plan(MODELS["two_stage"], threads=threads)


def test_threads_are_refused_on_cuda():
    network = two_stage(device=CudaBackend(HostRuntime()))
    with pytest.raises(ArgumentError, match="threads"):
        network.compile_step(loss="mse", optimizer=SGD(lr=0.1), batch_size=2, threads=2)
