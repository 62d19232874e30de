"""The steps of the CPU's plan for one sample at a time: which there are, matrices that are updated
once for several samples, and parameters that are kept in another order meanwhile."""

from functools import partial

import numpy as np
import pytest

from gpucnn import (
    SGD,
    Adam,
    ConnectionTable,
    Conv2d,
    Dataset,
    Dense,
    Flatten,
    MaxPool2d,
    Network,
    Subsample2d,
    lenet5,
    two_stage,
)
from gpucnn.backends.cpu.plan.online import low_rank
from tests.oracle import relative_error
from tests.plan_cases import (
    CHAINS,
    EXACT,
    assert_alike,
    assert_same_step,
    batch,
    small_network,
    with_both_plans,
    with_plan,
)
from tests.way_cases import BUILDERS, chain_of

SAMPLES = 4  # that make a matrix be computed anew, here
LINEAR = {
    "plain": SGD(lr=0.02), "decay": SGD(lr=0.02, weight_decay=0.1),
    "momentum": SGD(lr=0.02, momentum=0.8),
    "momentum, decay": SGD(lr=0.02, momentum=0.8, weight_decay=0.1),
    "nesterov, decay": SGD(lr=0.02, momentum=0.8, nesterov=True, weight_decay=0.1)}

each_linear = pytest.mark.parametrize("optimizer", LINEAR.values(), ids=LINEAR)


@pytest.fixture
def all_in_low_rank(monkeypatch):
    """Every dense layer of one position, however small."""
    monkeypatch.setattr(low_rank, "LEAST_WEIGHTS", 1)
    monkeypatch.setattr(low_rank, "SAMPLES", SAMPLES)


def dense_layers(dtype="float64"):
    """Two after one another and one over whole maps; one without biases."""
    return Network([
        Conv2d(1, 3, (8, 7), name="c1", activation="tanh", bias=False), Flatten(),
        Dense(3, 6, name="f2"), Dense(6, 4, activation="identity", name="output")],
        (1, 8, 7), dtype=dtype, device="cpu", seed=4)


def epochs(planned, plain, *lengths, rates):
    """Train both by epochs of so many samples each; `rates` gives one for each of some steps."""
    network = plain[0]
    data = Dataset(*batch(network, 9), classes=network.output_shape[0])
    generator = np.random.default_rng(1)
    for length in lengths:
        order = generator.integers(0, 9, length)
        results = [plan.epoch(plan.load(data), order, None, rates(length))
                   for _, plan in (planned, plain)]
        assert results[0] == (pytest.approx(results[1][0], rel=EXACT), results[1][1])
        assert_same_state(planned, plain)


def assert_same_state(planned, plain, tolerance=EXACT):
    """Parameters, the last sample's gradients, and what the optimiser keeps."""
    assert_alike(planned[0].parameters, plain[0].parameters, tolerance)
    assert_alike(planned[0].gradients, plain[0].gradients, tolerance)
    for name, expected in plain[1].state.items():
        assert relative_error(planned[1].state[name], expected) <= tolerance, name


def kinds(plan):
    return [type(step).__name__ for step in plan._compiled.steps]


# -- which steps there are -------------------------------------------------------------------------


@pytest.mark.parametrize(("build", "expected"), [
    (partial(lenet5, device="cpu"), ["WideConv2d", "WideSubsample2d", "WideConv2d",
                                     "WideSubsample2d", "LowRankDense", "VectorDense"]),
    (partial(two_stage, device="cpu"), ["WideSubsample2d", "VectorDense"]),
    (small_network, ["WideConv2d", "WideSubsample2d", "General", "Flatten", "VectorDense"]),
    (BUILDERS["strided, sums of 2"], ["General"]),
], ids=["lenet5", "two_stage", "small network", "strided"])
def test_the_networks_here_have_every_step_there_is(build, expected):
    found = kinds(with_plan(build, batch_size=1)[1])
    assert set(expected) <= set(found), found


def test_a_matrix_is_updated_once_for_several_samples_only_if_it_is_large_and_sgd_linear():
    build = partial(lenet5, device="cpu")
    assert kinds(with_plan(build, batch_size=1, optimizer=Adam())[1]).count("LowRankDense") == 0
    assert kinds(with_plan(build, batch_size=1)[1]).count("LowRankDense") == 1
    assert kinds(with_plan(partial(two_stage, device="cpu"), batch_size=1)[1]).count(
        "LowRankDense") == 0


@pytest.mark.parametrize("optimizer", [SGD(lr=0.05, momentum=0.5), Adam(lr=0.01)], ids=repr)
@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_steps_of_networks_with_every_kind_of_convolution_are_those_of_the_plain_plan(
        build, optimizer):
    """One step: behind a maximum the next could fall to another side of a tie."""
    planned, plain = with_both_plans(build, batch_size=1, optimizer=optimizer)
    assert_same_step(planned, plain, *batch(plain[0], 1))


