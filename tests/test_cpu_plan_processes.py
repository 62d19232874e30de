"""Training that lasts goes over from threads to processes, to the same bits."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from gpucnn import Dataset, fit
from gpucnn.backends.cpu import process
from gpucnn.backends.cpu.plan.crews import choice, team
from tests.plan_cases import (
    MODELS,
    OPTIMIZERS,
    SOME_CHAINS,
    batch,
    byte_batch,
    each_of,
    with_plan,
)
from tests.processes import living

pytestmark = [pytest.mark.filterwarnings("error"),
              pytest.mark.skipif(os.name != "posix", reason="threads work alone on this platform")]

SAMPLES, BATCH = 340, 50  # the last batch of an epoch is one part, the others are two
PATIENCE = 60  # seconds until a process that has not started never will
SOME = SOME_CHAINS | MODELS
TWO_STAGE = MODELS["two_stage"]


@pytest.fixture
def teams(monkeypatch):
    """All teams that are started, at an epoch's second batch; they work from the third on."""
    started = []

    class Noted(team.Team):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            started.append(self)
            self.led = []

        def is_ready(self):
            limit = time.monotonic() + PATIENCE
            while not super().is_ready() and time.monotonic() < limit:
                time.sleep(0.005)
            return super().is_ready()

        def lead(self, work, state):
            super().lead(work, state)
            self.led.append(self.batches)

    monkeypatch.setattr(choice, "SECONDS_ALONE", 0.0)
    monkeypatch.setattr(choice, "LEAST_BATCHES", 1)
    monkeypatch.setattr(choice, "Team", Noted)
    yield started
    for one in started:
        one.end()


def prepared(build=TWO_STAGE, *, images_of=byte_batch, dtype="float32", **options):
    """(network, plan, its data)."""
    network, plan = with_plan(build, dtype=dtype, **({"batch_size": BATCH} | options))
    images, labels = images_of(network, SAMPLES)
    return network, plan, plan.load(Dataset(images, labels, classes=network.output_shape[0]))


