"""benchmarks: it runs, its sides train the same numbers, and what it cannot do it says."""

import json
import re
import sys

import numpy as np
import pytest

from benchmarks import contest, lenet, peers_torch
from benchmarks.contest import Comparison, Measurement
from benchmarks.sides import BenchmarkError
from benchmarks.task import ShuffledOrder, Task


def measured(**rates):
    """A comparison of gpucnn with sides of one or two settings: side_setting=(rates)."""
    return Comparison(1, tuple(Measurement(*name.split("_"), values, {})
                               for name, values in rates.items()), 0.0, 0.0)


# -- the whole run -----------------------------------------------------------------------------


def test_it_prints_a_table_with_the_ratio_to_pytorch_and_the_machine(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    monkeypatch.setattr(peers_torch, "settings", lambda device, cores: {"1 thread": {"threads": 1}})
    out = tmp_path / "measured.json"
    assert lenet.main(["--device", "cpu", "--peer", "torch", "--batch", "1,3", "--seconds", "0.01",
                       "--rounds", "1", "--model", "two_stage", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert re.search(r"cores.*Python", text)
    assert re.search(r"NumPy \d.*PyTorch \d", text)
    assert "| batch | gpucnn | torch | best setting | gpucnn / torch | range |" in text
    for batch_size in (1, 3):
        assert re.search(rf"^\| {batch_size} \| [\d,]+ \| [\d,]+ \| 1 thread \| \d+\.\d\d \|", text,
                         re.MULTILINE)
    batches = json.loads(out.read_text())["batches"]
    assert [batch["batch_size"] for batch in batches] == [1, 3]
    assert all(batch["loss_difference"] < contest.TOLERANCE for batch in batches)
    assert [one["side"] for one in batches[0]["measurements"]] == ["gpucnn", "torch"]


def test_pytorch_is_tried_with_one_thread_and_with_all_cores():
    assert {"threads": 1} in peers_torch.settings("cpu", cores=8).values()
    assert {"threads": 8} in peers_torch.settings("cpu", cores=8).values()
    assert len(peers_torch.settings("cuda", cores=8)) == 1


@pytest.mark.parametrize("model", ["lenet5", "two_stage"])
def test_pytorch_s_network_starts_from_our_parameters(model):
    pytest.importorskip("torch")
    task = Task(model, 4)
    theirs = peers_torch.Trainer(task).parameters()
    for name, values in task.network().parameter_values().items():
        np.testing.assert_array_equal(theirs[name], values, name)


# -- what cannot be run ------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "message"), [
    (["--batch", "16,x"], "--batch: expected whole numbers of at least 1.*got '16,x'"),
    (["--batch", "0"], "--batch: expected whole numbers of at least 1.*got '0'"),
    (["--peer", "caffe"], "--peer: expected some of torch.*got 'caffe'"),
    (["--device", "tpu"], "--device: expected cpu, cuda or cuda:N, got 'tpu'"),
    (["--seconds", "0"], "--seconds: expected a number above 0, got '0'"),
    (["--rounds", "none"], "--rounds: expected a whole number of at least 1, got 'none'"),
    (["--model", "alexnet"], "--model: invalid choice: 'alexnet'"),
])
def test_a_wrong_option_is_an_error_that_says_what_was_expected(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        lenet.main(arguments)
    assert end.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_failed_run_ends_with_its_message_and_status_1(monkeypatch, capsys):
    def fail(*arguments, **options):
        raise BenchmarkError("peer torch: expected PyTorch")

    monkeypatch.setattr(lenet, "compare", fail)
    assert lenet.main([]) == 1
    assert capsys.readouterr().err == "benchmarks.lenet: peer torch: expected PyTorch\n"


def test_a_missing_pytorch_is_an_error_that_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BenchmarkError, match=r"expected PyTorch to be installed \(pip install"):
        peers_torch.Trainer(Task("lenet5", 1))


def test_a_side_that_cannot_train_ends_the_comparison_with_its_reason():
    with (pytest.raises(BenchmarkError, match="gpucnn failed"),
          contest._Process("gpucnn", "as it comes", {}, Task("no such model", 1)) as process):
        process.ask("parameters")


# -- the pieces --------------------------------------------------------------------------------


class Side:
    """A side that gives fixed answers."""

    name, setting = "side", "setting"

    def __init__(self, losses, before=1.0, after=2.0):
        self._losses = losses
        self._parameters = [{"c1.weight": np.full(3, after)}, {"c1.weight": np.full(3, before)}]

    def ask(self, command, *arguments):
        return self._losses if command == "losses" else self._parameters.pop()


@pytest.mark.parametrize(("peer", "message"), [
    (Side([1.0, 0.5], before=1.1), "expected the initial parameters of gpucnn"),
    (Side([1.0, 0.6]), "side, setting: losses: expected those of gpucnn after 20 steps"),
    (Side([1.0, float("nan")]), "losses: expected those of gpucnn after 20 steps"),
    (Side([1.0, 0.5], after=2.1), "c1.weight: expected those of gpucnn after 20 steps"),
])
def test_sides_that_train_other_numbers_are_an_error(peer, message):
    with pytest.raises(BenchmarkError, match=message):
        contest._check_numbers([Side([1.0, 0.5]), peer])


def test_sides_that_differ_by_rounding_agree():
    losses, parameters = contest._check_numbers([Side([1.0, 0.5]), Side([1.0, 0.500001])])
    assert 0 < losses < 1e-5
    assert parameters == 0


def test_a_peer_is_judged_by_its_best_setting_round_by_round():
    comparison = measured(gpucnn_default=(10, 30, 20), torch_slow=(1, 1, 90), torch_fast=(5, 6, 5))
    assert comparison.best("torch").setting == "fast"
    assert comparison.ratios("torch") == [2, 5, 4]


def test_an_order_goes_through_every_sample_of_an_epoch_before_the_next():
    order = ShuffledOrder(10, seed=0)
    taken = np.concatenate([order.take(count) for count in (3, 4, 8, 5)])
    assert sorted(taken[:10]) == sorted(taken[10:]) == list(range(10))
    assert taken[:10].tolist() != taken[10:].tolist()
    np.testing.assert_array_equal(ShuffledOrder(10, seed=0).take(20), taken)
