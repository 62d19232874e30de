"""Every way that the CPU's plan has to compute a convolution, against the plain plan."""

from functools import partial

import numpy as np
import pytest

from gpucnn import ConnectionTable, Conv2d, MaxPool2d
from tests.oracle import relative_error
from tests.plan_cases import EXACT, assert_alike, batch, layer_by_layer, with_plain_plan, with_plan
from tests.way_cases import BUILDERS, POOLS, Ways, chain_of, each_builder

GROUPINGS = ("one dense product", "a product for each separate part",
             "a product for each set of inputs")
PIXELS = ("by pooling cell", "by pixel", "by pixel in slabs")


@pytest.fixture
def ways(monkeypatch):
    return Ways(monkeypatch)


@pytest.mark.parametrize("lines", [True, False], ids=["lines", "columns"])
@each_builder
def test_every_way_of_each_convolution_gives_the_step_of_the_plain_plan(build, lines, ways):
    ways.lines = lines
    reference, plain_plan = with_plain_plan(build)
    images, labels = batch(reference, 5)
    expected = float(plain_plan.step(images, labels))
    combinations = 0
    for chosen in ways.take_each(build):
        network, plan = with_plan(build)
        assert float(plan.step(images, labels)) == pytest.approx(expected, rel=EXACT), chosen
        assert_alike(network.gradients, reference.gradients)
        assert_alike(network.parameters, reference.parameters)
        combinations += 1
    assert combinations >= 9, "two convolutions behind which there is pooling have three ways each"


@pytest.mark.parametrize("lines", [True, False], ids=["lines", "columns"])
@each_builder
def test_every_way_of_each_convolution_gives_the_outputs_of_the_layers(build, lines, ways):
    ways.lines = lines
    network = build(dtype="float64")
    images, _ = batch(network, 3)
    expected = layer_by_layer(network, images)
    for chosen in list(ways.take_each(build))[::2]:
        outputs = build(dtype="float64").outputs(images)
        assert relative_error(outputs, expected) <= EXACT, chosen


def test_the_networks_here_have_every_way_there_is(ways):
    for build in BUILDERS.values():
        for _ in ways.take_each(build):
            with_plan(build)
    for words in (*GROUPINGS, *PIXELS):
        assert any(words in name for name in ways.seen), words
    assert {name.removeprefix(grouping + " ") for name in ways.seen for grouping in GROUPINGS
            if name.startswith(grouping)} == set(PIXELS)


# -- ties ------------------------------------------------------------------------------------------


def with_ties(pool_size, activation="identity", dtype="float64"):
    """Two convolutions by whole numbers, before a max pooling each: windows full of ties, and of
    zeros and less."""
    network = chain_of(
        Conv2d(1, 4, 3, activation=activation), MaxPool2d(pool_size),
        Conv2d(4, 4, 2, activation=activation, connections=ConnectionTable.grouped(4, 4, 2)),
        MaxPool2d(pool_size), input_shape=(1, 17, 16), dtype=dtype)
    generator = np.random.default_rng(8)
    network.set_parameters({
        name: values if name.startswith("dense") else generator.integers(-1, 2, values.shape)
        for name, values in network.parameter_values().items()})
    return network


def images_of_whole_numbers(n):
    generator = np.random.default_rng(9)
    return generator.integers(0, 2, (n, 1, 17, 16)).astype(np.float64), generator.integers(0, 4, n)


@pytest.mark.parametrize("pool_size", POOLS, ids=str)
def test_windows_of_the_tied_network_hold_their_maximum_more_than_once(pool_size):
    network = with_ties(pool_size)
    x, _ = images_of_whole_numbers(6)
    for layer in network.layers:
        y = layer.forward(x)
        if layer.op == "max_pool2d":
            height, width = layer.pool_size
            rows, columns = y.shape[2:]
            windows = x[:, :, :rows * height, :columns * width].reshape(
                6, -1, rows, height, columns, width)
            ties = (windows == y[:, :, :, None, :, None]).sum(axis=(3, 5)) > 1
            assert ties.mean() > 0.1, layer.name
        x = y


@pytest.mark.parametrize("activation", ["identity", "relu", "tanh"])
@pytest.mark.parametrize("pool_size", POOLS, ids=str)
def test_of_equal_pixels_the_first_takes_the_gradient_in_slabs_and_apart(
        pool_size, activation, ways):
    build = partial(with_ties, pool_size, activation)
    reference, plain_plan = with_plain_plan(build, batch_size=6)
    images, labels = images_of_whole_numbers(6)
    plain_plan.step(images, labels)
    for _ in ways.take_each(build):
        network, plan = with_plan(build, batch_size=6)
        plan.step(images, labels)
        assert_alike(network.gradients, reference.gradients)
    assert any("by pixel in slabs" in name for name in ways.seen)
    assert any(name.endswith("by pixel") for name in ways.seen)


def test_a_relu_before_a_max_pooling_is_left_to_the_pooling():
    _, plan = with_plan(partial(with_ties, 2, "relu"))
    assert plan.explain().count("maxima of 4 pixels, then relu") == 2
    _, plan = with_plan(partial(with_ties, 2, "tanh"))
    assert "then" not in plan.explain()
