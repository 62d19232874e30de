"""The race of the benchmarks: its results on made-up laps, and a whole one on a few digits."""

import json
import re
from math import inf

import numpy as np
import pytest

from benchmarks import lenet, ours, peers_jax, peers_torch, race
from benchmarks.jax_layers import Form
from benchmarks.race import Result
from benchmarks.race_task import Racer, RaceTask
from benchmarks.sides import BenchmarkError
from gpucnn import SGD, digits, fit, write_idx
from gpucnn.data import mnist
from gpucnn.schedules import Cosine

pytestmark = pytest.mark.thorough  # trains with other libraries

def result(side, precision, *ends, setting="setting"):
    """A result of one lap for each seed, (seconds, test error); the target is 1 %."""
    return Result(side, setting, precision, 1.0, tuple((end,) for end in ends))


RESULTS = [
    result("gpucnn", "float32", (1.0, 0.9), (2.0, 1.0), (4.0, 0.8)),
    result("gpucnn", "tf32", (0.5, 0.9), (0.5, 0.9), (9.0, 1.1)),
    result("torch", "float32", (8.0, 0.9), (8.0, 0.9), (9.0, 1.3), setting="graph"),
    result("jax", "float32", (6.0, 0.7), (6.0, 0.7), (6.0, 0.7), setting="scan"),
    result("torch", "tf32", (9.0, 2.0), (9.0, 2.0), (3.0, 0.7), setting="graph, tf32")]


@pytest.fixture(scope="module")
def few_digits(tmp_path_factory):
    """A directory with 310 training and 60 test digits, as MNIST's four files."""
    directory = tmp_path_factory.mktemp("few")
    train, test = digits()
    for (images, labels), part in (
            ((mnist.TRAIN_IMAGES, mnist.TRAIN_LABELS), train.balanced(31)),
            ((mnist.TEST_IMAGES, mnist.TEST_LABELS), test.balanced(6))):
        write_idx(directory / images, part.images[:, 0])
        write_idx(directory / labels, part.labels.astype(np.uint8))
    return directory


# -- results -----------------------------------------------------------------------------------


def test_a_seed_that_misses_the_target_counts_as_infinite():
    assert RESULTS[1].seconds == [0.5, 0.5, inf]
    assert RESULTS[1].median == 0.5 and RESULTS[1].reached == 2
    assert RESULTS[4].median == inf and RESULTS[4].reached == 1


def test_epochs_are_counted_up_to_the_target():
    laps = ((1.0, 3.0), (2.0, 0.9)), ((1.0, 0.8),), ((1.0, 2.0), (2.0, 1.0))
    assert Result("torch", "graph", "float32", 1.0, laps).epochs == 2


def test_the_table_compares_settings_with_ours_of_the_same_precision():
    rows = race.table(RESULTS).splitlines()[2:]
    assert rows[0] == "| gpucnn | setting | float32 | 2 | 1 to 4 | 1 | 3 of 3 | 1.00 |"
    assert rows[2] == "| torch | graph | float32 | 8 | 8 to not reached | 1 | 2 of 3 | 8.00 |"
    assert rows[3] == "| jax | scan | float32 | 6 | 6 to 6 | 1 | 3 of 3 | 3.00 |"
    assert rows[4] == ("| torch | graph, tf32 | tf32 | not reached | 3 to not reached | 1 "
                       "| 1 of 3 | - |")


def test_the_verdict_names_the_best_peer_in_each_precision_and_in_any():
    float32, tf32, any_precision = race.verdict(RESULTS, "cuda").splitlines()
    assert float32 == "best peer in float32: jax, scan: 6 s, gpucnn 2 s, ratio 3.00"
    assert tf32 == "best peer in tf32: torch, graph, tf32: not reached, gpucnn 0.5 s, ratio -"
    assert any_precision == "best peer of any precision: jax, scan: 6 s, gpucnn 0.5 s, ratio 12.00"
    assert race.verdict(RESULTS[:1], "cpu") == "no peer took part"


# -- the recipe --------------------------------------------------------------------------------


def test_our_racer_trains_as_fit_does(few_digits):
    task = RaceTask("two_stage", data=str(few_digits), epochs=2)
    racer = Racer(task, ours.Trainer(task))
    racer.begin(5)
    laps = racer.race(target=1e-9)
    network = task.network()
    network.set_parameters(task.initial_values(5))
    history = fit(network, task.dataset(), task.test_set(), epochs=2, batch_size=64,
                  optimizer=SGD(lr=0.06, momentum=0.9, weight_decay=1e-3), schedule=Cosine(),
                  shift=1, seed=5, progress=False)
    assert [error for _, error in laps] == pytest.approx([one.test_error for one in history])
    for name, values in racer._trainer.parameters().items():
        np.testing.assert_array_equal(values, network.parameters[name], name)


