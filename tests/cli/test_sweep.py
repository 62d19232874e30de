"""`gpucnn sweep` as its users meet it."""

import csv
import json
import signal

import click
import numpy as np
import pytest
from PIL import Image

import gpucnn
from gpucnn.cli.lists import NumberList, WholeNumberList
from gpucnn.cli.sweep_results import Result, Setting, as_csv
from tests.cli.calls import SMALL, fail, process, refuse, run, succeed

GRID = ("--lr", "0.02,0.1", "--momentum", "0,0.9", "--seed", "0..2")
RESULTS = {"sweep.csv", "errors.png", "ensemble.safetensors", "sweep.json"}


@pytest.fixture(scope="module")
def swept(data, tmp_path_factory):
    """(directory, what was printed) of a sweep with held-out samples and an ensemble."""
    out = tmp_path_factory.mktemp("sweeps") / "first"
    return out, succeed("sweep", *SMALL, "--data", data, *GRID, "--epochs", 2, "--validation", 20,
                        "--ensemble", "--out", out)


def rows_of(out):
    with open(out / "sweep.csv", newline="") as file:
        return list(csv.DictReader(file))


def table_of(printed):
    """The numbers of the table's rows."""
    lines = iter(printed.splitlines())
    for line in lines:
        if line.startswith("──"):
            break
    rows = []
    for line in lines:
        if not line.strip():
            break
        rows.append([float(cell) for cell in line.split()])
    return rows


def test_sweep_prints_device_data_recipe_grid_and_epochs(swept):
    _, printed = swept
    assert printed.startswith("device  cpu: ")
    assert ": 100 training, 20 validation and 40 test images" in printed
    assert "recipe  two_stage, 2 epochs, batch size 20, cross_entropy, sgd, cosine" in printed
    assert "grid    4 settings, 3 seeds: 12 networks" in printed
    assert "1 of 2: momentum 0, weight decay 0.0005; means over 6 networks:" in printed
    assert printed.count("epoch 1/2  loss ") == printed.count("epoch 2/2  loss ") == 2


def test_sweep_writes_the_files_that_it_names_and_no_others(swept):
    out, printed = swept
    assert {path.name for path in out.iterdir()} == RESULTS
    assert all(name in printed for name in RESULTS) and f"written to {out}" in printed


def test_each_network_has_a_row_with_the_error_that_fit_gives_it(swept, data):
    rows = rows_of(swept[0])
    assert {(row["lr"], row["momentum"], row["seed"]) for row in rows} == {
        (lr, momentum, seed) for lr in ("0.02", "0.1") for momentum in ("0", "0.9")
        for seed in ("0", "1", "2")}
    train, held_out = gpucnn.load_mnist(data)[0].split(20)
    for row in rows[::5]:
        network = gpucnn.two_stage(seed=int(row["seed"]), device="cpu")
        history = gpucnn.fit(
            network, train, held_out, epochs=2, batch_size=20, shift=1, seed=int(row["seed"]),
            schedule=gpucnn.Cosine(), optimizer=gpucnn.SGD(
                float(row["lr"]), float(row["momentum"]), weight_decay=float(row["weight_decay"])))
        assert float(row["validation_error"]) == pytest.approx(history[-1].test_error, rel=1e-5)
        assert float(row["train_loss"]) == pytest.approx(history[-1].train_loss, rel=1e-5)
        assert row["epochs"] == "2"


def test_the_table_has_settings_by_mean_error_and_how_far_seeds_part(swept):
    out, printed = swept
    rows = table_of(printed)
    means = [row[3] for row in rows]
    assert len(rows) == 4 and means == sorted(means)
    for lr, momentum, _, mean, lowest, spread in rows:
        errors = [float(row["validation_error"]) for row in rows_of(out)
                  if (float(row["lr"]), float(row["momentum"])) == (lr, momentum)]
        assert mean == pytest.approx(np.mean(errors), abs=0.006)
        assert lowest == min(errors) and spread == pytest.approx(max(errors) - lowest)


def test_the_held_out_samples_choose_and_the_test_set_measures_the_chosen(swept, data):
    out, printed = swept
    lr, momentum = table_of(printed)[0][:2]
    assert f"best: lr {lr:g}, momentum {momentum:g}, weight decay 0.0005" in printed
    assert "chosen" not in printed
    test = gpucnn.load_mnist(data)[1]
    ensemble = gpucnn.Ensemble.load(out / "ensemble.safetensors", device="cpu")
    errors = [gpucnn.evaluate(network, test) for network in ensemble.networks]
    assert (f"test error {np.mean(errors):.2f} %, the mean of 3 networks: {min(errors):.2f} to "
            f"{max(errors):.2f} %") in printed
    assert f"test error {gpucnn.evaluate(ensemble, test):.2f} % of the ensemble of 3" in printed


