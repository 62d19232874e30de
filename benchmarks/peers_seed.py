"""The algorithm that this library descends from: a program written by hand, map by map.

In float64, one sample at a time: a call of SciPy's `correlate2d` for each connection forward, and
two backward (for its weight and for its input map), in Python loops over connections and maps.
Derivatives of activations are taken from outputs. It trains online only, so it takes part at batch
size 1 alone.
"""

import numpy as np

from benchmarks.seed_layers import seed_layers
from benchmarks.sides import BenchmarkError


def supports(task):
    """Online training on the CPU."""
    return task.batch_size == 1 and task.device == "cpu"


def settings(device, cores):
    return {"online": {}}


def import_signal():
    """`scipy.signal`, or a `BenchmarkError` that says what to install."""
    try:
        import scipy.signal
    except ImportError as error:
        raise BenchmarkError(f"peer seed: expected SciPy to be installed (pip install scipy), "
                             f"got {error}") from error
    return scipy.signal


class Trainer:
    """Trains a task sample by sample."""

    def __init__(self, task):
        if not supports(task):
            raise BenchmarkError(f"peer seed: expected batch size 1 on the CPU, got batch size "
                                 f"{task.batch_size} on {task.device}")
        signal = import_signal()
        self._task = task
        network, dataset = task.network(), task.dataset()
        self._layers = seed_layers(signal, network)
        self._velocities = {(layer, name): np.zeros_like(values) for layer in self._layers
                            for name, values in layer.parameters.items()}
        self._images, self._labels = dataset.images, dataset.labels
        self._input_shape = network.input_shape
        self._low, high = network.input_range
        self._scale = (high - self._low) / 255
        self._order = task.order()

    def losses(self, steps):
        return [self._step(number) for number in self._order.take(steps)]

    def run(self, samples):
        for number in self._order.take(samples):
            self._step(number)

    def parameters(self):
        return {f"{layer.name}.{name}": values.copy() for layer in self._layers
                for name, values in layer.parameters.items()}

    def versions(self):
        import scipy

        return {"SciPy": scipy.__version__}

    def _step(self, number):
        """Train on one sample; its loss before."""
        x = self._input(self._images[number])
        for layer in self._layers:
            x = layer.forward(x)
        loss, gradient = _cross_entropy(x.reshape(-1), self._labels[number])
        gradient = gradient.reshape(x.shape)
        for layer in reversed(self._layers):
            gradient = layer.backward(gradient, needs_grad_input=layer is not self._layers[0])
        for (layer, name), velocity in self._velocities.items():
            velocity *= self._task.momentum
            velocity += layer.gradients[name]
            layer.parameters[name] -= self._task.learning_rate * velocity
        return loss

    def _input(self, image):
        """A uint8 image scaled, in the middle of the background."""
        x = np.full(self._input_shape, self._low)
        _, height, width = image.shape
        top, left = (x.shape[1] - height) // 2, (x.shape[2] - width) // 2
        x[:, top:top + height, left:left + width] += self._scale * image
        return x


def _cross_entropy(outputs, label):
    """-log of the softmax at the label, and its gradient."""
    shifted = outputs - outputs.max()
    softmax = np.exp(shifted) / np.exp(shifted).sum()
    loss = -np.log(softmax[label])
    softmax[label] -= 1
    return float(loss), softmax
