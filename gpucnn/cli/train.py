"""`gpucnn train`: a network trained on digits, and a directory with all that came of it."""

import shlex
from pathlib import Path

import click
import numpy as np
from click.core import ParameterSource

import gpucnn
from gpucnn import plots
from gpucnn.cli.options import (
    COLLECTIONS,
    data_option,
    describe_device,
    describe_error,
    device_option,
    load_data,
    loss_option,
    make_console,
    make_network,
    model_option,
    seed_option,
    threads_option,
)
from gpucnn.cli.recipe import SCHEDULES, complete, describe, make_optimizer, make_schedule
from gpucnn.cli.report import EpochReport
from gpucnn.cli.run_directory import RunDirectory, default_path
from gpucnn.network import PRECISIONS

INTERRUPTED = 130  # the exit code by which shells know Ctrl-C
COUNT = click.IntRange(min=1)
RATE = click.FloatRange(min=0, min_open=True)
SHARE = click.FloatRange(min=0)


@click.command()
@data_option
@model_option
@loss_option
@click.option("--epochs", type=COUNT, metavar="N",
              help="[default: as many as show 200,000 samples, at least 6: 40 for the digits]")
@click.option("--batch-size", type=COUNT, default=64, show_default=True, metavar="N",
              help="1 trains online, as the original did.")
@click.option("--lr", type=RATE, metavar="X",
              help="Learning rate. [default: for sgd with cross_entropy 0.05 * batch / 64, at most "
                   "0.1; for sgd with mse 0.005 * batch, at most 0.02; for adam 0.002]")
@click.option("--momentum", type=click.FloatRange(0, 1, max_open=True), metavar="X",
              help="Of sgd. [default: 0.9 with cross_entropy, 0 with mse]")
@click.option("--weight-decay", type=SHARE, metavar="X",
              help="[default: 5e-4 with sgd and cross_entropy, else 0]")
@click.option("--optimizer", type=click.Choice(["sgd", "adam"]), default="sgd", show_default=True)
@click.option("--schedule", type=click.Choice(list(SCHEDULES)), default="cosine",
              show_default=True, help="Of the learning rate; step is x0.8 every 2 epochs.")
@click.option("--shift", type=click.IntRange(min=0), metavar="N",
              help="Move each image by up to N pixels, anew in each epoch. "
                   "[default: 1 with cross_entropy, 0 with mse]")
@seed_option
@device_option
@threads_option
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32",
              show_default=True)
@click.option("--precision", type=click.Choice(PRECISIONS), default="float32", show_default=True,
              help="Of products on a GPU: tf32 is quicker, on tensor cores, and rounds to about "
                   "three decimal digits.")
@click.option("--validation", type=COUNT, metavar="N",
              help="Hold out the last N training samples and measure each epoch on them; the test "
                   "set is then used once, at the end.")
@click.option("--early-stopping", type=COUNT, metavar="N",
              help="Stop after N epochs without a new lowest validation error, and go back to the "
                   "lowest. Needs --validation.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR",
              help="Where to write. [default: runs/<model>-<data>-<date and time>]")
@click.option("--resume", is_flag=True,
              help="Go on with the run in --out, with its own options, to the same result.")
@click.option("--quiet", is_flag=True, help="Print the test error alone.")
@click.pass_context
def train(context, out, resume, quiet, device, threads, **options):
    """Train a network.

    Writes the network, its history and pictures to a directory of the run.

    With no arguments LeNet-5 learns the digits that come with the package: cross-entropy, momentum,
    a cosine of the learning rate, shifts of one pixel; about a minute on two CPU cores. The
    original's way is --batch-size 1 --loss mse.
    """
    plots.require_matplotlib()
    if resume:
        if out is None:
            raise click.UsageError("--resume: expected --out DIR with it, the run to go on with")
        options = _options_of_the_run(context, options, RunDirectory(out).settings())
    elif out is not None:
        RunDirectory(out).check_unused()
    training, test, data_name = load_data(options["data"])
    held_out = None
    if options["validation"] is not None:
        training, held_out = training.split(options["validation"])
    settings = complete(options, len(training))
    network = make_network(settings["model"], settings["loss"], training.classes,
                           seed=settings["seed"], dtype=settings["dtype"], device=device)
    network.checked_threads(threads)  # before anything is written
    network.checked_precision(settings["precision"])
    run = RunDirectory(out or default_path(settings["model"], data_name))
    console = make_console(quiet=quiet)
    console.print(_heading(network, training, held_out, test, data_name, settings), soft_wrap=True)
    if not resume:
        run.begin(_without_relative_paths(settings))
    answers = _train(context, network, training, held_out, test, settings, run, console, resume,
                     threads)
    wrong = int(np.count_nonzero(answers != test.labels))
    click.echo(describe_error(wrong, len(test)))
    console.print(f"\nwritten to {run.path}\n{run.listing()}", soft_wrap=True)


def _train(context, network, training, held_out, test, settings, run, console, resume, threads):
    """Train, write the results, and return the answers to the test images."""
    report = EpochReport(console, settings["epochs"], len(training), _name(held_out))
    try:
        history = gpucnn.fit(
            network, training, test if held_out is None else held_out, epochs=settings["epochs"],
            batch_size=settings["batch_size"], loss=settings["loss"],
            optimizer=make_optimizer(settings), schedule=make_schedule(settings),
            shift=settings["shift"], seed=settings["seed"],
            early_stopping=settings["early_stopping"], checkpoint=run.checkpoint, resume=resume,
            progress=report, threads=threads, precision=settings["precision"])
        answers = network.predict(test.images, threads=threads)
        run.finish(network, history, test, answers, _name(held_out))
    except KeyboardInterrupt:
        click.echo(f"\nInterrupted in epoch {report.epoch} of {settings['epochs']}. To go on: "
                   f"gpucnn train --resume --out {shlex.quote(str(run.path))}", err=True)
        context.exit(INTERRUPTED)
    return answers


def _name(held_out):
    """What the set is called by which each epoch is measured."""
    return "test" if held_out is None else "validation"


def _options_of_the_run(context, options, saved):
    """The options of a run that is resumed: its own, but for those that are given anew."""
    parameters = {parameter.name: parameter for parameter in context.command.params}
    given = {name for name in options
             if context.get_parameter_source(name) is not ParameterSource.DEFAULT}
    return options | {
        name: None if value is None else parameters[name].type_cast_value(context, value)
        for name, value in saved.items() if name in options and name not in given}


def _without_relative_paths(settings):
    """The settings as they are noted: a data directory is found from wherever one resumes."""
    if settings["data"] in COLLECTIONS:
        return settings
    return settings | {"data": str(Path(settings["data"]).resolve())}


def _heading(network, training, held_out, test, data_name, settings):
    """What is going to be trained, on what, where and how."""
    maps, height, width = training.image_shape
    sets = f"{len(training):,} training" + (
        f", {len(held_out):,} validation" if held_out else "") + f" and {len(test):,} test images"
    return (f"{describe_device(network)}\n"
            f"data    {data_name}: {sets} of {maps} x {height} x {width}, "
            f"{training.classes} classes\n"
            f"recipe  {describe(settings)}\n\n{network.summary()}\n")
