"""Steps and epochs of the CUDA plan: optimisers, rates, data of every kind, smaller batches.

One small network on the host, always with batches of up to 10 samples, of which blocks take several
parts; see test_cuda_plan.py for all kinds of networks.
"""

from functools import partial

import numpy as np
import pytest

from gpucnn import SGD, Adam, Cosine, Dataset, fit
from gpucnn.errors import ArgumentError, DataError
from tests.oracle import relative_error
from tests.plan_cases import (
    EXACT,
    LOSSES,
    assert_alike,
    assert_same_step,
    at_once,
    batch,
    byte_batch,
    cuda_backend,
    each_loss,
    gradients_of,
    small_network,
    with_both_plans,
    with_plan,
)

BATCH_SIZE = 10
OPTIMIZERS = {
    "plain": SGD(lr=0.05), "momentum": SGD(lr=0.05, momentum=0.5),
    "nesterov": SGD(lr=0.05, momentum=0.9, nesterov=True),
    "weight decay": SGD(lr=0.05, momentum=0.9, weight_decay=0.1),
    "adam": Adam(lr=0.01), "adam, weight decay": Adam(lr=0.01, weight_decay=0.1)}


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """What the tests here launch, compiled at once."""
    at_once({(loss, optimizer): partial(
        with_plan, small_network, batch_size=BATCH_SIZE, backend=cuda_backend(), loss=loss,
        optimizer=OPTIMIZERS[optimizer]) for loss in LOSSES for optimizer in ("plain", "adam")})


def both_plans(build=small_network, **options):
    """((network, plan on CUDA), (network, plain plan on the CPU)), the networks alike."""
    return with_both_plans(build, backend=cuda_backend(),
                           **{"batch_size": BATCH_SIZE, **options})


