"""The models of the literature: sizes, gradients of the whole loss, the same steps everywhere."""

import numpy as np
import pytest

from gpucnn import (
    SGD,
    Adam,
    Conv2d,
    Dense,
    Flatten,
    MaxPool2d,
    Network,
    gradcheck,
    lenet5,
    two_stage,
)
from gpucnn.backends.cuda import CudaBackend
from gpucnn.errors import DataError, DTypeError, ShapeError
from gpucnn.models import TWO_STAGE_C3
from tests.cuda_on_cpu.runtime import HostRuntime

MODELS = {"lenet5": lenet5, "two_stage": two_stage}
LOSSES = {"cross_entropy": "identity", "mse": "scaled_tanh"}


def relu_net(classes=10, output_activation="identity", **keywords):
    return Network([
        Conv2d(1, 4, 3, padding=1, activation="relu", name="c1"), MaxPool2d(2, name="p2"),
        Conv2d(4, 6, 3, stride=2, activation="relu", name="c3"), Flatten(name="flat"),
        Dense(6 * 25, classes, activation=output_activation, name="output"),
    ], (1, 22, 22), **keywords)


def batch(network, n, seed=0):
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (n, *network.input_shape), dtype=np.uint8)
    return images, generator.integers(0, 10, n)


def norm_error(got, expected):
    return np.linalg.norm(got - expected) / np.linalg.norm(expected)


def test_lenet5_has_the_papers_numbers_of_parameters():
    counts = [layer.n_parameters for layer in lenet5(device="cpu").layers]
    assert counts == [156, 12, 1516, 32, 48120, 10164, 850]


def test_two_stage_has_the_originals_shapes_and_table():
    network = two_stage(device="cpu")
    assert [shape[0] for shape in network.shapes] == [4, 4, 16, 16, 20, 10]
    assert network.shapes[3] == (16, 4, 4) and network.output_shape == (10, 1, 1)
    rows = ["".join("1" if joined else "0" for joined in row) for row in TWO_STAGE_C3.matrix]
    assert rows == ["1100110011001100", "0011001100110011", "0011001100110011", "1100110011001100"]


@pytest.mark.parametrize("device", ["cpu", "cuda on cpu"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("model", MODELS)
def test_the_whole_losss_gradient_agrees_with_finite_differences(model, loss, device):
    backend = "cpu" if device == "cpu" else CudaBackend(HostRuntime())
    network = MODELS[model](output_activation=LOSSES[loss], dtype="float64", device=backend, seed=1)
    generator = np.random.default_rng(2)
    x = generator.uniform(-0.1, 1.175, (3, *network.input_shape))
    checks = gradcheck(network, x, generator.integers(0, 10, 3), loss=loss)
    assert [check.name for check in checks] == [*network.parameters, "input"]
    assert all(check.derivative != 0 for check in checks)
    assert max(check.error for check in checks) < 1e-6, checks


@pytest.mark.parametrize("device", ["cpu", "cuda on cpu"])
def test_a_wrong_gradient_is_found(device, monkeypatch):
    backend = "cpu" if device == "cpu" else CudaBackend(HostRuntime())
    network = two_stage(dtype="float64", device=backend)
    propagate = network["s2"].propagate

    def wrong(grad_output, *rest):
        host = network.backend.to_host(grad_output) * 1.001
        return propagate(network.backend.from_host(host), *rest)

    monkeypatch.setattr(network["s2"], "propagate", wrong)
    x = np.random.default_rng(0).uniform(0, 1, (2, 1, 28, 28))
    errors = {check.name: check.error for check in gradcheck(network, x, np.array([1, 2]),
                                                             loss="cross_entropy")}
    assert errors["s2.coefficient"] > 1e-4 and errors["c1.weight"] > 1e-4
    assert errors["c3.weight"] < 1e-6


@pytest.mark.parametrize(("x", "labels", "error", "message"), [
    (np.zeros((1, 1, 28, 28)), [77], DataError, "77"),
    (np.zeros((1, 1, 28, 28)), [0.9], DTypeError, "integer"),
    (np.zeros((2, 1, 28, 28)), [0], DataError, "labels"),
    (np.zeros((1, 1, 32, 32)), [0], ShapeError, r"shape \(1, 28, 28\)"),
])
def test_gradcheck_refuses_what_it_cannot_check(x, labels, error, message):
    with pytest.raises(error, match=message):
        gradcheck(two_stage(dtype="float64", device="cpu"), x, np.array(labels), loss="mse")


def trained(model, device, steps, optimizer, loss="cross_entropy", n=4):
    network = model(output_activation=LOSSES[loss], device=device)
    plan = network.compile_step(loss=loss, optimizer=optimizer, batch_size=n)
    for step in range(steps):
        plan.step(*batch(network, n, seed=step))
    return network.backend.to_host(network.parameters.flat)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("model", MODELS)
def test_one_step_and_ten_give_the_same_parameters_on_both_backends(model, loss):
    for steps in (1, 10):
        results = [trained(MODELS[model], device, steps, SGD(lr=0.01, momentum=0.9), loss)
                   for device in ("cpu", CudaBackend(HostRuntime()))]
        start = MODELS[model](device="cpu").parameters.flat
        assert norm_error(*results) < 1e-4
        assert norm_error(results[0], start) > 1e-4, "the steps changed something"


def test_a_step_of_a_relu_and_max_pooling_net_is_the_same_on_both_backends():
    results = [trained(relu_net, device, 1, Adam(lr=0.01))
               for device in ("cpu", CudaBackend(HostRuntime()))]
    assert norm_error(*results) < 1e-4


@pytest.mark.parametrize("model", [*MODELS, "relu_net"])
@pytest.mark.parametrize("device", ["cpu", "cuda on cpu"])
def test_the_same_seed_gives_the_same_bits_twice(model, device):
    results = [trained(MODELS.get(model, relu_net),
                       "cpu" if device == "cpu" else CudaBackend(HostRuntime()), 2,
                       SGD(lr=0.05, momentum=0.9)) for _ in range(2)]
    assert np.array_equal(*results)


def test_the_order_of_threads_does_not_change_a_bit():
    results = [trained(two_stage, CudaBackend(HostRuntime(order=order)), 1, SGD(lr=0.05), n=2)
               for order in ("forward", "reverse", 5)]
    assert np.array_equal(results[0], results[1]) and np.array_equal(results[0], results[2])
