"""What a sweep ends with: errors by setting, as a table, as CSV and as a picture."""

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import gpucnn
from gpucnn import plots
from gpucnn.cli.options import ENSEMBLE_FILE
from gpucnn.cli.run_directory import RESULTS as RUN_RESULTS
from gpucnn.cli.run_directory import SETTINGS
from gpucnn.errors import ArgumentError
from gpucnn.files import write_atomically

OPTIONS = "sweep.json"
RESULTS = {
    "sweep.csv": "settings, loss and errors of each network",
    "errors.png": "the errors by setting as a picture",
    ENSEMBLE_FILE: "the best setting's networks, for gpucnn.Ensemble.load",
    OPTIONS: "the options of the sweep",
}
DIVERGED = 100.0  # per cent: what the error of a network counts as whose training has diverged


@dataclass(frozen=True)
class Setting:
    """What a sweep varies; momentum is None without sgd."""

    lr: float
    momentum: float | None
    weight_decay: float

    @classmethod
    def of(cls, settings):
        """That of complete settings."""
        momentum = settings["momentum"] if settings["optimizer"] == "sgd" else None
        return cls(settings["lr"], momentum, settings["weight_decay"])

    def without_rate(self, momentum=True, weight_decay=True):
        """All but the learning rate, or what is asked for of it, as text."""
        words = []
        if momentum and self.momentum is not None:
            words.append(f"momentum {self.momentum:g}")
        if weight_decay:
            words.append(f"weight decay {self.weight_decay:g}")
        return ", ".join(words)

    def __str__(self):
        return f"lr {self.lr:g}, {self.without_rate()}"


class Result:
    """One setting's networks, with a seed and a history each."""

    def __init__(self, setting, seeds, networks, histories, epochs):
        self.setting = setting
        self.seeds = seeds
        self.histories = histories
        finished = [len(history) == epochs for history in histories]
        self.errors_or_none = [history[-1].test_error if done else None
                               for history, done in zip(histories, finished, strict=True)]
        self.trained = [network for network, done in zip(networks, finished, strict=True) if done]

    @property
    def errors(self):
        """The errors of the networks that have not diverged, in per cent."""
        return [error for error in self.errors_or_none if error is not None]

    @property
    def mean(self):
        """The mean error over seeds, in per cent, with 100 for those that have diverged."""
        return fmean(DIVERGED if error is None else error for error in self.errors_or_none)


def table(results, chosen_by):
    """A table for rich, a row for each setting in the order given."""
    from rich import box
    from rich.table import Table

    rows = [_cells(result, chosen_by) for result in results]
    drawn = Table(box=box.SIMPLE_HEAD, show_edge=False,
                  title="means over seeds; spread is the highest less the lowest",
                  title_justify="left")
    headings = [heading for heading in rows[0] if any(row[heading] for row in rows)]
    for heading in headings:
        drawn.add_column(heading, justify="right")
    for row in rows:
        drawn.add_row(*(row[heading] for heading in headings))
    return drawn


def _cells(result, chosen_by):
    """The cells of one setting by their headings; a column of empty ones is not shown."""
    setting, errors = result.setting, result.errors
    return {
        "lr": f"{setting.lr:g}",
        "momentum": "" if setting.momentum is None else f"{setting.momentum:g}",
        "weight decay": f"{setting.weight_decay:g}",
        f"{chosen_by} error %": f"{result.mean:.2f}",
        "lowest": f"{min(errors):.2f}" if errors else "-",
        "spread": f"{max(errors) - min(errors):.2f}" if errors else "-",
        "diverged": str(result.errors_or_none.count(None) or "")}


def as_csv(results, chosen_by):
    """A line for each network; those that have diverged have no error."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["lr", "momentum", "weight_decay", "seed", "epochs", "train_loss",
                     "train_error", f"{chosen_by}_error"])
    for result in results:
        setting = [result.setting.lr, result.setting.momentum, result.setting.weight_decay]
        for seed, history, error in zip(result.seeds, result.histories, result.errors_or_none,
                                        strict=True):
            last = history[-1] if error is not None else None
            values = ["", "", ""] if last is None else [
                f"{value:.6g}" for value in (last.train_loss, last.train_error, error)]
            writer.writerow(["" if value is None else f"{value:g}" for value in setting]
                            + [seed, len(history), *values])
    return text.getvalue()


def picture(results, chosen_by):
    """The errors by learning rate, other settings told apart by colour, as `plots` draws them."""
    settings = [result.setting for result in results]
    varied = {name: len({getattr(setting, name) for setting in settings}) > 1
              for name in ("momentum", "weight_decay")}
    series = {}
    for result in sorted(results, key=lambda result: (
            result.setting.momentum or 0, result.setting.weight_decay, result.setting.lr)):
        series.setdefault(result.setting.without_rate(**varied), []).extend(
            (result.setting.lr, error) for error in result.errors_or_none)
    return plots.errors_by_rate(series, held_out=chosen_by)


class SweepDirectory:
    """One sweep's files. Nothing is written before `begin`, no result before `finish`."""

    def __init__(self, path):
        self.path = Path(path)

    @property
    def ensemble(self):
        """The file for the best setting's networks."""
        return self.path / ENSEMBLE_FILE

    def check_unused(self):
        """Raise `ArgumentError` if a sweep or a run of `gpucnn train` has left results here."""
        if self.path.exists() and not self.path.is_dir():
            raise ArgumentError(f"--out: expected a directory, got the file {self.path}")
        found = [name for name in (*RESULTS, *RUN_RESULTS)
                 if name not in (OPTIONS, SETTINGS) and (self.path / name).exists()]
        if found:
            raise ArgumentError(f"--out: expected a directory without results, got {self.path} "
                                f"with {', '.join(found)}")

    def begin(self, options):
        """Make the directory and note the options."""
        self.path.mkdir(parents=True, exist_ok=True)
        content = {"gpucnn": gpucnn.__version__, "options": options}
        write_atomically(self.path / OPTIONS, (json.dumps(content, indent=2) + "\n").encode())

    def finish(self, results, chosen_by):
        """Write the results of a sweep that has ended."""
        write_atomically(self.path / "sweep.csv", as_csv(results, chosen_by).encode())
        write_atomically(self.path / "errors.png", plots.png(picture(results, chosen_by)))

    def listing(self):
        """The written files with what each is for, a line each."""
        width = max(map(len, RESULTS))
        return "\n".join(f"  {name:<{width}}  {meaning}" for name, meaning in RESULTS.items()
                         if (self.path / name).exists())
