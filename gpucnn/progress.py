"""Progress bars of training, drawn by rich where it is installed."""

import importlib.util
import sys
import time

from gpucnn.errors import MissingDependencyError

SECONDS_BETWEEN_UPDATES = 0.1  # an update takes as long as a step at batch 1


class NoProgress:
    """Shows nothing."""

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        return False

    def begin(self, epoch):
        """An epoch begins."""

    def advance(self, samples):
        """A batch of `samples` has been trained."""

    def end(self, record):
        """An epoch ends with its `EpochRecord`."""


class RichProgress(NoProgress):
    """A bar for the epoch that runs: samples, samples per second, time left in the epoch, and the
    last epoch's errors."""

    def __init__(self, epochs, samples, console=None):
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._epochs = epochs
        self._samples = samples
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
            TextColumn("{task.fields[result]}"),
            console=console or Console(stderr=True), transient=True)
        self._task = self._progress.add_task("", total=samples, rate="", result="")

    def __enter__(self):
        self._progress.start()
        return self

    def __exit__(self, *exception):
        self._progress.stop()
        return False

    def begin(self, epoch):
        self._start = time.monotonic()
        self._waiting, self._trained, self._next_update = 0, 0, 0.0
        self._progress.reset(self._task, description=f"epoch {epoch}/{self._epochs}")

    def advance(self, samples):
        self._waiting += samples
        if time.monotonic() < self._next_update:
            return
        self._update()
        self._next_update = time.monotonic() + SECONDS_BETWEEN_UPDATES

    def end(self, record):
        result = f"train {record.train_error:.2f} %"
        if record.test_error is not None:
            result += f", validation {record.test_error:.2f} %"
        self._update(result=result)

    def _update(self, **fields):
        """Show what has been trained, as a number and as a rate since the epoch began."""
        self._trained += self._waiting
        rate = self._trained / max(time.monotonic() - self._start, 1e-9)
        self._progress.update(self._task, advance=self._waiting, rate=f"{rate:,.0f} samples/s",
                              **fields)
        self._waiting = 0


def choose_progress(wanted, epochs, samples):
    """The bar for `fit`'s argument `progress`: True, False, None (one if it can be seen), or a
    progress object of the caller's.

    Raises `MissingDependencyError` if one is demanded and rich is missing.
    """
    if isinstance(wanted, NoProgress):
        return wanted
    installed = importlib.util.find_spec("rich") is not None
    if wanted and not installed:
        raise MissingDependencyError("progress=True: expected the package rich, which is not "
                                     "installed: pip install gpucnn[cli]")
    if wanted or (wanted is None and installed and sys.stderr.isatty()):
        return RichProgress(epochs, samples)
    return NoProgress()
