"""The CPU's plan against the plain one: the same numbers, whatever the network, batch and threads.

Random chains (random_chains.py) stand for the networks that nobody thought of. Their parameters and
images are random reals, so that no two values tie where ReLU or max pooling has a corner.
"""

import re
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from gpucnn import SGD, Adam, Dataset, lenet5, two_stage
from gpucnn.backends.cuda import CudaBackend
from gpucnn.errors import ArgumentError, DataError
from gpucnn.gradcheck import STEP, GradientCheck
from gpucnn.plans import PlainPlan
from tests.cuda_on_cpu.runtime import HostRuntime
from tests.oracle import relative_error
from tests.random_chains import TRAITS, random_chain

EXACT = 1e-10   # in float64, as in oracle.py
CLOSE = 2e-5    # in float32, relative to float64
BATCH_SIZES = (1, 2, 7, 33, 50, 67)
LOSSES = ("cross_entropy", "mse")
OPTIMIZERS = (SGD(lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
              SGD(lr=0.05, momentum=0.5), Adam(lr=0.01, weight_decay=0.01))

CHAINS = [random_chain(seed) for seed in range(50)]
MODELS = {"lenet5": partial(lenet5, device="cpu"), "two_stage": partial(two_stage, device="cpu")}
SOME_CHAINS = {str(chain): chain.network for chain in CHAINS[::5]}
SMOOTH_CHAINS = {str(chain): chain.network
                 for chain in (random_chain(seed, smooth=True) for seed in range(100, 108))}

each_chain = pytest.mark.parametrize("chain", CHAINS, ids=str)
each_model = pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
each_loss = pytest.mark.parametrize("loss", LOSSES)


def each_of(builders):
    return pytest.mark.parametrize("build", builders.values(), ids=builders)


# -- what the tests are made of --------------------------------------------------------------------


def batch(network, n, seed=0, size=None):
    """n images of reals in the network's range, and their labels."""
    generator = np.random.default_rng([seed, n])
    maps, *full_size = network.input_shape
    images = generator.uniform(*network.input_range, (n, maps, *(size or full_size)))
    return images.astype(network.dtype), generator.integers(0, network.output_shape[0], n)


def byte_batch(network, n, seed=0, size=None):
    """n images of bytes, and their labels."""
    generator = np.random.default_rng([seed, n])
    maps, *full_size = network.input_shape
    images = generator.integers(0, 256, (n, maps, *(size or full_size)), dtype=np.uint8)
    return images, generator.integers(0, network.output_shape[0], n)


def with_plan(build, *, dtype="float64", loss="cross_entropy", optimizer=OPTIMIZERS[0],
              batch_size=50, **keywords):
    """(network, the plan that compile_step gives for it)."""
    network = build(dtype=dtype)
    return network, network.compile_step(loss=loss, optimizer=optimizer, batch_size=batch_size,
                                         **keywords)


def with_plain_plan(build, *, dtype="float64", loss="cross_entropy", optimizer=OPTIMIZERS[0],
                    batch_size=50):
    """(network, its plain plan): the reference."""
    network = build(dtype=dtype)
    return network, PlainPlan(network, network.program(loss=loss, optimizer=optimizer,
                                                       batch_size=batch_size))


def with_both_plans(build, **options):
    """((network, plan), (network, plain plan)), the networks alike."""
    return with_plan(build, **options), with_plain_plan(build, **options)


def assert_alike(got, expected, tolerance=EXACT):
    """Compare `NamedArrays` array by array."""
    for name, reference in expected.items():
        error = relative_error(got[name], reference)
        assert error <= tolerance, f"{name}: relative error {error:.2e}"


def assert_same_step(planned, plain, images, labels, tolerance=EXACT):
    """Train both by one step; compare losses, gradients and parameters."""
    (network, plan), (reference, plain_plan) = planned, plain
    loss, expected = plan.step(images, labels), plain_plan.step(images, labels)
    assert float(loss) == pytest.approx(float(expected), rel=tolerance)
    assert_alike(network.gradients, reference.gradients, tolerance)
    assert_alike(network.parameters, reference.parameters, tolerance)


def trained_bits(build, batch_size=50, **options):
    """The bytes of the parameters, and the losses, of three steps in float32."""
    network, plan = with_plan(build, dtype="float32", batch_size=batch_size, **options)
    losses = [float(plan.step(*batch(network, batch_size, seed=step))) for step in range(3)]
    return network.parameters.flat.tobytes(), losses


# -- one step --------------------------------------------------------------------------------------


def test_the_chains_leave_no_kind_of_layer_and_no_option_out():
    covered = frozenset().union(*(chain.traits for chain in CHAINS))
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


# -- threads ---------------------------------------------------------------------------------------


@each_of(SOME_CHAINS | MODELS)
def test_any_number_of_threads_gives_the_same_bits(build):
    bits = trained_bits(build, threads=1)
    assert trained_bits(build, threads=2) == bits
    assert trained_bits(build, threads=3) == bits


def test_more_threads_than_cores_and_many_micro_batches_give_the_same_bits():
    bits = [trained_bits(MODELS["two_stage"], batch_size=150, threads=n) for n in (1, 2, 3, 5)]
    assert all(others == bits[0] for others in bits)


@each_of(SOME_CHAINS | MODELS)
def test_the_same_steps_give_the_same_bits_twice(build):
    assert trained_bits(build) == trained_bits(build)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_same_threads_give_the_same_bits_twice(threads):
    bits = [trained_bits(MODELS["two_stage"], threads=threads) for _ in range(2)]
    assert bits[0] == bits[1]


@pytest.mark.parametrize("options", [{}, {"threads": 1}, {"threads": 2}], ids=str)
def test_plans_used_at_once_from_several_threads_of_the_program_do_not_disturb_each_other(options):
    builders = [*list(SOME_CHAINS.values())[:4], *MODELS.values()] * 2
    alone = [trained_bits(build, **options) for build in builders]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda build: trained_bits(build, **options), builders)) == alone


