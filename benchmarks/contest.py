"""Sides against each other: each in a process of its own, measured in alternating windows."""

import multiprocessing
import time
import traceback
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from statistics import median

import numpy as np

from benchmarks.machine import cores
from benchmarks.sides import OURS, BenchmarkError, side
from gpucnn.errors import GpucnnError

CHECKED_STEPS = 20
TOLERANCE = 1e-4  # norm of a difference over the norm of ours: float32 summed in other orders


@dataclass(frozen=True)
class Measurement:
    """What one side reached with one of its settings: samples per second in each round."""

    side: str
    setting: str
    rates: tuple
    versions: dict

    @property
    def median(self):
        return median(self.rates)


@dataclass(frozen=True)
class Comparison:
    """The measurements of one batch size, and how far the sides' numbers were apart before."""

    batch_size: int
    measurements: tuple
    loss_difference: float
    parameter_difference: float

    def best(self, name):
        """A side's measurement with its best setting."""
        return max((one for one in self.measurements if one.side == name),
                   key=lambda one: one.median)

    def ratios(self, peer):
        """Ours divided by the peer's best, round by round."""
        return [ours / theirs for ours, theirs in zip(self.best(OURS).rates, self.best(peer).rates,
                                                      strict=True)]


def compare(task, peers, *, seconds, rounds):
    """Check that this library and `peers` train the same numbers, then measure them by turns.

    Each setting of each side gets a window of about `seconds` in every one of `rounds` rounds,
    which go through the settings forwards and backwards in turn. Raises `BenchmarkError`.
    """
    with ExitStack() as stack:
        sides = [stack.enter_context(_Process(name, setting, keywords, task))
                 for name in (OURS, *peers)
                 for setting, keywords in side(name).settings(task.device, cores()).items()]
        differences = _check_numbers(sides)
        windows = [process.ask("warm_up", seconds) for process in sides]
        rates = {process: [] for process in sides}
        for number in range(rounds):
            turns = list(zip(sides, windows, strict=True))
            for process, samples in turns if number % 2 == 0 else reversed(turns):
                rates[process].append(samples / process.ask("window", samples))
        return Comparison(task.batch_size, tuple(
            Measurement(process.name, process.setting, tuple(rates[process]),
                        process.ask("versions")) for process in sides), *differences)


def _check_numbers(sides):
    """The largest differences of losses and of parameters from ours, in the first steps."""
    ours, *peers = [(process, process.ask("parameters"), process.ask("losses", CHECKED_STEPS),
                     process.ask("parameters")) for process in sides]
    loss_difference = parameter_difference = 0.0
    for process, before, losses, after in peers:
        where = f"{process.name}, {process.setting}"
        if set(before) != set(ours[1]) or any(
                not np.array_equal(values, ours[1][name]) for name, values in before.items()):
            raise BenchmarkError(f"{where}: expected the initial parameters of {OURS}, got others")
        loss_difference = max(loss_difference, _difference(losses, ours[2], f"{where}: losses"))
        parameter_difference = max(parameter_difference, *(
            _difference(values, ours[3][name], f"{where}: {name}")
            for name, values in after.items()))
    return loss_difference, parameter_difference


def _difference(values, reference, what):
    difference = np.linalg.norm(np.subtract(values, reference)) / np.linalg.norm(reference)
    if not difference <= TOLERANCE:
        raise BenchmarkError(f"{what}: expected those of {OURS} after {CHECKED_STEPS} steps to "
                             f"{TOLERANCE:g}, got a difference of {difference:.2g}")
    return float(difference)


class _Process:
    """A side's trainer in a process of its own, idle until it is asked."""

    def __init__(self, name, setting, keywords, task):
        self.name = name
        self.setting = setting
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, name, keywords, task),
                                        daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, command, *arguments):
        """The trainer's answer to a command; see `_commands`."""
        try:
            # A process that has failed says why before it closes its end.
            with suppress(BrokenPipeError):
                self._connection.send((command, arguments))
            worked, answer = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            raise BenchmarkError(f"{self.name}, {self.setting}: the process ended with exit code "
                                 f"{self._process.exitcode}") from None
        if not worked:
            raise BenchmarkError(answer)
        return answer

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._connection.close()
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()


def _serve(connection, name, keywords, task):
    """A side's process: build the trainer, answer commands until the connection closes."""
    try:
        commands = _commands(side(name).Trainer(task, **keywords), task.batch_size)
        while True:
            command, arguments = connection.recv()
            connection.send((True, commands[command](*arguments)))
    except (EOFError, KeyboardInterrupt):
        pass
    except (BenchmarkError, GpucnnError) as error:
        _tell(connection, str(error))
    except Exception:
        _tell(connection, f"{name} failed:\n{traceback.format_exc()}")


def _tell(connection, problem):
    """Report a problem, unless the comparison has ended with another side's."""
    with suppress(BrokenPipeError):
        connection.send((False, problem))


def _commands(trainer, batch_size):
    def window(samples):
        """Seconds for training on `samples`."""
        start = time.perf_counter()
        trainer.train(samples)
        return time.perf_counter() - start

    def warm_up(seconds):
        """Train in growing windows up to about half of `seconds`; the samples that fill one."""
        samples = batch_size
        while (elapsed := window(samples)) < seconds / 2:
            samples *= 2
        return batch_size * max(1, round(samples / batch_size * seconds / elapsed))

    return {"losses": trainer.losses, "parameters": trainer.parameters,
            "versions": trainer.versions, "window": window, "warm_up": warm_up}
