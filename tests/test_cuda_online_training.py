"""Online training of a small network on CUDA: optimisers, data of every kind, labels, launches.

The kernels run on the host; test_cuda_online.py has all kinds of networks.
"""

from functools import partial

import numpy as np
import pytest

from gpucnn import SGD, Adam, Cosine, Dataset, fit
from gpucnn.backends.cuda import CudaBackend
from gpucnn.backends.cuda.plan import online
from gpucnn.errors import DataError
from tests.cuda_on_cpu.runtime import HostRuntime
from tests.cuda_on_cpu.sanitized import run_sanitized
from tests.online_cases import (
    AMPERE,
    OnlineCase,
    bit_of_everything,
    group_of,
    homes_of,
    online_and_plain,
    with_online_plan,
)
from tests.oracle import relative_error
from tests.plan_cases import (
    EXACT,
    LOSSES,
    assert_alike,
    at_once,
    batch,
    byte_batch,
    cuda_backend,
    each_loss,
    gradients_of,
    small_network,
)

OPTIMIZERS = {
    "plain": SGD(lr=0.05), "momentum": SGD(lr=0.05, momentum=0.5),
    "nesterov": SGD(lr=0.05, momentum=0.9, nesterov=True),
    "weight decay": SGD(lr=0.05, momentum=0.9, weight_decay=0.1),
    "adam": Adam(lr=0.01), "adam, weight decay": Adam(lr=0.01, weight_decay=0.1)}
UPDATES = 11
RATES = np.linspace(0.02, 0.005, UPDATES)
CASE = OnlineCase()


both_plans = partial(online_and_plain, small_network)


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """What the tests here launch, compiled at once."""
    jobs = {(loss, name): partial(with_online_plan, small_network, loss=loss,
                                  optimizer=OPTIMIZERS[name])
            for loss in LOSSES for name in ("plain", "adam")}
    at_once(jobs)


def epoch(plan, network, *, images_of=byte_batch, size=None, shifted=True, progress=None):
    """One epoch on few images, each update at a rate of its own."""
    generator = np.random.default_rng(3)
    images, labels = images_of(network, 7, size=size)
    order = generator.integers(0, 7, UPDATES)
    shifts = generator.integers(-3, 4, (UPDATES, 2)) if shifted else None
    data = plan.load(Dataset(images, labels, classes=network.output_shape[0]))
    return plan.epoch(data, order, shifts, RATES, progress)


def assert_same_epoch(planned, plain, **options):
    (network, plan), (reference, plain_plan) = planned, plain
    (loss, error), expected = (epoch(each, of, **options)
                               for of, each in ((network, plan), (reference, plain_plan)))
    assert loss == pytest.approx(expected[0], rel=EXACT) and error == expected[1]
    assert_alike(network.parameter_values(), reference.parameter_values())
    assert_alike(gradients_of(network), gradients_of(reference))


# -- optimisers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@each_loss
def test_updates_and_the_optimisers_state_are_those_of_the_plain_plan(loss, optimizer):
    planned, plain = both_plans(loss=loss, optimizer=optimizer)
    for _ in range(2):  # the second goes on where the first has ended
        assert_same_epoch(planned, plain)
    assert set(planned[1].state) == set(plain[1].state)
    for name, array in plain[1].state.items():
        got = planned[0].backend.to_host(planned[1].state[name])
        assert relative_error(got, array) <= EXACT, name


def test_steps_one_by_one_give_the_same_bits_as_one_launch():
    one, other = (with_online_plan(small_network, optimizer=OPTIMIZERS["adam"]) for _ in range(2))
    epoch(one[1], one[0], shifted=False)
    images, labels = byte_batch(other[0], 7)
    order = np.random.default_rng(3).integers(0, 7, UPDATES)
    for sample, rate in zip(order, RATES, strict=True):
        other[1].learning_rate = rate
        other[1].step(images[sample:sample + 1], labels[sample:sample + 1])
    assert bits_of(*one) == bits_of(*other)


def test_values_set_between_steps_are_used():
    planned, plain = both_plans()
    values = {name: array / 2 for name, array in plain[0].parameter_values().items()}
    assert_same_epoch(planned, plain)
    for network, _ in (planned, plain):
        network.set_parameters(values)
    assert_same_epoch(planned, plain)


# -- data ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("images_of", [batch, byte_batch])
@pytest.mark.parametrize("size", [None, (8, 6), (9, 10), (12, 5)], ids=str)
@pytest.mark.parametrize("shifted", [True, False], ids=["shifted", "not shifted"])
def test_images_are_taken_as_the_plain_plan_takes_them(images_of, size, shifted):
    """Bytes are scaled, reals are not; images smaller than the input lie on background."""
    planned, plain = both_plans()
    assert_same_epoch(planned, plain, images_of=images_of, size=size, shifted=shifted)


