"""Many networks trained at once: each ends as it ends alone."""

import gc
import os
import subprocess
import sys
from dataclasses import dataclass, field

import numpy as np
import pytest

import gpucnn
from gpucnn import (
    SGD,
    Adam,
    ConnectionTable,
    Conv2d,
    Cosine,
    Dense,
    MaxPool2d,
    Network,
    StepDecay,
    Subsample2d,
    fit,
    fit_many,
)
from gpucnn.backends.base import CompiledMany
from gpucnn.backends.cpu import CpuBackend
from gpucnn.backends.cpu.plan import many, remote
from gpucnn.errors import ArgumentError, DataError, DeviceError, DTypeError, ShapeError
from gpucnn.progress import NoProgress

SETTINGS = {
    "online": {"batch_size": 1, "optimizer": [SGD(0.01), SGD(0.02), SGD(0.04)]},
    "batches that leave a rest": {
        "batch_size": 7, "optimizer": [Adam(0.01), Adam(0.02), Adam(0.04)],
        "schedule": StepDecay(0.5, 1), "shift": 2},
    "one batch": {"batch_size": 100, "optimizer": SGD(0.1, momentum=0.9, nesterov=True),
                  "schedule": Cosine(), "shift": 1},
    "in order": {"batch_size": 5, "optimizer": SGD(0.05, weight_decay=0.1), "shuffle": False},
    "squashed": {"batch_size": 10, "optimizer": SGD(0.05), "loss": "mse"},
}
SEEDS = [4, 9, 4]
each_setting = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
pytestmark = pytest.mark.filterwarnings("error")


def network(seed=0, output="identity", **keywords):
    return Network([Conv2d(1, 3, 5, name="c1"), Subsample2d(3, 4, name="s2"),
                    Dense(3, 4, activation=output, name="output")],
                   (1, 8, 8), **({"seed": seed, "device": "cpu"} | keywords))


def networks_for(settings, count=3, **keywords):
    output = "scaled_tanh" if settings.get("loss") == "mse" else "identity"
    return [network(seed, output, **keywords) for seed in range(count)]


def data(count=40, seed=0):
    generator = np.random.default_rng(seed)
    return (generator.integers(0, 256, (count, 8, 8), np.uint8),
            np.arange(count) % 4)


def bits(networks):
    return [one.backend.to_host(one.parameters.flat).tobytes() for one in networks]


def without_seconds(histories):
    return [[(record.epoch, record.train_loss, record.train_error, record.test_error)
             for record in history] for history in histories]


def trained_alone(settings, count=3, **keywords):
    """(networks, histories) of `fit` for each network by itself."""
    networks = networks_for(settings, count, **keywords)
    histories = []
    for number, one in enumerate(networks):
        own = dict(settings)
        if isinstance(own["optimizer"], list):
            own["optimizer"] = own["optimizer"][number]
        histories.append(fit(one, data(), data(10, seed=1), epochs=3, seed=SEEDS[number],
                             progress=False, **own))
    return networks, histories


def assert_all_end_as_alone(networks, settings, **keywords):
    histories = fit_many(networks, data(), data(10, seed=1), epochs=3, seed=SEEDS, progress=False,
                         **settings, **keywords)
    alone, alone_histories = trained_alone(settings)
    assert bits(networks) == bits(alone)
    assert without_seconds(histories) == without_seconds(alone_histories)
    assert all(isinstance(history, gpucnn.History) for history in histories)


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

    settings, epoch = SETTINGS["online"], 3 * 40 * many.SECONDS_A_BATCH
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


# -- progress and processes ----------------------------------------------------------------------

class Noted(NoProgress):
    """Notes what a progress bar is told."""

    def __init__(self):
        self.epochs, self.samples, self.records = [], 0, []

    def begin(self, epoch):
        self.epochs.append(epoch)

    def advance(self, samples):
        self.samples += samples

    def end(self, record):
        self.records.append(record)


