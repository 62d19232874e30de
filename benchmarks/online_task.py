"""Online training of many networks at once, on every side: one sample an update, mse, plain SGD."""

import importlib
from dataclasses import dataclass

from benchmarks.task import Task
from gpucnn.models import MODELS

RATE = 0.005
CLASSES = 10
# What trains many networks, by the module of the side that trains one.
MANY = {"benchmarks.ours": "benchmarks.online_ours",
        "benchmarks.peers_torch": "benchmarks.online_torch",
        "benchmarks.peers_jax": "benchmarks.online_jax"}


@dataclass(frozen=True)
class OnlineTask(Task):
    """Training as many networks of `model` as `batch_size` says, each by samples of its own.

    A single one is trained by what trains a network in batches, here of one sample. Many are
    trained by the `ManyTrainer` of another module, for which a batch is a sample for each of them:
    network k has the k-th of each batch, and the initial values of seed `seed` + k.
    """

    momentum: float = 0.0
    loss = "mse"

    @property
    def learning_rate(self):
        return RATE

    def settings(self, side, cores):
        if side.__name__ == "benchmarks.ours" and self.batch_size == 1:
            return {"as it comes": {}}  # tensor cores do nothing for one sample
        chosen = side if self.batch_size == 1 else _many(side)
        return chosen.settings(self.device, cores)

    def worker(self, side, keywords):
        if self.batch_size == 1:
            return side.Trainer(self, **keywords)
        return _many(side).ManyTrainer(self, **keywords)

    def network(self, device="cpu", number=0):
        """Network `number`, with its initial values."""
        return MODELS[self.model](CLASSES, "scaled_tanh", seed=self.seed + number, device=device)

    def networks(self, device="cpu"):
        """All networks."""
        return [self.network(device, number) for number in range(self.batch_size)]

    @property
    def checked(self):
        """The numbers of the networks whose parameters are compared: a few, as all of a thousand
        would take long to pass between processes."""
        return sorted({0, self.batch_size // 2, self.batch_size - 1})


def names(number, parameters):
    """Parameters of network `number` with its number in their names."""
    return {f"network {number}: {name}": values for name, values in parameters.items()}


def _many(side):
    return importlib.import_module(MANY[side.__name__])
