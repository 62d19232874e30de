"""What the CPU's plan is trained on: epochs, images and labels of every kind."""

import numpy as np
import pytest

from gpucnn import Dataset
from gpucnn.errors import DataError
from tests.oracle import relative_error
from tests.plan_cases import (
    EXACT,
    MODELS,
    OPTIMIZERS,
    SOME_CHAINS,
    assert_alike,
    assert_same_step,
    batch,
    byte_batch,
    each_loss,
    each_model,
    each_of,
    with_both_plans,
    with_plan,
)


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