@pytest.mark.parametrize("batch_size", [1, 16])
def test_progress_counts_the_samples_of_all_and_ends_an_epoch_with_means(batch_size, in_processes):
    seen = Noted()
    histories = fit_many(networks_for({}), data(), data(10), epochs=2, batch_size=batch_size,
                         progress=seen, threads=2)
    assert seen.epochs == [1, 2] and seen.samples == 2 * 3 * 40
    for epoch, record in enumerate(seen.records):
        for name in ("train_loss", "train_error", "test_error"):
            mean = np.mean([getattr(history[epoch], name) for history in histories])
            assert getattr(record, name) == pytest.approx(mean)


def children():
    """The processes that this one has started and that live."""
    listing = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "args="],
                             capture_output=True, text=True, check=False)
    return [line for line in listing.stdout.splitlines() if "gpucnn" in line]


def test_processes_end_with_the_training(in_processes):
    fit_many(networks_for({}), data(), epochs=1, threads=2)
    gc.collect()
    assert children() == []


def test_an_interrupt_ends_all_processes_and_is_raised(in_processes):
    class Impatient(NoProgress):
        def advance(self, samples):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_many(networks_for({}), data(), epochs=1, threads=2, progress=Impatient())
    gc.collect()
    assert children() == []


def test_a_process_that_dies_is_an_error_with_its_exit_code(in_processes, monkeypatch):
    monkeypatch.setattr(remote, "COMMAND", "raise SystemExit(7)")
    with pytest.raises(DeviceError, match=r"got its end \(exit code -?\d+\)"):
        fit_many(networks_for({}), data(), epochs=1, threads=2)


