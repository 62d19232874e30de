"""Online training in one launch agrees with the plain plan, whatever the network and wherever its
weights live. One block trains a network here; test_cuda_online_clusters.py has several.

The kernels run on the host.
"""

from functools import partial

import numpy as np
import pytest

from gpucnn import SGD, Dataset
from tests.chain_traits import covering
from tests.online_cases import (
    AMPERE,
    Choices,
    even_matrices,
    group_of,
    homes_of,
    large_kernel,
    odd_matrices,
    online_and_plain,
    pooling_of_all_kinds,
    with_online_plan,
    with_room,
)
from tests.plan_cases import (
    CHAINS,
    EXACT,
    LOSSES,
    MODELS,
    assert_alike,
    at_once,
    batch,
    byte_batch,
    cuda_backend,
    each_loss,
    gradients_of,
)

UPDATES = 64
AFTER_UPDATES = 2e-4   # parameters in float32 after so many updates
OF_ONE_UPDATE = 1e-5   # gradients in float32
MODEL_RATE = 0.005
SOME_CHAINS = {str(chain): chain.network for chain in covering(CHAINS)[:6]}
SMALL = {each.__name__: each for each in (large_kernel, pooling_of_all_kinds)} | SOME_CHAINS

# Where weights live: (profile's elements of shared memory, registers for weights), and what becomes
# of the first and the second matrix.
HOMES = {
    "shared": (6000, 0, {"first": "shared", "second": "shared"}),
    "registers": (700, 400, {"first": "registers", "second": "both"}),
    "both": (1500, 400, {"first": "both", "second": "shared"}),
    "global": (500, 0, {"first": "global", "second": "global"}),
}
MATRICES = {"odd": odd_matrices, "even": even_matrices}


def loss_of(build):
    """One that says something even of a single output."""
    return "mse" if build is odd_matrices else "cross_entropy"


def choices_of(home, build, dtype):
    """(backend, choices) for a network of matrices."""
    elements, registers, _ = HOMES[home]
    if build is odd_matrices:
        elements = {1500: 3500}.get(elements, elements)
    backend = cuda_backend(with_room(AMPERE, elements, np.dtype(dtype).itemsize))
    return backend, Choices(registers=registers)


def models(name, dtype, loss):
    return partial(with_online_plan, MODELS[name], dtype=dtype, loss=loss,
                   optimizer=SGD(lr=MODEL_RATE))


MODEL_CASES = [(name, "float32", loss) for name in MODELS for loss in LOSSES] + [
    ("lenet5", "float64", "cross_entropy"), ("two_stage", "float64", "mse")]


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """What the tests here launch, compiled at once, the longest first."""
    jobs = {case: models(*case) for case in MODEL_CASES}
    jobs |= {name: partial(with_online_plan, build) for name, build in SMALL.items()}
    for home in HOMES:
        for build in MATRICES.values():
            dtype = "float32" if build is even_matrices else "float64"
            backend, choices = choices_of(home, build, dtype)
            jobs[home, build] = partial(with_online_plan, build, dtype=dtype, backend=backend,
                                        choices=choices, loss=loss_of(build))
    at_once(jobs)


def trained_alike(planned, plain, *, updates, tolerance, seed=0, rate=MODEL_RATE):
    """Train both by so many updates, each at a rate of its own, and compare."""
    (network, plan), (reference, plain_plan) = planned, plain
    images, labels = byte_batch(reference, 10, seed=seed)
    data = Dataset(images, labels, classes=reference.output_shape[0])
    generator = np.random.default_rng([seed, updates])
    order = generator.integers(0, len(data), updates)
    shifts = generator.integers(-1, 2, (updates, 2))
    rates = np.linspace(rate, rate / 5, updates)
    results = [each.epoch(each.load(data), order, shifts, rates) for each in (plan, plain_plan)]
    assert results[0][0] == pytest.approx(results[1][0], rel=tolerance)
    assert results[0][1] == results[1][1] and plan.steps == plain_plan.steps
    assert_alike(network.parameter_values(), reference.parameter_values(), tolerance)
    assert_alike(gradients_of(network), gradients_of(reference), tolerance)


