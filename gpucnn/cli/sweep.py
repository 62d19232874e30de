"""`gpucnn sweep`: networks of many settings and seeds trained at once, and the best setting."""

from itertools import product
from pathlib import Path

import click

import gpucnn
from gpucnn import plots
from gpucnn.cli.lists import LONGEST, NumberList, WholeNumberList
from gpucnn.cli.options import (
    data_option,
    describe_device,
    device_option,
    load_data,
    loss_option,
    make_console,
    make_network,
    model_option,
    threads_option,
)
from gpucnn.cli.recipe import SCHEDULES, complete, make_optimizer, make_schedule
from gpucnn.cli.report import EpochReport
from gpucnn.cli.run_directory import default_path
from gpucnn.cli.sweep_results import Result, Setting, SweepDirectory, table
from gpucnn.cli.train import COUNT, INTERRUPTED, RATE, SHARE
from gpucnn.errors import ArgumentError, TrainingError
from gpucnn.network import LARGEST_SEED, PRECISIONS


@click.command()
@data_option
@model_option
@loss_option
@click.option("--lr", type=NumberList(RATE), metavar="X,X,...",
              help="Learning rates. [default: the one of `gpucnn train`]")
@click.option("--seed", "seeds", type=WholeNumberList(click.IntRange(0, LARGEST_SEED)),
              default="0..2", show_default=True, metavar="N,A..B,...",
              help="Seeds of initial values and all that is random: so many networks a setting.")
@click.option("--momentum", type=NumberList(click.FloatRange(0, 1, max_open=True)),
              metavar="X,X,...", help="Of sgd. [default: 0.9 with cross_entropy, 0 with mse]")
@click.option("--weight-decay", type=NumberList(SHARE), metavar="X,X,...",
              help="[default: 5e-4 with sgd and cross_entropy, else 0]")
@click.option("--epochs", type=COUNT, metavar="N",
              help="[default: as many as show 200,000 samples, at least 6: 40 for the digits]")
@click.option("--batch-size", type=COUNT, default=64, show_default=True, metavar="N",
              help="1 trains online, as the original did.")
@click.option("--optimizer", type=click.Choice(["sgd", "adam"]), default="sgd", show_default=True)
@click.option("--schedule", type=click.Choice(list(SCHEDULES)), default="cosine",
              show_default=True, help="Of the learning rate; step is x0.8 every 2 epochs.")
@click.option("--shift", type=click.IntRange(min=0), metavar="N",
              help="Move each image by up to N pixels, anew in each epoch. "
                   "[default: 1 with cross_entropy, 0 with mse]")
@device_option
@threads_option
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32",
              show_default=True)
@click.option("--precision", type=click.Choice(PRECISIONS), default="float32", show_default=True,
              help="Of products on a GPU, as in `gpucnn train`.")
@click.option("--validation", type=COUNT, metavar="N",
              help="Hold out the last N training samples and choose the setting by them; the test "
                   "set is then used once, at the end.")
@click.option("--ensemble", is_flag=True,
              help="Save the best setting's networks as one, and print its error.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR",
              help="Where to write. [default: runs/sweep-<model>-<data>-<date and time>]")
@click.option("--quiet", is_flag=True, help="Print the best setting and its errors alone.")
@click.pass_context
def sweep(context, out, quiet, ensemble, device, threads, **options):
    """Train a grid of settings and seeds.

    Every combination of --lr, --momentum and --weight-decay is trained with every seed, all at
    once, each network to the same result as `gpucnn train` has alone.

    Ends with a table of the settings, the one with the lowest mean error over seeds first, and
    writes each network's errors as CSV and as a picture. A network whose training diverges counts
    as 100 % wrong.
    """
    plots.require_matplotlib()
    directory = None if out is None else SweepDirectory(out)
    if directory is not None:
        directory.check_unused()
    training, test, data_name = load_data(options["data"])
    held_out = None
    if options["validation"] is not None:
        training, held_out = training.split(options["validation"])
    grid = _grid(options, len(training))
    first = _network(grid[0], training, options["seeds"][0], device)
    first.checked_threads(threads)  # before anything is written
    first.checked_precision(options["precision"])
    directory = directory or SweepDirectory(default_path(f"sweep-{options['model']}", data_name))
    console = make_console(quiet=quiet)
    console.print(_heading(first, training, held_out, test, data_name, grid, options),
                  soft_wrap=True)
    directory.begin(options)
    results = _train(context, grid, training, held_out, test, options, device, threads, console)
    _finish(results, held_out, test, directory, ensemble, threads, console)


