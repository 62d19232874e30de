"""Many networks trained at once: each ends as it ends alone."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from gpucnn import SGD, Adam, Conv2d, Dense, Network, Subsample2d, fit, fit_many
from gpucnn.backends.base import CompiledMany
from gpucnn.backends.cpu import CpuBackend
from gpucnn.backends.cpu.plan import many, remote
from gpucnn.backends.cpu.plan.crews import choice
from tests.many_cases import (
    SEEDS,
    SETTINGS,
    Noted,
    assert_all_end_as_alone,
    bits,
    data,
    each_setting,
    network,
    networks_for,
    trained_alone,
    without_seconds,
)

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def in_processes(monkeypatch):
    """Networks on the CPU are trained by other processes from the first epoch."""
    monkeypatch.setattr(many, "SECONDS_ALONE", 0.0)


# -- each network ends as alone ------------------------------------------------------------------

@each_setting
def test_each_network_gets_the_bits_and_the_history_that_it_gets_alone(settings):
    assert_all_end_as_alone(networks_for(settings), settings)


@pytest.mark.parametrize(("settings", "threads"), [
    (SETTINGS["online"], 2), (SETTINGS["batches that leave a rest"], 3),
    (SETTINGS["one batch"], 2)], ids=["online", "batches", "one batch"])
def test_processes_give_the_same_bits(settings, threads, in_processes):
    assert_all_end_as_alone(networks_for(settings), settings, threads=threads)


def test_work_goes_over_to_processes_in_the_midst_of_training(monkeypatch):
    started = []

    class Noted(remote.RemoteStep):
        def __init__(self, *arguments):
            started.append(arguments)
            super().__init__(*arguments)

    settings, epoch = SETTINGS["online"], 3 * 40 * choice.SECONDS_A_BATCH
    monkeypatch.setattr(many, "SECONDS_ALONE", 1.5 * epoch)
    monkeypatch.setattr(many, "RemoteStep", Noted)
    assert_all_end_as_alone(networks_for(settings), settings, threads=2)
    assert len(started) == 2


class OneByOne(CpuBackend):
    """A backend that leaves each network to its own plan."""

    def compile_many(self, program, parameters, *, threads=None):
        return None


@each_setting
def test_each_network_ends_as_alone_where_the_backend_has_nothing_for_many(settings):
    backend = OneByOne()
    assert_all_end_as_alone(networks_for(settings, device=backend), settings)


@pytest.mark.parametrize("settings", [SETTINGS["online"], SETTINGS["batches that leave a rest"]],
                         ids=["online", "batches"])
def test_every_backend_trains_many_networks_as_it_trains_each_alone(backend, settings):
    networks = networks_for(settings, device=backend)
    histories = fit_many(networks, data(), data(10, seed=1), epochs=3, seed=SEEDS, progress=False,
                         **settings)
    alone, alone_histories = trained_alone(settings, device=backend)
    assert bits(networks) == bits(alone)
    assert without_seconds(histories) == without_seconds(alone_histories)


@dataclass
class Recorded(CompiledMany):
    """Trains networks by the CPU's plans, and notes what it is given."""

    program: object
    parameters: list
    backend: object
    calls: list = field(default_factory=list)

    def train(self, images, labels, orders, shifts, scalars, states, losses, totals,
              progress=None):
        self.calls.append((images, labels, orders, shifts, scalars, losses, totals))
        for number, parameters in enumerate(self.parameters):
            step = self.backend.compile(self.program, parameters, np.zeros_like(parameters))
            step.train(images, labels, orders[number],
                       None if shifts is None else shifts[number], scalars[number], states[number],
                       losses[number:number + 1], totals[number], progress)

    def explain(self, *, profile=False):
        return "recorded"


class Recording(CpuBackend):
    """A backend whose `CompiledMany` is `Recorded`."""

    def compile_many(self, program, parameters, *, threads=None):
        self.compiled = Recorded(program, parameters, self)
        return self.compiled


@each_setting
def test_each_network_ends_as_alone_by_a_backends_own_plan_for_many(settings):
    assert_all_end_as_alone(networks_for(settings, device=Recording()), settings)


def test_a_plan_for_many_is_given_what_the_contract_says():
    backend = Recording()
    networks = networks_for({}, device=backend)
    fit_many(networks, data(), epochs=2, batch_size=16, optimizer=Adam(0.01), shift=1, seed=SEEDS)
    assert [flat is one.parameters.flat for flat, one
            in zip(backend.compiled.parameters, networks, strict=True)] == [True] * 3
    assert len(backend.compiled.calls) == 2
    for images, labels, orders, shifts, scalars, losses, totals in backend.compiled.calls:
        assert (images.shape, images.dtype) == ((40, 1, 8, 8), np.uint8)
        assert (labels.shape, labels.dtype) == ((40,), np.int32)
        assert (orders.shape, orders.dtype) == ((3, 40), np.int32)
        assert (shifts.shape, shifts.dtype) == ((3, 40, 2), np.int32)
        assert (scalars.shape, scalars.dtype) == ((3, 3, 2), np.float32)
        assert (losses.shape, losses.dtype) == ((3,), np.float32)
        assert (totals.shape, totals.dtype) == ((3, 3), np.float64)
        assert orders.flags.c_contiguous and shifts.flags.c_contiguous
        assert np.array_equal(np.sort(orders, axis=1), [np.arange(40)] * 3)
    assert backend.compiled.calls[0][0] is backend.compiled.calls[1][0]


