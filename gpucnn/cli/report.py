"""What `gpucnn train` prints while it trains: a line for each epoch, a bar for the running one."""

import time

from gpucnn.cli.options import make_console
from gpucnn.progress import NoProgress, RichProgress


class EpochReport(NoProgress):
    """A line on stdout for each epoch, and a bar wherever a terminal can show one.

    The samples per second of a line are those of its whole epoch, measuring the error included.
    """

    def __init__(self, console, epochs, samples, held_out):
        self.epoch = 0
        self._console = console
        self._epochs = epochs
        self._samples = samples
        self._held_out = held_out
        self._bar = _bar(console, epochs, samples)

    def __enter__(self):
        self._bar.__enter__()
        return self

    def __exit__(self, *exception):
        return self._bar.__exit__(*exception)

    def begin(self, epoch):
        self.epoch = epoch
        self._start = time.perf_counter()
        self._bar.begin(epoch)

    def advance(self, samples):
        self._bar.advance(samples)

    def end(self, record):
        rate = self._samples / (time.perf_counter() - self._start)
        width = len(str(self._epochs))
        self._console.print(
            f"epoch {record.epoch:>{width}}/{self._epochs}  loss {record.train_loss:.4f}  "
            f"train {record.train_error:5.2f} %  {self._held_out} {record.test_error:5.2f} %  "
            f"{rate:,.0f} samples/s", soft_wrap=True)


def _bar(console, epochs, samples):
    """On the lines' console if that is a terminal, which keeps the two apart; else on stderr."""
    if console.quiet:
        return NoProgress()
    for candidate in (console, make_console(stderr=True)):
        if candidate.is_terminal:
            return RichProgress(epochs, samples, candidate)
    return NoProgress()