def test_a_racer_stops_at_the_target_and_begins_anew_with_the_same_bits(few_digits):
    task = RaceTask("two_stage", data=str(few_digits))
    racer = Racer(task, ours.Trainer(task))
    before = racer.begin(0)
    racer.rehearse()
    assert len(racer.race(target=100.0)) == 1
    for name, values in racer.begin(0).items():
        np.testing.assert_array_equal(values, before[name], name)
    first = racer.after(20)
    racer.begin(0)
    for name, values in racer.after(20).items():
        np.testing.assert_array_equal(values, first[name], name)


@pytest.mark.parametrize(("scan", "maps_last"), [(True, False), (False, True)],
                         ids=["scan", "jit step, maps last"])
def test_jax_races_with_the_same_numbers(few_digits, scan, maps_last):
    pytest.importorskip("jax")
    task = RaceTask("two_stage", data=str(few_digits), epochs=2)
    racers = [Racer(task, ours.Trainer(task)), Racer(task, peers_jax.Trainer(
        task, scan=scan, form=Form(columns=True, maps_last=maps_last)))]
    for racer in racers:
        racer.begin(1)
        racer.rehearse()
        racer.begin(1)
        racer.errors = [error for _, error in racer.race(target=1e-9)]
    assert racers[1].errors == pytest.approx(racers[0].errors, abs=100 / 60 + 1e-6)
    reference = racers[0]._trainer.parameters()
    for name, values in racers[1]._trainer.parameters().items():
        np.testing.assert_allclose(values, reference[name], rtol=1e-2, atol=1e-4, err_msg=name)


# -- the whole race ----------------------------------------------------------------------------


def test_a_race_prints_every_side_and_the_best_peer(few_digits, tmp_path, monkeypatch, capsys):
    for package in ("torch", "click"):
        pytest.importorskip(package)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    monkeypatch.setattr(peers_torch, "race_settings",
                        lambda device, cores: {"1 thread": {"threads": 1}})
    out = tmp_path / "race.json"
    assert lenet.main(["--race", "--device", "cpu", "--peer", "torch", "--model", "two_stage",
                       "--data", str(few_digits), "--seeds", "2", "--target", "89.9",
                       "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "seconds from random weights to a test error of 89.9 %; medians over seeds: 2" in text
    assert re.search(r"recipe: .*few.*, up to 3 epochs, batch size 64, .*, shift 1", text)
    assert re.search(r"^\| gpucnn \| as it comes \| float32 \| [\d.e-]+ \|.*\| 2 of 2 \| 1.00 \|$",
                     text, re.MULTILINE)
    assert re.search(r"^\| torch \| 1 thread \| float32 \|", text, re.MULTILINE)
    assert re.search(r"best peer in float32: torch, 1 thread: .* s, ratio [\d.]+", text)
    saved = json.loads(out.read_text())
    assert [one["side"] for one in saved["results"]] == ["gpucnn", "torch"]
    assert all(len(one["laps"]) == 2 for one in saved["results"])


@pytest.mark.parametrize(("arguments", "message"), [
    (["--peer", "torch,seed"], "--race: expected some of torch, jax as --peer, got seed"),
    (["--data", "minst"], "--data: expected digits, mnist, .* got 'minst'"),
    (["--data", "digits", "--model", "relu_net"], r"expected shape \(samples, 3, height, width\)"),
])
def test_a_race_that_cannot_be_run_ends_with_its_reason(arguments, message, capsys):
    assert lenet.main(["--race", *arguments]) == 1
    assert re.search(message, capsys.readouterr().err)


class FixedRacer:
    """A racer of fixed parameters."""

    name, setting, precision = "side", "setting", "float32"

    def __init__(self, before=1.0, after=2.0):
        self._values = {"begin": {"c1.weight": np.full(3, before)},
                        "after": {"c1.weight": np.full(3, after)}}

    def ask(self, command, *arguments):
        return self._values[command]


@pytest.mark.parametrize(("racer", "message"), [
    (FixedRacer(before=1.5), "expected the initial parameters of gpucnn"),
    (FixedRacer(after=2.1), "c1.weight: expected those of gpucnn after 20 steps")])
def test_sides_that_train_other_numbers_do_not_race(racer, message):
    with pytest.raises(BenchmarkError, match=message):
        race._check_training([FixedRacer(), racer], 0, {"float32": 1e-4})
