"""Sides against each other: each in a process of its own, measured in alternating windows."""

from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

from benchmarks.machine import cores
from benchmarks.precisions import FLOAT32
from benchmarks.processes import Process
from benchmarks.sides import OURS, side, supports


@dataclass(frozen=True)
class Measurement:
    """What one side reached with one of its settings: samples per second in each round."""

    side: str
    setting: str
    rates: tuple
    versions: dict
    precision: str = FLOAT32

    @property
    def median(self):
        return median(self.rates)


@dataclass(frozen=True)
class Comparison:
    """The measurements of one task, and how far apart the sides' numbers were before.

    size: what tells tasks of one table apart, a batch size or a number of images. agreement: what
    the task's `agreement` found. `precision` is that of the settings that are looked at, or None
    for all of them.
    """

    size: int
    measurements: tuple
    agreement: dict

    def best(self, name, precision=None):
        """A side's measurement with its best setting, or None if it took no part."""
        return self._best(lambda side: side == name, precision)

    def best_peer(self, precision=None):
        """The measurement of the best setting of all peers, or None if none took part."""
        return self._best(lambda side: side != OURS, precision)

    def ratios(self, peer, precision=None):
        """Ours divided by the peer's best, round by round."""
        return ratios(self.best(OURS, precision), self.best(peer, precision))

    def _best(self, chosen, precision):
        return max((one for one in self.measurements
                    if chosen(one.side) and precision in (None, one.precision)),
                   key=lambda one: one.median, default=None)


def ratios(ours, theirs):
    """The rates of one measurement divided by those of another, round by round."""
    return [rate / other for rate, other in zip(ours.rates, theirs.rates, strict=True)]


def compare(task, peers, *, seconds, rounds):
    """Check that this library and `peers` compute the same numbers, then measure them by turns.

    Each setting of each side gets a window of about `seconds` in every one of `rounds` rounds,
    which go through the settings forwards and backwards in turn. Peers that do not support the task
    are left out. Raises `BenchmarkError`.
    """
    with ExitStack() as stack:
        # They start together, but what they compile and tune, at their first steps, is one after
        # the other's: libraries choose algorithms by timing them.
        sides = [stack.enter_context(Process(name, setting, keywords, task))
                 for name in (OURS, *peers) if supports(name, task)
                 for setting, keywords in task.settings(side(name), cores()).items()]
        agreement = task.agreement(sides)
        windows = [process.ask("warm_up", seconds) for process in sides]
        rates = {process: [] for process in sides}
        for number in range(rounds):
            turns = list(zip(sides, windows, strict=True))
            for process, samples in turns if number % 2 == 0 else reversed(turns):
                rates[process].append(samples / process.ask("window", samples))
        return Comparison(task.size, tuple(
            Measurement(process.name, process.setting, tuple(rates[process]),
                        process.ask("versions"), process.precision)
            for process in sides), agreement)
