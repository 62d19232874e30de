"""This library's side: the plan that `compile_step` gives, as `fit` runs it, and `predict`."""

import numpy as np

import gpucnn
from benchmarks.machine import blas_version


def settings(device, cores):
    """The library as it comes: it is not tuned for the contest."""
    return {"as it comes": {}}


prediction_settings = settings


class Trainer:
    """Trains a task through the plan that `compile_step` gives."""

    def __init__(self, task):
        self._task = task
        self._network = task.network(task.device)
        self._plan = self._network.compile_step(loss="cross_entropy", optimizer=task.optimizer,
                                                batch_size=task.batch_size)
        self._data = self._plan.load(task.dataset())
        self._order = task.order()

    def losses(self, steps):
        """Each batch as an epoch of its own, since an epoch tells its mean loss."""
        return [self._epoch(self._task.batch_size) for _ in range(steps)]

    def run(self, samples):
        self._epoch(samples)
        self._network.backend.synchronize()

    def parameters(self):
        return self._network.parameter_values()

    def versions(self):
        return _versions(self._network)

    def _epoch(self, samples):
        steps = -(-samples // self._task.batch_size)
        rates = np.full(steps, self._task.learning_rate)
        loss, _ = self._plan.epoch(self._data, self._order.take(samples), None, rates)
        return loss


class Predictor:
    """Finds a task's labels with `Network.predict`."""

    def __init__(self, task):
        self._network = task.network(task.device)
        self._images = task.images()

    def labels(self):
        return self._network.predict(self._images)

    def run(self, samples):
        for _ in range(samples // len(self._images)):
            self.labels()

    def versions(self):
        return _versions(self._network)


def _versions(network):
    return {"gpucnn": gpucnn.__version__, "NumPy": np.__version__, "BLAS": blas_version(),
            "gpucnn device": network.backend.description}
