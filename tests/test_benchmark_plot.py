"""benchmarks.plot: what is drawn of throughputs, and what is wanted for it."""

import sys

import pytest

from benchmarks import lenet
from benchmarks.contest import Comparison, Measurement

pytest.importorskip("matplotlib")

from benchmarks import plot


def comparison(size, **rates):
    return Comparison(size, tuple(Measurement(name, "setting", (rate,), {})
                                  for name, rate in rates.items()), {})


def lines_of(figure):
    axes, = figure.axes
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
            for line in axes.get_lines()}


COMPARISONS = [comparison(16, gpucnn=9000, torch=3000, jax=2990),
               comparison(1, gpucnn=1000, torch=500, jax=2000, seed=20)]


def test_each_side_has_a_line_by_batch_size_and_each_peer_its_ratios():
    figure = plot.throughput(COMPARISONS, ["torch", "jax", "seed"], title="lenet5 on cpu")
    axes, = figure.axes
    assert lines_of(figure) == {
        "gpucnn": ([1, 16], [1000, 9000]), "torch": ([1, 16], [500, 3000]),
        "jax": ([1, 16], [2000, 2990]), "seed": ([1], [20])}
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert sorted(text.get_text() for text in axes.texts) == [
        "0.5x", "2x", "3.01x", "3x", "50x"]
    assert "lenet5 on cpu" in figure.get_suptitle() and "gpucnn / peer" in figure.get_suptitle()


def test_ratios_of_close_points_stand_apart():
    figure = plot.throughput(COMPARISONS, ["torch", "jax"], title="")
    axes, = figure.axes
    lowest, highest = axes.get_ylim()
    places = {text.get_text(): text.xy[1] for text in axes.texts}
    assert places["3x"] / places["3.01x"] == pytest.approx(
        (highest / lowest) ** plot.LINE_HEIGHT)


@pytest.mark.parametrize("comparisons", [
    COMPARISONS[:1], [comparison(2, gpucnn=5, torch=5)], [comparison(2, gpucnn=5)]],
    ids=["one size", "equal sides", "a peer that takes no part"])
def test_it_is_a_picture_for_odd_runs(comparisons):
    picture = plot.png(plot.throughput(comparisons, ["torch", "jax"], title="odd"))
    assert picture.startswith(b"\x89PNG")


def test_a_missing_matplotlib_ends_the_run_before_it_measures(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert lenet.main(["--plot", str(tmp_path / "drawn.png")]) == 1
    captured = capsys.readouterr()
    assert "expected the package matplotlib" in captured.err and not captured.out
