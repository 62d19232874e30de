"""`gpucnn evaluate` and `gpucnn predict` as their users meet them."""

import numpy as np
import pytest
from PIL import Image

import gpucnn
from tests.cli.calls import fail, refuse, run, succeed


def save_picture(path, pixels):
    Image.fromarray(pixels).save(path)
    return path


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


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The directory of an ensemble of two networks that disagree, as a sweep leaves one."""
    out = tmp_path_factory.mktemp("ensemble")
    networks = [gpucnn.two_stage(device="cpu", seed=seed) for seed in (1, 2)]
    gpucnn.Ensemble(networks).save(out / "ensemble.safetensors")
    return out


def test_evaluate_takes_an_ensemble_and_the_directory_of_a_sweep(together):
    _, test = gpucnn.digits()
    ensemble = gpucnn.Ensemble.load(together / "ensemble.safetensors", device="cpu")
    for model in (together, together / "ensemble.safetensors"):
        printed = succeed("evaluate", model, "--device", "cpu")
        assert f"test error {gpucnn.evaluate(ensemble, test):.2f} %" in printed


def test_predict_gives_the_mean_probability_of_an_ensemble(together, tmp_path):
    _, test = gpucnn.digits()
    ensemble = gpucnn.Ensemble.load(together / "ensemble.safetensors", device="cpu")
    picture = save_picture(tmp_path / "digit.png", test.images[0, 0])
    probabilities = ensemble.outputs(test.images[:1]).reshape(-1)
    printed = succeed("predict", together, picture, "--device", "cpu")
    assert printed.endswith(f"{probabilities.argmax()}  probability "
                            f"{100 * probabilities.max():.1f} %\n")


def test_predict_gives_the_mean_margin_of_an_ensemble_of_squashed_outputs(tmp_path):
    ensemble = gpucnn.Ensemble([gpucnn.two_stage(output_activation="scaled_tanh", device="cpu",
                                                 seed=seed) for seed in (1, 2)])
    ensemble.save(tmp_path / "squashed")
    images = gpucnn.digits()[1].images[:1]
    picture = save_picture(tmp_path / "a.png", images[0, 0])
    second, first = np.sort(ensemble.outputs(images).ravel().astype(np.float64))[-2:]
    assert f"margin {first - second:.3f}\n" in succeed(
        "predict", tmp_path / "squashed", picture, "--device", "cpu")


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


@pytest.mark.parametrize("side", [8, 28, 32, 100])
def test_predict_finds_no_digit_in_an_empty_picture_of_any_size(side, reader, tmp_path):
    empty = save_picture(tmp_path / "empty.png", np.full((side, side), 255, np.uint8))
    assert "got an empty picture" in fail("predict", reader, empty, "--device", "cpu")


def test_predict_wants_a_network_of_one_input_map(tmp_path):
    network = gpucnn.Network([gpucnn.Conv2d(3, 10, 8)], (3, 8, 8), device="cpu")
    gpucnn.save_network(network, tmp_path / "colour")
    assert "expected a network of one input map, got one of 3" in fail(
        "predict", tmp_path / "colour", "a.png")


def test_evaluate_of_an_interrupted_run_says_how_to_finish_it(trained, tmp_path):
    (tmp_path / "checkpoint.safetensors").write_bytes(
        (trained[0] / "checkpoint.safetensors").read_bytes())
    message = fail("evaluate", tmp_path)
    assert "got one that was interrupted" in message
    assert f"gpucnn train --resume --out {tmp_path}" in message


@pytest.fixture
def digit(tmp_path):
    """A picture of one test digit."""
    return save_picture(tmp_path / "digit.png", gpucnn.digits()[1].images[0, 0])


def test_evaluate_and_predict_hand_the_number_of_threads_on(reader, digit, monkeypatch):
    given, outputs = [], gpucnn.Network.outputs

    def noted(*arguments, threads=None, **keywords):
        given.append(threads)
        return outputs(*arguments, threads=threads, **keywords)

    monkeypatch.setattr(gpucnn.Network, "outputs", noted)
    for command in (("evaluate", reader), ("predict", reader, digit)):
        answers = [succeed(*command, "--device", "cpu", *options)
                   for options in ((), ("--threads", 1), ("--threads", 2))]
        assert answers[0] == answers[1] == answers[2]
        assert given == [None, 1, 2]
        given.clear()


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_threads_on_cuda_are_explained(command, reader, digit, monkeypatch, cuda_on_cpu):
    for module in ("network", "checkpoint"):
        monkeypatch.setattr(f"gpucnn.{module}.get_backend", lambda device: cuda_on_cpu)
    rest = [digit] if command == "predict" else []
    message = fail(command, reader, *rest, "--device", "cuda", "--threads", 2)
    assert message.startswith("Error: threads: expected none on cuda") and "got 2" in message


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_a_number_of_threads_below_one_is_refused(command, reader, digit):
    rest = [digit] if command == "predict" else []
    assert "--threads" in refuse(command, reader, *rest, "--threads", 0)