def test_one_thread_or_an_application_that_cannot_start_others_trains_in_this_process(
        in_processes, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("no process is to be started")

    monkeypatch.setattr(many, "RemoteStep", refuse)
    fit_many(networks_for({}), data(), epochs=1, threads=1)
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    fit_many(networks_for({}), data(), epochs=1, threads=2)


def test_the_plan_for_many_says_how_networks_are_divided():
    networks = networks_for({})
    program = networks[0].program(loss="cross_entropy", optimizer=SGD(0.1), batch_size=1)
    flats = [one.parameters.flat for one in networks]
    before = bits(networks)
    for threads, text in ((1, "3 networks on cpu, one after the other; each by"),
                          (2, "then 2 at a time in processes; each by")):
        plan = networks[0].backend.compile_many(program, flats, threads=threads)
        assert text in plan.explain() and "c1 " in plan.explain(profile=True)
    assert bits(networks) == before


def test_few_networks_of_large_batches_are_left_to_plans_that_use_all_threads():
    one = gpucnn.lenet5(device="cpu")
    program = one.program(loss="cross_entropy", optimizer=SGD(0.1), batch_size=256)
    assert one.backend.compile_many(program, [one.parameters.flat], threads=2) is None


# -- what is refused -----------------------------------------------------------------------------

def with_layers(*layers, **keywords):
    return Network([*layers], (1, 8, 8), device="cpu", **keywords)


def c1(maps=3, size=5, **keywords):
    return Conv2d(1, maps, size, **keywords)


TABLE = ConnectionTable.from_pairs([[0, 0, 1], [0, 1, 0]])
OTHER = ConnectionTable.from_pairs([[0, 0, 1], [0, 1, 1]])


@pytest.mark.parametrize(("first", "second", "message"), [
    (network(), network(dtype="float64"), "dtype float32 in network 0 and float64 in network 1"),
    (network(), network(input_range=(0, 1)), r"input_range \(-0.1, 1.175\) .* \(0.0, 1.0\)"),
    (with_layers(c1(), Subsample2d(3, 4, name="s2"), Dense(3, 4)),
     with_layers(c1(), MaxPool2d(4), Dense(3, 4)), "layer 's2' as subsample2d .* max_pool2d"),
    (with_layers(c1(name="c1"), Conv2d(3, 4, 4)),
     with_layers(c1(size=(5, 4)), Conv2d(3, 4, (4, 5))),
     r"layer 'c1' with kernel_size \(5, 5\) .* \(5, 4\)"),
    (with_layers(c1(name="c1"), Conv2d(3, 4, 4)),
     with_layers(c1(activation="relu"), Conv2d(3, 4, 4)),
     "layer 'c1' with activation scaled_tanh .* relu"),
    (with_layers(c1(2), Conv2d(2, 2, 4, connections=TABLE, name="c2")),
     with_layers(c1(2), Conv2d(2, 2, 4, connections=OTHER)),
     "layer 'c2' with .*3 connections.* another of 3 connections in network 1"),
    (with_layers(Conv2d(1, 4, 8)), with_layers(Conv2d(1, 4, 8), Dense(4, 4)),
     "layers: 1 in network 0 and 2 in network 1"),
], ids=["dtype", "range", "op", "option", "activation", "table", "count"])
def test_networks_that_differ_in_more_than_values_are_refused_with_the_first_difference(
        first, second, message):
    before = bits([first, second])
    with pytest.raises(ArgumentError, match=message):
        fit_many([first, second], data(), epochs=1)
    assert bits([first, second]) == before


def test_networks_on_two_devices_are_refused(cuda_on_cpu):
    with pytest.raises(DeviceError, match="network 0 on cpu and network 1 on cuda-on-cpu"):
        fit_many([network(), network(device=cuda_on_cpu)], data(), epochs=1)


def test_what_is_no_list_of_different_networks_is_refused():
    one = network()
    for networks, message in (([], "at least one network"), (one, "fit trains that"),
                              ([one, None], "got None at place 1"),
                              ([one, network(), one], "the same one at places 0 and 2")):
        with pytest.raises(ArgumentError, match=message):
            fit_many(networks, data(), epochs=1)


@pytest.mark.parametrize(("settings", "message"), [
    ({"optimizer": [SGD(0.1)]}, "an optimiser for each of 2 networks, got 1"),
    ({"optimizer": []}, "an optimiser for each of 2 networks, got 0"),
    ({"optimizer": [SGD(0.1), Adam(0.1)]}, r"differ in lr alone, got SGD\(.* Adam\("),
    ({"optimizer": [SGD(0.1), SGD(0.1, momentum=0.9)]}, "differ in lr alone.*for network 1"),
    ({"optimizer": [SGD(0.1), 0.1]}, "got 0.1 for network 1"),
    ({"seed": [1, 2, 3]}, "a seed for each of 2 networks, got 3"),
    ({"seed": [1, -2]}, "seed: expected at least 0, got -2"),
    ({"seed": "one"}, "seed for each of 2"),
    ({"epochs": 0}, "fit_many: epochs: expected at least 1"),
    ({"schedule": 0.9}, "fit_many: expected a schedule"),
    ({"precision": "tf32"}, "precision: expected 'float32'"),
    ({"threads": 0}, "threads: expected at least 1"),
    ({"loss": "hinge"}, "loss: expected one of"),
])
def test_a_setting_that_does_not_fit_is_refused_before_training(settings, message):
    networks = [network(0), network(1)]
    before = bits(networks)
    with pytest.raises(ArgumentError, match=message):
        fit_many(networks, data(), **({"epochs": 1} | settings))
    assert bits(networks) == before


@pytest.mark.parametrize(("train", "validation", "error", "message"), [
    ((np.zeros((0, 8, 8), np.uint8), np.zeros(0, int)), None, ArgumentError, "no labels to count"),
    ((np.zeros((2, 8, 8), np.uint8), np.array([0, 4])), None, DataError, "labels of 0 to 3"),
    ((np.zeros((2, 9, 8), np.uint8), np.array([0, 1])), None, ShapeError, "at most 8x8"),
    ((np.zeros((2, 8, 8)), np.array([0, 1])), None, DTypeError, "uint8 or float32"),
    (data(), (np.zeros((1, 12, 12), np.uint8), np.array([0])), ShapeError,
     "fit_many: validation: expected one answer"),
])
def test_data_that_does_not_fit_is_refused_before_training(train, validation, error, message):
    networks = [network(0), network(1)]
    before = bits(networks)
    with pytest.raises(error, match=message):
        fit_many(networks, train, validation, epochs=1)
    assert bits(networks) == before


def test_cross_entropy_on_squashed_outputs_is_warned_of():
    with pytest.warns(RuntimeWarning, match="fit_many: cross_entropy expects linear outputs"):
        fit_many([network(0, "scaled_tanh")], data(), epochs=1)