def test_a_sweeps_networks_are_those_of_train(swept, data, tmp_path):
    out, printed = swept
    lr, momentum = table_of(printed)[0][:2]
    succeed("train", *SMALL, "--data", data, "--lr", lr, "--momentum", momentum, "--seed", 1,
            "--epochs", 2, "--validation", 20, "--out", tmp_path)
    alone = gpucnn.load_network(tmp_path / "model.safetensors", device="cpu")
    ensemble = gpucnn.Ensemble.load(out / "ensemble.safetensors", device="cpu")
    assert np.array_equal(ensemble.networks[1].parameters.flat, alone.parameters.flat)


def test_the_picture_is_a_png_of_a_legible_size(swept):
    with Image.open(swept[0] / "errors.png") as picture:
        assert picture.format == "PNG" and picture.size == (1350, 675)


def test_options_are_noted(swept, data):
    noted = json.loads((swept[0] / "sweep.json").read_text())
    assert noted["gpucnn"] == gpucnn.__version__
    assert noted["options"]["lr"] == [0.02, 0.1] and noted["options"]["seeds"] == [0, 1, 2]
    assert noted["options"]["data"] == str(data)


def test_without_held_out_samples_it_says_that_the_test_set_chose(data, tmp_path):
    printed = succeed("sweep", *SMALL, "--data", data, "--lr", "0.05,0.1", "--epochs", 1,
                      "--seed", 3, "--out", tmp_path)
    assert "test error %" in printed and "The test set has chosen the setting" in printed
    assert "--validation N" in printed
    assert "test_error" in rows_of(tmp_path)[0]
    assert not (tmp_path / "ensemble.safetensors").exists()


def test_one_setting_has_nothing_to_choose(data, tmp_path):
    printed = succeed("sweep", *SMALL, "--data", data, "--epochs", 1, "--out", tmp_path)
    assert "grid    1 setting, 3 seeds: 3 networks" in printed and "chosen" not in printed
    assert "the mean of 3 networks" in printed


def test_quiet_prints_the_best_setting_and_its_errors_alone(data, tmp_path):
    printed = succeed("sweep", *SMALL, "--data", data, "--epochs", 1, "--lr", "0.05,0.1",
                      "--seed", "0,1", "--ensemble", "--quiet", "--out", tmp_path)
    best, mean, ensemble = printed.splitlines()
    assert best.startswith("best: lr ") and mean.startswith("test error ")
    assert ensemble.endswith(" % of the ensemble of 2")


def test_sweep_writes_to_a_directory_named_for_model_data_and_time(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    succeed("sweep", *SMALL, "--data", data, "--epochs", 1, "--seed", 0, "--quiet")
    (path,) = (tmp_path / "runs").iterdir()
    assert path.name.startswith(f"sweep-two_stage-{data.name.replace(' ', '-')}-20")


@pytest.mark.parametrize("options", [
    ("--optimizer", "adam", "--lr", "0.001,0.01"),
    ("--loss", "mse", "--batch-size", 1, "--lr", "0.002,0.005", "--weight-decay", "0,1e-4"),
    ("--dtype", "float64", "--schedule", "step", "--shift", 2)],
    ids=["adam", "the original's way", "float64"])
def test_other_recipes_are_swept_too(data, tmp_path, options):
    printed = succeed("sweep", *SMALL, "--data", data, "--epochs", 1, "--seed", "0..1", *options,
                      "--out", tmp_path)
    assert len(rows_of(tmp_path)) == 2 * len(table_of(printed))
    if "adam" in options:
        assert "momentum" not in printed and rows_of(tmp_path)[0]["momentum"] == ""


def test_a_setting_that_diverges_comes_last_and_is_counted(data, tmp_path):
    result = run("sweep", *SMALL, "--data", data, "--epochs", 1, "--lr", "1e30,0.05", "--seed",
                 "0..1", "--out", tmp_path)
    assert result.exit_code == 0
    assert result.stderr.startswith("Warning: fit_many: ") and result.stderr.count("\n") == 1
    table = [line.split() for line in result.stdout.splitlines() if "0.9" in line]
    assert table[-2][0] == "1e+30" and table[-2][3:] == ["100.00", "-", "-", "2"]
    assert "best: lr 0.05" in result.stdout
    diverged = [row for row in rows_of(tmp_path) if row["lr"] == "1e+30"]
    assert [(row["epochs"], row["test_error"]) for row in diverged] == [("0", "")] * 2


def test_a_grid_in_which_all_diverge_ends_with_one_line(data, tmp_path):
    result = run("sweep", *SMALL, "--data", data, "--epochs", 1, "--lr", "1e30", "--out", tmp_path)
    assert result.exit_code == 1
    assert "Error: sweep: expected a setting that trains" in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"sweep.json"}