def test_what_a_table_does_not_join_stays_zero_whatever_is_learnt():
    """Zeros stand in the plan's matrix where there is no connection; weight decay and momentum
    leave them alone, as 20 samples show that are those of the plain plan."""
    def build(dtype):
        return chain_of(Conv2d(2, 5, 3, activation="tanh"),
                        Conv2d(5, 6, 2, connections=ConnectionTable.random(5, 6, density=0.6,
                                                                           seed=1)),
                        Subsample2d(6, 2), input_shape=(2, 11, 9), dtype=dtype)

    planned, plain = with_both_plans(build, batch_size=1,
                                     optimizer=LINEAR["nesterov, decay"])
    assert kinds(planned[1])[:2] == ["WideConv2d", "WideConv2d"]
    epochs(planned, plain, 20, rates=lambda steps: [0.02] * steps)


def test_windows_too_wide_for_a_product_are_pooled_pixel_by_pixel():
    def build(dtype):
        return chain_of(Subsample2d(1, 2), input_shape=(1, 4, 200), dtype=dtype)

    planned, plain = with_both_plans(build, batch_size=1)
    assert kinds(planned[1])[0] == "General"
    assert_same_step(planned, plain, *batch(plain[0], 1))


def test_rows_that_no_window_covers_get_no_gradient():
    def build(dtype):
        return chain_of(Conv2d(1, 3, 2), Subsample2d(3, (2, 3)), Conv2d(3, 3, 2),
                        Subsample2d(3, 2, trainable=False), input_shape=(1, 12, 15), dtype=dtype)

    planned, plain = with_both_plans(build, batch_size=1)
    assert kinds(planned[1])[:4] == ["WideConv2d", "WideSubsample2d"] * 2
    for seed in range(3):
        assert_same_step(planned, plain, *batch(plain[0], 1, seed=seed))


# -- matrices that are updated once for several samples --------------------------------------------


@each_linear
@pytest.mark.parametrize("build", [dense_layers, small_network])
@pytest.mark.parametrize("rates", [lambda steps: [0.03] * steps,
                                   lambda steps: np.linspace(0.05, 0, steps)],
                         ids=["one rate", "a rate for each step"])
@pytest.mark.usefixtures("all_in_low_rank")
def test_updates_by_pairs_are_those_of_the_plain_plan(build, optimizer, rates):
    """Epochs that end with no, one, some and all pairs, and begin with rates like and unlike those
    that the coefficients were computed with."""
    planned, plain = with_both_plans(build, batch_size=1, optimizer=optimizer)
    assert "LowRankDense" in kinds(planned[1])
    epochs(planned, plain, 1, 3 * SAMPLES, SAMPLES + 1, 2, 2 * SAMPLES + 3, SAMPLES, rates=rates)


@each_linear
@pytest.mark.usefixtures("all_in_low_rank")
def test_the_same_rates_behind_others_have_coefficients_of_their_own(optimizer):
    """The second epoch leaves the coefficients after two steps behind, the third needs more."""
    planned, plain = with_both_plans(dense_layers, batch_size=1, optimizer=optimizer)
    for steps in ([0.01] * 4, [0.05] * 2, [0.05] * 2 + [0.01] * 2):
        epochs(planned, plain, len(steps), rates=lambda _, steps=steps: steps)


@each_linear
@pytest.mark.parametrize("chain", [chain for chain in CHAINS if not chain.has_corners][::4],
                         ids=str)
@pytest.mark.usefixtures("all_in_low_rank")
def test_updates_by_pairs_within_any_chain_are_those_of_the_plain_plan(chain, optimizer):
    planned, plain = with_both_plans(chain.network, batch_size=1, optimizer=optimizer)
    epochs(planned, plain, 2 * SAMPLES + 1, rates=lambda steps: np.linspace(0.02, 0.01, steps))


@each_linear
def test_lenet5_through_several_computations_of_its_largest_matrix(optimizer):
    planned, plain = with_both_plans(partial(lenet5, device="cpu"), batch_size=1,
                                     optimizer=optimizer)
    assert "LowRankDense" in kinds(planned[1])
    epochs(planned, plain, 2 * low_rank.SAMPLES + 5, rates=lambda steps: np.linspace(
        0.01, 0.02, steps))


def test_in_float32_parameters_stay_close_to_those_in_float64():
    (network, plan), reference = (
        with_plan(partial(lenet5, device="cpu"), batch_size=1, dtype=dtype,
                  optimizer=LINEAR["momentum"]) for dtype in ("float32", "float64"))
    data = batch(reference[0], 100)
    for one, trained in ((network, plan), reference):
        images = data[0].astype(one.dtype)
        trained.epoch(trained.load(Dataset(images, data[1], classes=10)), np.arange(100), None,
                      [0.005] * 100)
    assert_alike(network.parameters, reference[0].parameters, 1e-4)


