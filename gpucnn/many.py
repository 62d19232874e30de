"""Training many networks of one shape at once: sweeps, ensembles, cross-validation."""

import time
import warnings
from math import isfinite

import numpy as np

from gpucnn.losses import get_loss
from gpucnn.many_checks import (
    check_same_programs,
    checked_networks,
    checked_optimizers,
    checked_seeds,
)
from gpucnn.plans import check_labels, resident
from gpucnn.progress import choose_progress
from gpucnn.training import DEFAULT, EpochRecord, History, evaluate
from gpucnn.training_checks import as_dataset, as_validation, checked_course, warn_of_output

MOST_NAMED = 8  # networks in a warning; histories show the others


def fit_many(networks, train, validation=None, *, epochs, batch_size=1, loss="cross_entropy",
             optimizer=None, schedule=None, shift=0, seed=0, shuffle=True, progress=None,
             threads=None, precision="float32"):
    """Train all `networks` in place, on one copy of the data; returns a `History` for each.

    Every network ends with the bits, and the history but for its seconds, that `fit` gives it with
    the same settings on the CPU; on a GPU, those of the same plan.

    networks: a list of networks with the same layers, input, type and device; values differ, and
        names may.
    optimizer: one for all, or a list of one each, of one kind; they may differ in `lr` alone.
    seed: of the orders and shifts; one for all, or a list of one each.
    The other arguments are those of `fit`. The progress bar counts the samples of all networks,
    and its errors are means over them.

    A network whose loss stops being finite does not stop the others: its history ends with the last
    epoch before, a warning names it, and its parameters are of no use.

    On a GPU networks are trained side by side where the backend can, else one after the other. On
    the CPU `threads` of them are trained at once, as many as there are cores unless given, to the
    same result. What takes longer than a moment is done by processes started for it, one a thread:
    Python's interpreter runs one thread at a time, and two threads took twice as long at batch 1 as
    one, while two processes took half as long, at batch 64 too.

    Raises what `fit` raises before it trains, and `ArgumentError` with the first difference if
    networks differ in more than values, or optimisers in more than `lr`.
    """
    networks = checked_networks(networks)
    train = as_dataset(train, "fit_many")
    validation = as_validation(validation, networks, "fit_many")
    course = checked_course(networks[0], len(train), "fit_many", epochs=epochs,
                            batch_size=batch_size, schedule=schedule, shift=shift, shuffle=shuffle)
    optimizers = checked_optimizers(optimizer, DEFAULT, len(networks))
    seeds = checked_seeds(seed, len(networks))
    loss = get_loss(loss)
    settings = {"loss": loss, "batch_size": course.batch_size, "precision": precision}
    programs = [network.program(optimizer=own, **settings)
                for network, own in zip(networks, optimizers, strict=True)]
    check_same_programs(programs)
    threads = networks[0].checked_threads(threads)
    warn_of_output(networks[0], loss, "fit_many")
    data = resident(train, programs[0], networks[0].backend)
    compiled = networks[0].backend.compile_many(
        programs[0], [network.parameters.flat for network in networks], threads=threads)
    if compiled is None:
        plans = _OneByOne([network.compile_step(optimizer=own, threads=threads, **settings)
                           for network, own in zip(networks, optimizers, strict=True)])
    else:
        plans = _Together(networks, programs[0], compiled)
    runs = [_Run(network, own.lr, own_seed) for network, own, own_seed
            in zip(networks, optimizers, seeds, strict=True)]
    with (choose_progress(progress, course.epochs, len(networks) * course.samples) as bar,
          np.errstate(over="ignore", invalid="ignore")):  # what diverges is told once, below
        _go(runs, plans, data, validation, course, threads, bar)
    _warn_of_divergence(runs)
    return [run.history for run in runs]


class _Run:
    """One network's run: what it is trained with, and what it has reached."""

    def __init__(self, network, rate, seed):
        self.network = network
        self.rate = rate
        self.seed = seed
        self.history = History()
        self.diverged = None  # in which epoch

    def measure(self, validation, threads):
        """The error on the validation set, or None."""
        if validation is None:
            return None
        error = evaluate(self.network, validation, threads=threads)
        self.network.forget()  # memory for one network's forward pass, not for all
        return error


