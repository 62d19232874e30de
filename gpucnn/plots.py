"""Pictures of training runs, as matplotlib figures that belong to no global state."""

import io
from math import ceil

import numpy as np

from gpucnn.errors import ArgumentError, MissingDependencyError, ShapeError

TRAINING, HELD_OUT, INK, MUTED = "#2a6f97", "#d1495b", "#22262b", "#6b7280"
COLUMNS, MOST_MISTAKES = 10, 60
DOTS_PER_INCH = 150
SERIES = (TRAINING, HELD_OUT, "#3a7d44", "#b7791f", "#6b4c9a", "#5c6770")


def require_matplotlib():
    """Raise `MissingDependencyError` unless matplotlib can be imported."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("plots: expected the package matplotlib, which is not "
                                     "installed: pip install gpucnn[cli]") from error


def png(figure):
    """A figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    return buffer.getvalue()


def learning_curve(history, *, held_out="test"):
    """A figure of the errors (per cent) and the loss of each epoch.

    history: `EpochRecord`s, as `gpucnn.fit` returns them. held_out: what the set is called by
    which their `test_error` was measured; records without one give no such line. Raises
    `ArgumentError` if there is no epoch.
    """
    if not history:
        raise ArgumentError("learning_curve: expected at least one epoch, got none")
    figure = _figure(9, 3.8, layout="constrained")
    errors, losses = figure.subplots(1, 2)
    epochs = [record.epoch for record in history]
    curves = [("training", TRAINING, [record.train_error for record in history])]
    if any(record.test_error is not None for record in history):
        curves.append((held_out, HELD_OUT, [np.nan if record.test_error is None
                                            else record.test_error for record in history]))
    _draw(errors, epochs, curves, "error (% of images)")
    _draw(losses, epochs, [("training", TRAINING, [record.train_loss for record in history])],
          "loss (mean per image)")
    figure.suptitle(_summary(history[-1], held_out), x=0.012, ha="left", fontsize=11, color=INK)
    return figure


def errors_by_rate(series, *, held_out="test"):
    """A figure of many networks' errors (per cent) by learning rate: a dot for each network, a
    cross at the top for one that has diverged, a line through the means of the others.

    series: name -> list of (learning rate, error), the error None of a network that has diverged;
    each has a colour. held_out: what the set is called by which the errors were measured. Raises
    `ArgumentError` if there is no network.
    """
    if not any(series.values()):
        raise ArgumentError("errors_by_rate: expected at least one network, got none")
    figure = _figure(9, 4.5, layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    rates = sorted({rate for points in series.values() for rate, _ in points})
    for number, (name, points) in enumerate(series.items()):
        place = number - (len(series) - 1) / 2
        _draw_rates(axes, points, _span(rates) ** (0.006 * place), name,
                    SERIES[number % len(SERIES)])
    errors = [error for points in series.values() for _, error in points if error is not None]
    _scale_errors(axes, errors)
    _label_rates(axes, rates)
    axes.set_xlabel("learning rate", color=MUTED)
    axes.set_ylabel(f"{held_out} error (% of images)", color=MUTED)
    style(axes)
    axes.grid(visible=False, axis="x")
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    networks = sum(map(len, series.values()))
    lost = networks - len(errors)
    figure.suptitle(f"{held_out} error of {networks:,} network{'s' * (networks > 1)}, a dot each"
                    + (f"; {lost:,} diverged, a cross each" if lost else ""),
                    x=0.012, ha="left", fontsize=11, color=INK)
    return figure


def mistakes(images, labels, answers):
    """A figure of misread images, the first sixty of them, each with its right class and answer.

    images: (samples, height, width) or (samples, maps, height, width), of which the mean over maps
    is shown; larger values are drawn darker, as ink. labels, answers: integers (samples,).
    Raises `ShapeError` if their numbers differ.
    """
    images, labels, answers = map(np.asarray, (images, labels, answers))
    if images.ndim not in (3, 4) or not labels.shape == answers.shape == images.shape[:1]:
        raise ShapeError(f"mistakes: expected images (samples, [maps,] height, width) and as many "
                         f"labels and answers, got shapes {images.shape}, {labels.shape} and "
                         f"{answers.shape}")
    wrong = np.flatnonzero(labels != answers)
    shown = wrong[:MOST_MISTAKES]
    rows = max(1, ceil(len(shown) / COLUMNS))
    height = 0.6 + 1.1 * rows
    figure = _figure(9, height)
    figure.text(0.012, 1 - 0.1 / height, _count(len(wrong), len(shown), len(labels)), va="top",
                fontsize=11, color=INK)
    # Empty cells keep one mistake as small as sixty.
    cells = figure.subplots(rows, COLUMNS, squeeze=False, gridspec_kw={
        "left": 0.012, "right": 0.988, "bottom": 0.08 / height, "top": 1 - 0.55 / height,
        "wspace": 0.12, "hspace": 0.3}).ravel()
    for cell in cells:
        cell.set_axis_off()
    for cell, number in zip(cells, shown, strict=False):
        image = images[number] if images.ndim == 3 else images[number].mean(axis=0)
        cell.imshow(image, cmap="gray_r", interpolation="nearest")
        cell.set_title(f"{labels[number]} read as {answers[number]}", fontsize=7.5, color=INK,
                       pad=3)
    return figure


def _figure(width, height, **keywords):
    """An empty figure of this size in inches, drawn by Agg."""
    require_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), facecolor="white", **keywords)


