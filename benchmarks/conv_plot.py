"""Time over density as a picture: one field for each shape, in the manner of `gpucnn.plots`."""

from benchmarks.conv_contest import GROUPED
from benchmarks.plot import COLORS, png, require_matplotlib
from benchmarks.sides import OURS
from gpucnn.plots import INK, MUTED, style

__all__ = ["png", "require_matplotlib", "times"]

COLUMNS = 3  # of fields, at the most


def times(measured, peers, *, title):
    """A figure of milliseconds (forward and both gradients) by density, in per cent: lines for
    full and random tables, circles for grouped ones.

    measured: (case, row) pairs. Shapes of one row are left out, unless all are.
    """
    from matplotlib.figure import Figure

    by_shape = {}
    for case, row in measured:
        by_shape.setdefault(case.shape, []).append((case, row))
    drawn = {shape: pairs for shape, pairs in by_shape.items() if len(pairs) > 1} or by_shape
    columns = 2 if len(drawn) in (2, 4) else min(COLUMNS, len(drawn))
    lines = -(-len(drawn) // columns)
    figure = Figure(figsize=(3.4 * columns + 0.6, 2.9 * lines + 0.6), facecolor="white",
                    layout="constrained")
    fields = list(figure.subplots(lines, columns, squeeze=False).flat)
    for (shape, pairs), axes in zip(drawn.items(), fields, strict=False):
        _draw(axes, pairs, peers)
        axes.set_title(str(shape), fontsize=9, color=INK, loc="left")
    for axes in fields[len(drawn):]:
        axes.set_visible(False)
    found = {label: line for axes in fields
             for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(found.values(), found, loc="outside lower center", ncols=len(found),
                  frameon=False, fontsize=8, labelcolor=INK)
    figure.suptitle(title, x=0.012, ha="left", fontsize=11, color=INK)
    figure.supylabel("forward and both gradients, ms", fontsize=9, color=MUTED)
    return figure


def _draw(axes, pairs, peers):
    axes.set_xscale("log")
    axes.set_yscale("log")
    for color, side in zip(COLORS, (OURS, *peers, GROUPED), strict=False):
        random = _points([pair for pair in pairs if pair[0].groups == 1], side)
        grouped = _points([pair for pair in pairs if pair[0].groups > 1], side)
        if random:
            axes.plot(*zip(*random, strict=True), color=color, label=side, marker="o",
                      markersize=3.5, linewidth=2.0 if side == OURS else 1.4)
        if grouped:
            axes.plot(*zip(*grouped, strict=True), color=color, linestyle="none", marker="o",
                      markersize=6, markerfacecolor="none",
                      label=side if side == GROUPED else f"{side}, table of groups")
    from matplotlib import ticker

    plain = ticker.FuncFormatter(lambda value, _: f"{value:g}")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(plain)
        axis.set_minor_formatter(ticker.NullFormatter())
    axes.set_xlabel("connections, per cent of all pairs", fontsize=8, color=MUTED)
    style(axes)


def _points(pairs, side):
    return sorted((100 * case.table.density, 1e3 * row.best(side).median())
                  for case, row in pairs if row.best(side) is not None)
