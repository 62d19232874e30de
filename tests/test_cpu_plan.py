"""The CPU's plan against the plain one: the same numbers, whatever the network and the batch."""

import numpy as np
import pytest

from gpucnn import SGD
from gpucnn.gradcheck import STEP, GradientCheck
from gpucnn.plans import PlainPlan
from tests.chain_traits import TRAITS, traits_of
from tests.oracle import relative_error
from tests.plan_cases import (
    CHAINS,
    CLOSE,
    EXACT,
    LOSSES,
    MODELS,
    OPTIMIZERS,
    SOME_CHAINS,
    assert_alike,
    assert_same_step,
    batch,
    each_chain,
    each_loss,
    each_model,
    each_of,
    with_both_plans,
    with_plain_plan,
    with_plan,
)
from tests.random_chains import random_chain

BATCH_SIZES = (1, 2, 7, 33, 50, 67)
SMOOTH_CHAINS = {str(chain): chain.network
                 for chain in (random_chain(seed, smooth=True) for seed in range(100, 108))}


# -- one step --------------------------------------------------------------------------------------


def test_the_chains_leave_no_kind_of_layer_and_no_option_out():
    covered = frozenset().union(*(traits_of(chain) for chain in CHAINS))
    assert not TRAITS - covered and not covered - TRAITS


def test_a_chain_is_the_same_each_time_and_smooth_where_asked():
    assert [str(chain) for chain in CHAINS] == [str(random_chain(seed)) for seed in range(50)]
    assert not any(random_chain(seed, smooth=True).has_corners for seed in range(100))


def test_every_chain_has_something_to_learn():
    """A network of dead ReLU units would show no error."""
    for chain in CHAINS:
        network, plain = with_plain_plan(chain.network, batch_size=7)
        plain.step(*batch(network, 7))
        assert np.count_nonzero(network.gradients.flat) > network.n_parameters / 10, str(chain)


def test_the_plan_is_not_the_plain_one():
    """Otherwise the tests here compare a plan with itself."""
    assert type(with_plan(MODELS["lenet5"])[1]) is not PlainPlan


@each_chain
def test_a_step_is_that_of_the_plain_plan_for_full_and_smaller_batches(chain):
    """The sizes are no multiples of a micro-batch's."""
    batch_size = BATCH_SIZES[chain.seed % 6]
    smaller = BATCH_SIZES[chain.seed // 6 % (chain.seed % 6 + 1)]
    for n in {batch_size, smaller}:
        planned, plain = with_both_plans(chain.network, loss=LOSSES[chain.seed % 2],
                                         optimizer=SGD(lr=0.1), batch_size=batch_size)
        assert_same_step(planned, plain, *batch(plain[0], n))


@each_model
@each_loss
def test_a_step_of_a_model_is_that_of_the_plain_plan(build, loss):
    for n in (1, 3, 37):
        planned, plain = with_both_plans(build, loss=loss, batch_size=37)
        assert_same_step(planned, plain, *batch(plain[0], n))


@each_chain
def test_gradients_in_float32_are_close_to_those_in_float64(chain):
    """Batches are small where there are corners: among many thousands of values one may round to
    the other side."""
    n = 3 if chain.has_corners else BATCH_SIZES[chain.seed % 6]
    options = {"loss": LOSSES[chain.seed % 2], "batch_size": max(n, 5)}
    network, plan = with_plan(chain.network, dtype="float32", **options)
    reference, plain = with_plain_plan(chain.network, **options)
    reference.set_parameters(network.parameter_values())
    images, labels = batch(network, n)
    loss = plan.step(images, labels)
    assert float(loss) == pytest.approx(float(plain.step(images.astype(float), labels)), rel=CLOSE)
    assert_alike(network.gradients, reference.gradients, CLOSE)


@each_model
def test_gradients_of_a_model_in_float32_are_close_to_those_in_float64(build):
    network, plan = with_plan(build, dtype="float32")
    reference, plain = with_plain_plan(build)
    reference.set_parameters(network.parameter_values())
    images, labels = batch(network, 50)
    plan.step(images, labels)
    plain.step(images.astype(float), labels)
    assert_alike(network.gradients, reference.gradients, CLOSE)


# -- several steps ---------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@each_loss
@each_of(SOME_CHAINS | MODELS)
def test_three_steps_of_different_sizes_are_those_of_the_plain_plan(build, loss, optimizer):
    planned, plain = with_both_plans(build, loss=loss, optimizer=optimizer, batch_size=19)
    for step, n in enumerate((19, 6, 17)):
        assert_same_step(planned, plain, *batch(plain[0], n, seed=step))
    plan, plain_plan = planned[1], plain[1]
    assert plan.steps == plain_plan.steps == 3 and set(plan.state) == set(plain_plan.state)
    for name, array in plain_plan.state.items():
        assert relative_error(plan.state[name], array) <= EXACT, name


def test_a_rate_that_is_set_between_steps_is_used():
    planned, plain = with_both_plans(MODELS["two_stage"], batch_size=5)
    for rate in (0.1, 0.02, 0.0):
        planned[1].learning_rate = plain[1].learning_rate = rate
        assert_same_step(planned, plain, *batch(plain[0], 5))


def test_values_set_between_steps_are_used():
    planned, plain = with_both_plans(CHAINS[3].network, batch_size=5)
    for seed in (1, 2):
        generator = np.random.default_rng(seed)
        values = {name: generator.standard_normal(array.shape)
                  for name, array in plain[0].parameters.items()}
        planned[0].set_parameters(values)
        plain[0].set_parameters(values)
        assert_same_step(planned, plain, *batch(plain[0], 5))


def test_predictions_between_steps_do_not_disturb_a_plan():
    planned, plain = with_both_plans(MODELS["two_stage"], batch_size=20)
    for step in range(2):
        assert_same_step(planned, plain, *batch(plain[0], 20, seed=step))
        planned[0].predict(batch(planned[0], 30, seed=5)[0])


# -- the definition of a gradient ------------------------------------------------------------------


@each_loss
@each_of(SMOOTH_CHAINS | MODELS)
def test_the_gradients_agree_with_finite_differences_of_the_plans_own_loss(build, loss):
    """A step at rate 0 changes nothing: it computes the loss and its gradients."""
    network, plan = with_plan(build, loss=loss, optimizer=SGD(lr=0.1), batch_size=3)
    plan.learning_rate = 0.0
    images, labels = batch(network, 3)
    start = network.parameter_values()
    plan.step(images, labels)
    gradients = {name: array.copy() for name, array in network.gradients.items()}
    generator = np.random.default_rng(1)
    for name, gradient in gradients.items():
        direction = generator.standard_normal(gradient.shape)
        direction /= np.linalg.norm(direction)
        around = []
        for sign in (1, -1):
            network.set_parameters(start | {name: start[name] + sign * STEP * direction})
            around.append(float(plan.step(images, labels)))
        check = GradientCheck(name, float(np.vdot(gradient, direction)),
                              (around[0] - around[1]) / (2 * STEP),
                              float(np.linalg.norm(gradient) / np.sqrt(gradient.size)))
        assert check.derivative != 0 and check.error < 1e-6, check
