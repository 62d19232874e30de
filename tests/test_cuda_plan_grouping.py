"""Which layers the CUDA plan fuses, on GPUs of every generation; nothing is compiled here."""

from dataclasses import replace
from functools import cache, partial

import pytest

from benchmarks.models import relu_net
from gpucnn import SGD, ConnectionTable, Conv2d, Dense, Flatten, MaxPool2d, Network, Subsample2d
from gpucnn.backends.cuda import CudaBackend
from gpucnn.backends.cuda.plan.group import RESERVED_BYTES, registers
from gpucnn.backends.cuda.plan.parts import GroupPart, LayerPart
from gpucnn.plans import CompiledPlan, PlainPlan
from tests.cuda_on_cpu.profiles import PROFILES
from tests.plan_cases import MODELS, small_network
from tests.representative import RecordingRuntime

STATIC_BYTES = 1024  # that a kernel of a group may declare


def large_net(dtype="float32", device="cpu"):
    """Its first layers are too large for a block of any GPU. Input 1 x 100 x 100."""
    return Network([
        Conv2d(1, 16, 5, name="c1"), Subsample2d(16, 2, name="s2"),
        Conv2d(16, 32, 5, connections=ConnectionTable.grouped(16, 32, 4), name="c3"),
        MaxPool2d(4, name="m4"), Conv2d(32, 8, 3, name="c5"), Flatten(name="flatten"),
        Dense(8 * 9 * 9, 10, activation="identity", name="output")],
        (1, 100, 100), dtype=dtype, device=device)


NETWORKS = MODELS | {"relu_net": partial(relu_net, device="cpu"), "large_net": large_net,
                     "small": small_network}


@cache
def plan_on(architecture, name, batch_size, dtype="float32"):
    """(the parts of a network's plan on a GPU, the GPU's profile)."""
    profile = PROFILES[architecture]
    network = NETWORKS[name](dtype=dtype)
    network.to(CudaBackend(RecordingRuntime(profile)))
    plan = network.compile_step(loss="cross_entropy", optimizer=SGD(lr=0.1), batch_size=batch_size)
    return plan._compiled.parts, profile


def layers_of(part):
    """The names of a part's layers; a Flatten runs nowhere."""
    if isinstance(part, LayerPart):
        return [part.layer.name]
    return [layer.link.spec.name for layer in part.planned.layers]


on_every_gpu = pytest.mark.parametrize("architecture", PROFILES)
each_network = pytest.mark.parametrize("name", NETWORKS)


@on_every_gpu
@each_network
def test_every_layer_is_in_one_part_and_the_ends_are_groups(name, architecture):
    parts, _ = plan_on(architecture, name, 64)
    network = NETWORKS[name](dtype="float32")
    names = [name for part in parts for name in layers_of(part)]
    assert names == [layer.name for layer in network.layers if layer.op != "flatten"]
    groups = [part.planned.chain for part in parts if isinstance(part, GroupPart)]
    assert parts[0].planned.chain is groups[0] and parts[-1].planned.chain is groups[-1]
    assert [(chain.first, chain.last) for chain in groups] == [
        (chain is groups[0], chain is groups[-1]) for chain in groups]


@on_every_gpu
@each_network
def test_groups_fit_into_the_memory_and_registers_of_a_block(name, architecture):
    parts, profile = plan_on(architecture, name, 64)
    for part in parts:
        if isinstance(part, LayerPart):
            continue
        planned = part.planned
        assert planned.shared_bytes + STATIC_BYTES <= profile.dynamic_shared_bytes
        assert planned.threads * registers(profile, planned.threads) <= (
            profile.registers_of_multiprocessor)
        together = planned.resident(profile)
        assert together == 1 or together * (planned.shared_bytes + RESERVED_BYTES) <= (
            profile.shared_bytes_of_multiprocessor)
        for maps in (*planned.maps, *planned.gradient_maps):
            last = planned.samples - 1, maps.maps - 1, maps.height - 1, maps.width - 1
            assert 0 <= maps.offset <= maps.at(*last) < planned.memory
        for layer in planned.layers:
            if layer.shared_weight >= 0:
                assert layer.shared_weight + layer.link.weight.size <= planned.memory


@on_every_gpu
@pytest.mark.parametrize("name", ["lenet5", "two_stage"])
@pytest.mark.parametrize("batch_size", [4, 64, 16384])
def test_the_models_of_the_lenet_family_are_one_group(name, architecture, batch_size):
    if batch_size == 16384 and architecture in ("sm_80", "sm_89", "sm_100"):
        return  # alike: planning takes its time
    parts, profile = plan_on(architecture, name, batch_size)
    planned, = [part.planned for part in parts]
    assert planned.chain.first and planned.chain.last
    assert planned.blocks(profile) >= min(batch_size, profile.multiprocessors) / 2


def test_layers_too_large_for_any_block_run_by_themselves():
    for architecture in PROFILES:
        parts, _ = plan_on(architecture, "large_net", 64)
        alone = [part.layer.name for part in parts if isinstance(part, LayerPart)]
        assert alone[:2] == ["c1", "s2"] and layers_of(parts[0]) == []


def test_less_memory_never_makes_fewer_parts():
    network = small_network("float32")
    program = partial(network.compile_step, loss="mse", optimizer=SGD(lr=0.1), batch_size=8)
    counts = []
    for floats in (2000, 600, 450, 300, 200, 160):
        profile = replace(PROFILES["sm_80"], dynamic_shared_bytes=RESERVED_BYTES + 4 * floats)
        network.to(CudaBackend(RecordingRuntime(profile)))
        counts.append(len(program()._compiled.parts))
    assert counts == sorted(counts) and counts[0] == 1 and counts[-1] >= 5


def test_images_that_no_block_has_room_for_are_left_to_the_plain_plan():
    for floats, kind in ((100, PlainPlan), (130, CompiledPlan)):
        profile = replace(PROFILES["sm_75"], dynamic_shared_bytes=RESERVED_BYTES + 4 * floats)
        network = small_network("float32", CudaBackend(RecordingRuntime(profile)))
        plan = network.compile_step(loss="mse", optimizer=SGD(lr=0.1), batch_size=4)
        assert type(plan) is kind
