"""What every side of a benchmark trains: the same network, data, order and optimiser."""

from dataclasses import dataclass

import numpy as np

from gpucnn import SGD, Dataset, digits
from gpucnn.models import MODELS

DIGITS_REPEATED = 12  # the 5,000 embedded digits so often: 60,000 samples, as many as MNIST has


@dataclass(frozen=True)
class Task:
    """Training `model`, a name of `gpucnn.models.MODELS`, on a device in batches of `batch_size`,
    with cross entropy and SGD with momentum."""

    model: str
    batch_size: int
    device: str = "cpu"
    seed: int = 0
    momentum: float = 0.9

    @property
    def learning_rate(self):
        """In proportion to the batch up to 0.05, so that no batch size diverges."""
        return min(0.05, 0.001 * self.batch_size)

    @property
    def optimizer(self):
        return SGD(lr=self.learning_rate, momentum=self.momentum)

    def network(self, device="cpu"):
        """The network with its initial values, which are the same on every device."""
        return MODELS[self.model](seed=self.seed, device=device)

    def dataset(self):
        """60,000 uint8 digits of 28x28 pixels."""
        train, _ = digits()
        return Dataset(np.tile(train.images, (DIGITS_REPEATED, 1, 1, 1)),
                       np.tile(train.labels, DIGITS_REPEATED), classes=train.classes)

    def order(self):
        """The order of the samples, from its beginning."""
        return ShuffledOrder(len(digits()[0]) * DIGITS_REPEATED, self.seed)


class ShuffledOrder:
    """Sample numbers without end, one shuffled epoch after the other; the same for a seed."""

    def __init__(self, samples, seed):
        self._samples = samples
        self._seed = seed
        self._epoch = 0
        self._left = np.empty(0, np.int32)

    def take(self, count):
        """The next `count` numbers, int32."""
        while len(self._left) < count:
            self._epoch += 1
            generator = np.random.Generator(np.random.Philox(key=[self._seed, self._epoch]))
            epoch = generator.permutation(np.arange(self._samples, dtype=np.int32))
            self._left = np.concatenate([self._left, epoch])
        taken, self._left = self._left[:count], self._left[count:]
        return taken