def test_images_on_the_device_may_lie_in_memory_in_any_way():
    planned, plain = both_plans()
    images, labels = byte_batch(plain[0], 1)
    backend = planned[0].backend
    stored = backend.from_host(np.ascontiguousarray(images[:, :, ::-1, ::-1]))
    planned[1].step(stored[:, :, ::-1, ::-1], labels)
    plain[1].step(images, labels)
    assert_alike(gradients_of(planned[0]), gradients_of(plain[0]))


def test_fit_trains_as_on_the_cpu():
    """With its shuffling, shifts and a schedule that changes with every sample."""
    networks = [small_network(device=device) for device in (cuda_backend(AMPERE), "cpu")]
    data = Dataset(*byte_batch(networks[0], 15), classes=5)
    histories = [fit(network, data, epochs=2, batch_size=1, shift=2, seed=3, schedule=Cosine(),
                     optimizer=OPTIMIZERS["nesterov"]) for network in networks]
    assert_alike(*(network.parameter_values() for network in networks))
    errors = [[record.train_error for record in history] for history in histories]
    assert errors[0] == errors[1]


# -- labels ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [-1, 5, 2**31 - 1, -2**31])
@each_loss
def test_a_sample_with_a_bad_label_teaches_nothing_and_is_counted(loss, bad):
    (network, plan), _ = both_plans(loss=loss)
    images, labels = byte_batch(network, 4)
    data = plan.load(Dataset(images, labels, classes=5))
    labels[2] = bad
    data.labels = network.backend.from_host(labels.astype(np.int32))
    with pytest.raises(DataError, match=r"2 label\(s\) out of range"):
        plan.epoch(data, [0, 2, 1, 2, 3], None, [0.1] * 5)
    (good, other), _ = both_plans(loss=loss)
    other.epoch(other.load(Dataset(images, np.delete(labels, 2).repeat([1, 2, 1]), classes=5)),
                [0, 1, 3], None, [0.1] * 3)
    assert_alike(network.parameter_values(), good.parameter_values(), tolerance=0)
    plan.epoch(plan.load(Dataset(images, np.zeros(4, int), classes=5)), [0], None, [0.1])


# -- launches --------------------------------------------------------------------------------------


def bits_of(network, plan):
    """The bytes of all that training changes."""
    return [network.backend.to_host(array).tobytes() for array in (
        network.parameters.flat, network.gradients.flat, *plan.state.values())]


@pytest.mark.parametrize("name", ["plain", "nesterov", "adam"])
def test_an_epoch_cut_into_several_launches_gives_the_same_bits(name, monkeypatch):
    losses, bits = [], []
    for longest in (4096, 4, UPDATES, 1):
        monkeypatch.setattr(online, "LONGEST_LAUNCH", longest)
        network, plan = with_online_plan(small_network, dtype="float64",
                                         optimizer=OPTIMIZERS[name])
        heard = []
        loss, _ = epoch(plan, network, progress=heard.append)
        losses.append(loss)
        bits.append(bits_of(network, plan))
        assert network.backend.runtime.launches == [("online", 1, group_of(plan).threads)] * len(
            heard)
        assert sum(heard) == UPDATES and len(heard) == -(-UPDATES // longest)
    assert all(each == bits[0] for each in bits)
    assert losses == pytest.approx([losses[0]] * len(losses), rel=EXACT)


def case_bits(case=CASE, **options):
    """The bytes of all that a case's networks are trained to, by name."""
    backend = CudaBackend(HostRuntime(profile=case.profile, max_blocks=2, **options))
    return {name: array.tobytes() for name, array in case.check(backend).items()}


def test_the_case_of_the_sanitizers_has_weights_in_every_home():
    program = bit_of_everything().program(loss="mse", optimizer=CASE.optimizer, batch_size=1)
    homes = homes_of(CASE.choices.group(program, CASE.profile))
    assert homes["global"] == ("global", 0) and homes["held"][0] == "held" and homes["held"][1]
    assert homes["output"] == ("held", 0) and homes["c1"] == ("shared", 0)


def test_the_same_training_gives_the_same_bits_twice_and_in_every_order_of_threads_and_blocks():
    bits = case_bits()
    for order in ("forward", "reverse", 1, 2):
        assert case_bits(order=order) == bits, order


@pytest.mark.parametrize("order", ["forward", "reverse", 1])
def test_no_two_threads_race(order):
    case_bits(sanitizer="thread", order=order)


def test_the_kernel_neither_leaves_its_arrays_nor_does_what_is_undefined():
    result = run_sanitized("address", ["-m", "tests.test_cuda_online_training"])
    assert result.returncode == 0, result.stdout


if __name__ == "__main__":
    case_bits()
    case_bits(OnlineCase(optimizer=Adam(lr=0.01)))
