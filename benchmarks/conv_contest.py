"""Both sides of a convolution against each other, in alternating windows."""

import importlib
import time
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

import numpy as np

from benchmarks.machine import cores
from benchmarks.precisions import FLOAT32, TOLERANCES
from benchmarks.processes import Process
from benchmarks.sides import OURS, BenchmarkError

GROUPED = "torch, grouped"
MODULES = {OURS: "benchmarks.conv_ours", "torch": "benchmarks.conv_torch"}
PAUSE = 0.02    # seconds before a window: idle threads of OpenMP keep their core for 10 ms
HOPELESS = 1.5  # a setting that takes so many times as long as its side's best is not timed on


@dataclass(frozen=True)
class ConvTask:
    """Convolutions on a device, for the processes of one side."""

    device: str
    side: str
    unit: int = 1

    def worker(self, side, keywords):
        """What does the task in a side's process."""
        return importlib.import_module(MODULES[self.side]).Worker(self.device, **keywords)


@dataclass(frozen=True)
class ConvMeasurement:
    """One side's seconds in each round, pass -> seconds, "sum" among them."""

    side: str
    setting: str
    precision: str
    rounds: tuple

    def median(self, name="sum"):
        return median(one[name] for one in self.rounds)


@dataclass(frozen=True)
class Row:
    """The measurements of one case, the largest difference from ours before, and what computes
    ours: precision -> pass -> the name of a kernel or way."""

    measurements: tuple
    differences: dict
    ways: dict

    def best(self, side, precision=None):
        """A side's measurement with its best setting, of one precision or of any; None if it took
        no part."""
        return min((one for one in self.measurements
                    if one.side == side and precision in (None, one.precision)),
                   key=lambda one: one.median(), default=None)

    def ratios(self, ours, peer):
        """Ours divided by a peer's best of any precision, round by round."""
        return [one["sum"] / other["sum"]
                for one, other in zip(ours.rounds, self.best(peer).rounds, strict=True)]


class Contest:
    """Processes of all settings of both sides, which take up one case after the other."""

    def __init__(self, device, peers):
        self._stack = ExitStack()
        self._sides = [(name, self._stack.enter_context(
            Process(name, setting, keywords, ConvTask(device, name))))
            for name in (OURS, *peers)
            for setting, keywords in _module(name).settings(device, cores()).items()]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return self._stack.__exit__(*error)

    def versions(self):
        """Names and versions of what the sides run on."""
        return [process.ask("versions") for _, process in self._sides]

    def row(self, case, *, seconds, rounds):
        """Check that all compute the same numbers, then measure them: a `Row`.

        Raises `BenchmarkError`.
        """
        entrants = [_Entrant(name, process, (case,)) for name, process in self._sides]
        if case.groups > 1:
            entrants += [_Entrant(GROUPED, process, (case, True))
                         for name, process in self._sides if name != OURS]
        differences, reference = {}, entrants[0].results()
        for one in entrants:
            precision = one.process.precision
            differences[precision] = max(differences.get(precision, 0.0), _difference(
                one.results(), reference, f"{one.name}, {one.process.setting}, {case.name}",
                TOLERANCES[precision]))
            one.count(seconds)
        entrants = [one for one in entrants if one.is_worth_it(entrants)]
        rounds_of = {one: [] for one in entrants}
        for number in range(rounds):
            for one in entrants if number % 2 == 0 else reversed(entrants):
                rounds_of[one].append(one.window())
        return Row(tuple(ConvMeasurement(one.name, one.process.setting, one.process.precision,
                                         tuple(rounds_of[one])) for one in entrants), differences,
                   {one.process.precision: one.process.ask("ways") for one in entrants
                    if one.name == OURS})


class _Entrant:
    """A setting of a side in a row; a process may work for two, on different arrays."""

    def __init__(self, name, process, arguments):
        self.name = name
        self.process = process
        self._arguments = arguments

    def results(self):
        self._load()
        return self.process.ask("results")

    def count(self, seconds):
        """Find out how many calls fill a window."""
        self._load()
        found = self.process.ask("count", seconds)
        self._counts = {name: count for name, (count, _) in found.items()}
        once = {name: seconds for name, (_, seconds) in found.items()}
        self._once = _module(self.process.name).seconds(once)["sum"]

    def window(self):
        """Pass -> seconds of a window."""
        self._load()
        time.sleep(PAUSE)
        return _module(self.process.name).seconds(self.process.ask("measure", self._counts))

    def is_worth_it(self, entrants):
        """Whether it might be its side's best of its precision."""
        return self._once <= HOPELESS * min(
            one._once for one in entrants
            if (one.name, one.process.precision) == (self.name, self.process.precision))

    def _load(self):
        if getattr(self.process, "loaded", None) != self._arguments:
            self.process.ask("load", *self._arguments)
            self.process.loaded = self._arguments


def _module(name):
    return importlib.import_module(MODULES[name])


def _difference(results, reference, where, tolerance):
    """The largest norm of a difference over the norm of ours; an error if it is too large."""
    largest = 0.0
    for name, expected in reference.items():
        found = float(np.linalg.norm(results[name] - expected)
                      / (np.linalg.norm(expected) or 1.0))
        if not found <= tolerance:
            raise BenchmarkError(f"{where}: {name}: expected that of {OURS} in {FLOAT32} to "
                                 f"{tolerance:g}, got a difference of {found:.2g}")
        largest = max(largest, found)
    return largest