def train(plan, data, epochs=2, progress=None):
    """What epochs with shifts return."""
    generator = np.random.default_rng(5)
    rates = np.linspace(0.05, 0.01, -(-len(data) // plan.program.batch_size))
    return [plan.epoch(data, generator.permutation(len(data)),
                       generator.integers(-2, 3, (len(data), 2)), rates, progress)
            for _ in range(epochs)]


def trained_bits(*arguments, threads, **options):
    """The bytes of the parameters and the state, and what two epochs return."""
    network, plan, data = prepared(*arguments, threads=threads, **options)
    results = train(plan, data)
    return (network.parameters.flat.tobytes(), *(array.tobytes() for array in plan.state.values()),
            results)


def with_one_thread(*arguments, **options):
    return trained_bits(*arguments, threads=1, **options)


# -- the same bits -------------------------------------------------------------------------------

@each_of(SOME)
def test_processes_give_the_bits_of_one_thread(build, teams):
    assert trained_bits(build, threads=2) == with_one_thread(build)
    assert [one.led for one in teams] in ([[5, 7]], [])
    assert teams or build not in MODELS.values()


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("options", [
    {"dtype": "float64", "images_of": batch}, {"loss": "mse"}, {"batch_size": 200}],
    ids=["float64", "mse", "batches of 200"])
def test_every_optimiser_loss_type_and_number_of_groups_gives_the_bits_of_one_thread(
        options, optimizer, teams):
    options = {"optimizer": optimizer} | options
    assert trained_bits(threads=2, **options) == with_one_thread(**options)
    assert sum(teams[0].led)


def test_more_processes_than_cores_give_the_same_bits(teams):
    assert trained_bits(threads=4, batch_size=200) == with_one_thread(batch_size=200)
    assert sum(teams[0].led) and len(teams[0].end()) == 3


def test_images_are_handed_over_in_as_many_turns_as_their_memory_holds(teams, monkeypatch):
    network = TWO_STAGE()
    monkeypatch.setattr(team, "IMAGE_BYTES", 2 * BATCH * int(np.prod(network.input_shape)))
    # Room for two batches in bytes is the least there is, half a batch in the network's type.
    assert trained_bits(threads=2) == with_one_thread()
    assert teams[0].led == [4, 1, 4, 3]
    assert trained_bits(threads=2, images_of=batch) == with_one_thread(images_of=batch)
    assert teams[1].led == [1] * 12


def test_single_steps_and_epochs_may_alternate(teams):
    def trained(threads):
        network, plan, data = prepared(threads=threads)
        for step in range(3):
            train(plan, data, epochs=1)
            plan.step(*batch(network, 40, seed=step))
            network.set_parameters({name: values * 1.5
                                    for name, values in network.parameter_values().items()})
        return network.parameters.flat.tobytes()

    assert trained(2) == trained(1)
    assert teams[0].led == [5, 1, 7, 1, 7, 1]


def test_progress_hears_of_every_batch(teams):
    _, plan, data = prepared(threads=2)
    heard = []
    train(plan, data, progress=heard.append)
    assert heard == [50, 50, 50, 50, 50, 50, 40] * 2 and teams[0].led == [5, 7]


# -- when ----------------------------------------------------------------------------------------

def test_processes_start_once_training_has_lasted(teams, monkeypatch):
    _, plan, data = prepared(threads=2)
    a_batch = choice.seconds_to_train(plan.program, BATCH)
    monkeypatch.setattr(choice, "SECONDS_ALONE", 8.5 * a_batch)
    train(plan, data, epochs=1)
    assert not teams
    train(plan, data, epochs=1)  # its 7th batch is handed over
    assert teams[0].led == [4]


def test_a_few_batches_are_not_worth_it(teams, monkeypatch):
    monkeypatch.setattr(choice, "LEAST_BATCHES", 8)
    _, plan, data = prepared(threads=2)
    train(plan, data, epochs=5)
    assert not teams and living() == []


@pytest.mark.parametrize("options", [{"threads": 1}, {"batch_size": 20}, {"batch_size": 1}],
                         ids=str)
def test_one_worker_is_this_process(options, teams):
    _, plan, data = prepared(**options)
    train(plan, data, epochs=1)
    assert not teams and "processes" not in plan.explain()


@pytest.mark.parametrize("where", ["a frozen application", "a platform without"])
def test_threads_work_alone_where_there_are_no_processes(where, teams, monkeypatch):
    if where == "a frozen application":
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    else:
        monkeypatch.setattr(choice.os, "name", "nt")
    _, plan, _ = prepared(threads=2)
    monkeypatch.undo()
    assert "processes" not in plan.explain()


def test_the_plan_says_when_processes_take_over():
    _, plan, _ = prepared(threads=2)
    assert ("2 threads with one BLAS thread each; from about 1 s of training on, 2 processes in "
            "their place") in plan.explain()


# -- how it ends ---------------------------------------------------------------------------------

def test_processes_end_with_the_training(teams, monkeypatch):
    seen = []
    network = TWO_STAGE()
    fit(network, byte_batch(network, SAMPLES), epochs=1, batch_size=BATCH, threads=2,
        progress=False, on_epoch=lambda record: seen.extend(living()))
    assert len(seen) == 1 and len(teams[0].led) == 1
    teams.clear()
    assert living() == []


def test_an_interrupt_ends_the_processes_and_the_plan_stays_usable(teams):
    network, plan, data = prepared(threads=2)
    before = network.parameter_values()

    def interrupt(samples):
        if teams and teams[0].led:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(plan, data, progress=interrupt)
    assert living() == []
    network.set_parameters(before)
    for array in plan.state.values():
        array.fill(0)
    plan.steps = 0
    results = train(plan, data)
    assert (network.parameters.flat.tobytes(), plan.state["velocity"].tobytes(),
            results) == with_one_thread()
    assert len(teams) == 2 and teams[1].led


@pytest.mark.parametrize("batches", [1, 3, 5])
def test_where_a_process_dies_threads_go_on_with_a_warning_to_the_same_bits(batches, teams):
    network, plan, data = prepared(threads=2)

    def kill(samples):
        if teams and teams[0].led and teams[0].batches == 5 - batches:
            for number in living():
                os.kill(number, signal.SIGKILL)

    with pytest.warns(RuntimeWarning, match=r"expected 2 processes to train together, got the end "
                                            r"of one \(exit codes \[-9\]\); threads go on"):
        results = train(plan, data, progress=kill)
    assert (network.parameters.flat.tobytes(), plan.state["velocity"].tobytes(),
            results) == with_one_thread()
    assert len(teams) == 1 and living() == []
    assert "processes" not in plan.explain()


def test_where_one_of_several_dies_the_others_end_too(teams):
    network, plan, data = prepared(threads=3, batch_size=150)

    def kill(samples):
        if teams and teams[0].led and living():
            os.kill(living()[0], signal.SIGKILL)

    with pytest.warns(RuntimeWarning, match="threads go on"):
        results = train(plan, data, progress=kill)
    assert (network.parameters.flat.tobytes(), plan.state["velocity"].tobytes(),
            results) == with_one_thread(batch_size=150)
    assert living() == []


def test_where_processes_do_not_come_up_threads_go_on_with_a_warning(teams, monkeypatch):
    monkeypatch.setattr(process, "COMMAND", "raise SystemExit(7)")
    with pytest.warns(RuntimeWarning, match="threads go on"):
        bits = trained_bits(threads=2)
    assert bits == with_one_thread() and living() == []


def test_where_processes_may_not_be_started_threads_go_on_with_a_warning(teams, monkeypatch):
    def refuse(*arguments, **keywords):
        raise PermissionError("not allowed here")

    monkeypatch.setattr(process.subprocess, "Popen", refuse)
    with pytest.warns(RuntimeWarning, match="got not allowed here; threads go on"):
        bits = trained_bits(threads=2)
    assert bits == with_one_thread()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_of_this_process_leaves_the_team_alone(teams):
    _, plan, data = prepared(threads=2)
    train(plan, data, epochs=1)
    child = os.fork()
    if child == 0:
        try:
            train(plan, data, epochs=1)
            del plan
        finally:
            os._exit(len(teams) - 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1  # it has started its own
    train(plan, data, epochs=1)
    assert len(teams) == 1 and teams[0].led == [5, 7]


def test_processes_end_when_this_one_is_killed(tmp_path):
    """As by the system, when memory runs out."""
    script = """
import os, sys, time
import numpy as np, gpucnn
from gpucnn.backends.cpu.plan.crews import choice
from tests.processes import living
choice.SECONDS_ALONE, choice.LEAST_BATCHES = 0.0, 1
network = gpucnn.two_stage(device="cpu")
plan = network.compile_step(loss="cross_entropy", optimizer=gpucnn.SGD(0.01), batch_size=50,
                            threads=2)
data = plan.load(gpucnn.digits()[0])
while not plan._compiled._crews._team or not plan._compiled._crews._team.is_ready():
    plan.epoch(data, np.arange(500), None, [0.01] * 10)
print(*living(), flush=True)
while True:
    plan.epoch(data, np.arange(500), None, [0.01] * 10)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE,
                          text=True) as trainer:
        helper = int(trainer.stdout.readline())
        os.kill(helper, 0)
        time.sleep(0.2)
        trainer.kill()
    limit = time.monotonic() + PATIENCE
    while is_alive(helper) and time.monotonic() < limit:
        time.sleep(0.01)
    assert not is_alive(helper)


def is_alive(number):
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{number}/stat") as status:
        return status.read().rsplit(")", 1)[1].split()[0] != "Z"
