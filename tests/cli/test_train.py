"""`gpucnn train` as its users meet it."""

import csv
import json
import os
import signal

import pytest
from PIL import Image

import gpucnn
from gpucnn.cli import recipe
from tests.cli.calls import RESULTS, SMALL, fail, process, refuse, run, succeed


def test_train_prints_device_data_summary_epochs_error_and_files(trained):
    out, printed = trained
    assert printed.startswith("device  cpu: ")
    assert "data    few digits" in printed
    assert "120 training and 40 test images of 1 x 28 x 28, 10 classes" in printed
    assert "hidden  Conv2d 4x4 scaled_tanh" in printed
    lines = printed.splitlines()
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert [line.split("  ")[0] for line in epochs] == ["epoch 1/2", "epoch 2/2"]
    assert all("  loss " in line and "  test " in line and line.endswith(" samples/s")
               for line in epochs)
    assert any(line.startswith("test error ") and line.endswith("of 40 misread)") for line in lines)
    assert str(out) in printed and all(name in printed for name in RESULTS)


def test_train_writes_the_files_that_it_names_and_no_others(trained):
    out, _ = trained
    assert {path.name for path in out.iterdir()} == RESULTS


def test_history_has_the_promised_columns_and_a_row_for_each_epoch(trained):
    with open(trained[0] / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", "seconds", "train_loss", "train_error", "test_error"]
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(0 < float(row["train_error"]) <= 100 for row in rows)


def test_pictures_of_a_run_are_pngs_of_a_legible_size(trained):
    for name in ("learning_curve.png", "mistakes.png"):
        with Image.open(trained[0] / name) as picture:
            assert picture.format == "PNG" and picture.width > 1000 and picture.height > 200


def test_model_of_a_run_has_the_error_that_was_printed(trained, data):
    out, printed = trained
    network = gpucnn.load_network(out / "model.safetensors", device="cpu")
    error = gpucnn.evaluate(network, gpucnn.load_mnist(data)[1])
    assert f"\ntest error {error:.2f} % (" in printed


def test_quiet_prints_the_test_error_alone(data, tmp_path):
    printed = succeed("train", *SMALL, "--data", data, "--epochs", 1, "--quiet",
                      "--out", tmp_path / "run")
    assert printed.startswith("test error ") and printed.count("\n") == 1


def test_train_writes_to_a_directory_named_for_model_data_and_time(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        succeed("train", *SMALL, "--data", data, "--epochs", 1, "--quiet")
    runs = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert len(runs) == 2
    assert all(name.startswith(f"two_stage-{data.name.replace(' ', '-')}-20") for name in runs)


def test_same_options_give_the_same_model_bytes_and_another_seed_others(trained, data, tmp_path):
    first = (trained[0] / "model.safetensors").read_bytes()
    for seed, name in ((0, "again"), (1, "other")):
        succeed("train", *SMALL, "--data", data, "--epochs", 2, "--seed", seed,
                "--out", tmp_path / name)
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == first
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != first


def test_interrupted_run_says_how_to_go_on_and_ends_with_the_same_model(data, tmp_path):
    arguments = ("train", *SMALL, "--data", data, "--epochs", 12)
    out = tmp_path / "interrupted"
    with process(*arguments, "--out", out) as running:
        for line in running.stdout:
            if line.startswith("epoch  2/"):
                running.send_signal(signal.SIGINT)
                break
        _, complaint = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "of 12. To go on: gpucnn train --resume --out " in complaint
    assert "Traceback" not in complaint
    assert not (out / "model.safetensors").exists()

    printed = succeed("train", "--resume", "--out", out)
    assert "epoch  1/12" not in printed and "epoch 12/12" in printed
    succeed(*arguments, "--out", tmp_path / "whole")
    assert ((out / "model.safetensors").read_bytes()
            == (tmp_path / "whole" / "model.safetensors").read_bytes())


def test_resuming_a_finished_run_changes_nothing(trained):
    out, printed = trained
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    again = succeed("train", "--resume", "--out", out)
    assert "epoch 1/" not in again
    assert printed.splitlines()[-9:] == again.splitlines()[-9:]
    assert {path.name: path.read_bytes() for path in out.iterdir()
            if path.suffix != ".png"} == {name: content for name, content in before.items()
                                          if not name.endswith(".png")}


def test_resuming_with_another_option_says_which(trained):
    settings = (trained[0] / "settings.json").read_bytes()
    assert "epochs 2 there, 3 here" in fail("train", "--resume", "--out", trained[0],
                                            "--epochs", 3)
    assert (trained[0] / "settings.json").read_bytes() == settings


def test_run_that_was_stopped_before_its_first_checkpoint_resumes_from_the_start(data, tmp_path):
    options = {"data": str(data), "model": "two_stage", "epochs": 1, "batch_size": 20}
    (tmp_path / "settings.json").write_text(json.dumps({"options": options}))
    printed = succeed("train", "--resume", "--out", tmp_path, "--device", "cpu")
    assert "epoch 1/1" in printed


def test_existing_run_is_not_overwritten(trained, data):
    before = (trained[0] / "model.safetensors").read_bytes()
    message = fail("train", *SMALL, "--data", data, "--epochs", 1, "--out", trained[0])
    assert "expected a directory without a run" in message and "--resume" in message
    assert (trained[0] / "model.safetensors").read_bytes() == before


def test_resume_wants_a_directory_with_a_run(tmp_path):
    assert "--resume: expected --out DIR with it" in refuse("train", "--resume")
    assert "found no settings.json there" in fail("train", "--resume", "--out", tmp_path / "none")
    (tmp_path / "settings.json").write_text("[1, 2]")
    assert "expected the options of a run as JSON" in fail("train", "--resume", "--out", tmp_path)
    (tmp_path / "settings.json").write_text('{"options": {"epochs": "many"}}')
    assert "'many' is not a valid integer" in refuse("train", "--resume", "--out", tmp_path)


def test_validation_holds_out_training_samples_and_early_stopping_uses_them(data, tmp_path):
    printed = succeed("train", *SMALL, "--data", data, "--epochs", 30, "--lr", 1e-9,
                      "--validation", 20, "--early-stopping", 2, "--out", tmp_path / "run")
    assert "100 training, 20 validation and 40 test images" in printed
    assert "  validation " in printed and "epoch  3/30" in printed and "epoch  4/30" not in printed
    assert printed.count("test error") == 1


def test_early_stopping_wants_a_validation_set(data):
    assert "--validation N" in fail("train", *SMALL, "--data", data, "--early-stopping", 2)


@pytest.mark.parametrize("options", [
    ("--loss", "mse", "--batch-size", 1, "--schedule", "constant"),
    ("--optimizer", "adam", "--schedule", "step", "--weight-decay", 1e-4, "--shift", 2),
    ("--dtype", "float64", "--momentum", 0.5, "--lr", 0.01)],
    ids=["the original's way", "adam", "float64"])
def test_options_of_a_run_are_noted_and_shown(data, tmp_path, options):
    printed = succeed("train", *SMALL, "--data", data, "--epochs", 1, *options, "--out", tmp_path)
    noted = json.loads((tmp_path / "settings.json").read_text())["options"]
    for name, value in zip(options[::2], options[1::2], strict=True):
        assert noted[name.lstrip("-").replace("-", "_")] == value
    assert noted["optimizer"] in printed and noted["loss"] in printed
    activation = "scaled_tanh" if noted["loss"] == "mse" else "identity"
    assert f"output  Dense {activation}" in printed


def test_settings_that_are_left_open_follow_loss_batch_and_data():
    left_open = dict.fromkeys(("epochs", "lr", "momentum", "weight_decay", "shift",
                               "early_stopping", "validation"))

    def complete(loss, batch_size, samples=5000, optimizer="sgd"):
        settings = left_open | {"loss": loss, "batch_size": batch_size, "optimizer": optimizer}
        settings = recipe.complete(settings, samples)
        return [settings[name] for name in ("epochs", "lr", "momentum", "weight_decay", "shift")]

    assert complete("cross_entropy", 64) == [40, 0.05, 0.9, 5e-4, 1]
    assert complete("cross_entropy", 1024)[1] == 0.1
    assert complete("mse", 1, 60_000) == [6, 0.005, 0, 0, 0]
    assert complete("mse", 256)[1] == 0.02
    assert complete("cross_entropy", 64, optimizer="adam") == [40, 0.002, 0, 0, 1]


def test_the_number_of_threads_is_handed_on_and_not_noted(data, tmp_path, monkeypatch):
    given, fit, predict = [], gpucnn.fit, gpucnn.Network.predict

    def noted(function):
        def call(*arguments, threads=None, **keywords):
            given.append((function.__name__, threads))
            return function(*arguments, threads=threads, **keywords)
        return call

    monkeypatch.setattr(gpucnn, "fit", noted(fit))
    monkeypatch.setattr(gpucnn.Network, "predict", noted(predict))
    succeed("train", *SMALL, "--data", data, "--epochs", 1, "--threads", 2, "--out", tmp_path)
    assert set(given) == {("fit", 2), ("predict", 2)}
    assert "threads" not in json.loads((tmp_path / "settings.json").read_text())["options"]
    given.clear()
    succeed("train", "--resume", "--out", tmp_path, "--device", "cpu")
    assert set(given) == {("fit", None), ("predict", None)}


def test_a_run_is_resumed_with_another_number_of_threads_to_the_same_result(
        trained, data, tmp_path, monkeypatch):
    fit = gpucnn.fit

    def interrupted(*arguments, **keywords):
        def stop(record):
            raise KeyboardInterrupt
        return fit(*arguments, on_epoch=stop, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(gpucnn, "fit", interrupted)
        result = run("train", *SMALL, "--data", data, "--epochs", 2, "--threads", 1,
                     "--out", tmp_path)
    assert result.exit_code == 130 and not (tmp_path / "model.safetensors").exists()
    printed = succeed("train", "--resume", "--out", tmp_path, "--threads", 2, "--device", "cpu")
    assert "epoch 1/2" not in printed and "epoch 2/2" in printed
    assert ((tmp_path / "model.safetensors").read_bytes()
            == (trained[0] / "model.safetensors").read_bytes())


def test_threads_on_cuda_are_explained_before_anything_is_written(
        data, tmp_path, monkeypatch, cuda_on_cpu):
    monkeypatch.setattr("gpucnn.network.get_backend", lambda device: cuda_on_cpu)
    message = fail("train", "--data", data, "--epochs", 1, "--device", "cuda", "--threads", 2,
                   "--out", tmp_path / "run")
    assert "threads: expected none on cuda" in message and "got 2" in message
    assert not (tmp_path / "run").exists()


def test_diverging_run_ends_with_one_line(data, tmp_path):
    message = fail("train", *SMALL, "--data", data, "--epochs", 1, "--lr", 1e30, "--out", tmp_path)
    assert "training diverged; lower the learning rate" in message


@pytest.mark.parametrize(("arguments", "message"), [
    (["--data", "minst"], "did you mean mnist?"),
    (["--data", "no/such/directory"], "expected digits, mnist, fashion-mnist or a directory"),
    (["--data", os.path.dirname(__file__)], "expected four files in"),
    (["--device", "gpu"], "expected 'cpu', 'cuda', 'cuda:N' or 'auto', got 'gpu'"),
    (["--optimizer", "adam", "--momentum", "0.9"], "expected --optimizer sgd with it, got adam"),
    (["--validation", "5000"], "expected a count below the 5000 samples"),
    (["--lr", "nan"], "SGD: lr: expected a number above 0, got nan"),
    (["--out", __file__], "expected a directory, got the file"),
], ids=lambda value: value[0] if isinstance(value, list) else "")
def test_train_explains_a_setting_that_it_cannot_take(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in fail("train", "--epochs", 1, *arguments)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("arguments", [
    ["--epochs", "0"], ["--batch-size", "-3"], ["--lr", "fast"], ["--lr", "0"],
    ["--momentum", "1"], ["--seed", "-1"], ["--seed", str(2**64)], ["--model", "lenet"],
    ["--loss", "hinge"], ["--shift", "-1"], ["--epoch", "3"], ["digits"],
    ["--threads", "0"], ["--threads", "all"]], ids=" ".join)
def test_train_refuses_options_out_of_range(arguments):
    assert "Error: " in refuse("train", *arguments)
