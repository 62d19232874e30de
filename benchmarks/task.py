"""What every side of a benchmark does: the same network and data, trained alike or applied."""

from dataclasses import dataclass

import numpy as np

from benchmarks.agreement import same_labels, same_training
from benchmarks.models import MODELS
from benchmarks.shifts import copies_order, shifted_copies
from gpucnn import SGD

TRAINED_STEPS, TRAINED_BATCH = 150, 32  # before inference, so that labels are those of a use


@dataclass(frozen=True)
class Task:
    """Training `model`, a name of `MODELS`, on a device in batches of `batch_size`, with cross
    entropy, or another `loss`, and SGD with momentum.

    shift: by how many pixels pictures are moved at most, either way. scheduled: whether the
    learning rate changes from step to step.
    """

    model: str
    batch_size: int
    device: str = "cpu"
    seed: int = 0
    momentum: float = 0.9
    weight_decay: float = 0.0
    shift: int = 0
    scheduled = False
    loss = "cross_entropy"

    @property
    def size(self):
        """What the task's row is called in a table."""
        return self.batch_size

    @property
    def unit(self):
        """Of how many samples those of a window are a multiple."""
        return self.batch_size

    @property
    def learning_rate(self):
        """In proportion to the batch up to the model's largest, so that no batch size diverges."""
        return min(MODELS[self.model].largest_rate, 0.001 * self.batch_size)

    @property
    def optimizer(self):
        return SGD(lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay)

    def settings(self, side, cores):
        """A side's settings of this task: label -> keywords of its worker."""
        return side.settings(self.device, cores)

    def worker(self, side, keywords):
        """What does the task in a side's process."""
        return side.Trainer(self, **keywords)

    def agreement(self, sides):
        """How far the sides' processes are apart; raises `BenchmarkError` if too far."""
        return same_training(sides, MODELS[self.model].tolerances)

    def network(self, device="cpu"):
        """The network with its initial values, which are the same on every device."""
        return MODELS[self.model].build(seed=self.seed, device=device)

    def dataset(self):
        """uint8 pictures; see `pictures.py`."""
        return MODELS[self.model].dataset()

    def padded_pictures(self):
        """(images, labels) of the data set in the network's size, uint8 and int32, with all shifts:
        see `shifts.py`. A peer that holds them has only to pick a batch and scale it."""
        dataset = self.dataset()
        images = shifted_copies(dataset.images, self.network().input_shape[1:], self.shift)
        return images, np.tile(dataset.labels, len(images) // len(dataset))

    def padded_order(self, order, shifts):
        """The numbers among `padded_pictures` of samples that are moved by `shifts`, or by None."""
        return copies_order(order, shifts, len(self.dataset()), self.shift)

    def order(self):
        """The order of the samples, from its beginning."""
        return ShuffledOrder(len(self.dataset()), self.seed)


@dataclass(frozen=True)
class PredictionTask:
    """The labels of `n_images` images by `model`, with the parameters given: uint8 arrays and
    integer labels, both on the host, whatever the device."""

    model: str
    n_images: int
    parameters: dict
    device: str = "cpu"

    @property
    def size(self):
        return self.n_images

    @property
    def unit(self):
        return self.n_images

    def settings(self, side, cores):
        return side.prediction_settings(self.device, cores)

    def worker(self, side, keywords):
        return side.Predictor(self, **keywords)

    def agreement(self, sides):
        return same_labels(sides)

    def network(self, device="cpu"):
        """The network with the task's parameters."""
        network = MODELS[self.model].build(device=device)
        network.set_parameters(self.parameters)
        return network

    def images(self):
        """uint8 (n_images, maps, height, width): the training pictures, again and again."""
        images = MODELS[self.model].dataset().images
        return images[np.arange(self.n_images) % len(images)]


def trained_parameters(model):
    """A model's parameters behind a few steps of training on the CPU."""
    task = Task(model, TRAINED_BATCH)
    network = task.network()
    plan = network.compile_step(loss="cross_entropy", optimizer=task.optimizer,
                                batch_size=TRAINED_BATCH)
    plan.epoch(plan.load(task.dataset()), task.order().take(TRAINED_STEPS * TRAINED_BATCH), None,
               np.full(TRAINED_STEPS, task.learning_rate))
    return network.parameter_values()


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
