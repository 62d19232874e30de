"""What is raced: a recipe of training, on data of the user's choice, epoch by epoch."""

import functools
import time
from dataclasses import dataclass, field

import numpy as np

from benchmarks.models import MODELS
from benchmarks.shifts import shifted_copies
from benchmarks.sides import BenchmarkError
from benchmarks.task import Task
from gpucnn.schedules import Cosine


@dataclass(frozen=True)
class RaceTask(Task):
    """Training `model` on `data`, as `gpucnn train --data` takes it, by the recipe that reaches 1 %
    of test error on MNIST in three epochs with every seed tried: cross entropy, SGD with momentum,
    a cosine of the learning rate down to 0, shifts of one pixel."""

    batch_size: int = 64
    weight_decay: float = 1e-3
    shift: int = 1
    data: str = "mnist"
    epochs: int = 3
    peak_rate: float = 0.06
    scheduled: bool = field(default=True, init=False)

    @property
    def learning_rate(self):
        """That of the first step."""
        return self.peak_rate

    def settings(self, side, cores):
        return side.race_settings(self.device, cores)

    def worker(self, side, keywords):
        return Racer(self, side.Trainer(self, **keywords))

    def dataset(self):
        """The training set."""
        return _load(self.data)[0]

    def test_set(self):
        return _load(self.data)[1]

    def padded_test_pictures(self):
        """(images, labels) of the test set in the network's size, uint8 and int32."""
        test = self.test_set()
        return shifted_copies(test.images, self.network().input_shape[1:]), np.array(test.labels)

    def initial_values(self, seed):
        """The parameters that a seed's training begins with."""
        return MODELS[self.model].build(seed=seed, device="cpu").parameter_values()

    def epoch(self, seed, number):
        """(order, shifts, rates) of epoch 1, 2, ..., drawn as `gpucnn.fit` draws them: int32 (n,),
        int32 (n, 2), and the learning rate of each batch."""
        samples = len(self.dataset())
        generator = np.random.Generator(np.random.Philox(key=[seed, number]))
        order = generator.permutation(samples).astype(np.int32)
        shifts = generator.integers(-self.shift, self.shift + 1, (samples, 2)).astype(np.int32)
        steps = -(-samples // self.batch_size)
        factors = Cosine().factors(np.arange((number - 1) * steps, number * steps), steps,
                                   self.epochs * steps)
        return order, shifts, self.peak_rate * factors


class Racer:
    """A side's trainer, raced from the initial values of one seed after the other."""

    def __init__(self, task, trainer):
        self._task = task
        self._trainer = trainer
        self.versions = trainer.versions

    def begin(self, seed):
        """Go to a seed's initial values, with its orders, shifts and rates drawn; returns the
        parameters as they are on the device."""
        self._trainer.reset(self._task.initial_values(seed))
        self._epochs = [self._task.epoch(seed, number)
                        for number in range(1, self._task.epochs + 1)]
        return self._trainer.parameters()

    def rehearse(self):
        """An epoch and a test to throw away: whatever is compiled, captured or allocated."""
        self._trainer.train(*self._epochs[0])
        self._trainer.misread()

    def after(self, steps):
        """The parameters behind the first steps of the seed's training."""
        order, shifts, rates = self._epochs[0]
        samples = min(steps * self._task.batch_size, len(order))
        self._trainer.train(order[:samples], shifts[:samples],
                            rates[:-(-samples // self._task.batch_size)])
        return self._trainer.parameters()

    def race(self, target):
        """(seconds since the start, test error in per cent) behind each epoch, up to the first with
        an error of at most `target`; the time of testing counts."""
        count, laps = len(self._task.test_set()), []
        start = time.perf_counter()
        for epoch in self._epochs:
            self._trainer.train(*epoch)
            error = 100 * self._trainer.misread() / count
            laps.append((time.perf_counter() - start, error))
            if error <= target:
                break
        return laps


@functools.cache
def _load(data):
    """The training set and the test set of `--data`."""
    try:
        from gpucnn.cli.options import load_data
    except ImportError as error:
        raise BenchmarkError(f"--race: expected the packages of gpucnn train to be installed "
                             f"(pip install gpucnn[cli]), got {error}") from error
    return load_data(data)[:2]
