"""Clusters of blocks that train a network together: the numbers of the plain plan, in any order of
threads and blocks, without a race.

The kernels run on the host, where the blocks of a cluster take turns between barriers. That weights
which every block has stay equal is in the results: each block computes with its own.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from gpucnn import SGD, Adam, Dataset
from gpucnn.backends.cuda import CudaBackend
from gpucnn.backends.cuda.plan.description import PHASES
from tests.chain_traits import covering
from tests.cuda_on_cpu.runtime import HostRuntime
from tests.online_cases import (
    AMPERE,
    HOPPER,
    Choices,
    OnlineCase,
    Trainees,
    bit_of_everything,
    even_matrices,
    group_of,
    large_kernel,
    odd_matrices,
    online_and_plain,
    pooling_of_all_kinds,
    with_online_plan,
)
from tests.plan_cases import (
    CHAINS,
    EXACT,
    MODELS,
    assert_alike,
    at_once,
    byte_batch,
    cuda_backend,
    gradients_of,
    small_network,
)

SIZES = (2, 4, 8)
RATE = 0.01
MOMENTUM = SGD(lr=RATE, momentum=0.9)
AFTER_UPDATES = 2e-4
SMALL = {each.__name__: each for each in (
    small_network, large_kernel, pooling_of_all_kinds, odd_matrices, even_matrices)} | {
    str(chain): chain.network for chain in covering(CHAINS)[:2]}
# each with clusters of another size
CASES = {name: SIZES[number % 3] for number, name in enumerate(SMALL)}
CASE = OnlineCase(Choices(registers=12, blocks=2), elements=880)

each_size = pytest.mark.parametrize("blocks", SIZES)


def hopper(**options):
    return cuda_backend(HOPPER, **options)


def in_cluster(build, blocks, **options):
    """((network, online plan), (network, plain plan)), the former in a cluster that divides what it
    can."""
    return online_and_plain(build, backend=hopper(), choices=Choices(blocks=blocks), loss="mse",
                            **options)


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """What the tests here launch, compiled at once, the longest first."""
    jobs = {"lenet5": partial(with_online_plan, MODELS["lenet5"], dtype="float32",
                              backend=hopper(), loss="mse")}
    jobs |= {name: partial(in_cluster, SMALL[name], blocks) for name, blocks in CASES.items()}
    jobs |= {blocks: partial(in_cluster, small_network, blocks) for blocks in SIZES}
    at_once(jobs)


def trained_alike(planned, plain, updates=6, tolerance=EXACT):
    """Train both by so many updates, and compare."""
    images, labels = byte_batch(plain[0], 7)
    data = Dataset(images, labels, classes=plain[0].output_shape[0])
    generator = np.random.default_rng(1)
    order, shifts = generator.integers(0, 7, updates), generator.integers(-1, 2, (updates, 2))
    rates = np.linspace(RATE, RATE / 2, updates)
    results = [plan.epoch(plan.load(data), order, shifts, rates) for _, plan in (planned, plain)]
    assert results[0] == (pytest.approx(results[1][0], rel=tolerance), results[1][1])
    assert_alike(planned[0].parameter_values(), plain[0].parameter_values(), tolerance)
    assert_alike(gradients_of(planned[0]), gradients_of(plain[0]), tolerance)


# -- the same numbers ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_updates_are_those_of_the_plain_plan_whatever_the_layers(name):
    planned, plain = in_cluster(SMALL[name], CASES[name])
    group = group_of(planned[1])
    assert group.blocks == CASES[name]
    for layer in group.group.layers:
        if layer.link.kind == "conv2d":
            assert layer.spread >= {"forward", "grad_parameters"}
        if layer.link.kind == "matrix":
            assert layer.spread == set(PHASES)
    trained_alike(planned, plain)


@each_size
def test_updates_are_those_of_the_plain_plan_in_clusters_of_every_size(blocks):
    planned, plain = in_cluster(small_network, blocks)
    trained_alike(planned, plain)
    assert planned[0].backend.runtime.launches == [("online", blocks, 64)]
    assert f"each in a cluster of {blocks} blocks of 64 threads" in planned[1].explain()


def test_updates_of_lenet5_in_the_cluster_that_it_gets_are_close_to_those_in_float64():
    planned, plain = online_and_plain(MODELS["lenet5"], dtype="float32", backend=hopper(),
                                      loss="mse", optimizer=SGD(lr=RATE))
    group = group_of(planned[1])
    divided = {layer.link.spec.name for layer in group.group.layers if layer.spread}
    assert (group.blocks, divided) == (8, {"c5"})
    text = planned[1].explain()
    assert "each in a cluster of 8 blocks" in text
    assert "c5: conv2d, weights of 192.0 KB in shared memory; divided among the blocks: " in text
    trained_alike(planned, plain, updates=16, tolerance=AFTER_UPDATES)


# -- many networks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("max_blocks", [2, 3, 6, 1000])
def test_each_of_many_networks_gets_the_bits_that_it_gets_alone(max_blocks):
    """A grid that is no multiple of a cluster's size is cut to one."""
    choices = Choices(blocks=2)
    one, other = (Trainees(small_network, cuda_backend(replace(HOPPER, max_blocks=limit)), count=4)
                  for limit in (max_blocks, 1000))
    one.together(choices)
    other.one_by_one(choices)
    assert one.bits() == other.bits()
    assert [blocks for _, blocks, _ in one.backend.runtime.launches] == [
        min(max_blocks // 2, 4) * 2]


# -- order and races -------------------------------------------------------------------------------


def case_bits(**options):
    """The bytes of what three networks are trained to on two clusters, by name."""
    backend = CudaBackend(HostRuntime(profile=CASE.profile, max_blocks=4, **options))
    return {name: array.tobytes() for name, array in CASE.check(backend).items()}


@pytest.fixture(scope="module")
def bits():
    return case_bits()


@pytest.mark.parametrize("order", ["forward", "reverse", 1, 2, 3])
def test_results_have_the_same_bits_in_every_order_of_threads_and_blocks(order, bits):
    assert case_bits(order=order) == bits


@pytest.mark.parametrize("order", ["forward", 1])
def test_no_two_threads_race_within_a_block_or_between_blocks(order):
    case_bits(sanitizer="thread", order=order)


def test_the_case_divides_every_kind_of_layer_that_can_be_divided():
    program = bit_of_everything("float32").program(loss="mse", optimizer=CASE.optimizer,
                                                   batch_size=1)
    layers = CASE.choices.group(program, CASE.profile).group.layers
    assert {layer.link.kind for layer in layers if layer.spread} == {"conv2d", "matrix"}
    assert set(PHASES) == {phase for layer in layers if layer.link.kind == "conv2d"
                           for phase in layer.spread}


# -- who gets clusters -----------------------------------------------------------------------------


@pytest.mark.parametrize(("profile", "optimizer"), [
    (AMPERE, SGD(lr=RATE)), (HOPPER, MOMENTUM), (HOPPER, Adam(lr=RATE))],
    ids=["sm_80", "momentum", "adam"])
def test_one_block_trains_a_network_on_older_devices_and_where_an_optimiser_remembers(
        profile, optimizer):
    network = MODELS["lenet5"]().to(CudaBackend(HostRuntime(profile=profile)))
    program = network.program(loss="mse", optimizer=optimizer, batch_size=1)
    assert network.backend._plan_online(program).blocks == 1
    stateless = replace(program, optimizer=SGD(lr=RATE))
    assert (network.backend._plan_online(stateless).blocks > 1) == (profile is HOPPER)
