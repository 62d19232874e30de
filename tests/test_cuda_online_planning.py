"""What online training is planned to take on each kind of device: memory, registers, clusters.

NVRTC compiles the plans of the library's models for the devices that they are made for, without a
GPU.
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from gpucnn import SGD, Adam
from gpucnn.backends.cuda.plan.group import RESERVED_BYTES
from gpucnn.backends.cuda.plan.online import LONGEST_LAUNCH
from gpucnn.backends.cuda.plan.online_group import plan_online
from gpucnn.backends.cuda.plan.step import CudaStep
from tests.cuda_on_cpu.profiles import PROFILES
from tests.online_cases import (
    AMPERE,
    HOPPER,
    Choices,
    bit_of_everything,
    even_matrices,
    pooling_of_all_kinds,
    with_online_plan,
    with_room,
)
from tests.plan_cases import (
    CHAINS,
    MODELS,
    assert_same_step,
    batch,
    cuda_backend,
    small_network,
    with_both_plans,
)
from tests.test_kernels_compile import CACHE, compiled_once

PLAIN = SGD(lr=0.01)
SMALL = (small_network, bit_of_everything, even_matrices, pooling_of_all_kinds)


def program_of(build, optimizer=PLAIN):
    return build(dtype="float32").program(loss="mse", optimizer=optimizer, batch_size=1)


def stretches(group):
    """(begin, end) of everything that a group keeps in shared memory, in elements."""
    warps = group.threads // 32
    yield 0, group.group.maps_end
    scratch = {}
    for layer, home in zip(group.group.layers, group.homes, strict=True):
        link = layer.link
        if layer.partial_size:
            yield layer.shared_weight, layer.shared_weight + layer.partial_size
            yield layer.partials, layer.partials + layer.parts * layer.partial_size
        elif link.kind == "matrix":
            inputs, outputs = link.features
            if link.bias:
                yield layer.shared_bias, layer.shared_bias + outputs
            if home.kind != "held":
                continue
            blocks = group.blocks if layer.spread else 1
            of_warp = -(-inputs // (warps * blocks))
            yield (layer.shared_weight,
                   layer.shared_weight + warps * (of_warp - home.held) * outputs)
            if layer.spread:
                yield home.arrivals, home.arrivals + group.blocks * outputs
            scratch[home.scratch] = max(scratch.get(home.scratch, 0), warps * outputs)
    yield from ((place, place + size) for place, size in scratch.items())


def assert_fits(group, profile):
    """No two things share a place, and there is room for all."""
    taken = sorted(stretches(group))
    for (_, end), (begin, _) in pairwise(taken):
        assert end <= begin, taken
    assert taken[-1][1] <= group.memory
    assert group.shared_bytes + RESERVED_BYTES <= profile.dynamic_shared_bytes


# -- memory ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", PROFILES)
@pytest.mark.parametrize("name", MODELS)
def test_models_in_float32_are_trained_online_on_every_device(name, architecture):
    profile = PROFILES[architecture]
    for optimizer in (PLAIN, Adam()):
        for networks in (1, 20):
            group = plan_online(program_of(MODELS[name], optimizer), profile, networks)
            assert_fits(group, profile)
            assert group.blocks == 1 or (profile.compute_capability >= (9, 0)
                                         and optimizer is PLAIN
                                         and networks * group.blocks <= profile.multiprocessors)


def test_whatever_fits_lies_side_by_side():
    """Many networks and sizes of memory."""
    found = {True: 0, False: 0}
    builders = [*SMALL, *(chain.network for chain in CHAINS[::12])]
    for number, build in enumerate(builders):
        program = program_of(build)
        for elements in (250, 900):
            for choices in (Choices(), Choices(256, 8), Choices(512, 40), Choices(64, 8, 2),
                            Choices(128, 60, 8, most_parts=1)):
                profile = with_room(HOPPER, elements + 97 * number, 4)
                group = choices.group(program, profile)
                if group is not None:
                    assert_fits(group, profile)
                found[group is not None] += 1
    assert all(found.values())


def test_the_more_networks_the_fewer_blocks_train_each():
    blocks = [plan_online(program_of(MODELS["lenet5"]), HOPPER, networks).blocks
              for networks in (1, 14, 15, 29, 30, 60, 1000)]
    assert blocks[0] == 8 and blocks[-1] == 1
    assert blocks == sorted(blocks, reverse=True)


# -- what does not fit -----------------------------------------------------------------------------


def test_a_network_without_room_is_trained_by_a_launch_for_each_step():
    """And says why."""
    planned, plain = with_both_plans(small_network, backend=cuda_backend(with_room(AMPERE, 700, 8)),
                                     batch_size=1, loss="mse", optimizer=PLAIN)
    assert isinstance(planned[1]._compiled, CudaStep)
    assert "no block has room for the maps and weights of this network" in planned[1].explain()
    assert_same_step(planned, plain, *batch(plain[0], 1))
    network = planned[0]
    program = network.program(loss="mse", optimizer=PLAIN, batch_size=1)
    assert network.backend.compile_many(program, [network.parameters.flat]) is None


def test_larger_batches_are_not_trained_online():
    network, plan = (with_both_plans(small_network, backend=cuda_backend(AMPERE), batch_size=2,
                                     optimizer=PLAIN)[0])
    assert isinstance(plan._compiled, CudaStep)
    program = network.program(loss="mse", optimizer=PLAIN, batch_size=2)
    assert network.backend.compile_many(program, [network.parameters.flat]) is None


# -- explain ---------------------------------------------------------------------------------------


def test_explain_names_the_homes_of_weights_and_the_time_of_an_update():
    profile = with_room(AMPERE, 800, 4)
    network, plan = with_online_plan(bit_of_everything, dtype="float32",
                                     choices=Choices(registers=6), backend=cuda_backend(profile))
    before = network.backend.to_host(network.parameters.flat).tobytes()
    text = plan.explain(profile=True)
    for line in ("online plan on cuda-on-cpu: float32, one sample an update, 1 network, each in a "
                 "block of 64 threads and ",
                 "an unknown number of registers a thread, 3 of them hold weights; launches of up "
                 f"to {LONGEST_LAUNCH} samples",
                 "c3: conv2d, weights of 0.1 KB in shared memory\n", "m4: max_pool2d\n",
                 "global: dense, weights of 0.8 KB in global memory, for want of room\n",
                 "held: dense, weights of 0.4 KB in registers and shared memory\n",
                 "output: dense, weights of 0.1 KB in shared memory\n",
                 "an update: ", " multiply-adds, ", "; limit of one multiprocessor "):
        assert line in text, text
    assert network.backend.to_host(network.parameters.flat).tobytes() == before


# -- compiled --------------------------------------------------------------------------------------


# Every generation, and what differs most. Those for sm_80's memory are compiled for all
# generations in test_kernels_compile.py.
COMPILED = {("lenet5", "sm_75"): PLAIN, ("lenet5", "sm_90"): PLAIN, ("lenet5", "sm_120"): PLAIN,
            ("two_stage", "sm_75"): PLAIN, ("two_stage", "sm_80"): Adam(),
            ("two_stage", "sm_100"): PLAIN}


@pytest.fixture(scope="module")
def compiled():
    """(model, architecture) -> (`OnlineGroup`, what its kernel takes). NVRTC releases Python's
    lock."""
    CACHE.mkdir(parents=True, exist_ok=True)

    def compile_for(key):
        (name, architecture), optimizer = key, COMPILED[key]
        group = plan_online(program_of(MODELS[name], optimizer), PROFILES[architecture])
        source = group.source(type(optimizer).__name__.capitalize())
        return group, compiled_once(source.source(), str(source), architecture)["online"]

    with ThreadPoolExecutor() as pool:
        return dict(zip(COMPILED, pool.map(compile_for, COMPILED), strict=True))


@pytest.mark.thorough
def test_plans_of_models_compile_for_their_devices_without_spills(compiled):
    for key, (group, taken) in compiled.items():
        assert taken.spill_bytes == 0 and taken.stack_bytes == 0, key
        assert taken.registers * group.threads <= 65536, key
        assert taken.registers > group.registers_of_weights, key


@pytest.mark.thorough
def test_static_and_dynamic_memory_together_fit_into_a_block(compiled):
    for (name, architecture), (group, taken) in compiled.items():
        assert taken.shared_bytes <= RESERVED_BYTES, (name, architecture)
        assert (group.shared_bytes + taken.shared_bytes
                <= PROFILES[architecture].dynamic_shared_bytes), (name, architecture)


@pytest.mark.thorough
def test_clusters_are_among_what_is_compiled(compiled):
    assert {group.blocks for group, _ in compiled.values()} == {1, 4, 8}
