"""`gpucnn predict`: what a trained network reads in pictures."""

from pathlib import Path

import click
import numpy as np

import gpucnn
from gpucnn.cli.group import one_line
from gpucnn.cli.options import (
    device_option,
    open_model,
    threads_option,
    trained_model_argument,
)
from gpucnn.errors import DataError, GpucnnError, MissingDependencyError, ShapeError

MNIST_SIZE = 28
LARGEST_MARGIN = 4  # LeNet-5 pads the 28x28 digits that it is trained on to 32x32


@click.command()
@trained_model_argument
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True,
                type=click.Path(path_type=Path))
@click.option("--strip", is_flag=True,
              help="Run the network over the whole picture and print its row of answers.")
@click.option("--invert/--no-invert", default=None,
              help="Take the ink as dark, or as light. [default: dark if the border is light]")
@device_option
@threads_option
@click.pass_context
def predict(context, model, images, strip, invert, device, threads):
    """Read the digits in pictures.

    Prints what the network in MODEL reads in each, and how sure it is.

    A picture no larger than the network's input is taken as it is. In a larger one the digit is
    cropped, scaled and centred as MNIST's are, unless --strip is given. How sure: the probability
    by softmax where the outputs are linear, else the margin to the second answer. MODEL is a file
    that `gpucnn train`, gpucnn.save_network or Ensemble.save wrote, or the directory of a run or of
    a sweep with an ensemble, whose answers are averaged.
    """
    network = open_model(model, device)
    network.checked_threads(threads)
    if network.input_shape[0] != 1:
        raise ShapeError(f"predict: expected a network of one input map, got one of "
                         f"{network.input_shape[0]}")
    width = max(len(str(path)) for path in images)
    failed = False
    for path in images:
        try:
            first, *others = _read(network, path, strip, invert, threads)
            click.echo(f"{path!s:<{width}}  {first}")
            for line in others:
                click.echo(f"{'':<{width}}  {line}")
        except MissingDependencyError:
            raise
        except (GpucnnError, OSError) as error:
            message = one_line(error)
            prefix = "" if str(path) in message else f"{path}: "
            click.echo(f"Error: {prefix}{message}", err=True)
            failed = True
    if failed:
        context.exit(1)


def _read(network, path, strip, invert, threads):
    """The lines of the answer to one picture: one, but for a strip higher than the network."""
    picture = gpucnn.read_picture(path, invert=invert)
    size = network.input_shape[1:]
    if not strip and any(extent > limit for extent, limit in zip(picture.shape, size, strict=True)):
        picture = gpucnn.fit_digit(picture, tuple(map(_digit_size, size)))
    elif not strip and picture.min() == picture.max():
        raise DataError(f"expected a digit, got an empty picture (all values {picture.min()})")
    outputs = network.outputs(picture[np.newaxis], threads=threads)[0]
    outputs = outputs.reshape(len(outputs), -1, outputs.shape[-1] if outputs.ndim == 3 else 1)
    if strip:
        return [" ".join(map(str, row)) for row in outputs.argmax(axis=0)]
    return [_answer(network, outputs[:, 0, 0].astype(np.float64))]


def _digit_size(extent):
    """The size of the images that a network of this input size was trained on."""
    return MNIST_SIZE if MNIST_SIZE <= extent <= MNIST_SIZE + LARGEST_MARGIN else extent


def _answer(network, outputs):
    label = int(outputs.argmax())
    probabilities = _probabilities(network, outputs)
    if probabilities is not None:
        return f"{label}  probability {100 * probabilities[label]:.1f} %"
    second = np.sort(outputs)[-2:][0]
    return f"{label}  margin {outputs[label] - second:.3f}"


def _probabilities(network, outputs):
    """Those of the classes, or None where outputs are squashed."""
    if isinstance(network, gpucnn.Ensemble):
        return outputs if network.averages == "probabilities" else None
    if network.layers[-1].options().get("activation") != "identity":
        return None
    exponentials = np.exp(outputs - outputs.max())
    return exponentials / exponentials.sum()