# -- whole models ----------------------------------------------------------------------------------


def both_models(name, dtype, loss):
    return online_and_plain(MODELS[name], dtype=dtype, loss=loss, optimizer=SGD(lr=MODEL_RATE))


@pytest.mark.parametrize("name", MODELS)
@each_loss
def test_parameters_after_64_updates_are_close_to_those_in_float64(name, loss):
    planned, plain = both_models(name, "float32", loss)
    trained_alike(planned, plain, updates=UPDATES, tolerance=AFTER_UPDATES)


@pytest.mark.parametrize("name", MODELS)
@each_loss
def test_gradients_of_an_update_are_close_to_those_in_float64(name, loss):
    (network, plan), (reference, plain) = both_models(name, "float32", loss)
    images, labels = byte_batch(network, 1)
    assert float(plan.step(images, labels)) == pytest.approx(float(plain.step(images, labels)),
                                                             rel=OF_ONE_UPDATE)
    assert_alike(gradients_of(network), gradients_of(reference), OF_ONE_UPDATE)


@pytest.mark.parametrize(("name", "dtype", "loss"), MODEL_CASES[-2:])
def test_in_float64_updates_are_those_of_the_plain_plan(name, dtype, loss):
    planned, plain = both_models(name, dtype, loss)
    trained_alike(planned, plain, updates=12, tolerance=EXACT)


# -- all kinds of layers ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_updates_are_those_of_the_plain_plan_whatever_the_layers(name):
    """Gradients are those of the last sample."""
    planned, plain = online_and_plain(SMALL[name])
    trained_alike(planned, plain, updates=8, tolerance=EXACT)
    images, labels = batch(plain[0], 1)  # reals, at the optimiser's own rate
    loss, expected = planned[1].step(images, labels), plain[1].step(images, labels)
    assert float(loss) == pytest.approx(float(expected), rel=EXACT)
    assert_alike(gradients_of(planned[0]), gradients_of(plain[0]))
    assert_alike(planned[0].parameter_values(), plain[0].parameter_values())


# -- homes of weights ------------------------------------------------------------------------------


def home_in_words(kind, held, group, name):
    """Where a matrix's weights are."""
    if kind == "global" or not held:
        return {"held": "shared"}.get(kind, kind)
    inputs = next(layer.link.features[0] for layer in group.group.layers
                  if layer.link.spec.name == name)
    return "registers" if held == -(-inputs // (group.threads // 32)) else "both"


@pytest.mark.parametrize("home", HOMES)
@pytest.mark.parametrize("build", MATRICES.values(), ids=MATRICES)
def test_updates_are_those_of_the_plain_plan_wherever_weights_live(home, build):
    dtype, tolerance = (("float32", AFTER_UPDATES) if build is even_matrices
                        else ("float64", EXACT))
    backend, choices = choices_of(home, build, dtype)
    planned, plain = online_and_plain(build, dtype=dtype, backend=backend, choices=choices,
                                      loss=loss_of(build))
    group = group_of(planned[1])
    found = {name: home_in_words(*where, group, name) for name, where in homes_of(group).items()}
    assert found | HOMES[home][2] == found
    trained_alike(planned, plain, updates=9, tolerance=tolerance, rate=0.05)


def test_devices_with_less_room_have_weights_in_registers_or_fewer_partial_sums():
    """By `compile_step`, which makes its own choices."""
    seen = []
    for elements in (10000, 8000):
        backend = cuda_backend(with_room(AMPERE, elements, 4))
        planned, plain = online_and_plain(MODELS["two_stage"], dtype="float32", backend=backend,
                                          loss="mse", optimizer=SGD(lr=MODEL_RATE))
        group = group_of(planned[1])
        seen.append((homes_of(group)["output"][1] > 0,
                     max(layer.parts for layer in group.group.layers)))
        trained_alike(planned, plain, updates=4, tolerance=AFTER_UPDATES)
    assert seen == [(True, 4), (False, 1)]
