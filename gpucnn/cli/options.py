"""Options and values that several commands share."""

import difflib
from pathlib import Path

import click

import gpucnn
from gpucnn.checkpoint import holds_ensemble
from gpucnn.data.mnist import MIRRORS
from gpucnn.errors import ArgumentError
from gpucnn.models import MODELS

EMBEDDED = "digits"
COLLECTIONS = (EMBEDDED, *MIRRORS)
MODEL_FILE, ENSEMBLE_FILE = "model.safetensors", "ensemble.safetensors"

data_option = click.option(
    "--data", default=EMBEDDED, show_default=True, metavar="|".join(("DIR", *COLLECTIONS)),
    help="A directory with MNIST's four files, plain or gzipped; the digits that come with the "
         "package; or a collection to download.")
device_option = click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda|cuda:N",
    help="Where to compute; auto takes CUDA where it is usable.")
threads_option = click.option(
    "--threads", type=click.IntRange(min=1), metavar="N",
    help="How many threads of the CPU work; results do not depend on it. [default: as many as "
         "there are cores]")
model_option = click.option(
    "--model", type=click.Choice(list(MODELS)), default="lenet5", show_default=True,
    help="LeNet-5 of LeCun et al. 1998, or a small net of two stages.")
loss_option = click.option(
    "--loss", type=click.Choice(["cross_entropy", "mse"]), default="cross_entropy",
    show_default=True, help="cross_entropy on linear outputs, or mse on squashed ones.")
seed_option = click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True,
    help="Of the initial values and all that is random.")
trained_model_argument = click.argument("model", metavar="MODEL", type=click.Path(path_type=Path))


def make_console(**keywords):
    """A console of rich that prints text as it is."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False, **keywords)


def make_network(model, loss, classes=10, **keywords):
    """The network of a model's name, with the outputs that its loss asks for."""
    output_activation = "scaled_tanh" if loss == "mse" else "identity"
    return MODELS[model](classes, output_activation, **keywords)


def open_model(path, device):
    """The network in a file, or in the run directory that `gpucnn train` wrote; or the ensemble in
    a file, or in the directory that `gpucnn sweep --ensemble` wrote."""
    if path.is_dir():
        model, ensemble = path / MODEL_FILE, path / ENSEMBLE_FILE
        if (path / "checkpoint.safetensors").exists() and not model.exists():
            raise ArgumentError(f"{path}: expected a finished run, got one that was interrupted: "
                                f"gpucnn train --resume --out {path}")
        path = ensemble if ensemble.exists() and not model.exists() else model
    if holds_ensemble(path):
        return gpucnn.Ensemble.load(path, device=device)
    return gpucnn.load_network(path, device=device)


def load_data(data):
    """The training set and the test set of `--data`, and a short name for them."""
    if data == EMBEDDED:
        return *gpucnn.digits(), data
    if data in MIRRORS:
        return *gpucnn.load_mnist(gpucnn.download_mnist(data)), data
    directory = Path(data)
    if not directory.is_dir():
        near = difflib.get_close_matches(data, COLLECTIONS, n=1)
        raise ArgumentError(
            f"--data: expected {', '.join(COLLECTIONS)} or a directory, got {data!r}, "
            f"which is none" + (f"; did you mean {near[0]}?" if near else ""))
    return *gpucnn.load_mnist(directory), directory.resolve().name or "root"


def describe_device(network):
    """The line that says where a command computes."""
    return f"device  {network.device}: {network.backend.description}"


def describe_error(wrong, count, name="test"):
    """The line that says how many of `count` images were misread."""
    return f"{name} error {100 * wrong / count:.2f} % ({wrong:,} of {count:,} misread)"
