"""The course of a training run: in which order, how shifted and at which rates it trains."""

from dataclasses import dataclass

import numpy as np

from gpucnn.schedules import Constant, Cosine, StepDecay


@dataclass(frozen=True)
class Course:
    """Epochs of batches of `samples` samples; the same for every network that is trained so.

    shift: the largest shift in pixels along each axis. shuffle: whether orders are drawn or as the
    samples lie.
    """

    samples: int
    epochs: int
    batch_size: int
    schedule: Constant | Cosine | StepDecay
    shift: int
    shuffle: bool

    @property
    def batches(self):
        """How many batches an epoch has; the last may be smaller."""
        return -(-self.samples // self.batch_size)

    def draw(self, seed, epoch):
        """(order, shifts) of epoch 1, 2, ...: (samples,), and (samples, 2) or None, from the
        stream of this seed and epoch (Philox)."""
        generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
        order = generator.permutation(self.samples) if self.shuffle else np.arange(self.samples)
        shifts = None
        if self.shift:
            shifts = generator.integers(-self.shift, self.shift + 1, (self.samples, 2))
        return order, shifts

    def rates(self, rate, epoch):
        """The rate of each batch of epoch 1, 2, ..., if the optimiser's own is `rate`."""
        numbers = np.arange((epoch - 1) * self.batches, epoch * self.batches)
        return rate * self.schedule.factors(numbers, self.batches, self.epochs * self.batches)
