"""`gpucnn gradcheck`: a model's gradients against finite differences, on this machine."""

import click
import numpy as np

import gpucnn
from gpucnn.cli.options import (
    describe_device,
    device_option,
    loss_option,
    make_console,
    make_network,
    model_option,
    seed_option,
)

LARGEST_ERROR = 1e-6
SAMPLES = 5


@click.command()
@model_option
@loss_option
@device_option
@seed_option
def gradcheck(model, loss, device, seed):
    """Check a model's gradients.

    Compares each with finite differences of the loss, in float64, on five random digits; exit code
    1 if a relative error exceeds 1e-6.
    """
    from rich import box
    from rich.table import Table

    network = make_network(model, loss, seed=seed, dtype="float64", device=device)
    images, labels = _samples(network, seed)
    checks = gpucnn.gradcheck(network, images, labels, loss=loss, seed=seed)
    table = Table("array", box=box.SIMPLE_HEAD, show_edge=False)
    for heading in ("derivative", "finite difference", "relative error"):
        table.add_column(heading, justify="right")
    for check in checks:
        table.add_row(check.name, f"{check.derivative:.9e}", f"{check.difference:.9e}",
                      f"{check.error:.1e}")
    console = make_console()
    console.print(describe_device(network), soft_wrap=True)
    console.print(table)
    worst = max(checks, key=lambda check: check.error)
    if not worst.error <= LARGEST_ERROR:
        raise click.ClickException(f"gradcheck: expected relative errors of at most "
                                   f"{LARGEST_ERROR:.0e}, got {worst.error:.1e} for {worst.name}")
    console.print(f"all {len(checks)} agree: the largest relative error is {worst.error:.1e}")


def _samples(network, seed):
    """Random test digits as the network takes them, float64, padded with background."""
    _, test = gpucnn.digits()
    chosen = test[np.random.Generator(np.random.Philox(seed)).choice(len(test), SAMPLES, False)]
    low, high = network.input_range
    images = low + chosen.images * ((high - low) / 255)
    height, width = network.input_shape[1:]
    rows, columns = height - images.shape[2], width - images.shape[3]
    return np.pad(images, ((0, 0), (0, 0), (rows // 2, rows - rows // 2),
                           (columns // 2, columns - columns // 2)),
                  constant_values=low), chosen.labels
