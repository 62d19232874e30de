"""Many networks at once: what is refused, with the first thing that does not fit."""

import numpy as np
import pytest

from gpucnn import (
    SGD,
    Adam,
    ConnectionTable,
    Conv2d,
    Dense,
    MaxPool2d,
    Network,
    Subsample2d,
    fit_many,
)
from gpucnn.errors import ArgumentError, DataError, DeviceError, DTypeError, ShapeError
from tests.many_cases import bits, data, network

pytestmark = pytest.mark.filterwarnings("error")


def with_layers(*layers, **keywords):
    return Network([*layers], (1, 8, 8), device="cpu", **keywords)


def c1(maps=3, size=5, **keywords):
    return Conv2d(1, maps, size, **keywords)


TABLE = ConnectionTable.from_pairs([[0, 0, 1], [0, 1, 0]])
OTHER = ConnectionTable.from_pairs([[0, 0, 1], [0, 1, 1]])


@pytest.mark.parametrize(("first", "second", "message"), [
    (network(), network(dtype="float64"), "dtype float32 in network 0 and float64 in network 1"),
    (network(), network(input_range=(0, 1)), r"input_range \(-0.1, 1.175\) .* \(0.0, 1.0\)"),
    (with_layers(c1(), Subsample2d(3, 4, name="s2"), Dense(3, 4)),
     with_layers(c1(), MaxPool2d(4), Dense(3, 4)), "layer 's2' as subsample2d .* max_pool2d"),
    (with_layers(c1(name="c1"), Conv2d(3, 4, 4)),
     with_layers(c1(size=(5, 4)), Conv2d(3, 4, (4, 5))),
     r"layer 'c1' with kernel_size \(5, 5\) .* \(5, 4\)"),
    (with_layers(c1(name="c1"), Conv2d(3, 4, 4)),
     with_layers(c1(activation="relu"), Conv2d(3, 4, 4)),
     "layer 'c1' with activation scaled_tanh .* relu"),
    (with_layers(c1(2), Conv2d(2, 2, 4, connections=TABLE, name="c2")),
     with_layers(c1(2), Conv2d(2, 2, 4, connections=OTHER)),
     "layer 'c2' with .*3 connections.* another of 3 connections in network 1"),
    (with_layers(Conv2d(1, 4, 8)), with_layers(Conv2d(1, 4, 8), Dense(4, 4)),
     "layers: 1 in network 0 and 2 in network 1"),
], ids=["dtype", "range", "op", "option", "activation", "table", "count"])
def test_networks_that_differ_in_more_than_values_are_refused_with_the_first_difference(
        first, second, message):
    before = bits([first, second])
    with pytest.raises(ArgumentError, match=message):
        fit_many([first, second], data(), epochs=1)
    assert bits([first, second]) == before


def test_networks_on_two_devices_are_refused(cuda_on_cpu):
    with pytest.raises(DeviceError, match="network 0 on cpu and network 1 on cuda-on-cpu"):
        fit_many([network(), network(device=cuda_on_cpu)], data(), epochs=1)


def test_what_is_no_list_of_different_networks_is_refused():
    one = network()
    for networks, message in (([], "at least one network"), (one, "fit trains that"),
                              ([one, None], "got None at place 1"),
                              ([one, network(), one], "the same one at places 0 and 2")):
        with pytest.raises(ArgumentError, match=message):
            fit_many(networks, data(), epochs=1)


@pytest.mark.parametrize(("settings", "message"), [
    ({"optimizer": [SGD(0.1)]}, "an optimiser for each of 2 networks, got 1"),
    ({"optimizer": []}, "an optimiser for each of 2 networks, got 0"),
    ({"optimizer": [SGD(0.1), Adam(0.1)]}, r"differ in lr alone, got SGD\(.* Adam\("),
    ({"optimizer": [SGD(0.1), SGD(0.1, momentum=0.9)]}, "differ in lr alone.*for network 1"),
    ({"optimizer": [SGD(0.1), 0.1]}, "got 0.1 for network 1"),
    ({"seed": [1, 2, 3]}, "a seed for each of 2 networks, got 3"),
    ({"seed": [1, -2]}, "seed: expected at least 0, got -2"),
    ({"seed": "one"}, "seed for each of 2"),
    ({"epochs": 0}, "fit_many: epochs: expected at least 1"),
    ({"schedule": 0.9}, "fit_many: expected a schedule"),
    ({"precision": "tf32"}, "precision: expected 'float32'"),
    ({"threads": 0}, "threads: expected at least 1"),
    ({"loss": "hinge"}, "loss: expected one of"),
])
def test_a_setting_that_does_not_fit_is_refused_before_training(settings, message):
    networks = [network(0), network(1)]
    before = bits(networks)
    with pytest.raises(ArgumentError, match=message):
        fit_many(networks, data(), **({"epochs": 1} | settings))
    assert bits(networks) == before


@pytest.mark.parametrize(("train", "validation", "error", "message"), [
    ((np.zeros((0, 8, 8), np.uint8), np.zeros(0, int)), None, ArgumentError, "no labels to count"),
    ((np.zeros((2, 8, 8), np.uint8), np.array([0, 4])), None, DataError, "labels of 0 to 3"),
    ((np.zeros((2, 9, 8), np.uint8), np.array([0, 1])), None, ShapeError, "at most 8x8"),
    ((np.zeros((2, 8, 8)), np.array([0, 1])), None, DTypeError, "uint8 or float32"),
    (data(), (np.zeros((1, 12, 12), np.uint8), np.array([0])), ShapeError,
     "fit_many: validation: expected one answer"),
])
def test_data_that_does_not_fit_is_refused_before_training(train, validation, error, message):
    networks = [network(0), network(1)]
    before = bits(networks)
    with pytest.raises(error, match=message):
        fit_many(networks, train, validation, epochs=1)
    assert bits(networks) == before


def test_cross_entropy_on_squashed_outputs_is_warned_of():
    with pytest.warns(RuntimeWarning, match="fit_many: cross_entropy expects linear outputs"):
        fit_many([network(0, "scaled_tanh")], data(), epochs=1)
