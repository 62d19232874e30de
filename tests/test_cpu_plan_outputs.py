"""Outputs as the CPU's plan computes them, and what a plan takes and tells of itself."""

import re
import tracemalloc

import numpy as np
import pytest

from gpucnn import Adam, lenet5
from tests.oracle import relative_error
from tests.plan_cases import (
    CHAINS,
    MODELS,
    SOME_CHAINS,
    assert_same_step,
    batch,
    byte_batch,
    each_chain,
    each_of,
    layer_by_layer,
    with_both_plans,
    with_plan,
)

# -- outputs ---------------------------------------------------------------------------------------


@each_chain
def test_outputs_are_those_of_the_layers_one_by_one(chain):
    network = chain.network()
    images, _ = batch(network, 9)
    expected = layer_by_layer(network, images)
    for batch_size in (1, 7, 256):
        outputs = network.outputs(images, batch_size=batch_size)
        assert relative_error(outputs, expected) <= 1e-12
        assert np.array_equal(network.predict(images, batch_size=batch_size),
                              expected.reshape(9, -1).argmax(axis=1))


@pytest.mark.parametrize("build", [
    *(pytest.param(chain.network, id=str(chain)) for chain in CHAINS if not chain.has_flatten),
    *(pytest.param(build, id=name) for name, build in MODELS.items())])
def test_outputs_of_larger_images_are_those_of_the_layers_one_by_one(build):
    network = build(dtype="float64")
    height, width = network.input_shape[1:]
    images, _ = batch(network, 9, size=(height + 5, width + 8))
    expected = layer_by_layer(network, images)
    for batch_size in (1, 7, 256):
        outputs = network.outputs(images, batch_size=batch_size)
        assert outputs.shape == expected.shape and relative_error(outputs, expected) <= 1e-12
    labels = network.predict(images)
    assert labels.shape == ((9,) if expected.shape[2:] == (1, 1) else (9, *expected.shape[2:]))
    assert np.array_equal(labels.ravel(), expected.argmax(axis=1).ravel())


# -- memory, and what a plan tells of itself -------------------------------------------------------


def test_a_large_batch_of_lenet5_takes_little_memory():
    images, labels = byte_batch(lenet5(device="cpu"), 1024)
    tracemalloc.start()
    try:
        _, plan = with_plan(MODELS["lenet5"], dtype="float32", batch_size=1024)
        plan.step(images, labels)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200e6, f"{peak / 1e6:.0f} MB"


@each_of(SOME_CHAINS | MODELS)
def test_explain_tells_of_every_layer_and_of_threads_and_memory(build):
    network, plan = with_plan(build, dtype="float32")
    text = plan.explain()
    assert all(layer.name in text for layer in network.layers)
    for words in (r"\b([KM]i?B|bytes)\b", "multiply-adds", r"\bthreads?\b", "micro-batch",
                  "float32"):
        assert re.search(words, text), words


TIME = r"\d\s?(us|µs|ms|s)\b"


def test_explain_gives_times_where_asked_and_changes_nothing():
    network, plan = with_plan(MODELS["two_stage"], optimizer=Adam(), batch_size=20)
    plan.step(*batch(network, 20))
    arrays = {"parameters": network.parameters.flat, "gradients": network.gradients.flat,
              **plan.state}
    before = {name: array.copy() for name, array in arrays.items()}
    assert not re.search(TIME, plan.explain())
    text = plan.explain(profile=True)
    for layer in network.layers:
        assert any(layer.name in line and re.search(TIME, line) for line in text.splitlines()), (
            layer.name)
    for name, array in before.items():
        assert np.array_equal(array, arrays[name]), name
    assert plan.steps == 1


def test_a_plan_that_was_profiled_trains_as_before():
    planned, plain = with_both_plans(MODELS["two_stage"], optimizer=Adam(), batch_size=20)
    for step in range(2):
        planned[1].explain(profile=True)
        assert_same_step(planned, plain, *batch(plain[0], 20, seed=step))