def test_diverged_networks_count_as_wrong_everywhere_in_the_mean():
    def history(*errors):
        return gpucnn.History(gpucnn.EpochRecord(epoch, 1.0, 0.5, 4.0, error)
                              for epoch, error in enumerate(errors, start=1))

    result = Result(Setting(0.1, 0.9, 0.0), (4, 5), ["one", "other"],
                    [history(9.0, 2.0), history(3.0)], epochs=2)
    assert result.mean == 51 and result.errors == [2.0] and result.trained == ["one"]
    assert as_csv([result], "test").splitlines()[1:] == ["0.1,0.9,0,4,2,0.5,4,2",
                                                         "0.1,0.9,0,5,1,,,"]


def test_an_interrupt_leaves_no_result_and_no_traceback(data, tmp_path):
    out = tmp_path / "sweep"
    with process("sweep", *SMALL, "--data", data, "--epochs", 100_000, "--lr", "0.01,0.02",
                 "--out", out) as running:
        for line in running.stdout:
            if line.startswith("epoch      2/"):
                running.send_signal(signal.SIGINT)
                break
        _, complaint = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "of 100000: no result was written" in complaint and "Traceback" not in complaint
    assert {path.name for path in out.iterdir()} == {"sweep.json"}


def test_results_are_not_overwritten_whether_of_a_sweep_or_a_run(swept, trained, data):
    for out, found in ((swept[0], "sweep.csv"), (trained[0], "model.safetensors")):
        before = {path.name: path.read_bytes() for path in out.iterdir()}
        message = fail("sweep", *SMALL, "--data", data, "--epochs", 1, "--out", out)
        assert "--out: expected a directory without results" in message and found in message
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_the_number_of_threads_is_handed_on(data, tmp_path, monkeypatch):
    given, fit_many = [], gpucnn.fit_many

    def noted(*arguments, threads=None, **keywords):
        given.append(threads)
        return fit_many(*arguments, threads=threads, **keywords)

    monkeypatch.setattr(gpucnn, "fit_many", noted)
    succeed("sweep", *SMALL, "--data", data, "--epochs", 1, "--threads", 2, "--out", tmp_path)
    assert given == [2]
    assert "threads" not in json.loads((tmp_path / "sweep.json").read_text())["options"]


@pytest.mark.parametrize(("arguments", "message"), [
    (["--data", "minst"], "did you mean mnist?"),
    (["--device", "gpu"], "expected 'cpu', 'cuda', 'cuda:N' or 'auto', got 'gpu'"),
    (["--optimizer", "adam", "--momentum", "0.9"], "expected --optimizer sgd with it, got adam"),
    (["--validation", "5000"], "expected a count below the 5000 samples"),
    (["--lr", "0.1,nan"], "SGD: lr: expected a number above 0, got nan"),
    (["--lr", "0.1,0.2", "--seed", "0..9998"], "at most 10,000 networks, got 19,998"),
    (["--out", __file__], "expected a directory, got the file"),
    (["--precision", "tf32", "--device", "cpu"], "precision: expected 'float32'"),
], ids=lambda value: value[0] if isinstance(value, list) else "")
def test_sweep_explains_a_setting_that_it_cannot_take(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in fail("sweep", "--epochs", 1, *arguments)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("arguments", "message"), [
    (["--lr", "0.1,fast"], "'fast' is not a valid float"),
    (["--lr", "0.1,,0.2"], "numbers with commas between them, got '0.1,,0.2'"),
    (["--lr", ""], "numbers with commas between them, got ''"),
    (["--lr", "0.1,0"], "0.0 is not in the range"),
    (["--lr", "0.1,0.10"], "expected each number once, got 0.1 2 times"),
    (["--seed", "5..2"], "from the lower number to the higher, got '5..2'"),
    (["--seed", "0..3,2"], "expected each number once, got 2 2 times"),
    (["--seed", "0..99999999999999"], "expected at most 10,000 numbers"),
    (["--seed", "1.5"], "'1.5' is not a valid integer"),
    (["--seed", "a..b"], "'a' is not a valid integer"),
    (["--momentum", "0.9,1"], "1.0 is not in the range"),
    (["--weight-decay=-1"], "-1.0 is not in the range"),
    (["--rates", "0.1"], "No such option"),
], ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_sweep_refuses_lists_that_are_none(arguments, message):
    assert message in refuse("sweep", *arguments)


@pytest.mark.parametrize(("text", "numbers"), [
    ("3", (3,)), ("0..2", (0, 1, 2)), ("7..7", (7,)), ("4, 0 .. 2,9", (4, 0, 1, 2, 9))])
def test_seeds_are_numbers_and_ranges(text, numbers):
    assert WholeNumberList(click.IntRange(0)).convert(text, None, None) == numbers


def test_rates_are_numbers_in_the_order_given():
    assert NumberList(click.FloatRange(0)).convert("0.1,1e-3, 2", None, None) == (0.1, 0.001, 2.0)
