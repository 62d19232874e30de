"""Many networks trained at once on the CPU: processes, and what progress hears."""

import gc
import sys

import numpy as np
import pytest

import gpucnn
from gpucnn import SGD, fit_many
from gpucnn.backends.cpu import process
from gpucnn.backends.cpu.plan import many
from gpucnn.errors import DeviceError
from gpucnn.progress import NoProgress
from tests.many_cases import Noted, bits, data, networks_for
from tests.processes import living

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def in_processes(monkeypatch):
    """Networks on the CPU are trained by other processes from the first epoch."""
    monkeypatch.setattr(many, "SECONDS_ALONE", 0.0)


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


def test_processes_end_with_the_training(in_processes):
    fit_many(networks_for({}), data(), epochs=1, threads=2)
    gc.collect()
    assert living() == []


def test_an_interrupt_ends_all_processes_and_is_raised(in_processes):
    class Impatient(NoProgress):
        def advance(self, samples):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_many(networks_for({}), data(), epochs=1, threads=2, progress=Impatient())
    gc.collect()
    assert living() == []


def test_a_process_that_dies_is_an_error_with_its_exit_code(in_processes, monkeypatch):
    monkeypatch.setattr(process, "COMMAND", "raise SystemExit(7)")
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
