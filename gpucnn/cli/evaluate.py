"""`gpucnn evaluate`: how many images a trained network misreads, and as what."""

import click
import numpy as np

from gpucnn.cli.options import (
    data_option,
    describe_device,
    describe_error,
    device_option,
    load_data,
    make_console,
    open_model,
    threads_option,
    trained_model_argument,
)
from gpucnn.errors import DataError

MOST_COLUMNS = 20  # a wider table does not fit a terminal


@click.command()
@trained_model_argument
@data_option
@click.option("--set", "part", type=click.Choice(["test", "train"]), default="test",
              show_default=True, help="Which of the two sets.")
@device_option
@threads_option
def evaluate(model, data, part, device, threads):
    """Measure the error of a trained network, or of an ensemble.

    Prints it, and which class is how often taken for which.

    MODEL is a file that `gpucnn train`, gpucnn.save_network or Ensemble.save wrote, or the
    directory of a run or of a sweep with an ensemble.
    """
    network = open_model(model, device)
    train, test, _ = load_data(data)
    dataset = test if part == "test" else train
    counts = confusion(dataset.labels, _answers(network, dataset, threads),
                       network.output_shape[0])
    console = make_console()
    console.print(describe_device(network), soft_wrap=True)
    console.print(describe_error(int(counts.sum() - np.trace(counts)), len(dataset), part))
    console.print()
    console.print(_table(counts) if len(counts) <= MOST_COLUMNS else _longest(counts))


def confusion(labels, answers, classes):
    """How often each class was taken for each: int64 (classes, classes), rows the right class."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, answers), 1)
    return counts


def _answers(network, dataset, threads):
    classes = network.output_shape[0]
    if len(dataset) == 0 or dataset.labels.max() >= classes:
        raise DataError(f"evaluate: expected images with labels of 0 to {classes - 1}, as many as "
                        f"the network has outputs, got {dataset!r}")
    answers = network.predict(dataset.images, threads=threads)
    if answers.ndim != 1:
        raise DataError(f"evaluate: expected one answer an image, got {answers.shape[1]}x"
                        f"{answers.shape[2]} from {dataset!r}")
    return answers


def _table(counts):
    """The whole confusion table; zeros off the diagonal are dots."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title="right class by row, answer by column",
                  title_justify="left", padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("", justify="right", style="bold")
    for answer in range(len(counts)):
        table.add_column(str(answer), justify="right")
    table.add_column("error %", justify="right")
    for right, row in enumerate(counts):
        cells = [str(count) if count or answer == right else "."
                 for answer, count in enumerate(row)]
        table.add_row(str(right), *cells, _share(row, right))
    return table


def _share(row, right):
    return f"{100 * (1 - row[right] / row.sum()):.2f}" if row.any() else "-"


def _longest(counts):
    """The most frequent confusions, for more classes than a table has room for."""
    from rich import box
    from rich.table import Table

    table = Table("right class", "answer", "times", box=box.SIMPLE_HEAD)
    wrong = counts - np.diag(np.diag(counts))
    for place in np.argsort(-wrong, axis=None, kind="stable")[:MOST_COLUMNS]:
        right, answer = divmod(int(place), len(counts))
        if wrong[right, answer]:
            table.add_row(str(right), str(answer), str(wrong[right, answer]))
    return table
