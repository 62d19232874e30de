"""The CPU's plan on one sample at a time, against the plain plan."""

import numpy as np
import pytest

from gpucnn import SGD, Conv2d, Dataset
from tests.plan_cases import (
    CHAINS,
    EXACT,
    LOSSES,
    assert_alike,
    assert_same_step,
    batch,
    byte_batch,
    each_chain,
    with_both_plans,
)
from tests.way_cases import chain_of


@each_chain
def test_three_online_steps_are_those_of_the_plain_plan(chain):
    """One step, where a derivative jumps: the next would start from parameters whose last bits
    differ, and a unit at its corner could fall to another side."""
    planned, plain = with_both_plans(chain.network, loss=LOSSES[chain.seed % 2], batch_size=1)
    for step in range(1 if chain.has_corners else 3):
        assert_same_step(planned, plain, *batch(plain[0], 1, seed=step))


@pytest.mark.parametrize("images_of", [batch, byte_batch])
@pytest.mark.parametrize("chain", [chain for chain in CHAINS if not chain.has_corners][::5],
                         ids=str)
def test_an_online_epoch_longer_than_the_images_ahead_is_that_of_the_plain_plan(chain, images_of):
    planned, plain = with_both_plans(chain.network, batch_size=1, optimizer=SGD(lr=0.02))
    size = [max(1, side - 2) for side in plain[0].input_shape[1:]]
    generator = np.random.default_rng(4)
    data = Dataset(*images_of(plain[0], 30, size=size), classes=plain[0].output_shape[0])
    order = generator.integers(0, 30, 70)
    shifts = generator.integers(-2, 3, (70, 2))
    results = []
    for _, plan in (planned, plain):
        trained = []
        results.append(plan.epoch(plan.load(data), order, shifts, [0.02] * 70, trained.append))
        assert trained == [1] * 70 and plan.steps == 70
    assert results[0] == (pytest.approx(results[1][0], rel=EXACT), results[1][1])
    assert_alike(planned[0].parameters, plain[0].parameters)


@pytest.mark.parametrize("padding", [(0, 0), (1, 0), (0, 1), (1, 1), (2, 2)], ids=str)
@pytest.mark.parametrize("kernel_size", [(1, 1), (3, 3), (2, 5)], ids=str)
def test_an_online_step_of_convolutions_behind_one_another_with_and_without_padding(
        kernel_size, padding):
    """Behind a kernel of 3, padding of 1 gives rows as long as those of the image, but what lies
    between the rows' ends is the gradient by the padding."""
    def build(dtype):
        return chain_of(Conv2d(2, 4, (2, 3)), Conv2d(4, 3, kernel_size, padding=padding),
                        Conv2d(3, 4, (1, 3), padding=padding), input_shape=(2, 7, 9), dtype=dtype)

    planned, plain = with_both_plans(build, batch_size=1)
    for step in range(2):
        assert_same_step(planned, plain, *batch(plain[0], 1, seed=step))
