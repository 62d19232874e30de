"""benchmarks: training runs, its sides train the same numbers, and what it cannot do it says."""

import json
import re
import time

import numpy as np
import pytest

from benchmarks import agreement, lenet, peers_torch, report
from benchmarks.contest import Comparison, Measurement
from benchmarks.models import MODELS
from benchmarks.precisions import TOLERANCES
from benchmarks.processes import Process, _Clock
from benchmarks.sides import BenchmarkError
from benchmarks.task import ShuffledOrder, Task

pytestmark = pytest.mark.thorough  # trains with other libraries

def measured(**rates):
    """A comparison of gpucnn with sides of one or two settings: side_setting=(rates)."""
    return Comparison(1, tuple(Measurement(*name.split("_"), values, {})
                               for name, values in rates.items()), {})


# -- the whole run -----------------------------------------------------------------------------


def test_it_prints_a_table_with_the_ratios_to_its_peers_and_the_machine(tmp_path, monkeypatch,
                                                                        capsys):
    for package in ("torch", "scipy", "matplotlib"):
        pytest.importorskip(package)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    monkeypatch.setattr(peers_torch, "settings", lambda device, cores: {"1 thread": {"threads": 1}})
    out, plot = tmp_path / "measured.json", tmp_path / "measured.png"
    assert lenet.main(["--device", "cpu", "--peer", "torch,seed", "--batch", "1,3", "--seconds",
                       "0.01", "--rounds", "1", "--model", "two_stage", "--out", str(out),
                       "--plot", str(plot)]) == 0
    text = capsys.readouterr().out
    assert re.search(r"cores.*Python", text)
    assert re.search(r"NumPy \d.*PyTorch \d.*SciPy \d", text)
    assert ("| batch | gpucnn | torch | best setting | gpucnn / torch | range "
            "| seed | best setting | gpucnn / seed | range |") in text
    ratio = r"[\d,.]+ \| [\d,.]+ to [\d,.]+"
    torch_s = rf"[\d,]+ \| [\d,]+ \| 1 thread \| {ratio}"
    assert re.search(rf"^\| 1 \| {torch_s} \| [\d,]+ \| online \| {ratio} \|$", text, re.MULTILINE)
    assert re.search(rf"^\| 3 \| {torch_s} \| - \| - \| - \| - \|$", text, re.MULTILINE)
    comparisons = json.loads(out.read_text())["comparisons"]
    assert [comparison["size"] for comparison in comparisons] == [1, 3]
    assert all(comparison["agreement"]["float32"]["loss_difference"] < TOLERANCES["float32"]
               for comparison in comparisons)
    assert [[one["side"] for one in comparison["measurements"]] for comparison in comparisons] == [
        ["gpucnn", "torch", "seed"], ["gpucnn", "torch"]]
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_momentum_is_that_of_the_task_on_every_side(monkeypatch, capsys):
    pytest.importorskip("scipy")
    tasks = []
    run = lenet.report.run
    monkeypatch.setattr(lenet.report, "run", lambda options, given, **keywords: (
        tasks.extend(given), run(options, given, **keywords))[1])
    assert lenet.main(["--peer", "seed", "--batch", "1", "--momentum", "0", "--seconds", "0.01",
                       "--rounds", "1", "--model", "two_stage"]) == 0
    assert [task.optimizer.momentum for task in tasks] == [0]
    assert "SGD with momentum 0, samples per second" in capsys.readouterr().out