def test_a_plan_may_be_used_from_another_thread_than_the_one_that_compiled_it():
    planned, plain = with_both_plans(MODELS["two_stage"])
    with ThreadPoolExecutor(1) as pool:
        pool.submit(assert_same_step, planned, plain, *batch(plain[0], 50)).result()
    assert_same_step(planned, plain, *batch(plain[0], 50, seed=1))


@pytest.mark.parametrize("threads", [0, -1, "2", True, 1.5])
def test_a_wrong_number_of_threads_is_refused(threads):
    with pytest.raises(ArgumentError, match="threads: expected"):
        with_plan(MODELS["two_stage"], threads=threads)


def test_threads_are_refused_on_cuda():
    network = two_stage(device=CudaBackend(HostRuntime()))
    with pytest.raises(ArgumentError, match="threads"):
        network.compile_step(loss="mse", optimizer=SGD(lr=0.1), batch_size=2, threads=2)


# -- data ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("images_of", [batch, byte_batch])
@pytest.mark.parametrize("shifted", [True, False], ids=["shifted", "not shifted"])
@each_of(SOME_CHAINS | MODELS)
def test_an_epoch_is_that_of_the_plain_plan(build, images_of, shifted):
    planned, plain = with_both_plans(build, optimizer=OPTIMIZERS[1], batch_size=9)
    generator = np.random.default_rng(3)
    size = tuple(max(1, side - 3) for side in plain[0].input_shape[1:])
    images, labels = images_of(plain[0], 31, size=size)
    data = Dataset(images, labels, classes=plain[0].output_shape[0])
    order = generator.permutation(31)[:24]
    shifts = generator.integers(-2, 3, (24, 2)) if shifted else None
    results = []
    for network, plan in (planned, plain):
        trained = []
        results.append(plan.epoch(plan.load(data), order, shifts, [0.05, 0.02, 0.03],
                                  progress=trained.append))
        assert trained == [9, 9, 6] and plan.steps == 3, network.device
    assert results[0][0] == pytest.approx(results[1][0], rel=EXACT)
    assert results[0][1] == results[1][1]
    assert_alike(planned[0].parameters, plain[0].parameters)


