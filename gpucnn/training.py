"""Training a network on a data set, and measuring it."""

import csv
import io
import logging
import time
import zlib
from dataclasses import asdict, dataclass, fields
from math import isfinite
from pathlib import Path

import numpy as np

from gpucnn.checkpoint import TrainingState, load_training, save_training
from gpucnn.errors import ArgumentError, TrainingError
from gpucnn.files import write_atomically
from gpucnn.losses import get_loss
from gpucnn.optimizers import SGD
from gpucnn.progress import choose_progress
from gpucnn.shapes import whole_number
from gpucnn.training_checks import (
    as_dataset,
    as_validation,
    check_measurable,
    checked_course,
    checked_seed,
    warn_of_output,
)

logger = logging.getLogger("gpucnn")

DEFAULT = SGD(lr=0.05, momentum=0.9)  # the optimiser unless one is given
# What a checkpoint that does not name it was trained with.
UNNAMED_SETTINGS = {"precision": "float32"}


@dataclass(frozen=True)
class EpochRecord:
    """One epoch: seconds since training began, mean loss and error in per cent on the training
    set (of each batch before its own update), error in per cent on the validation set or None."""

    epoch: int
    seconds: float
    train_loss: float
    train_error: float
    test_error: float | None


class History(list):
    """The `EpochRecord`s of a training run, in order."""

    def save_csv(self, path):
        """Write columns epoch, seconds, train_loss, train_error, test_error; errors in per cent."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(field.name for field in fields(EpochRecord))
        for record in self:
            writer.writerow("" if value is None else f"{value:.6g}"
                            for value in asdict(record).values())
        write_atomically(path, text.getvalue().encode())


def evaluate(network, dataset, *, batch_size=256, threads=None):
    """The share of `dataset`'s samples that `network`, or an `Ensemble`, gets wrong, in per cent.

    dataset: a `Dataset`, or (images, labels). batch_size, threads: as in `Network.outputs`. Raises
    `DataError` if it is empty or a label is
    beyond the network's outputs, `ShapeError` if its images give more than one answer each.
    """
    dataset = as_dataset(dataset, "evaluate")
    check_measurable(network, dataset, "evaluate")
    answers = network.predict(dataset.images, batch_size=batch_size, threads=threads)
    return 100 * int(np.count_nonzero(answers != dataset.labels)) / len(dataset)


def fit(network, train, validation=None, *, epochs, batch_size=64, loss="cross_entropy",
        optimizer=None, schedule=None, shift=0, seed=0, shuffle=True, early_stopping=None,
        checkpoint=None, resume=False, progress=None, on_epoch=None, threads=None,
        precision="float32"):
    """Train `network` in place; returns the `History`.

    train, validation: a `Dataset`, or (images, labels). uint8 images are scaled to the network's
        `input_range`; floats of the network's type are taken as they are, so that train, validation
        and later predictions must be scaled alike. Images stay on the device as they are; a batch
        is gathered, scaled and padded there.
    epochs: how many times to go through `train`. batch_size: 1 (online) to the whole set.
    loss: "cross_entropy" (with linear outputs) or "mse" (with squashed ones), or a loss object.
    optimizer: `SGD(...)` or `Adam(...)`; SGD(lr=0.05, momentum=0.9) unless given.
    schedule: a factor on its rate by step: `Constant()` (unless given), `StepDecay()`, `Cosine()`.
    shift: each image is moved by up to this many pixels along both axes, anew in each epoch.
    seed: of the orders and shifts (Philox of seed and epoch), the same on every device.
    early_stopping: stop after this many epochs without a new lowest validation error, and go back
        to the parameters of the lowest.
    checkpoint: a file that is rewritten after each epoch. With `resume` and that file there,
        training goes on behind its last epoch and ends as if it had never stopped; all else must be
        as it was.
    progress: True for a progress bar (needs rich), False for none; unless given, one is shown if
        rich is installed and the output is a terminal.
    on_epoch: called with each `EpochRecord`.
    threads: how many threads of the CPU work, as many as the process has cores unless given, and
        once training has lasted about a second how many processes; the result is the same.
    precision: "float32", or on a GPU "tf32", as in `Network.compile_step`.

    Raises `DataError`, `ShapeError`, `DTypeError` or `ArgumentError` before anything is changed,
    and `TrainingError` if the loss stops being finite.
    """
    train = as_dataset(train, "fit")
    validation = as_validation(validation, [network], "fit")
    course = checked_course(network, len(train), "fit", epochs=epochs, batch_size=batch_size,
                            schedule=schedule, shift=shift, shuffle=shuffle)
    if early_stopping is not None:
        early_stopping = whole_number(early_stopping, "fit: early_stopping", least=1)
        if validation is None:
            raise ArgumentError("fit: expected a validation set with early_stopping, got none")
    loss = get_loss(loss)
    warn_of_output(network, loss, "fit")
    run = _Run(network, train, validation, course, loss=loss, optimizer=optimizer or DEFAULT,
               seed=checked_seed(seed, "fit"), early_stopping=early_stopping, threads=threads,
               precision=precision)
    if checkpoint is not None:
        run.attach(Path(checkpoint), resume)
    with choose_progress(progress, epochs, len(train)) as bar:
        run.go(bar, on_epoch)
    return run.history


class _Run:
    """One training run: its settings, its plan, and what it has reached."""

    def __init__(self, network, train, validation, course, *, loss, optimizer, seed, early_stopping,
                 threads, precision):
        self._network = network
        self._validation = validation
        self._course = course
        self._seed = seed
        self._patience = early_stopping
        self._optimizer = optimizer
        self._threads = threads
        self._plan = network.compile_step(loss=loss, optimizer=optimizer,
                                          batch_size=course.batch_size, threads=threads,
                                          precision=precision)
        self._data = self._plan.load(train)
        self._checkpoint = None
        self._best = None
        self.history = History()
        self._settings = {
            "epochs": course.epochs, "batch_size": course.batch_size, "loss": repr(loss),
            "optimizer": repr(optimizer), "schedule": repr(course.schedule),
            "shift": course.shift, "seed": seed, "shuffle": course.shuffle,
            "early_stopping": early_stopping, "precision": precision, "samples": len(train),
            "training set": _fingerprint(train),
            "validation set": None if validation is None else _fingerprint(validation)}
        logger.info("training on %s with %s", network.device, self._settings)

    def attach(self, path, resume):
        """Write checkpoints to `path`, and go on from the one there if told to."""
        self._checkpoint = path
        if not path.parent.is_dir():
            raise FileNotFoundError(f"fit: expected a directory for checkpoint {path}, got none at "
                                    f"{path.parent}")
        if not path.exists():
            return
        if not resume:
            raise ArgumentError(f"fit: expected no file at checkpoint {path} unless resume=True; "
                                f"resume it, remove it or name another")
        state = load_training(path, self._network)
        there = UNNAMED_SETTINGS | state.settings
        different = [f"{name} {there.get(name)!r} there, {value!r} here"
                     for name, value in self._settings.items() if there.get(name) != value]
        if different:
            raise ArgumentError(f"fit: expected the settings of checkpoint {path}, got others: "
                                f"{'; '.join(different)}")
        self._network.set_parameters(state.parameters)
        for name, array in self._plan.state.items():
            self._network.backend.from_host(state.optimizer[name], array)
        self._plan.steps = state.steps
        self._best = state.best
        self.history = History(EpochRecord(**record) for record in state.records)

    def go(self, bar, on_epoch):
        """Train the epochs that are left."""
        with np.errstate(over="ignore", invalid="ignore"):  # what diverges is told once, below
            self._go(bar, on_epoch)

    def _go(self, bar, on_epoch):
        before = self.history[-1].seconds if self.history else 0.0
        start = time.perf_counter()
        for epoch in range(len(self.history) + 1, self._course.epochs + 1):
            if self._given_up():
                break
            bar.begin(epoch)
            loss, error = self._train(epoch, bar.advance)
            if not isfinite(loss):
                raise TrainingError(f"fit: expected a finite loss, got {loss} in epoch {epoch}: "
                                    f"training diverged; lower the learning rate")
            test_error = (None if self._validation is None
                          else evaluate(self._network, self._validation,
                                        threads=self._threads))
            record = EpochRecord(epoch, before + time.perf_counter() - start, loss, error,
                                 test_error)
            self.history.append(record)
            self._keep_best()
            self._save()
            bar.end(record)
            if on_epoch is not None:
                on_epoch(record)
        if self._best is not None:
            self._network.set_parameters(self._best)

    def _train(self, epoch, progress):
        order, shifts = self._course.draw(self._seed, epoch)
        rates = self._course.rates(self._optimizer.lr, epoch)
        return self._plan.epoch(self._data, order, shifts, rates, progress)

    def _lowest(self):
        """The place in the history of the first lowest validation error."""
        return int(np.argmin([record.test_error for record in self.history]))

    def _given_up(self):
        return (self._patience is not None and bool(self.history)
                and len(self.history) - 1 - self._lowest() >= self._patience)

    def _keep_best(self):
        if self._patience is not None and self._lowest() == len(self.history) - 1:
            self._best = self._network.parameter_values()

    def _save(self):
        if self._checkpoint is None:
            return
        to_host = self._network.backend.to_host
        save_training(self._checkpoint, self._network, TrainingState(
            settings=self._settings, steps=self._plan.steps,
            records=[asdict(record) for record in self.history],
            parameters=self._network.parameter_values(),
            optimizer={name: to_host(array) for name, array in self._plan.state.items()},
            best=self._best))


def _fingerprint(dataset):
    """A number that tells data sets apart (not a cryptographic one)."""
    return zlib.crc32(dataset.labels, zlib.crc32(dataset.images))