def test_a_block_takes_several_parts_of_a_batch_the_last_of_them_smaller():
    (network, plan), _ = both_plans()
    planned, = [part.planned for part in plan._compiled.parts]
    parts = -(-BATCH_SIZE // planned.samples)
    assert 1 < planned.blocks(network.backend.runtime.profile) < parts
    assert BATCH_SIZE % planned.samples


# -- steps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@each_loss
def test_steps_of_different_sizes_are_those_of_the_plain_plan(loss, optimizer):
    planned, plain = both_plans(loss=loss, optimizer=optimizer)
    for step, n in enumerate((10, 1, 7, 4)):
        assert_same_step(planned, plain, *batch(plain[0], n, seed=step))
    assert planned[1].steps == plain[1].steps == 4
    assert set(planned[1].state) == set(plain[1].state)
    for name, array in plain[1].state.items():
        got = planned[0].backend.to_host(planned[1].state[name])
        assert relative_error(got, array) <= EXACT, name


@pytest.mark.parametrize("batch_size", [1, 2])
def test_online_and_nearly_online_steps_are_those_of_the_plain_plan(batch_size):
    planned, plain = both_plans(batch_size=batch_size)
    for step in range(3):
        assert_same_step(planned, plain, *batch(plain[0], batch_size, seed=step))


def test_a_rate_that_is_set_between_steps_is_used():
    planned, plain = both_plans()
    for rate in (0.1, 0.02, 0.0):
        planned[1].learning_rate = plain[1].learning_rate = rate
        assert_same_step(planned, plain, *batch(plain[0], 5))


def test_values_set_between_steps_are_used():
    planned, plain = both_plans()
    for seed in (1, 2):
        generator = np.random.default_rng(seed)
        values = {name: generator.standard_normal(array.shape)
                  for name, array in plain[0].parameters.items()}
        for network, _ in (planned, plain):
            network.set_parameters(values)
        assert_same_step(planned, plain, *batch(plain[0], 5))


# -- data ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("images_of", [batch, byte_batch])
@pytest.mark.parametrize("margin", [(0, 0), (4, 4), (3, 0), (1, 5)], ids=str)
def test_images_are_taken_as_the_plain_plan_takes_them(margin, images_of):
    """Bytes are scaled, reals are not; images smaller than the input lie on background."""
    planned, plain = both_plans()
    size = tuple(np.subtract(plain[0].input_shape[1:], margin))
    assert_same_step(planned, plain, *images_of(plain[0], 7, size=size))


@pytest.mark.parametrize("view", [
    lambda images: images[:, 0], lambda images: images[:, :, ::-1, ::-1],
    lambda images: np.asfortranarray(images)], ids=["without maps", "reversed", "Fortran order"])
def test_images_may_lie_in_memory_in_any_way(view):
    planned, plain = both_plans()
    images, labels = byte_batch(plain[0], 5)
    assert_same_step(planned, plain, view(images), labels)


@pytest.mark.parametrize("images_of", [batch, byte_batch])
@pytest.mark.parametrize("shifted", [True, False], ids=["shifted", "not shifted"])
def test_an_epoch_is_that_of_the_plain_plan(images_of, shifted):
    """The last batch is smaller, each has its own rate, and some samples come twice."""
    planned, plain = both_plans(optimizer=OPTIMIZERS["adam"])
    generator = np.random.default_rng(3)
    images, labels = images_of(plain[0], 31, size=(9, 8))
    data = Dataset(images, labels, classes=5)
    order = generator.integers(0, 31, 27)
    shifts = generator.integers(-3, 4, (27, 2)) if shifted else None
    results = []
    for network, plan in (planned, plain):
        trained = []
        results.append(plan.epoch(plan.load(data), order, shifts, [0.05, 0.02, 0.03],
                                  progress=trained.append))
        assert trained == [10, 10, 7] and plan.steps == 3, network.device
    assert results[0] == (pytest.approx(results[1][0], rel=EXACT), results[1][1])
    assert_alike(planned[0].parameter_values(), plain[0].parameter_values())


def test_epochs_go_on_where_the_last_step_ended():
    planned, plain = both_plans(optimizer=OPTIMIZERS["adam"])
    data = Dataset(*byte_batch(plain[0], 20), classes=5)
    for _, plan in (planned, plain):
        resident = plan.load(data)
        plan.step(data.images[:3], data.labels[:3])
        plan.epoch(resident, np.arange(20), None, [0.01] * 2)
        plan.epoch(resident, np.arange(20)[::-1], None, [0.02] * 2)
    assert planned[1].steps == plain[1].steps == 5
    assert_alike(planned[0].parameter_values(), plain[0].parameter_values())


def test_fit_trains_as_on_the_cpu():
    """With its shuffling, shifts and a schedule that changes within an epoch."""
    networks = [small_network(device=device) for device in (cuda_backend(), "cpu")]
    data = Dataset(*byte_batch(networks[0], 45), classes=5)
    histories = [fit(network, data, epochs=2, batch_size=BATCH_SIZE, shift=2, seed=3,
                     schedule=Cosine(), optimizer=OPTIMIZERS["nesterov"]) for network in networks]
    assert_alike(*(network.parameter_values() for network in networks))
    errors = [[epoch.train_error for epoch in history] for history in histories]
    assert errors[0] == errors[1]


# -- labels ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [-1, 5, 2**31 - 1, -2**31])
@each_loss
def test_a_bad_label_in_resident_data_is_raised_and_its_sample_teaches_nothing(loss, bad):
    images, labels = byte_batch(small_network(), BATCH_SIZE)
    labels[7] = bad
    gradients = []
    for network, plan in both_plans(loss=loss):
        data = plan.load(Dataset(images, np.zeros(BATCH_SIZE, int), classes=5))
        data.labels = network.backend.from_host(labels.astype(np.int32))
        with pytest.raises(DataError, match=r"1 label\(s\) out of range"):
            plan.epoch(data, np.arange(BATCH_SIZE), None, [0.1])
        gradients.append(gradients_of(network))
    assert_alike(*gradients)
    (good, plan), _ = both_plans(loss=loss)
    plan.step(np.delete(images, 7, axis=0), np.delete(labels, 7))
    assert_alike({name: array * 10 / 9 for name, array in gradients[0].items()}, gradients_of(good))


def test_every_bad_label_of_an_epoch_is_counted():
    (network, plan), _ = both_plans()
    data = plan.load(Dataset(*byte_batch(network, 30), classes=5))
    labels = network.backend.to_host(data.labels)
    labels[::4] = 9
    data.labels = network.backend.from_host(labels)
    with pytest.raises(DataError, match=r"8 label\(s\) out of range"):
        plan.epoch(data, np.arange(30), None, [0.1] * 3)


# -- the same bits ---------------------------------------------------------------------------------


def trained_bits(**options):
    """The bytes of parameters and losses after steps of several sizes in float32."""
    network, plan = with_plan(small_network, dtype="float32", batch_size=BATCH_SIZE,
                              backend=cuda_backend(**options))
    losses = [float(plan.step(*batch(network, n, seed=n))) for n in (10, 4, 10)]
    return network.backend.to_host(network.parameters.flat).tobytes(), losses


def test_the_same_steps_give_the_same_bits_twice_and_in_every_order_of_threads_and_blocks():
    bits = trained_bits()
    for order in ("forward", "reverse", 1, 2):
        assert trained_bits(order=order) == bits, order


# -- precision -------------------------------------------------------------------------------------


def test_a_precision_that_there_is_not_is_refused():
    for device, dtype, precision in (
            ("cpu", "float32", "tf32"), (cuda_backend(), "float64", "tf32"),
            (cuda_backend(), "float32", "half")):
        network = small_network(dtype, device)
        with pytest.raises(ArgumentError, match=r"precision: expected 'float32'.*got"):
            network.compile_step(loss="mse", optimizer=SGD(lr=0.1), batch_size=2,
                                 precision=precision)
