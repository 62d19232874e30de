"""benchmarks.inference: it runs, and wrong labels or options end it."""

import re

import numpy as np
import pytest

from benchmarks import inference, peers_torch
from benchmarks.agreement import same_labels
from benchmarks.models import MODELS
from benchmarks.sides import BenchmarkError
from benchmarks.task import PredictionTask, trained_parameters

pytestmark = pytest.mark.thorough  # trains with other libraries

class Side:
    """A side that gives fixed labels."""

    name, setting = "side", "setting"

    def __init__(self, labels):
        self._labels = np.asarray(labels)

    def ask(self, command):
        return self._labels


def test_it_prints_the_ratio_to_pytorch(monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    monkeypatch.setattr(peers_torch, "prediction_settings",
                        lambda device, cores: {"batch 64": {"batch_size": 64, "threads": 1}})
    assert inference.main(["--model", "two_stage", "--images", "300", "--seconds", "0.01",
                           "--rounds", "1"]) == 0
    text = capsys.readouterr().out
    assert "inference, images per second" in text
    assert re.search(r"^\| 300 \| [\d,]+ \| [\d,]+ \| batch 64 \| [\d.]+ \|", text, re.MULTILINE)
    assert re.search(r"the labels were the same for at least [\d.]+ % of the images", text)


def test_labels_are_those_of_a_trained_network():
    task = PredictionTask("two_stage", 500, trained_parameters("two_stage"))
    labels = task.network().predict(task.images())
    right = MODELS["two_stage"].dataset().labels[:500]
    assert np.mean(labels == right) > 0.5


def test_images_are_the_pictures_again_and_again():
    task = PredictionTask("relu_net", 10001, {})
    assert task.images().shape == (10001, 3, 32, 32)
    np.testing.assert_array_equal(task.images()[-1], task.images()[0])


@pytest.mark.parametrize(("labels", "message"), [
    ([1] * 998 + [2] * 2, r"at least 99.9 % of the images, got them for 99.80 %"),
    ([1] * 999, r"expected shape \(1000,\), got \(999,\)")])
def test_other_labels_are_an_error(labels, message):
    with pytest.raises(BenchmarkError, match=f"side, setting: labels: .*{message}"):
        same_labels([Side([1] * 1000), Side(labels)])


def test_one_label_in_a_thousand_may_differ():
    assert same_labels([Side([1] * 1000), Side([1] * 999 + [2])]) == {"equal_labels": 0.999}


@pytest.mark.parametrize(("arguments", "message"), [
    (["--images", "0"], "--images: expected a whole number of at least 1, got '0'"),
    (["--peer", "seed"], "--peer: expected some of torch, jax.*got 'seed'")])
def test_a_wrong_option_is_an_error_that_says_what_was_expected(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        inference.main(arguments)
    assert end.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_failed_run_ends_with_its_message_and_status_1(monkeypatch, capsys):
    def fail(model):
        raise BenchmarkError("no such thing")

    monkeypatch.setattr(inference, "trained_parameters", fail)
    assert inference.main([]) == 1
    assert capsys.readouterr().err == "benchmarks.inference: no such thing\n"