def _go(runs, plans, data, validation, course, threads, bar):
    start = time.perf_counter()
    for epoch in range(1, course.epochs + 1):
        bar.begin(epoch)
        draws = _for_each(course.draw, [run.seed for run in runs], epoch)
        rates = _for_each(course.rates, [run.rate for run in runs], epoch)
        wanted = [run.diverged is None for run in runs]
        results = plans.epoch(data, draws, rates, wanted, bar.advance)
        for run, result in zip(runs, results, strict=True):
            if run.diverged is None and not isfinite(result[0]):
                run.diverged = epoch
        going = [number for number, run in enumerate(runs) if run.diverged is None]
        if not going:
            return
        errors = {number: runs[number].measure(validation, threads) for number in going}
        seconds = time.perf_counter() - start
        for number in going:
            runs[number].history.append(
                EpochRecord(epoch, seconds, *results[number], errors[number]))
        bar.end(_mean([runs[number].history[-1] for number in going]))


def _for_each(function, keys, *others):
    """function(key, *others) for each of `keys`, called once for equal ones."""
    values = {key: function(key, *others) for key in dict.fromkeys(keys)}
    return [values[key] for key in keys]


class _Together:
    """All networks by one `CompiledMany`; those that have diverged are trained on in vain."""

    def __init__(self, networks, program, compiled):
        self._networks = networks
        self._program = program
        self._compiled = compiled
        self._backend = networks[0].backend
        self._dtype = np.dtype(program.dtype)
        self._states = [program.optimizer.state(self._backend, program.n_parameters, self._dtype)
                        for _ in networks]
        self._losses = self._backend.empty((len(networks),), self._dtype)
        self._steps = 0

    def epoch(self, data, draws, rates, wanted, progress):
        """(mean loss, error in per cent) of every network over one epoch, as of `Plan.epoch`."""
        for network in self._networks:
            network.forget()
        orders = self._upload([order for order, _ in draws], np.int32)
        shifts = None
        if draws[0][1] is not None:
            shifts = self._upload([shifts for _, shifts in draws], np.int32)
        rows = {id(own): self._program.optimizer.scalar_rows(self._steps, own) for own in rates}
        scalars = self._upload([rows[id(own)] for own in rates], self._dtype)
        totals = self._backend.zeros((len(self._networks), 3), np.float64)
        self._compiled.train(data.images, data.labels, orders, shifts, scalars, self._states,
                             self._losses, totals, progress)
        self._steps += len(rates[0])
        totals = self._backend.to_host(totals)
        check_labels(totals.sum(axis=0))
        return [(float(total[0] / len(data)), float(100 * total[1] / len(data)))
                for total in totals]

    def _upload(self, rows, dtype):
        return self._backend.from_host(np.stack([np.asarray(row, dtype) for row in rows]))


class _OneByOne:
    """Each network by a plan of its own, one after the other; those not `wanted` are left out."""

    def __init__(self, plans):
        self._plans = plans

    def epoch(self, data, draws, rates, wanted, progress):
        """(mean loss, error in per cent) of every network over one epoch; None if not wanted."""
        return [plan.epoch(data, *draw, own, progress) if one_wanted else None
                for plan, draw, own, one_wanted
                in zip(self._plans, draws, rates, wanted, strict=True)]


def _mean(records):
    """One record for many networks' same epoch."""
    first = records[0]
    errors = [record.test_error for record in records]
    return EpochRecord(first.epoch, first.seconds,
                       float(np.mean([record.train_loss for record in records])),
                       float(np.mean([record.train_error for record in records])),
                       None if None in errors else float(np.mean(errors)))


def _warn_of_divergence(runs):
    lost = [f"{number} (lr {run.rate:g}, seed {run.seed}) in epoch {run.diverged}"
            for number, run in enumerate(runs) if run.diverged is not None]
    if lost:
        more = f" and {len(lost) - MOST_NAMED} more" if len(lost) > MOST_NAMED else ""
        warnings.warn(f"fit_many: expected finite losses, got others from network "
                      f"{', '.join(lost[:MOST_NAMED])}{more}: training diverged, and their "
                      f"histories end before", RuntimeWarning, stacklevel=3)
