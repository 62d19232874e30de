"""This library's side: the plan that `compile_step` gives, as `fit` runs it, and `predict`."""

import numpy as np

import gpucnn
from benchmarks.machine import blas_version
from benchmarks.precisions import precisions


def settings(device, cores):
    """The library as it comes, in each precision of a GPU: it is not tuned for the contest."""
    if device == "cpu":
        return {"as it comes": {}}
    return {precision: {"precision": precision} for precision in precisions(device)}


race_settings = settings


def prediction_settings(device, cores):
    """The library as it comes."""
    return {"as it comes": {}}


class Trainer:
    """Trains a task through the plan that `compile_step` gives."""

    def __init__(self, task, precision=None):
        """precision: as `compile_step` takes it, or None for its own."""
        self._task = task
        self._network = task.network(task.device)
        chosen = {} if precision is None else {"precision": precision}
        self._plan = self._network.compile_step(loss=task.loss, optimizer=task.optimizer,
                                                batch_size=task.batch_size, **chosen)
        self._data = self._plan.load(task.dataset())
        self._order = task.order()
        self._test_images = None

    def losses(self, steps):
        """Each batch as an epoch of its own, since an epoch tells its mean loss."""
        return [self._epoch(self._task.batch_size) for _ in range(steps)]

    def run(self, samples):
        self._epoch(samples)
        self._network.backend.synchronize()

    def parameters(self):
        return self._network.parameter_values()

    def versions(self):
        return versions(self._network)

    def reset(self, values):
        """As `fit` goes back to a checkpoint, here to its beginning."""
        backend = self._network.backend
        self._network.set_parameters(values)
        for array in self._plan.state.values():
            backend.zero(array)
        self._plan.steps = 0
        backend.synchronize()

    def train(self, order, shifts, rates):
        self._plan.epoch(self._data, order, shifts, rates)

    def misread(self):
        test = self._task.test_set()
        if self._test_images is None:
            self._test_images = self._network.backend.from_host(test.images)
        answers = self._network.predict(self._test_images, batch_size=len(test))
        return int(np.count_nonzero(answers != test.labels))

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
        return versions(self._network)


def versions(network):
    """Name -> version of what a network runs on."""
    return {"gpucnn": gpucnn.__version__, "NumPy": np.__version__, "BLAS": blas_version(),
            "gpucnn device": network.backend.description}
