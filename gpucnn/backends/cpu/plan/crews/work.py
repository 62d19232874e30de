"""What a step is to train on."""

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Work:
    """Batches of a data set, as `CompiledStep.train` is given them."""

    images: np.ndarray
    labels: np.ndarray
    order: np.ndarray
    shifts: np.ndarray | None
    scalars: np.ndarray
    batch_size: int

    @property
    def batches(self):
        """How many batches these are."""
        return -(-len(self.order) // self.batch_size)

    def batch(self, number):
        """(order, shifts, scalars) of one batch."""
        one = self.part(number, number + 1)
        return one.order, one.shifts, one.scalars[0]

    def part(self, first, end):
        """The batches from `first` to before `end`."""
        samples = slice(first * self.batch_size, end * self.batch_size)
        return replace(self, order=self.order[samples], scalars=self.scalars[first:end],
                       shifts=None if self.shifts is None else self.shifts[samples])
