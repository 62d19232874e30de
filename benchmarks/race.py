"""The race: wall-clock seconds from random weights to a test error, on every side.

    python -m benchmarks.lenet --race --device cuda --peer torch,jax --data mnist --seeds 5

benchmarks/README.md says what is measured, and `race_task.py` by which recipe.
"""

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from math import inf, isinf
from statistics import median

from benchmarks import report
from benchmarks.agreement import CHECKED_STEPS, close_parameters, same_parameters
from benchmarks.machine import cores, machine
from benchmarks.models import MODELS
from benchmarks.precisions import precisions
from benchmarks.processes import Process
from benchmarks.race_task import RaceTask
from benchmarks.sides import OURS, RACE_PEERS, BenchmarkError, side


@dataclass(frozen=True)
class Result:
    """How one side's setting ran: for each seed the laps, (seconds, test error) behind each epoch.

    target: the error, in per cent, to be reached.
    """

    side: str
    setting: str
    precision: str
    target: float
    laps: tuple

    @property
    def seconds(self):
        """For each seed the seconds to the target, infinite where it was not reached."""
        return [laps[-1][0] if laps[-1][1] <= self.target else inf for laps in self.laps]

    @property
    def median(self):
        return median(self.seconds)

    @property
    def epochs(self):
        """The median number of epochs that were run."""
        return median(len(laps) for laps in self.laps)

    @property
    def reached(self):
        """With how many seeds it reached the target."""
        return sum(seconds < inf for seconds in self.seconds)


def run(options):
    """Race as the command line's options say, print a table, and write `options.out`; returns the
    results. Raises `BenchmarkError`."""
    unknown = [name for name in options.peer if name not in RACE_PEERS]
    if unknown:
        raise BenchmarkError(f"--race: expected some of {', '.join(RACE_PEERS)} as --peer, got "
                             f"{', '.join(unknown)}")
    here, task = machine(), RaceTask(options.model, device=options.device, data=options.data)
    task.network().checked_images(task.dataset().images[:1])  # before any process is started
    print(report.heading(options, here,
                         f"seconds from random weights to a test error of {options.target:g} %; "
                         f"medians over seeds: {options.seeds}"), flush=True)
    results, versions = race(task, options.peer, range(options.seeds), options.target)
    print(f"{report.versions_line(versions)}\n{describe(task)}\n\n{table(results)}\n\n"
          f"{verdict(results, task.device)}")
    if options.out is not None:
        report.save(options.out, {
            "model": options.model, "device": options.device, "data": options.data,
            "target": options.target, "seeds": options.seeds, "machine": here,
            "results": [asdict(result) for result in results]})
    return results


def race(task, peers, seeds, target):
    """(a `Result` for each setting of each side, ours first; their versions).

    Each has compiled everything and holds the data on the device; they race one after the other,
    forwards and backwards in turn, from the same initial values, with the same orders and shifts.
    """
    with ExitStack() as stack:
        racers = [stack.enter_context(Process(name, setting, keywords, task))
                  for name in (OURS, *peers)
                  for setting, keywords in task.settings(side(name), cores()).items()]
        for racer in racers:
            racer.ask("begin", seeds[0])
            racer.ask("rehearse")
        _check_training(racers, seeds[0], MODELS[task.model].tolerances)
        laps = {racer: [] for racer in racers}
        for number, seed in enumerate(seeds):
            _begin(racers, seed)
            for racer in racers if number % 2 == 0 else reversed(racers):
                laps[racer].append(tuple(racer.ask("race", target)))
        return ([Result(racer.name, racer.setting, racer.precision, target, tuple(laps[racer]))
                 for racer in racers], [racer.ask("versions") for racer in racers])


def _begin(racers, seed):
    """Bring all to a seed's initial values; raises `BenchmarkError` if they are not the same."""
    ours, *others = [(racer, racer.ask("begin", seed)) for racer in racers]
    for racer, values in others:
        same_parameters(racer, values, ours[1])


def _check_training(racers, seed, tolerances):
    """Raise `BenchmarkError` unless all train alike for some steps, shifts and rates included."""
    _begin(racers, seed)
    ours, *others = [(racer, racer.ask("after", CHECKED_STEPS)) for racer in racers]
    for racer, values in others:
        close_parameters(racer, values, ours[1], tolerances)


def describe(task):
    """The recipe as one line."""
    return (f"recipe: {task.data}, up to {task.epochs} epochs, batch size {task.batch_size}, "
            f"cross_entropy, sgd lr {task.peak_rate:g} momentum {task.momentum:g} weight decay "
            f"{task.weight_decay:g}, cosine schedule, shift {task.shift}")


def table(results):
    """A row for each setting; the ratio is to our setting of the same precision."""
    lines = ["| side | setting | precision | seconds | range | epochs | target reached "
             f"| seconds / {OURS} |", f"|{' --- |' * 8}"]
    for one in results:
        seconds = one.seconds
        lines.append(
            f"| {one.side} | {one.setting} | {one.precision} | {_seconds(one.median)} "
            f"| {_seconds(min(seconds))} to {_seconds(max(seconds))} | {one.epochs:g} "
            f"| {one.reached} of {len(seconds)} "
            f"| {_ratio(one, best(results, ours=True, precision=one.precision))} |")
    return "\n".join(lines)


def verdict(results, device):
    """How many times as long the best peer takes as we do, in each precision and in any."""
    lines = []
    for precision in (*precisions(device), None)[:None if device != "cpu" else 1]:
        ours, theirs = (best(results, ours=chosen, precision=precision)
                        for chosen in (True, False))
        if theirs is not None:
            lines.append(f"best peer{f' in {precision}' if precision else ' of any precision'}: "
                         f"{theirs.side}, {theirs.setting}: {_seconds(theirs.median, ' s')}, "
                         f"{OURS} {_seconds(ours.median, ' s')}, ratio {_ratio(theirs, ours)}")
    return "\n".join(lines) or "no peer took part"


def best(results, *, ours, precision=None):
    """The result with the least median, ours or the peers', in a precision or in any; or None."""
    return min((one for one in results if (one.side == OURS) == ours
                and precision in (None, one.precision)), key=lambda one: one.median, default=None)


def _seconds(value, unit=""):
    return "not reached" if isinf(value) else f"{value:.3g}{unit}"


def _ratio(theirs, ours):
    """The median over the seeds of their seconds divided by ours; "-" where either failed."""
    if isinf(ours.median) or isinf(theirs.median):
        return "-"
    quotients = map(_quotient, theirs.seconds, ours.seconds)
    return f"{median(quotients):.2f}"


def _quotient(theirs, ours):
    """A seed with which we did not reach the target is lost, whoever else did not."""
    return 0.0 if isinf(ours) else theirs / ours