@pytest.mark.parametrize("optimizer", [SGD(0.1, momentum=0.5), Adam(0.1)])
def test_scalars_of_many_steps_are_those_of_each(optimizer):
    rates = np.linspace(0.1, 0.01, 7)
    assert np.array_equal(optimizer.scalar_rows(5, rates),
                          [optimizer.scalars(5 + number, rate)
                           for number, rate in enumerate(rates.tolist(), start=1)])


def test_one_seed_and_one_optimiser_are_for_all():
    networks = networks_for({})
    fit_many(networks, data(), epochs=1, seed=3, optimizer=SGD(0.02))
    for seed, one in enumerate(networks):
        alone = network(seed)
        fit(alone, data(), epochs=1, batch_size=1, seed=3, optimizer=SGD(0.02))
        assert bits([alone]) == bits([one])


def test_networks_of_one_start_part_by_their_orders():
    networks = [network(0), network(0)]
    fit_many(networks, data(), epochs=1, seed=[0, 1])
    assert bits(networks[:1]) != bits(networks[1:])


def test_names_of_layers_may_differ():
    other = Network([Conv2d(1, 3, 5), Subsample2d(3, 4), Dense(3, 4, activation="identity")],
                    (1, 8, 8), device="cpu")
    assert len(fit_many([network(), other], data(), epochs=1)) == 2
    assert bits([other]) != bits([network(0)])


def test_training_without_a_validation_set_leaves_its_error_out():
    histories = fit_many(networks_for({}), data(), epochs=1)
    assert [history[0].test_error for history in histories] == [None] * 3


def test_measuring_keeps_the_memory_of_no_networks_forward_pass():
    networks = networks_for({})
    before = networks[0].outputs(data()[0])
    networks[0].forget()
    assert np.array_equal(networks[0].outputs(data()[0]), before)
    fit_many(networks, data(), data(10), epochs=1)
    assert not any(one._forward_passes for one in networks)


# -- networks that diverge -----------------------------------------------------------------------

DIVERGING = [SGD(lr, weight_decay=0.001) for lr in (0.02, 1e30, 0.04)]
LOST = r"from network 1 \(lr 1e\+30, seed 9\) in epoch [12]: training diverged"


@pytest.mark.parametrize(("device", "seconds_alone"), [
    ("cpu", 1e9), ("cpu", 0.0), (Recording(), 0.0), (OneByOne(), 0.0)],
    ids=["cpu", "a process", "together", "one by one"])
@pytest.mark.parametrize("batch_size", [1, 20])
def test_a_network_that_diverges_is_named_and_the_others_end_as_alone(
        device, seconds_alone, batch_size, monkeypatch):
    monkeypatch.setattr(many, "SECONDS_ALONE", seconds_alone)
    monkeypatch.setattr(many, "usable_threads", lambda threads: 1 if seconds_alone else 2)
    networks = networks_for({}, device=device)
    with pytest.warns(RuntimeWarning, match=LOST):
        histories = fit_many(networks, data(), data(10), epochs=3, batch_size=batch_size,
                             optimizer=DIVERGING, seed=SEEDS)
    assert [len(history) for history in histories] in ([3, 0, 3], [3, 1, 3])
    for number in (0, 2):
        alone = network(number)
        fit(alone, data(), epochs=3, batch_size=batch_size, optimizer=DIVERGING[number],
            seed=SEEDS[number])
        assert bits([alone]) == bits([networks[number]])


def test_a_network_that_diverges_later_keeps_the_epochs_before():
    tame, growing = SGD(1e-13, weight_decay=1e11), SGD(0.1, weight_decay=1e11)  # 1e10 an epoch
    with pytest.warns(RuntimeWarning, match="network 1 .* in epoch 5: training diverged"):
        histories = fit_many([network(0), network(0)], data(), epochs=7, batch_size=40,
                             optimizer=[tame, growing])
    assert [len(history) for history in histories] == [7, 4]
    assert 1e28 < histories[1][-1].train_loss < np.inf


def test_training_ends_early_when_all_have_diverged():
    seen = Noted()
    with pytest.warns(RuntimeWarning, match="0 .* 1 "):
        histories = fit_many([network(0), network(1)], data(), epochs=50, progress=seen,
                             optimizer=DIVERGING[1])
    assert [len(history) for history in histories] == [0, 0]
    assert seen.epochs == [1]
