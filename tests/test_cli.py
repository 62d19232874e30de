"""The command line as its users meet it: commands, files, errors of one line, exit codes."""

import csv
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import gpucnn
from gpucnn.backends.cuda import CudaBackend
from gpucnn.backends.cuda.runtime import DeviceProfile
from gpucnn.cli import commands, recipe
from gpucnn.cli.group import one_line
from gpucnn.errors import DeviceError, KernelError
from gpucnn.gradcheck import GradientCheck

SMALL = ("--model", "two_stage", "--device", "cpu", "--batch-size", "20")
RESULTS = {"model.safetensors", "history.csv", "learning_curve.png", "mistakes.png",
           "checkpoint.safetensors", "settings.json"}


def run(*arguments):
    """The result of a command: exit_code, stdout, stderr."""
    return CliRunner().invoke(commands, [str(argument) for argument in arguments])


def succeed(*arguments):
    """What a command prints, after checking that it succeeds and complains of nothing."""
    result = run(*arguments)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout


def fail(*arguments):
    """The one line on stderr of a command that ends with exit code 1."""
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def refuse(*arguments):
    """What click says of a wrong call, with exit code 2."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    return result.stderr


def process(*arguments, **keywords):
    """A command as a process of its own; its output is text in pipes."""
    return subprocess.Popen([sys.executable, "-m", "gpucnn", *map(str, arguments)], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **keywords)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A directory with 120 training and 40 test digits as IDX files."""
    directory = tmp_path_factory.mktemp("few digits")
    for prefix, dataset, count in zip(("train", "t10k"), gpucnn.digits(), (120, 40), strict=True):
        gpucnn.write_idx(directory / f"{prefix}-images-idx3-ubyte", dataset.images[:count, 0])
        gpucnn.write_idx(directory / f"{prefix}-labels-idx1-ubyte",
                         dataset.labels[:count].astype(np.uint8))
    return directory


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """(run directory, what training printed) of two epochs."""
    out = tmp_path_factory.mktemp("runs") / "first"
    return out, succeed("train", *SMALL, "--data", data, "--epochs", 2, "--out", out)


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A file with a LeNet-5 that reads most digits, trained for a moment on the embedded ones."""
    train, _ = gpucnn.digits()
    network = gpucnn.lenet5(device="cpu")
    gpucnn.fit(network, train[:1000], epochs=4, batch_size=10,
               optimizer=gpucnn.SGD(0.01, 0.9), progress=False)
    path = tmp_path_factory.mktemp("models") / "reader.safetensors"
    gpucnn.save_network(network, path)
    return path


def save_picture(path, pixels):
    Image.fromarray(pixels).save(path)
    return path


# -- train -----------------------------------------------------------------------------------------

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
    ["--loss", "hinge"], ["--shift", "-1"], ["--epoch", "3"], ["digits"]], ids=" ".join)
def test_train_refuses_options_out_of_range(arguments):
    assert "Error: " in refuse("train", *arguments)


# -- evaluate and predict --------------------------------------------------------------------------

def test_evaluate_prints_error_and_confusion_table(reader):
    printed = succeed("evaluate", reader, "--device", "cpu")
    network = gpucnn.load_network(reader, device="cpu")
    _, test = gpucnn.digits()
    answers = network.predict(test.images)
    wrong = int((answers != test.labels).sum())
    assert f"test error {wrong / 10:.2f} % ({wrong} of 1,000 misread)" in printed
    rows = {line.split()[0]: line.split() for line in printed.splitlines()[2:] if line.split()}
    sevens = answers[test.labels == 7]
    assert rows["7"][8] == str((sevens == 7).sum())
    assert rows["7"][2] == (str((sevens == 1).sum()) if (sevens == 1).any() else ".")


def test_evaluate_takes_the_training_set_and_a_run_directory(trained, data):
    printed = succeed("evaluate", trained[0], "--data", data, "--set", "train", "--device", "cpu")
    assert "train error " in printed and "of 120 misread" in printed


def test_evaluate_lists_confusions_where_a_table_would_not_fit(tmp_path):
    gpucnn.save_network(gpucnn.two_stage(classes=26, device="cpu"), tmp_path / "letters")
    printed = succeed("evaluate", tmp_path / "letters", "--device", "cpu")
    assert "right class" in printed and "times" in printed


def test_evaluate_wants_as_many_outputs_as_classes(tmp_path):
    gpucnn.save_network(gpucnn.two_stage(classes=5, device="cpu"), tmp_path / "five")
    assert "labels of 0 to 4" in fail("evaluate", tmp_path / "five", "--device", "cpu")


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_file_that_is_no_model_is_explained(command, tmp_path, trained):
    text = tmp_path / "notes.txt"
    text.write_text("no network")
    rest = ["x.png"] if command == "predict" else []
    assert "expected a safetensors file" in fail(command, text, *rest)
    assert "got no file at" in fail(command, tmp_path / "missing", *rest)
    assert "expected a gpucnn network file" in fail(
        command, trained[0] / "checkpoint.safetensors", *rest)


def test_predict_reads_small_pictures_as_they_are_and_fits_larger_ones(reader, tmp_path):
    _, test = gpucnn.digits()
    network = gpucnn.load_network(reader, device="cpu")
    right = np.flatnonzero(network.predict(test.images) == test.labels)[0]
    digit = test.images[right, 0]
    small = save_picture(tmp_path / "small.png", digit)
    large = np.pad(np.kron(digit, np.ones((9, 9), np.uint8)), ((5, 90), (60, 7)))
    paper = save_picture(tmp_path / "photo.png", 255 - large)
    lines = succeed("predict", reader, small, paper, "--device", "cpu").splitlines()
    label = str(test.labels[right])
    assert [line.split()[:2] for line in lines] == [[str(small), label], [str(paper), label]]
    assert all(line.endswith(" %") and " probability " in line for line in lines)


def test_predict_gives_the_margin_of_squashed_outputs(tmp_path):
    network = gpucnn.two_stage(output_activation="scaled_tanh", device="cpu")
    gpucnn.save_network(network, tmp_path / "squashed")
    picture = save_picture(tmp_path / "a.png", gpucnn.digits()[1].images[0, 0])
    second, first = np.sort(network.outputs(gpucnn.digits()[1].images[:1]).ravel())[-2:]
    assert f"margin {first - second:.3f}\n" in succeed("predict", tmp_path / "squashed", picture,
                                                       "--device", "cpu")


def test_predict_strip_prints_the_row_of_answers(reader, tmp_path):
    _, test = gpucnn.digits()
    strip = np.pad(np.hstack(test.images[:3, 0]), 2)
    picture = save_picture(tmp_path / "strip.png", strip)
    printed = succeed("predict", reader, picture, "--strip", "--device", "cpu")
    answers = gpucnn.load_network(reader, device="cpu").predict(strip[np.newaxis])[0]
    assert printed.split() == [str(picture), *map(str, answers[0])]
    assert answers.shape == (1, (strip.shape[1] - 32) // 4 + 1)


def test_predict_strip_prints_a_line_for_each_row_of_answers(reader, tmp_path):
    picture = save_picture(tmp_path / "page.png", np.zeros((40, 36), np.uint8))
    lines = succeed("predict", reader, picture, "--strip", "--device", "cpu").splitlines()
    assert [len(line.split()) for line in lines] == [3, 2, 2]


def test_predict_inverts_when_told(reader, tmp_path):
    digit = gpucnn.digits()[1].images[0, 0]
    light, dark = (save_picture(tmp_path / name, pixels)
                   for name, pixels in (("light.png", digit), ("dark.png", 255 - digit)))

    def answers(*options):
        printed = succeed("predict", reader, light, dark, "--device", "cpu", *options)
        return [line.split(maxsplit=1)[1] for line in printed.splitlines()]

    assert answers()[0] == answers()[1]
    assert answers("--invert") == answers("--no-invert")[::-1]


def test_predict_answers_the_readable_pictures_and_names_the_others(reader, tmp_path):
    good = save_picture(tmp_path / "good.png", gpucnn.digits()[1].images[0, 0])
    (tmp_path / "bad.png").write_text("no picture")
    blank = save_picture(tmp_path / "blank.png", np.zeros((90, 90), np.uint8))
    result = run("predict", reader, tmp_path / "bad.png", tmp_path / "none.png", blank, good,
                 "--device", "cpu")
    assert result.exit_code == 1
    assert result.stdout.split()[0] == str(good) and result.stdout.count("\n") == 1
    for line, name in zip(result.stderr.splitlines(), ("bad", "none", "blank"), strict=True):
        assert line.startswith(f"Error: {tmp_path / name}.png: ")


def test_predict_wants_a_network_of_one_input_map(tmp_path):
    network = gpucnn.Network([gpucnn.Conv2d(3, 10, 8)], (3, 8, 8), device="cpu")
    gpucnn.save_network(network, tmp_path / "colour")
    assert "expected a network of one input map, got one of 3" in fail(
        "predict", tmp_path / "colour", "a.png")


# -- info and gradcheck ----------------------------------------------------------------------------

class FakeRuntime:
    """A GPU that has NumPy arrays and a compiler that refuses one kernel file."""

    device = "cuda:0"
    profile = DeviceProfile("Imaginary GPU", (9, 0), 4)

    def owns(self, array):
        return isinstance(array, np.ndarray)

    def empty(self, shape, dtype):
        return np.zeros(shape, dtype)

    def zero(self, array):
        array[...] = 0

    def upload(self, host, out=None):
        return np.array(host)

    def download(self, array):
        return array.copy()

    def compile(self, source, name):
        if name.startswith("max_pool2d.cu"):
            raise KernelError(f"{name} does not compile:\nline 7: no")


def test_info_prints_versions_devices_and_why_there_is_no_gpu(monkeypatch):
    def no_gpu(device="auto"):
        if device == "cpu":
            return cpu
        raise DeviceError(f"device {device!r}: CuPy is not installed: pip install gpucnn[cuda12]")

    cpu = gpucnn.get_backend("cpu")
    monkeypatch.setattr(gpucnn, "get_backend", no_gpu)
    printed = succeed("info")
    assert f"gpucnn  {gpucnn.__version__}" in printed and f"NumPy   {np.__version__}" in printed
    assert all(name in printed for name in ("Python", "CuPy", "BLAS"))
    assert "cuda    none: CuPy is not installed: pip install gpucnn[cuda12]" in printed
    assert "none compiled: that takes a usable GPU" in printed


def test_info_lists_each_kernel_with_ok_or_its_error(monkeypatch):
    def one_gpu(device="auto"):
        if device == "cuda:1":
            raise DeviceError("device 'cuda:1': expected an index below 1")
        return gpu if device == "cuda:0" else cpu

    cpu, gpu = gpucnn.get_backend("cpu"), CudaBackend(FakeRuntime())
    monkeypatch.setattr(gpucnn, "get_backend", one_gpu)
    lines = succeed("info").split("kernels\n")[1].splitlines()
    assert any(line.startswith("  ok     conv2d.cu (float32, scaled_tanh") for line in lines)
    failed = [line for line in lines if line.startswith("  error")]
    assert failed and all("max_pool2d.cu" in line and line.endswith("line 7: no")
                          for line in failed)
    assert f"{len(lines) - 1 - len(failed)} of {len(lines) - 1} compile for cuda:0" in lines[-1]


def test_gradcheck_agrees_for_each_model_and_loss():
    for options in (("--model", "two_stage"), ("--loss", "mse", "--seed", 3)):
        printed = succeed("gradcheck", "--device", "cpu", *options)
        assert "c3.weight" in printed and "agree: the largest relative error is" in printed


def test_gradcheck_names_a_gradient_that_is_wrong(monkeypatch):
    monkeypatch.setattr(gpucnn, "gradcheck", lambda *arguments, **keywords: [
        GradientCheck("c1.weight", 1.0, 1.0, 1.0), GradientCheck("c3.bias", 1.0, 1.1, 1.0)])
    message = fail("gradcheck", "--device", "cpu")
    assert "expected relative errors of at most 1e-06, got 9.1e-02 for c3.bias" in message


# -- the program -----------------------------------------------------------------------------------

def test_program_answers_version_and_help_as_a_process():
    with process("--version") as version, process("--help") as usage:
        assert version.communicate()[0] == f"gpucnn {gpucnn.__version__}\n"
        assert all(name in usage.communicate()[0] for name in commands.commands)


def test_help_needs_neither_matplotlib_nor_rich():
    script = ("import sys; from gpucnn.cli import commands; "
              "commands(['--help'], standalone_mode=False); "
              "sys.exit(any(name in sys.modules for name in ('matplotlib', 'rich', 'PIL')))")
    assert subprocess.run([sys.executable, "-c", script], stdout=subprocess.DEVNULL).returncode == 0


def test_base_install_says_what_the_command_line_needs():
    script = ("import sys, importlib.util; find = importlib.util.find_spec; "
              "importlib.util.find_spec = lambda name: None if name == 'click' else find(name); "
              "from gpucnn.__main__ import main; main()")
    result = subprocess.run([sys.executable, "-c", script], text=True, capture_output=True)
    assert result.returncode == 1
    assert result.stderr == ("gpucnn: the command line needs click, not installed here: "
                             "pip install gpucnn[cli]\n")


def test_mistyped_command_is_refused():
    assert "No such command 'trian'" in refuse("trian")


def test_messages_of_the_operating_system_name_the_file_in_one_line():
    assert one_line(PermissionError(13, "Permission denied", "a/b")) == "a/b: Permission denied"
    assert one_line(ValueError("one\n  two\n")) == "one two"
    assert one_line(MemoryError()) == "MemoryError"
