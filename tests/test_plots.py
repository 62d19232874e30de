"""Pictures of training runs: what is drawn, for good runs and odd ones."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from gpucnn import EpochRecord, plots
from gpucnn.errors import ArgumentError, MissingDependencyError, ShapeError


def history_of(test_errors, train_error=3.0):
    return [EpochRecord(epoch, 2.0 * epoch, 1 / epoch, train_error / epoch, test_error)
            for epoch, test_error in enumerate(test_errors, start=1)]


def size_of(figure):
    """The picture's (width, height), after checking that it is a PNG with something on it."""
    data = plots.png(figure)
    assert data.startswith(b"\x89PNG\r\n")
    picture = Image.open(io.BytesIO(data)).convert("L")
    assert np.asarray(picture).std() > 0
    return picture.size


def lines_of(axes):
    return {line.get_label(): line.get_ydata() for line in axes.get_lines()}


def heading_of(figure):
    return figure.texts[0].get_text()


def titles_of(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def test_learning_curve_draws_both_errors_and_the_loss_of_each_epoch():
    figure = plots.learning_curve(history_of([9.0, 5.0, 4.0]))
    errors, losses = figure.axes
    assert lines_of(errors)["test"].tolist() == [9.0, 5.0, 4.0]
    assert lines_of(errors)["training"].tolist() == [3.0, 1.5, 1.0]
    assert lines_of(losses)["training"].tolist() == [1.0, 0.5, 1 / 3]
    assert "%" in errors.get_ylabel() and errors.get_xlabel() == "epoch"
    assert "per image" in losses.get_ylabel()


def test_learning_curve_names_the_held_out_set_and_the_last_errors():
    figure = plots.learning_curve(history_of([9.0, 5.0]), held_out="validation")
    assert set(lines_of(figure.axes[0])) == {"training", "validation"}
    assert figure.get_suptitle() == "epoch 2: training error 1.50 %, validation error 5.00 %"


def test_learning_curve_without_a_held_out_set_draws_the_training_error_alone():
    figure = plots.learning_curve(history_of([None, None]))
    assert set(lines_of(figure.axes[0])) == {"training"}


@pytest.mark.parametrize("history", [
    history_of([7.0]), history_of([0.0, 0.0], train_error=0.0), history_of([9.0] * 100)],
    ids=["one epoch", "no errors", "many epochs"])
def test_learning_curve_is_a_picture_of_the_same_size_for_odd_histories(history):
    assert size_of(plots.learning_curve(history)) == (1350, 570)


def test_learning_curve_wants_an_epoch():
    with pytest.raises(ArgumentError, match="expected at least one epoch, got none"):
        plots.learning_curve([])


def test_errors_over_a_wide_range_are_drawn_on_a_logarithmic_axis():
    scales = [plots.learning_curve(history_of(errors)).axes[0].get_yscale()
              for errors in ([80.0, 8.0, 0.8], [80.0, 8.0, 0.0], [3.0, 2.5, 2.4])]
    assert scales == ["log", "log", "linear"]


SERIES = {"momentum 0": [(0.01, 9.0), (0.01, 7.0), (0.1, 4.0), (0.1, None)],
          "momentum 0.9": [(0.01, 5.0), (0.01, 6.0), (0.1, None), (0.1, None)]}


def test_errors_by_rate_draws_a_dot_for_each_network_and_a_line_through_the_means():
    axes = plots.errors_by_rate(SERIES, held_out="validation").axes[0]
    lines = lines_of(axes)
    assert lines["momentum 0"].tolist() == [8.0, 4.0]
    assert lines["momentum 0.9"].tolist() == [5.5]
    dots = [line for line in axes.get_lines() if line.get_marker() == "o"]
    assert [list(line.get_ydata()) for line in dots] == [[9.0, 7.0, 4.0], [5.0, 6.0]]
    assert axes.get_xscale() == "log" and axes.get_xlabel() == "learning rate"
    assert axes.get_ylabel() == "validation error (% of images)"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(SERIES)


def test_networks_that_have_diverged_are_crosses_and_counted():
    figure = plots.errors_by_rate(SERIES)
    crosses = [line for line in figure.axes[0].get_lines() if line.get_marker() == "x"]
    assert [len(line.get_xdata()) for line in crosses] == [1, 2]
    assert figure.get_suptitle() == ("test error of 8 networks, a dot each; 3 diverged, a cross "
                                     "each")


def test_series_stand_apart_where_they_share_a_rate():
    axes = plots.errors_by_rate(SERIES).axes[0]
    first, second = (line.get_xdata()[0] for line in axes.get_lines()
                     if line.get_marker() == "o")
    assert 0.009 < first < 0.01 < second < 0.011


@pytest.mark.parametrize("series", [
    {"": [(0.1, 3.0)]}, {"": [(0.1, None)]}, {"": [(0.1, 0.0), (0.2, 0.0)]},
    {str(number): [(0.1, 9.0 + number)] for number in range(9)},
    {"": [(2.0 ** -power, 80.0 / (power + 1)) for power in range(40)]}],
    ids=["one network", "all diverged", "no errors", "many series", "many rates"])
def test_errors_by_rate_is_a_picture_of_the_same_size_for_odd_sweeps(series):
    figure = plots.errors_by_rate(series)
    assert size_of(figure) == (1350, 675)
    assert 1 <= len(figure.axes[0].get_xticks()) <= 20


def test_errors_by_rate_wants_a_network():
    with pytest.raises(ArgumentError, match="expected at least one network, got none"):
        plots.errors_by_rate({"": []})


def test_mistakes_shows_each_misread_image_with_its_right_class_and_its_answer():
    images = np.arange(5 * 8 * 6, dtype=np.uint8).reshape(5, 1, 8, 6)
    figure = plots.mistakes(images, np.array([4, 9, 2, 0, 1]), np.array([4, 1, 2, 6, 1]))
    assert titles_of(figure) == ["9 read as 1", "0 read as 6"]
    assert heading_of(figure) == "2 of 5 images misread"
    drawn = [axes.get_images()[0].get_array() for axes in figure.axes if axes.get_images()]
    assert np.array_equal(drawn, images[[1, 3], 0])


def test_mistakes_says_so_when_there_are_none():
    figure = plots.mistakes(np.zeros((3, 28, 28), np.uint8), np.arange(3), np.arange(3))
    assert heading_of(figure) == "none of 3 images misread"
    assert size_of(figure)[0] == 1350


def test_mistakes_shows_the_first_sixty_of_more():
    images = np.random.default_rng(0).integers(0, 255, (70, 2, 9, 9), np.uint8)
    figure = plots.mistakes(images, np.zeros(70, int), np.ones(70, int))
    assert len(titles_of(figure)) == 60
    assert heading_of(figure) == "70 of 70 images misread, the first 60 of them shown"
    assert size_of(figure) == (1350, 1080)


def test_mistakes_wants_as_many_answers_as_images():
    with pytest.raises(ShapeError, match=r"mistakes: .* got shapes \(3, 8, 8\), \(3,\) and \(2,\)"):
        plots.mistakes(np.zeros((3, 8, 8)), np.zeros(3), np.zeros(2))


def test_plots_leave_no_trace_in_pyplot():
    plots.png(plots.learning_curve(history_of([1.0])))
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules[
        "matplotlib.pyplot"].get_fignums()


def test_plots_without_matplotlib_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r"matplotlib.*pip install gpucnn\[cli\]"):
        plots.learning_curve(history_of([1.0]))