# -- parameters in another order -------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [LINEAR["momentum"], Adam(lr=0.01)], ids=repr)
@pytest.mark.parametrize("build", [small_network, partial(lenet5, device="cpu")],
                         ids=["small network", "lenet5"])
def test_parameters_that_are_set_between_steps_are_trained_on(build, optimizer):
    planned, plain = with_both_plans(build, batch_size=1, optimizer=optimizer)
    assert_same_step(planned, plain, *batch(plain[0], 1))
    generator = np.random.default_rng(3)
    values = {name: 0.2 * generator.standard_normal(array.shape)
              for name, array in plain[0].parameter_values().items()}
    for network, plan in (planned, plain):
        network.set_parameters(values)
        for array in plan.state.values():
            array.fill(0.01)
    assert_same_step(planned, plain, *batch(plain[0], 1, seed=1))
    assert_same_state(planned, plain)


class Interrupt(Exception):
    pass


@pytest.mark.parametrize("samples", [1, SAMPLES, SAMPLES + 2])
@pytest.mark.usefixtures("all_in_low_rank")
def test_an_interrupted_epoch_leaves_the_parameters_after_its_last_whole_step(samples):
    planned, plain = with_both_plans(small_network, batch_size=1, optimizer=LINEAR["momentum"])
    (network, plan), (reference, plain_plan) = planned, plain
    data, order = Dataset(*batch(reference, 9), classes=5), np.arange(9)
    trained = []

    def progress(count):
        trained.append(count)
        if len(trained) == samples:
            raise Interrupt

    with pytest.raises(Interrupt):
        plan.epoch(plan.load(data), order, None, [0.02] * 9, progress)
    plain_plan.epoch(plain_plan.load(data), order[:samples], None, [0.02] * samples)
    assert_same_state(planned, plain)
    assert len(network.parameters) == len(reference.parameters)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_outputs_that_are_not_finite_give_a_loss_that_is_not_either(dtype):
    network, plan = with_plan(small_network, batch_size=1, dtype=dtype, optimizer=SGD(lr=0.01))
    healthy = network.parameter_values()
    images, labels = batch(network, 1)
    expected = float(plan.step(images, labels))
    network.set_parameters({name: np.full_like(values, np.nan)
                            for name, values in healthy.items()})
    assert np.isnan(float(plan.step(images, labels)))
    network.set_parameters(healthy)
    assert float(plan.step(images, labels)) == pytest.approx(expected, rel=1e-6)


def test_a_gradient_beyond_float32_is_infinite():
    """mse: of an output near the largest number and a target below 0 comes a larger one."""
    largest = float(np.finfo(np.float32).max)
    network = Network([Conv2d(1, 2, 1, activation="identity", name="c")], (1, 1, 1), device="cpu")
    network.set_parameters({"c.weight": np.full((2, 1, 1), largest), "c.bias": np.zeros(2)})
    plan = network.compile_step(loss="mse", optimizer=SGD(lr=1e-9), batch_size=1)
    with np.errstate(all="ignore"):
        loss = plan.step(np.ones((1, 1, 1, 1), np.float32), np.array([0]))
    assert not np.isfinite(float(loss)) or float(loss) > largest


def test_max_pooling_behind_gaps_reads_the_pixels_alone():
    def build(dtype):
        return chain_of(Conv2d(1, 3, 3), MaxPool2d(2, stride=1), Conv2d(3, 2, 2),
                        input_shape=(1, 9, 10), dtype=dtype)

    planned, plain = with_both_plans(build, batch_size=1)
    assert kinds(planned[1])[:3] == ["WideConv2d", "General", "WideConv2d"]
    assert_same_step(planned, plain, *batch(plain[0], 1))


def test_explain_names_the_steps_and_times_them_without_changing_anything():
    network, plan = with_plan(partial(lenet5, device="cpu"), batch_size=1)
    plan.step(*batch(network, 1))
    parameters, gradients = network.parameters.flat.copy(), network.gradients.flat.copy()
    text = plan.explain(profile=True)
    for words in ("one sample at a time", "one dense product: (16, 151) by 136 pixels",
                  f"(120, 400) matrix by a column, updated once for {low_rank.SAMPLES} samples",
                  "sums of 2x2 pixels by a product", "of all tanh at once", "times: medians"):
        assert words in text, text
    assert np.array_equal(network.parameters.flat, parameters)
    assert np.array_equal(network.gradients.flat, gradients)
    assert "times" not in plan.explain()
