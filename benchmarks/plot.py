"""Throughput by batch size as a picture, in the manner of `gpucnn.plots`."""

from itertools import cycle
from statistics import median

from benchmarks.precisions import FLOAT32
from benchmarks.sides import OURS
from gpucnn.plots import INK, MUTED, png, require_matplotlib, style

__all__ = ["png", "require_matplotlib", "throughput"]

COLORS = ("#2a6f97", "#d1495b", "#d08c1d", "#5b8c5a")  # ours, then the peers in their order
LINE_HEIGHT = 0.04  # of a ratio, as a share of the axis


def throughput(comparisons, peers, *, title):
    """A figure of samples per second by batch size, a line for each side with its best setting of
    float32; at each point of a peer stands our throughput divided by it, as in "1.5x".

    comparisons: `contest.Comparison`s, at least one. peers: the peers' names in their order; a peer
    has points where it took part.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    comparisons = sorted(comparisons, key=lambda one: one.size)
    figure = Figure(figsize=(7.5, 4.6), facecolor="white", layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    colors = dict(zip((OURS, *peers), cycle(COLORS), strict=False))
    for name, color in colors.items():
        points = [(one.size, one.best(name, FLOAT32).median) for one in comparisons
                  if one.best(name, FLOAT32) is not None]
        axes.plot(*zip(*points, strict=True), color=color, label=name, marker="o", markersize=4,
                  linewidth=2.0 if name == OURS else 1.4, zorder=3 if name == OURS else 2)
    _dress(axes, [one.size for one in comparisons])
    for one in comparisons:
        _annotate(axes, one, [name for name in peers if one.best(name, FLOAT32)], colors)
    figure.suptitle(f"{title} (beside points: {OURS} / peer)", x=0.012, ha="left", fontsize=11,
                    color=INK)
    return figure


def _annotate(axes, comparison, peers, colors):
    """The ratios to the right of the peers' points, moved up where they would overlap."""
    lowest, highest = axes.get_ylim()
    line = (highest / lowest) ** LINE_HEIGHT
    place = 0.0
    for peer in sorted(peers, key=lambda peer: comparison.best(peer, FLOAT32).median):
        place = max(comparison.best(peer, FLOAT32).median, place * line)
        axes.annotate(f"{median(comparison.ratios(peer, FLOAT32)):.3g}x", (comparison.size, place),
                      textcoords="offset points", xytext=(6, 0), va="center", fontsize=8,
                      color=colors[peer], zorder=4,
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85})


def _dress(axes, sizes):
    from matplotlib import ticker

    axes.xaxis.set_major_locator(ticker.FixedLocator(sizes))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    plain = ticker.FuncFormatter(lambda value, _: f"{value:,.0f}")
    axes.xaxis.set_major_formatter(plain)
    axes.yaxis.set_major_formatter(plain)
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    axes.margins(x=0.1, y=0.1)
    lowest, highest = axes.get_ylim()
    if highest < 10 * lowest:
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=range(1, 10)))
    elif highest < 100 * lowest:
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.set_xlabel("batch size", color=MUTED)
    axes.set_ylabel("samples per second", color=MUTED)
    style(axes)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
