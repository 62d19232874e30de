"""Epochs of the CUDA plan that are long enough to be captured graphs, replayed.

Of an epoch's first steps each is launched by itself; a graph of the following ones is captured and
replayed as often as whole batches last; what is left is launched again.
"""

from functools import partial

import numpy as np
import pytest

from gpucnn import SGD, Adam, Conv2d, Dataset, Dense, Flatten, Network, Subsample2d
from gpucnn.backends.cuda.plan import step
from gpucnn.backends.cuda.plan.step import GRAPH_STEPS, STEPS_BEFORE
from gpucnn.errors import DataError
from tests.plan_cases import (
    EXACT,
    assert_alike,
    at_once,
    batch,
    byte_batch,
    cuda_backend,
    gradients_of,
    with_plain_plan,
    with_plan,
)

BATCH_SIZE = 4
BATCHES = STEPS_BEFORE + 2 * GRAPH_STEPS + 2  # two replays, a whole batch and a smaller one
SAMPLES = BATCH_SIZE * BATCHES - 1
RATES = np.linspace(0.02, 0.001, BATCHES)
OPTIMIZERS = {"sgd": SGD(lr=0.01),
              "nesterov": SGD(lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.01),
              "adam": Adam(lr=0.01)}
IMAGES = 37

each_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)


def tiny_network(dtype):
    """Input 1 x 6 x 6, four classes."""
    return Network([Conv2d(1, 3, 3), Subsample2d(3, 2), Flatten(),
                    Dense(12, 4, activation="identity")], (1, 6, 6), dtype=dtype, device="cpu")


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """What the tests here launch, compiled at once."""
    at_once({name: partial(Trainee, optimizer) for name, optimizer in OPTIMIZERS.items()})