def test_epochs_go_on_where_the_last_step_ended():
    planned, plain = with_both_plans(MODELS["two_stage"], optimizer=OPTIMIZERS[2], batch_size=4)
    data = Dataset(*byte_batch(plain[0], 10), classes=10)
    for _, plan in (planned, plain):
        resident = plan.load(data)
        plan.step(data.images[:3], data.labels[:3])
        plan.epoch(resident, np.arange(10), None, [0.01] * 3)
        plan.epoch(resident, np.arange(10)[::-1], None, [0.01] * 3)
    assert planned[1].steps == plain[1].steps == 7
    assert_alike(planned[0].parameters, plain[0].parameters)


@pytest.mark.parametrize("images_of", [batch, byte_batch])
@pytest.mark.parametrize("margin", [(0, 0), (4, 4), (3, 0), (1, 5)], ids=str)
@each_of(SOME_CHAINS | MODELS)
def test_images_are_taken_as_the_plain_plan_takes_them(build, margin, images_of):
    """Bytes are scaled, reals are not; images smaller than the input lie on background."""
    planned, plain = with_both_plans(build, batch_size=7)
    size = [max(1, side - less) for side, less in zip(plain[0].input_shape[1:], margin,
                                                      strict=True)]
    assert_same_step(planned, plain, *images_of(plain[0], 7, size=size))


@pytest.mark.parametrize("view", [
    lambda images: images[:, 0], lambda images: images[:, :, ::-1, ::-1],
    lambda images: np.asfortranarray(images), lambda images: np.repeat(images, 2, axis=0)[::2],
], ids=["without maps", "reversed", "Fortran order", "every second"])
def test_images_may_lie_in_memory_in_any_way(view):
    planned, plain = with_both_plans(MODELS["two_stage"], batch_size=5)
    images, labels = byte_batch(plain[0], 5)
    assert_same_step(planned, plain, view(images), labels)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64, np.uint64])
def test_labels_may_be_of_any_integer_type(dtype):
    planned, plain = with_both_plans(MODELS["two_stage"], batch_size=5)
    images, labels = byte_batch(plain[0], 5)
    assert_same_step(planned, plain, images, labels.astype(dtype))


def test_the_images_and_labels_given_are_left_as_they_are():
    network, plan = with_plan(MODELS["two_stage"])
    images, labels = batch(network, 50)
    before = images.copy(), labels.copy()
    plan.step(images, labels)
    assert np.array_equal(images, before[0]) and np.array_equal(labels, before[1])


@pytest.mark.parametrize("bad", [-1, 10, 2**31 - 1])
@each_loss
@each_model
def test_a_bad_label_in_resident_data_is_raised_and_its_sample_teaches_nothing(build, loss, bad):
    images, labels = byte_batch(build(), 20)
    labels[7] = bad
    gradients = []
    for network, plan in with_both_plans(build, loss=loss, batch_size=20):
        data = plan.load(Dataset(images, np.zeros(20, int), classes=10))
        data.labels = labels.astype(np.int32)
        with pytest.raises(DataError, match=r"1 label\(s\) out of range"):
            plan.epoch(data, np.arange(20), None, [0.1])
        gradients.append(network.gradients)
    assert_alike(*gradients)
    good, plan = with_plan(build, loss=loss, batch_size=20)
    plan.step(np.delete(images, 7, axis=0), np.delete(labels, 7))
    assert relative_error(gradients[0].flat * 20 / 19, good.gradients.flat) <= EXACT


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


# -- outputs ---------------------------------------------------------------------------------------


def layer_by_layer(network, x):
    for layer in network.layers:
        x = layer.forward(x)
    return x


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
