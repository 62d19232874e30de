"""Training on a data set: fit, evaluate, schedules, checkpoints, and that it learns."""

import csv
import io
import re
import warnings
from itertools import pairwise

import numpy as np
import pytest
from rich.console import Console

import gpucnn
from gpucnn import (
    SGD,
    Adam,
    Constant,
    Conv2d,
    Cosine,
    Dataset,
    Dense,
    Network,
    StepDecay,
    Subsample2d,
    evaluate,
    fit,
    lenet5,
)
from gpucnn.backends.cuda import CudaBackend
from gpucnn.errors import (
    ArgumentError,
    DataError,
    DTypeError,
    FileFormatError,
    MissingDependencyError,
    ShapeError,
    TrainingError,
)
from gpucnn.progress import RichProgress
from tests.cuda_on_cpu.runtime import HostRuntime


def small_network(device="cpu", seed=0):
    return Network([Conv2d(1, 3, 5, name="c1"), Subsample2d(3, 4, name="s2"),
                    Dense(3, 4, activation="identity", name="output")], (1, 8, 8), device=device,
                   seed=seed)


def bars(n, seed=0):
    """Images of one bright bar in one of four places: easy, but not at once."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, n)
    images = generator.integers(0, 80, (n, 8, 8), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        if label < 2:
            image[1 + 4 * label:3 + 4 * label] += 150
        else:
            image[:, 4 * label - 7:4 * label - 5] += 150
    return Dataset(images, labels, classes=4)


def run(network=None, **keywords):
    return fit(network or small_network(), bars(60), bars(40, seed=1),
               **({"epochs": 3, "batch_size": 8, "progress": False} | keywords))


# -- learning --------------------------------------------------------------------------------------


def test_training_learns_and_the_history_tells():
    network = small_network()
    history = fit(network, bars(200), bars(100, seed=1), epochs=12, batch_size=10,
                  optimizer=SGD(lr=0.1, momentum=0.9), schedule=Cosine(), progress=False)
    assert [record.epoch for record in history] == list(range(1, 13))
    assert history[-1].train_loss < 0.3 * history[0].train_loss
    assert history[-1].test_error < 5
    assert history[-1].test_error == evaluate(network, bars(100, seed=1))
    assert all(a.seconds < b.seconds for a, b in pairwise(history))


def test_lenet5_learns_the_embedded_digits_in_seconds():
    train, test = gpucnn.digits()
    network = lenet5(device="cpu", seed=0)
    fit(network, train.balanced(200), epochs=4, batch_size=32,
        optimizer=SGD(lr=0.05, momentum=0.9), schedule=Cosine(), progress=False)
    assert evaluate(network, test) < 8


def test_a_strip_of_three_digits_gives_a_row_of_answers_with_the_right_ones_among_them():
    train, test = gpucnn.digits()
    network = lenet5(device="cpu", seed=0)
    fit(network, train, epochs=2, batch_size=32, shift=1, optimizer=SGD(lr=0.05, momentum=0.9),
        schedule=Cosine(), progress=False)
    right = np.flatnonzero(network.predict(test.images) == test.labels)
    chosen = right[np.random.default_rng(0).permutation(len(right))[:30]].reshape(10, 3)
    found = 0
    for three in chosen:
        strip = np.zeros((1, 32, 96), np.uint8)
        for place, digit in enumerate(three):
            strip[0, 2:30, 32 * place + 2:32 * place + 30] = test.images[digit, 0]
        answers = network.predict(strip)
        assert answers.shape == (1, 1, 17)
        assert answers[0, 0, [0, 8, 16]].tolist() == test.labels[three].tolist()
        found += 1
    assert found == 10


@pytest.mark.parametrize("batch_size", [1, 7, 60, 10**6])
def test_any_batch_size_from_one_to_more_than_the_whole_set(batch_size):
    history = run(batch_size=batch_size, epochs=1)
    assert np.isfinite(history[0].train_loss)


def test_plain_tuples_of_arrays_are_taken():
    train = bars(20)
    history = fit(small_network(), (train.images, train.labels), epochs=1, progress=False)
    assert history[0].test_error is None


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    results = []
    for seed in (5, 5, 6):
        network = small_network()
        run(network, seed=seed, shift=1)
        results.append(network.parameters.flat.copy())
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


def test_both_backends_see_the_same_orders_and_shifts():
    flats = []
    for device in ("cpu", CudaBackend(HostRuntime())):
        network = small_network(device)
        run(network, shift=2, epochs=2, optimizer=Adam(lr=0.01))
        flats.append(network.backend.to_host(network.parameters.flat))
    assert np.linalg.norm(flats[0] - flats[1]) < 1e-4 * np.linalg.norm(flats[0])


def test_without_shuffling_the_order_is_that_of_the_data():
    train = bars(12)
    by_fit, by_hand = small_network(), small_network()
    fit(by_fit, train, epochs=1, batch_size=4, optimizer=SGD(lr=0.1), shuffle=False, progress=False)
    plan = by_hand.compile_step(loss="cross_entropy", optimizer=SGD(lr=0.1), batch_size=4)
    for first in (0, 4, 8):
        plan.step(train.images[first:first + 4], train.labels[first:first + 4])
    assert np.array_equal(by_fit.parameters.flat, by_hand.parameters.flat)


# -- schedules -------------------------------------------------------------------------------------


def test_schedules_advance_by_step():
    steps = np.arange(12)
    assert Constant().factors(steps, 3, 12).tolist() == [1.0] * 12
    decay = StepDecay(factor=0.5, epochs=2).factors(steps, 3, 12)
    assert decay.tolist() == [1.0] * 6 + [0.5] * 6
    cosine = Cosine(final=0.1).factors(steps, 3, 12)
    assert cosine[0] == 1 and cosine[6] == pytest.approx(0.55)
    assert (np.diff(cosine) < 0).all() and cosine[-1] > 0.1


def test_schedules_refuse_what_makes_no_sense():
    for build in (lambda: StepDecay(factor=0), lambda: StepDecay(epochs=0), lambda: Cosine(2)):
        with pytest.raises(ArgumentError):
            build()


# -- stopping and going on -------------------------------------------------------------------------


def test_early_stopping_goes_back_to_the_best_parameters():
    network = small_network()
    history = fit(network, bars(40), bars(40, seed=1), epochs=60, batch_size=4, early_stopping=3,
                  optimizer=SGD(lr=0.3, momentum=0.9), progress=False)
    errors = [record.test_error for record in history]
    best = errors.index(min(errors))
    assert len(history) == best + 4 < 60
    assert evaluate(network, bars(40, seed=1)) == min(errors)


class StopHereError(Exception):
    pass


@pytest.mark.parametrize("optimizer", [SGD(lr=0.1), SGD(lr=0.1, momentum=0.9), Adam(lr=0.01)])
@pytest.mark.parametrize("when", [1, 2, 3])
def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path, optimizer, when):
    whole = small_network()
    settings = {"epochs": 4, "optimizer": optimizer, "schedule": Cosine(), "shift": 1,
                "early_stopping": 3}
    expected = run(whole, **settings)

    def interrupt(record):
        if record.epoch == when:
            raise StopHereError

    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(StopHereError):
        run(checkpoint=path, on_epoch=interrupt, **settings)
    resumed = small_network(seed=99)  # its values come from the checkpoint
    resumed.seed = 0
    history = run(resumed, checkpoint=path, resume=True, **settings)
    assert np.array_equal(resumed.parameters.flat, whole.parameters.flat)
    assert [record.train_loss for record in history] == [record.train_loss for record in expected]
    again = small_network()
    assert len(run(again, checkpoint=path, resume=True, **settings)) == len(expected)
    assert np.array_equal(again.parameters.flat, whole.parameters.flat)


def test_resuming_without_a_checkpoint_begins_at_the_beginning(tmp_path):
    assert len(run(checkpoint=tmp_path / "new", resume=True)) == 3


def test_a_checkpoint_is_not_overwritten_unless_it_is_resumed(tmp_path):
    path = tmp_path / "checkpoint"
    run(checkpoint=path, epochs=1)
    with pytest.raises(ArgumentError, match="no file at checkpoint"):
        run(checkpoint=path, epochs=1)


@pytest.mark.parametrize(("change", "named"), [
    ({"batch_size": 9}, "batch_size 8 there, 9 here"),
    ({"seed": 3}, "seed 0 there, 3 here"),
    ({"optimizer": SGD(lr=0.2)}, "optimizer"),
    ({"loss": "mse"}, "loss"),
])
def test_a_checkpoint_of_other_settings_is_refused_by_name(tmp_path, change, named):
    path = tmp_path / "checkpoint"
    run(checkpoint=path)
    with pytest.raises(ArgumentError, match=named):
        run(checkpoint=path, resume=True, **change)


def test_a_checkpoint_of_another_network_or_data_set_is_refused(tmp_path):
    path = tmp_path / "checkpoint"
    run(checkpoint=path)
    other = Network([Conv2d(1, 2, 5, name="c1"), Subsample2d(2, 4, name="s2"),
                     Dense(2, 4, activation="identity", name="output")], (1, 8, 8), device="cpu")
    with pytest.raises(FileFormatError, match="a training run of this network"):
        run(other, checkpoint=path, resume=True)
    with pytest.raises(ArgumentError, match="training set"):
        fit(small_network(), bars(60, seed=8), bars(40, seed=1), epochs=3, batch_size=8,
            checkpoint=path, resume=True, progress=False)


# -- history ---------------------------------------------------------------------------------------


def test_the_history_is_saved_as_csv(tmp_path):
    history = run()
    history.save_csv(tmp_path / "history.csv")
    with open(tmp_path / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", "seconds", "train_loss", "train_error", "test_error"]
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert float(rows[2]["test_error"]) == pytest.approx(history[2].test_error, rel=1e-5)
    fit(small_network(), bars(20), epochs=1, progress=False).save_csv(tmp_path / "none.csv")
    assert (tmp_path / "none.csv").read_text().splitlines()[1].endswith(",")


# -- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keywords", "error", "message"), [
    ({"epochs": 0}, ArgumentError, "epochs: expected at least 1"),
    ({"batch_size": 0}, ArgumentError, "batch_size: expected at least 1"),
    ({"shift": -1}, ArgumentError, "shift: expected at least 0"),
    ({"shift": 2**40}, ArgumentError, "shift: expected at most 8"),
    ({"seed": 2**64}, ArgumentError, "seed: expected at most"),
    ({"schedule": StepDecay}, ArgumentError, "expected a schedule such as"),
    ({"checkpoint": "/no/such/directory/file"}, FileNotFoundError, "got none at /no/such"),
    ({"early_stopping": 0}, ArgumentError, "early_stopping: expected at least 1"),
    ({"loss": "hinge"}, ArgumentError, "loss: expected one of"),
    ({"optimizer": "adam"}, ArgumentError, "optimizer: expected"),
])
def test_settings_out_of_range_are_refused(keywords, error, message):
    with pytest.raises(error, match=message):
        run(**keywords)


def test_floats_far_outside_the_input_range_are_warned_of():
    floats = bars(20).images.astype(np.float32)
    network = small_network()
    with pytest.warns(RuntimeWarning, match=r"as they are, and these go from .* to 2\d\d, far"):
        fit(network, (floats, bars(20).labels), epochs=1, progress=False)
    with pytest.warns(RuntimeWarning, match="scale them, or give uint8"):
        network.predict(floats)


@pytest.mark.filterwarnings("error")
def test_floats_that_are_scaled_are_taken_in_silence():
    scaled = (bars(20).images / 255).astype(np.float32)
    fit(small_network(), (scaled, bars(20).labels), epochs=1, progress=False)


def test_cross_entropy_on_squashed_outputs_is_warned_of():
    network = Network([Conv2d(1, 4, 8, name="output")], (1, 8, 8), device="cpu")
    with pytest.warns(RuntimeWarning, match="linear outputs, but layer 'output' .*scaled_tanh"):
        fit(network, bars(8), epochs=1, progress=False)


def test_early_stopping_needs_a_validation_set():
    with pytest.raises(ArgumentError, match="a validation set with early_stopping"):
        fit(small_network(), bars(20), epochs=1, early_stopping=1)


@pytest.mark.parametrize(("images", "labels", "error", "message"), [
    (np.full((3, 8, 8), np.nan, np.float32), np.arange(3), DataError, "NaN|nan"),
    (np.zeros((3, 8, 8), np.uint8), np.array([0, 1, 4]), DataError, "labels of 0 to 3"),
    (np.zeros((3, 8, 8), np.uint8), np.array([0, -1, 2]), DataError, "-1"),
    (np.zeros((3, 9, 8), np.uint8), np.arange(3), ShapeError, "at most 8x8"),
])
def test_bad_images_and_labels_are_refused_before_training(images, labels, error, message):
    network = small_network()
    before = network.parameters.flat.copy()
    with pytest.raises(error, match=message):
        fit(network, (images, labels), epochs=1)
    assert np.array_equal(before, network.parameters.flat)


@pytest.mark.parametrize(("images", "error", "message"), [
    (np.zeros((2, 3, 8, 8), np.uint8), ShapeError, r"\(samples, 1, height, width\)"),
    (np.zeros((2, 12, 12), np.uint8), ShapeError, "fit: validation: expected one answer an image"),
    (np.zeros((2, 8, 8)), DTypeError, "uint8 or float32, got float64"),
])
def test_a_validation_set_that_does_not_fit_is_refused_before_training(images, error, message):
    network = small_network()
    before = network.parameters.flat.copy()
    with pytest.raises(error, match=message):
        fit(network, bars(20), (images, np.array([0, 1])), epochs=1)
    assert np.array_equal(before, network.parameters.flat)


def test_an_empty_data_set_is_refused():
    with pytest.raises(DataError, match="at least one sample, got none"):
        fit(small_network(), bars(4)[:0], epochs=1)


def test_a_data_set_must_be_one():
    with pytest.raises(ArgumentError, match="a Dataset or \\(images, labels\\), got int"):
        fit(small_network(), 3, epochs=1)


def test_a_loss_that_explodes_is_an_error_that_names_the_cure():
    network = small_network()
    with warnings.catch_warnings(), pytest.raises(TrainingError, match="lower the learning rate"):
        warnings.simplefilter("error")  # NumPy's own would come first
        fit(network, bars(60), epochs=5, batch_size=4, loss="mse",
            optimizer=SGD(lr=1e6, momentum=0.9), progress=False)


def test_evaluate_wants_one_answer_an_image():
    with pytest.raises(ShapeError, match="one answer an image, got 2x1"):
        evaluate(small_network(), (np.zeros((2, 12, 8), np.uint8), np.array([0, 1])))


def test_a_progress_bar_that_is_demanded_needs_rich(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"gpucnn\[cli\]"):
        run(progress=True)
    run(progress=None)


def test_the_progress_bar_shows_epochs_samples_and_their_rate():
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    network = small_network()
    fit(network, bars(400), epochs=2, batch_size=1,
        progress=RichProgress(epochs=2, samples=400, console=console))
    assert "epoch 2/2" in screen.getvalue() and "400/400" in screen.getvalue()
    assert re.search(r"\d samples/s", screen.getvalue())
