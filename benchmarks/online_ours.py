"""This library's side of training many networks at once: the plan that `fit_many` takes."""

import numpy as np

from benchmarks.online_task import names
from benchmarks.ours import versions
from benchmarks.sides import BenchmarkError
from gpucnn.plans import resident


def settings(device, cores):
    """The library as it comes."""
    return {"as it comes": {}}


class ManyTrainer:
    """Trains networks through the plan that `Backend.compile_many` gives."""

    def __init__(self, task):
        self._task = task
        self._networks = networks = task.networks(task.device)
        self._backend = backend = networks[0].backend
        self._program = networks[0].program(loss=task.loss, optimizer=task.optimizer, batch_size=1)
        self._plan = backend.compile_many(self._program,
                                          [network.parameters.flat for network in networks])
        if self._plan is None:
            raise BenchmarkError(f"{task.model} on {task.device}: expected a network that is "
                                 f"trained online, got one without room for that")
        self._data = resident(task.dataset(), self._program, backend)
        self._order = task.order()
        self._states = [task.optimizer.state(backend, self._program.n_parameters, self._dtype)
                        for _ in networks]
        self._losses = backend.zeros((len(networks),), self._dtype)
        self._totals = backend.zeros((len(networks), 3), np.float64)

    def losses(self, steps):
        """Of each network in each step, in a row."""
        found = []
        for _ in range(steps):
            self._train(1)
            found += self._backend.to_host(self._losses).tolist()
        return found

    def run(self, samples):
        self._train(samples // len(self._networks))
        self._backend.synchronize()

    def parameters(self):
        return {name: values for number in self._task.checked for name, values in names(
            number, self._networks[number].parameter_values()).items()}

    def versions(self):
        return versions(self._networks[0])

    @property
    def _dtype(self):
        return np.dtype(self._program.dtype)

    def _train(self, steps):
        count = len(self._networks)
        orders = self._order.take(steps * count).reshape(steps, count).T
        rates = self._program.optimizer.scalar_rows(0, np.full(steps, self._task.learning_rate))
        scalars = np.broadcast_to(rates.astype(self._dtype), (count, *rates.shape))
        place = self._backend.from_host
        self._plan.train(self._data.images, self._data.labels, place(np.ascontiguousarray(orders)),
                         None, place(np.ascontiguousarray(scalars)), self._states, self._losses,
                         self._totals)