class Trainee:
    """A network on CUDA and its plan; `captures` counts the graphs that were made."""

    def __init__(self, optimizer=OPTIMIZERS["nesterov"], dtype="float64"):
        self.network, self.plan = with_plan(tiny_network, dtype=dtype, batch_size=BATCH_SIZE,
                                            optimizer=optimizer, backend=cuda_backend())
        self.runtime = self.network.backend.runtime
        self.captures = 0
        capture = self.runtime.capture

        def counted(work):
            self.captures += 1
            return capture(work)

        self.runtime.capture = counted

    def load(self, seed=0, images_of=byte_batch):
        images, labels = images_of(self.network, IMAGES, seed=seed, size=(5, 4))
        return self.plan.load(Dataset(images, labels, classes=4))

    def epoch(self, data, seed=0, samples=SAMPLES, shifted=True, progress=None):
        return self.plan.epoch(data, *places(seed, samples, shifted),
                               RATES[:-(-samples // BATCH_SIZE)], progress)

    def bits(self):
        """The bytes of all that training changes."""
        arrays = [self.network.parameters.flat, self.network.gradients.flat,
                  *self.plan.state.values()]
        return [self.network.backend.to_host(array).tobytes() for array in arrays]


def places(seed, samples=SAMPLES, shifted=True):
    """The order and the shifts of an epoch."""
    generator = np.random.default_rng(seed)
    order = generator.integers(0, IMAGES, samples)
    return order, generator.integers(-2, 3, (samples, 2)) if shifted else None


@each_optimizer
@pytest.mark.parametrize("images_of", [batch, byte_batch])
def test_a_long_epoch_is_that_of_the_plain_plan(optimizer, images_of):
    """Its rates differ from batch to batch."""
    one = Trainee(optimizer)
    reference, plain = with_plain_plan(tiny_network, batch_size=BATCH_SIZE, optimizer=optimizer)
    images, labels = images_of(reference, IMAGES, size=(5, 4))
    expected = plain.epoch(plain.load(Dataset(images, labels, classes=4)), *places(0), RATES)
    loss, error = one.epoch(one.load(images_of=images_of))
    assert one.captures == 1 and one.plan.steps == BATCHES
    assert loss == pytest.approx(expected[0], rel=EXACT) and error == expected[1]
    assert_alike(one.network.parameter_values(), reference.parameter_values())
    assert_alike(gradients_of(one.network), gradients_of(reference))


@each_optimizer
@pytest.mark.parametrize("shifted", [True, False], ids=["shifted", "not shifted"])
def test_replays_give_the_same_bits_as_launches(optimizer, shifted, monkeypatch):
    one, other = Trainee(optimizer), Trainee(optimizer)
    replayed = one.epoch(one.load(), shifted=shifted)
    monkeypatch.setattr(step, "GRAPH_STEPS", 10**6)
    launched = other.epoch(other.load(), shifted=shifted)
    assert (one.captures, other.captures) == (1, 0)
    assert one.bits() == other.bits() and replayed == launched
    assert one.runtime.launches == other.runtime.launches


def test_replays_give_the_same_bits_as_steps_one_by_one():
    one, other = Trainee(), Trainee()
    one.epoch(one.load(), shifted=False)
    images, labels = byte_batch(one.network, IMAGES, size=(5, 4))
    order, _ = places(0)
    for number, rate in enumerate(RATES):
        here = order[number * BATCH_SIZE:][:BATCH_SIZE]
        other.plan.learning_rate = rate
        other.plan.step(images[here], labels[here])
    assert one.bits() == other.bits()


def test_a_step_is_two_launches_and_an_epoch_nothing_else():
    one = Trainee()
    one.epoch(one.load())
    assert [name for name, _, _ in one.runtime.launches] == ["group_backward", "update"] * BATCHES


@pytest.mark.parametrize(("batches", "captures"), [
    (STEPS_BEFORE, 0), (STEPS_BEFORE + GRAPH_STEPS - 1, 0), (STEPS_BEFORE + GRAPH_STEPS, 1)])
def test_a_graph_is_captured_where_there_are_enough_whole_batches(batches, captures):
    one, other = Trainee(), Trainee()
    one.epoch(one.load(), samples=batches * BATCH_SIZE)
    other.epoch(other.load(), samples=batches * BATCH_SIZE - 1)
    assert (one.captures, other.captures) == (captures, 0)


def test_further_epochs_on_the_same_data_replay_the_same_graph():
    """With other orders, shifts and rates, and fewer batches; steps come in between."""
    one, other = Trainee(), Trainee()
    data = one.load()
    for seed, samples in enumerate((SAMPLES, SAMPLES, SAMPLES - 20)):
        one.epoch(data, seed, samples)
        one.plan.step(*byte_batch(one.network, 3, seed=seed))
        other.epoch(other.load(), seed, samples)
        other.plan.step(*byte_batch(one.network, 3, seed=seed))
        assert one.bits() == other.bits()
    assert (one.captures, other.captures) == (1, 3)


@pytest.mark.parametrize("change", ["data", "shifts", "more batches", "reals"])
def test_an_epoch_on_other_arrays_captures_a_graph_of_its_own(change):
    one, other = Trainee(), Trainee()
    one.epoch(one.load(), samples=SAMPLES - 15)
    other.epoch(other.load(), samples=SAMPLES - 15)
    for each in (one, other):
        if each is other:
            other.plan._compiled._graph = None  # forgotten, so that it must be made in any case
        each.epoch(each.load(1 if change == "data" else 0,
                             batch if change == "reals" else byte_batch), 1,
                   SAMPLES if change == "more batches" else SAMPLES - 15, change != "shifts")
    assert one.captures == other.captures == 2
    assert one.bits() == other.bits()


def test_values_set_between_epochs_are_used_by_the_same_graph():
    one, other = Trainee(), Trainee()
    data = one.load()
    values = {name: array / 2 for name, array in one.network.parameter_values().items()}
    one.epoch(data)
    for array in one.plan.state.values():
        one.network.backend.zero(array)
    for each, resident in ((one, data), (other, other.load())):
        each.network.set_parameters(values)
        each.epoch(resident, 1)
    assert one.captures == 1 and one.bits() == other.bits()


def test_progress_hears_of_every_sample():
    one, trained = Trainee(), []
    one.epoch(one.load(), progress=trained.append)
    assert sum(trained) == SAMPLES
    assert trained == [BATCH_SIZE] * 2 + [BATCH_SIZE * GRAPH_STEPS] * 2 + [BATCH_SIZE, 3]


def test_bad_labels_in_replayed_batches_are_counted():
    one = Trainee()
    data = one.load()
    labels = one.network.backend.to_host(data.labels)
    labels[5] = 4
    data.labels = one.network.backend.from_host(labels)
    count = int((places(0)[0] == 5).sum())
    with pytest.raises(DataError, match=rf"{count} label\(s\) out of range"):
        one.epoch(data)
    data.labels = one.load().labels
    one.epoch(data)


def test_the_same_epochs_give_the_same_bits_in_float32_too():
    bits = []
    for _ in range(2):
        one = Trainee(dtype="float32")
        data = one.load()
        bits.append(([one.epoch(data, seed) for seed in range(2)], one.bits()))
        assert one.captures == 1
    assert bits[0] == bits[1]


@pytest.mark.cuda
def test_a_long_epoch_on_a_gpu_is_that_of_the_plain_plan_on_the_cpu(cuda):
    network, plan = with_plan(tiny_network, batch_size=BATCH_SIZE, backend=cuda)
    reference, plain = with_plain_plan(tiny_network, batch_size=BATCH_SIZE)
    data = Dataset(*byte_batch(reference, IMAGES, size=(5, 4)), classes=4)
    results = [each.epoch(each.load(data), *places(0), RATES) for each in (plan, plain)]
    assert plan._compiled._graph is not None
    assert results[0] == (pytest.approx(results[1][0], rel=EXACT), results[1][1])
    assert_alike(network.parameter_values(), reference.parameter_values())
