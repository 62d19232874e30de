"""Who works on a batch: threads, or several processes."""

from abc import ABC, abstractmethod

import numpy as np

from gpucnn.backends.cpu.memory import zeros
from gpucnn.backends.cpu.workers import Workers


class Crew(ABC):
    """Shares the groups of a batch.

    sums (groups, numbers): the gradients of each group; totals (parts, 3) float64: loss, errors and
    bad labels of each part of the batch. They are those of the next batch until it has run.
    """

    sums: np.ndarray
    totals: np.ndarray

    @abstractmethod
    def run(self, task, groups):
        """Have task(worker, group) called for every group below `groups`; returns when all have
        ended, and `sums` and `totals` hold what all have written there."""


class Threads(Crew):
    """The calling thread and others."""

    def __init__(self, threads, groups, parts, numbers, dtype):
        self.sums = zeros((groups, numbers), dtype)
        self.totals = np.zeros((parts, 3))
        self._workers = Workers(min(groups, threads))
        self.threads = self._workers.threads

    def run(self, task, groups):
        self._workers.run(task, groups)