def _draw_rates(axes, points, beside, name, color):
    """One series of `errors_by_rate`, its rates times `beside`."""
    measured = [(rate, error) for rate, error in points if error is not None]
    axes.plot([rate * beside for rate, _ in measured], [error for _, error in measured], "o",
              color=color, markersize=5, alpha=0.6, markeredgewidth=0)
    rates = sorted({rate for rate, _ in measured})
    means = [np.mean([error for own, error in measured if own == rate]) for rate in rates]
    axes.plot([rate * beside for rate in rates], means, color=color, linewidth=1.6, label=name,
              marker="_", markersize=14)
    lost = [rate * beside for rate, error in points if error is None]
    if lost:
        axes.plot(lost, np.ones(len(lost)), "x", color=color, markersize=7, clip_on=False,
                  transform=axes.get_xaxis_transform())


def _span(rates):
    """The highest rate by the lowest; for a single rate what makes room for many series."""
    return rates[-1] / rates[0] if len(rates) > 1 else 100.0


def _label_rates(axes, rates):
    """Ticks at the rates themselves, as many as have room, with some space at either end."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    span = _span(rates)
    axes.set_xlim(rates[0] / span ** 0.12, rates[-1] * span ** 0.12)
    shown, last = [], 0.0
    for rate in rates:
        if rate > last * span ** 0.06:
            shown.append(rate)
            last = rate
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _scale_errors(axes, values):
    """A logarithmic axis for values that differ by more than a factor of five, else one from 0."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    values = np.asarray(values, float)
    positive = values[values > 0]
    if positive.size and positive.max() > 5 * positive.min():
        axes.set_yscale("log", nonpositive="clip")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)


def _draw(axes, epochs, curves, label):
    from matplotlib.ticker import MaxNLocator

    for name, color, values in curves:
        axes.plot(epochs, values, color=color, label=name, linewidth=1.6,
                  marker="o" if len(epochs) <= COLUMNS else None, markersize=4)
    _scale_errors(axes, [value for _, _, values in curves for value in values])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch", color=MUTED)
    axes.set_ylabel(label, color=MUTED)
    if len(epochs) == 1:
        axes.set_xlim(epochs[0] - 1, epochs[0] + 1)
    style(axes)
    if len(curves) > 1:
        axes.legend(frameon=False, fontsize=9, labelcolor=INK)


def style(axes):
    """Give matplotlib axes the look of this library's pictures: a pale grid, two spines."""
    axes.tick_params(which="both", colors=MUTED, labelsize=9)
    axes.grid(True, which="major", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#c4c9d1")


def _summary(record, held_out):
    text = f"epoch {record.epoch}: training error {record.train_error:.2f} %"
    if record.test_error is not None:
        text += f", {held_out} error {record.test_error:.2f} %"
    return text


def _count(wrong, shown, images):
    if not wrong:
        return f"none of {images:,} images misread"
    text = f"{wrong:,} of {images:,} images misread"
    return text if shown == wrong else f"{text}, the first {shown} of them shown"
