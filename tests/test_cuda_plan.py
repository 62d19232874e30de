"""The CUDA plan against the plain one: the same numbers, whatever the network, type and batch.

The kernels run on the host. Each network is compiled once, for one batch size.
"""

from functools import partial

import numpy as np
import pytest

from benchmarks.models import relu_net
from gpucnn import SGD, Dataset
from gpucnn.plans import PlainPlan
from tests.chain_traits import TRAITS, covering, traits_of
from tests.plan_cases import (
    CHAINS,
    CLOSE,
    EXACT,
    LOSSES,
    MODELS,
    assert_alike,
    at_once,
    batch,
    byte_batch,
    cuda_backend,
    gradients_of,
    with_plain_plan,
    with_plan,
)
from tests.random_chains import random_chain

AGREES = 1e-5  # parameters in float32 after many steps
STEPS = 100
RATE = 0.005  # at which none of the networks diverges
SOME_CHAINS = {str(chain): chain for chain in covering(CHAINS)}
SMOOTH_CHAINS = {str(chain): chain for chain in (random_chain(seed, smooth=True)
                                                 for seed in range(20))}
ALL_MODELS = MODELS | {"relu_net": partial(relu_net, device="cpu")}


def builders(chains):
    return {name: chain.network for name, chain in chains.items()}


# In float64, and in float32 beside it.
EXACTLY = builders(SOME_CHAINS) | ALL_MODELS
CLOSELY = (builders({name: chain for name, chain in SOME_CHAINS.items() if chain.has_corners
                     and chain.seed % 2}) | builders(SMOOTH_CHAINS) | ALL_MODELS)
MANY_STEPS = builders(SMOOTH_CHAINS) | MODELS
EVERY = EXACTLY | CLOSELY
CASES = [*((name, "float64") for name in EXACTLY), *((name, "float32") for name in CLOSELY)]


def options_of(name):
    """Each loss in turn, and batches of 4 to 8 samples; of large networks, small ones."""
    number = list(EVERY).index(name)
    size = {"lenet5": 4, "relu_net": 2}.get(name, 4 + number % 5)
    return {"loss": LOSSES[number % 2], "optimizer": SGD(lr=RATE, momentum=0.5),
            "batch_size": size}


@pytest.fixture(scope="module")
def plans():
    """(network's name, type) -> (network, its plan on CUDA)."""
    return at_once({(name, dtype): partial(with_plan, EVERY[name], dtype=dtype,
                                           backend=cuda_backend(), **options_of(name))
                    for name, dtype in CASES})


def named(builders):
    return pytest.mark.parametrize("name", list(builders), ids=list(builders))


def reference_for(name, network, plan, dtype="float64"):
    """(network, plain plan) on the CPU, with the parameters and the state that the others have."""
    reference, plain = with_plain_plan(EVERY[name], dtype=dtype, **options_of(name))
    reference.set_parameters(network.parameter_values())
    for key, array in plan.state.items():
        plain.state[key][...] = network.backend.to_host(array)
    return reference, plain


def test_the_chains_leave_no_kind_of_layer_and_no_option_out():
    assert frozenset().union(*map(traits_of, SOME_CHAINS.values())) == TRAITS


@named(EXACTLY)
def test_steps_on_full_and_smaller_batches_are_those_of_the_plain_plan(name, plans):
    network, plan = plans[name, "float64"]
    assert not isinstance(plan, PlainPlan)
    reference, plain = reference_for(name, network, plan)
    size = options_of(name)["batch_size"]
    for n in (size, size - 1, 1):
        images, labels = batch(reference, n)
        loss, expected = plan.step(images, labels), plain.step(images, labels)
        assert float(loss) == pytest.approx(float(expected), rel=EXACT)
        assert_alike(gradients_of(network), gradients_of(reference))
        assert_alike(network.parameter_values(), reference.parameter_values())


@named(CLOSELY)
def test_gradients_in_float32_are_close_to_those_in_float64(name, plans):
    network, plan = plans[name, "float32"]
    reference, plain = reference_for(name, network, plan)
    images, labels = batch(network, options_of(name)["batch_size"])
    loss, expected = plan.step(images, labels), plain.step(images.astype(float), labels)
    assert float(loss) == pytest.approx(float(expected), rel=CLOSE)
    assert_alike(gradients_of(network), gradients_of(reference), CLOSE)
    assert_alike(network.parameter_values(), reference.parameter_values(), AGREES)


@pytest.mark.parametrize(("name", "inputs", "weights"), [
    ("two_stage", 1e4, 1e-4), ("two_stage", 1e-4, 1e4), ("two_stage", 1e-4, 1e-4),
    ("relu_net", 1e4, 1e4), ("relu_net", 1e-4, 1e-4)])
def test_gradients_stay_close_where_inputs_and_weights_are_large_or_small(name, inputs, weights,
                                                                          plans):
    """The weights are those of the first layer. Large ones on large inputs would saturate tanh,
    whose slope nobody knows in float32 then."""
    network, plan = plans[name, "float32"]
    values = EVERY[name](dtype="float32").parameter_values()
    network.set_parameters(values | {"c1.weight": weights * values["c1.weight"]})
    reference, plain = reference_for(name, network, plan)
    images, labels = batch(network, options_of(name)["batch_size"])
    images *= np.float32(inputs)
    loss, expected = plan.step(images, labels), plain.step(images.astype(float), labels)
    assert float(loss) == pytest.approx(float(expected), rel=CLOSE)
    assert_alike(gradients_of(network), gradients_of(reference), CLOSE)


@named(MANY_STEPS)
def test_parameters_after_many_steps_are_those_of_the_plain_plan_in_either_type(name, plans):
    """Most of the steps are replays of a captured graph."""
    network, plan = plans[name, "float32"]
    references = [reference_for(name, network, plan, dtype) for dtype in ("float32", "float64")]
    size = options_of(name)["batch_size"]
    data = Dataset(*byte_batch(network, 5 * size + 1), classes=network.output_shape[0])
    order = np.random.default_rng(1).integers(0, len(data), STEPS * size)
    results = [each.epoch(each.load(data), order, None, [RATE] * STEPS)
               for each in (plan, *(plain for _, plain in references))]
    for (reference, _), (loss, _) in zip(references, results[1:], strict=True):
        assert results[0][0] == pytest.approx(loss, rel=AGREES)
        assert_alike(network.parameter_values(), reference.parameter_values(), AGREES)
