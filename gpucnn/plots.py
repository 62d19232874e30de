"""Pictures of a training run, as matplotlib figures that belong to no global state."""

import io
from math import ceil

import numpy as np

from gpucnn.errors import ArgumentError, MissingDependencyError, ShapeError

TRAINING, HELD_OUT, INK, MUTED = "#2a6f97", "#d1495b", "#22262b", "#6b7280"
COLUMNS, MOST_MISTAKES = 10, 60
DOTS_PER_INCH = 150


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


def _draw(axes, epochs, curves, label):
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    for name, color, values in curves:
        axes.plot(epochs, values, color=color, label=name, linewidth=1.6,
                  marker="o" if len(epochs) <= COLUMNS else None, markersize=4)
    values = np.array([value for _, _, values in curves for value in values], float)
    positive = values[values > 0]
    if positive.size and positive.max() > 5 * positive.min():
        axes.set_yscale("log", nonpositive="clip")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)
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