def _grid(options, samples):
    """The complete settings of each combination, as `gpucnn train` has them."""
    lists = [options[name] or (None,) for name in ("lr", "momentum", "weight_decay")]
    count = len(options["seeds"])
    for values in lists:
        count *= len(values)
    if count > LONGEST:
        raise ArgumentError(f"sweep: expected a grid of at most {LONGEST:,} networks, got "
                            f"{count:,}")
    return [complete(options | {"lr": lr, "momentum": momentum, "weight_decay": weight_decay,
                                "early_stopping": None}, samples)
            for momentum, weight_decay, lr in product(lists[1], lists[2], lists[0])]


def _network(settings, training, seed, device):
    return make_network(settings["model"], settings["loss"], training.classes, seed=seed,
                        dtype=settings["dtype"], device=device)


def _train(context, grid, training, held_out, test, options, device, threads, console):
    """The `Result` of each setting. What `fit_many` trains at once may differ in rate alone."""
    groups = {}
    for settings in grid:
        groups.setdefault((settings["momentum"], settings["weight_decay"]), []).append(settings)
    results = []
    for number, group in enumerate(groups.values(), start=1):
        cells = [(settings, seed) for settings in group for seed in options["seeds"]]
        networks = [_network(settings, training, seed, device) for settings, seed in cells]
        name = "test" if held_out is None else "validation"
        report = EpochReport(console, group[0]["epochs"], len(cells) * len(training), name)
        console.print(f"{_group_name(number, groups, group[0])}means over {len(cells)} networks:",
                      soft_wrap=True)
        try:
            histories = gpucnn.fit_many(
                networks, training, test if held_out is None else held_out,
                epochs=group[0]["epochs"], batch_size=options["batch_size"], loss=options["loss"],
                optimizer=[make_optimizer(settings) for settings, _ in cells],
                schedule=make_schedule(group[0]), shift=group[0]["shift"],
                seed=[seed for _, seed in cells], progress=report, threads=threads,
                precision=options["precision"])
        except KeyboardInterrupt:
            click.echo(f"\nInterrupted in epoch {report.epoch} of {group[0]['epochs']}: no result "
                       f"was written", err=True)
            context.exit(INTERRUPTED)
        console.print()
        size = len(options["seeds"])
        for place, settings in enumerate(group):
            own = slice(place * size, (place + 1) * size)
            results.append(Result(Setting.of(settings), options["seeds"], networks[own],
                                  histories[own], settings["epochs"]))
    return sorted(results, key=lambda result: result.mean)


def _finish(results, held_out, test, directory, ensemble, threads, console):
    """Write the results and print them, the best setting first."""
    best = results[0]
    if not best.trained:
        raise TrainingError("sweep: expected a setting that trains, got losses that are not finite "
                            "for every network: lower --lr")
    chosen_by = "test" if held_out is None else "validation"
    directory.finish(results, chosen_by)
    console.print(table(results, chosen_by))
    console.print()
    click.echo(f"best: {best.setting}")
    errors = best.errors if held_out is None else [
        gpucnn.evaluate(network, test, threads=threads) for network in best.trained]
    click.echo(_describe(errors, len(best.seeds) - len(best.trained)))
    if ensemble:
        together = gpucnn.Ensemble(best.trained)
        together.save(directory.ensemble)
        click.echo(f"test error {gpucnn.evaluate(together, test, threads=threads):.2f} % of the "
                   f"ensemble of {len(together)}")
    if held_out is None and len(results) > 1:
        console.print("The test set has chosen the setting, so that its error is rather too low: "
                      "--validation N holds out training samples to choose by.", soft_wrap=True)
    console.print(f"\nwritten to {directory.path}\n{directory.listing()}", soft_wrap=True)


def _describe(errors, diverged):
    """The line that says how the best setting's networks do on the test set."""
    mean = sum(errors) / len(errors)
    text = f"test error {mean:.2f} %"
    if len(errors) > 1:
        text += f", the mean of {len(errors)} networks: {min(errors):.2f} to {max(errors):.2f} %"
    return text + (f"; {diverged} more diverged" if diverged else "")


def _group_name(number, groups, settings):
    """What the networks of a group have in common, if there are several groups."""
    if len(groups) == 1:
        return ""
    return f"{number} of {len(groups)}: {Setting.of(settings).without_rate()}; "


def _heading(network, training, held_out, test, data_name, grid, options):
    """What is going to be trained, on what, where and how."""
    sets = f"{len(training):,} training" + (
        f", {len(held_out):,} validation" if held_out else "") + f" and {len(test):,} test images"
    settings, seeds = grid[0], options["seeds"]
    return (f"{describe_device(network)}\n"
            f"data    {data_name}: {sets}\n"
            f"recipe  {settings['model']}, {settings['epochs']} epochs, batch size "
            f"{settings['batch_size']}, {settings['loss']}, {settings['optimizer']}, "
            f"{settings['schedule']} schedule, shift {settings['shift']}\n"
            f"grid    {len(grid)} setting{'s' * (len(grid) > 1)}, {len(seeds)} "
            f"seed{'s' * (len(seeds) > 1)}: {len(grid) * len(seeds)} networks\n")