# -- what cannot be run ------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "message"), [
    (["--batch", "16,x"], "--batch: expected whole numbers of at least 1.*got '16,x'"),
    (["--batch", "0"], "--batch: expected whole numbers of at least 1.*got '0'"),
    (["--peer", "caffe"], "--peer: expected some of torch, jax, seed.*got 'caffe'"),
    (["--device", "tpu"], "--device: expected cpu, cuda or cuda:N, got 'tpu'"),
    (["--seconds", "0"], "--seconds: expected a number above 0, got '0'"),
    (["--rounds", "none"], "--rounds: expected a whole number of at least 1, got 'none'"),
    (["--momentum", "1"], "--momentum: expected a number of at least 0 and below 1, got '1'"),
    (["--momentum", "much"], "--momentum: expected a number of at least 0.*got 'much'"),
    (["--model", "alexnet"], "--model: invalid choice: 'alexnet'"),
    (["--race", "--seeds", "0"], "--seeds: expected a whole number of at least 1, got '0'"),
    (["--race", "--target", "-1"], "--target: expected a number above 0, got '-1'"),
])
def test_a_wrong_option_is_an_error_that_says_what_was_expected(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        lenet.main(arguments)
    assert end.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_failed_run_ends_with_its_message_and_status_1(monkeypatch, capsys):
    def fail(*arguments, **options):
        raise BenchmarkError("peer torch: expected PyTorch")

    monkeypatch.setattr(report, "compare", fail)
    assert lenet.main([]) == 1
    assert capsys.readouterr().err == "benchmarks.lenet: peer torch: expected PyTorch\n"


def test_a_side_that_cannot_train_ends_the_comparison_with_its_reason():
    with (pytest.raises(BenchmarkError, match="gpucnn failed"),
          Process("gpucnn", "as it comes", {}, Task("no such model", 1)) as process):
        process.ask("parameters")


# -- the pieces --------------------------------------------------------------------------------


class Side:
    """A side that gives fixed answers."""

    name, setting = "side", "setting"

    def __init__(self, losses, before=1.0, after=2.0, precision="float32"):
        self.precision = precision
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
        agreement.same_training([Side([1.0, 0.5]), peer])


def test_sides_that_differ_by_rounding_agree():
    found = agreement.same_training([Side([1.0, 0.5]), Side([1.0, 0.500001])])["float32"]
    assert 0 < found["loss_difference"] < 1e-5
    assert found["parameter_difference"] == 0


def test_parameters_may_differ_by_a_model_s_own_tolerance():
    sides = [Side([1.0, 0.5]), Side([1.0, 0.5], after=2.002)]
    found = agreement.same_training(sides, {"float32": 0.01})
    assert found["float32"]["parameter_difference"] == pytest.approx(0.001)


def test_tf32_may_differ_by_more_than_float32_and_is_told_apart():
    def sides(precision, after=2.002):
        return [Side([1.0, 0.5]), Side([1.0, 0.5]),
                Side([1.0, 0.501], after=after, precision=precision)]

    found = agreement.same_training(sides("tf32"))
    assert found["float32"] == {"loss_difference": 0, "parameter_difference": 0}
    assert found["tf32"]["parameter_difference"] == pytest.approx(0.001)
    assert 0 < found["tf32"]["loss_difference"] < TOLERANCES["tf32"]
    with pytest.raises(BenchmarkError, match="losses: expected those of gpucnn"):
        agreement.same_training(sides("float32"))
    with pytest.raises(BenchmarkError, match=r"c1.weight: expected those .* to 0.005"):
        agreement.same_training(sides("tf32", after=2.1))


def test_a_peer_is_judged_by_its_best_setting_round_by_round():
    comparison = measured(gpucnn_default=(10, 30, 20), torch_slow=(1, 1, 90), torch_fast=(5, 6, 5))
    assert comparison.best("torch").setting == "fast"
    assert comparison.ratios("torch") == [2, 5, 4]


def test_a_peer_that_takes_no_part_has_no_best_setting():
    assert measured(gpucnn_default=(10,)).best("seed") is None


def test_windows_are_whole_multiples_of_a_worker_s_unit():
    class Worker:
        samples = ()

        def run(self, samples):
            self.samples += (samples,)
            time.sleep(1e-5 * samples)

    worker = Worker()
    assert _Clock(worker, 12).warm_up(0.002) % 12 == 0
    assert worker.samples[:2] == (12, 12) and not any(samples % 12 for samples in worker.samples)


def test_an_order_goes_through_every_sample_of_an_epoch_before_the_next():
    order = ShuffledOrder(10, seed=0)
    taken = np.concatenate([order.take(count) for count in (3, 4, 8, 5)])
    assert sorted(taken[:10]) == sorted(taken[10:]) == list(range(10))
    assert taken[:10].tolist() != taken[10:].tolist()
    np.testing.assert_array_equal(ShuffledOrder(10, seed=0).take(20), taken)


@pytest.mark.parametrize("model", MODELS)
def test_a_model_s_pictures_fit_it(model):
    network, dataset = Task(model, 1).network(), Task(model, 1).dataset()
    assert dataset.images.dtype == np.uint8
    network.checked_images(dataset.images[:1])
    assert all(own <= size for own, size in zip(dataset.image_shape, network.input_shape,
                                                strict=True))
    assert network.output_shape[0] == dataset.classes


def test_coloured_digits_differ_from_one_another_and_have_few_equal_pixels():
    images = Task("relu_net", 1).dataset().images
    assert images.shape == (10000, 3, 32, 32)
    assert not np.array_equal(images[0], images[5000])
    windows = images[:200].reshape(200, 3, 16, 2, 16, 2)
    equal = (windows == windows[:, :, :, :1, :, :1]).all(axis=(1, 3, 5))
    assert equal.mean() < 1e-4
