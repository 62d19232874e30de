"""The CUDA plan in several parts: groups that pass maps on, and layers that run by themselves.

Devices with hardly any shared memory make small networks fall into such parts.
"""

import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from benchmarks.models import relu_net
from gpucnn import (
    SGD,
    ConnectionTable,
    Conv2d,
    Dataset,
    Dense,
    Flatten,
    MaxPool2d,
    Network,
    Subsample2d,
    two_stage,
)
from gpucnn.backends.cuda.plan.group import RESERVED_BYTES
from gpucnn.backends.cuda.plan.parts import GroupPart, LayerPart
from gpucnn.backends.cuda.plan.step import GRAPH_STEPS, STEPS_BEFORE
from tests.cuda_on_cpu.profiles import PROFILES
from tests.plan_cases import (
    CLOSE,
    EXACT,
    FEW_BLOCKS,
    assert_alike,
    assert_same_step,
    at_once,
    batch,
    byte_batch,
    cuda_backend,
    gradients_of,
    small_network,
    with_plain_plan,
    with_plan,
)

BATCH_SIZE = 5


def every_kind_alone(dtype):
    """No two neighbours fit into a block, but for the last."""
    return Network([
        Conv2d(1, 6, 3, padding=1),
        Conv2d(6, 7, 3, padding=(2, 1), bias=False,
               connections=ConnectionTable.random(6, 7, density=0.4, seed=1)),
        Subsample2d(7, 2), Conv2d(7, 25, 3, padding=1, activation="relu"), MaxPool2d(2),
        Dense(25, 100), Subsample2d(100, 2, trainable=False), Flatten(),
        Dense(100, 10, activation="identity")], (1, 8, 8), dtype=dtype, device="cpu")


def flattened_alone(dtype):
    """The last group has nothing but the loss."""
    return Network([Conv2d(1, 8, 3, padding=1), Flatten(),
                    Dense(512, 10, activation="identity")], (1, 8, 8), dtype=dtype, device="cpu")


def pooled_first(dtype):
    """The first group, or layer, has no parameters."""
    return Network([
        MaxPool2d(3, stride=2), Conv2d(1, 3, 3, padding=1), Conv2d(3, 3, 3), Conv2d(3, 4, 2),
        Dense(4, 5), Flatten(), Dense(5 * 4 * 3, 10, activation="identity")],
        (1, 15, 13), dtype=dtype, device="cpu")


# name -> (network, elements of shared memory that a block has, the kinds of the parts: the numbers
# of a group's layers, or the op of a layer by itself)
CASES = {
    "every kind alone": (every_kind_alone, 400, [
        0, "conv2d", "conv2d", "subsample2d", "conv2d", "max_pool2d", "dense", "subsample2d", 1]),
    "flattened alone": (flattened_alone, 400, [0, "conv2d", "dense", 0]),
    "pooled first, alone": (pooled_first, 220, [0, "max_pool2d", 1, 1, 3]),
    "pooled first": (pooled_first, 300, [1, 2, 3]),
    "groups and layers": (small_network, 220, [0, "conv2d", "subsample2d", 1, "max_pool2d", 1]),
}


def backend_of(elements, itemsize):
    return cuda_backend(replace(FEW_BLOCKS,
                                dynamic_shared_bytes=RESERVED_BYTES + elements * itemsize))


def planned(name):
    build, elements, _ = CASES[name]
    return with_plan(build, batch_size=BATCH_SIZE, backend=backend_of(elements, 8))


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """What the tests here launch, compiled at once."""
    at_once({name: partial(planned, name) for name in CASES})


each_case = pytest.mark.parametrize("name", CASES)


@each_case
def test_the_network_falls_into_these_parts(name):
    _, plan = planned(name)
    assert [len(part.planned.layers) if isinstance(part, GroupPart) else part.layer.op
            for part in plan._compiled.parts] == CASES[name][2]


@each_case
def test_steps_are_those_of_the_plain_plan(name):
    plans = planned(name), with_plain_plan(CASES[name][0], batch_size=BATCH_SIZE)
    for step, n in enumerate((5, 1, 4)):
        assert_same_step(*plans, *batch(plans[1][0], n, seed=step))


@each_case
def test_a_long_epoch_is_captured_and_that_of_the_plain_plan(name):
    """Layers by themselves allocate nothing either once they have run."""
    plans = planned(name), with_plain_plan(CASES[name][0], batch_size=BATCH_SIZE)
    batches = STEPS_BEFORE + GRAPH_STEPS + 2
    order = np.random.default_rng(5).integers(0, 12, batches * BATCH_SIZE - 2)
    results = []
    for network, plan in plans:
        images, labels = byte_batch(network, 12)
        data = plan.load(Dataset(images, labels, classes=network.output_shape[0]))
        results.append(plan.epoch(data, order, None, np.linspace(0.005, 0.001, batches)))
    assert plans[0][1]._compiled._graph is not None
    assert results[0] == (pytest.approx(results[1][0], rel=EXACT), results[1][1])
    assert_alike(*(network.parameter_values() for network, _ in plans))


# -- GPUs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["sm_75", "sm_90"])
@pytest.mark.parametrize("build", [relu_net, two_stage])
def test_gradients_are_the_same_as_planned_for_other_gpus(build, architecture):
    build = partial(build, device="cpu")
    network, plan = with_plan(build, dtype="float32", batch_size=2,
                              backend=cuda_backend(PROFILES[architecture]))
    reference, plain = with_plain_plan(build, batch_size=2)
    reference.set_parameters(network.parameter_values())
    images, labels = batch(network, 2)
    loss, expected = plan.step(images, labels), plain.step(images.astype(float), labels)
    assert float(loss) == pytest.approx(float(expected), rel=CLOSE)
    assert_alike(gradients_of(network), gradients_of(reference), CLOSE)


# -- what a plan tells of itself -------------------------------------------------------------------


@each_case
def test_explain_names_every_layer_and_tells_of_groups_and_lone_layers(name):
    network, plan = planned(name)
    text = plan.explain()
    assert all(layer.name in text for layer in network.layers if layer.op != "flatten")
    parts = plan._compiled.parts
    alone = sum(isinstance(part, LayerPart) for part in parts)
    heading = text.splitlines()[0]
    assert f"{len(parts) - alone} group" in heading and re.search(rf"\b{alone} layers? by", heading)
    assert text.count("by its own kernels") == 2 * alone


def test_explain_gives_times_where_asked_and_changes_nothing():
    network, plan = planned("groups and layers")
    plan.step(*batch(network, 5))
    arrays = {"parameters": network.parameters.flat, "gradients": network.gradients.flat,
              **plan.state}
    to_host = network.backend.to_host
    before = {name: to_host(array) for name, array in arrays.items()}
    assert " us" not in plan.explain()
    text = plan.explain(profile=True)
    assert text.count(" us") >= len(plan._compiled.parts)
    for name, array in before.items():
        assert np.array_equal(array, to_host(arrays[name])), name
    other, other_plan = planned("groups and layers")
    for step in range(2):
        if step:
            plan.step(*batch(network, 5, seed=step))
        other_plan.step(*batch(network, 5, seed=step))
    assert np.array_equal(to_host(network.parameters.flat),
                          other.backend.to_host(other.parameters.flat))


def test_explain_says_where_tf32_is_not_to_be_had():
    network = small_network("float32", cuda_backend(PROFILES["sm_75"]))
    plan = network.compile_step(loss="mse", optimizer=SGD(lr=0.1), batch_size=2, precision="tf32")
    text = plan.explain()
    assert "precision float32" in text and "tf32 needs tensor cores" in text
