"""JAX, compiled by XLA, written for speed as its best users would.

- The data set is padded once, as uint8 on the device; a batch is gathered and scaled within the
  compiled function, from the numbers of its samples.
- A step is one jitted function: gather, loss and gradient by `value_and_grad`, SGD with momentum,
  with the parameters' and velocities' buffers donated. Either each batch is a call of it ("jit
  step"), or one call runs many batches by `lax.scan` ("scan").
- A convolution through a table is dense; its weight is masked at the start, and its gradient in
  every step. A convolution whose kernel covers its whole input is a matrix product.
- On a CPU XLA is slow at the gradients of convolutions, within a scan above all, so that they are
  tried as matrix products too; `jax_layers.Form` tells more.
- Compiling lies outside the windows: they hold whole scans of a fixed length, and the first, which
  compiles it, is not counted.
"""

import os
from functools import partial

import numpy as np

from benchmarks.jax_layers import Form, jax_layers
from benchmarks.precisions import FLOAT32, TF32, in_each_precision
from benchmarks.sides import BenchmarkError
from gpucnn.losses import get_loss

# Long enough for a call's own time not to count: on a GPU, where it is that of many small steps,
# longer. It is also of how many samples a window is a multiple.
SCANNED_SAMPLES = {"cpu": 256, "cuda": 1024}
LEAST_SCANNED_BATCHES = {"cpu": 4, "cuda": 32}
PREDICTED_AT_ONCE = {"cpu": (64, 256), "cuda": (1024, 10000)}
COLUMNS, COLUMNS_MAPS_LAST = Form(columns=True), Form(columns=True, maps_last=True)
CONVOLUTIONS, CONVOLUTIONS_MAPS_LAST = Form(), Form(maps_last=True)


def settings(device, cores):
    """One call a batch or a scan over many; on a CPU in the forms that were best at some size, on a
    GPU in both precisions."""
    if device != "cpu":
        return in_each_precision({"scan": {"scan": True, "form": CONVOLUTIONS},
                                  "jit step": {"scan": False, "form": CONVOLUTIONS}}, device)
    return {"scan, columns": {"scan": True, "form": COLUMNS},
            "scan, columns, maps last": {"scan": True, "form": COLUMNS_MAPS_LAST},
            "jit step, columns, maps last": {"scan": False, "form": COLUMNS_MAPS_LAST},
            "jit step": {"scan": False, "form": CONVOLUTIONS_MAPS_LAST}}


def race_settings(device, cores):
    """A scan over a whole epoch; on a CPU, where that may be slower, a call for each batch too."""
    if device != "cpu":
        return in_each_precision({"scan": {"scan": True, "form": CONVOLUTIONS}}, device)
    return {"scan, columns, maps last": {"scan": True, "form": COLUMNS_MAPS_LAST},
            "jit step, columns, maps last": {"scan": False, "form": COLUMNS_MAPS_LAST}}


def prediction_settings(device, cores):
    """A few batch sizes; on a CPU, in two forms each."""
    if device != "cpu":
        return {f"batch {size}": {"batch_size": size, "form": CONVOLUTIONS}
                for size in PREDICTED_AT_ONCE["cuda"]}
    return {f"{name}batch {size}": {"batch_size": size, "form": form}
            for name, form in (("", CONVOLUTIONS_MAPS_LAST), ("columns, ", COLUMNS))
            for size in PREDICTED_AT_ONCE["cpu"]}


def import_jax(device="cpu", precision=FLOAT32):
    """(JAX, its device), or a `BenchmarkError` that says what to install."""
    # Several processes share a GPU, of whose memory each would take most beforehand.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        import jax
    except ImportError as error:
        raise BenchmarkError(f"peer jax: expected JAX to be installed (pip install jax), "
                             f"got {error}") from error
    kind, _, number = device.partition(":")
    try:
        found = jax.devices(kind)[int(number or 0)]
    except (RuntimeError, IndexError) as error:
        raise BenchmarkError(f"peer jax: expected a JAX with device {device!r} "
                             f"(pip install jax[cuda12]), got {jax.__version__}: "
                             f"{error}") from error
    jax.config.update("jax_default_device", found)
    jax.config.update("jax_default_matmul_precision",
                      "tensorfloat32" if precision == TF32 else "float32")
    return jax, found


class Trainer:
    """Trains a task with JAX's gradients."""

    def __init__(self, task, scan=True, form=CONVOLUTIONS, precision=FLOAT32):
        self._jax, self._device = jax, _ = import_jax(task.device, precision)
        self._task = task
        network = task.network()
        self._layers = jax_layers(network, form)
        self._input = _Input(network, form)
        self._masks = jax.device_put({name: layer.masks for name, layer in self._layers.items()
                                      if layer.masks is not None})
        self._target = getattr(get_loss(task.loss), "target", None)  # mse has one
        self._begin(self._initial())
        images, labels = task.padded_pictures()
        self._data = jax.device_put((self._input.ordered(images, np), labels))
        self._order = task.order()
        self._step = jax.jit(self._advance, donate_argnums=0)
        self._scan = jax.jit(self._advance_by_scan, donate_argnums=0)
        kind = "cpu" if task.device == "cpu" else "cuda"
        self._scanned = (max(LEAST_SCANNED_BATCHES[kind], SCANNED_SAMPLES[kind] // task.batch_size)
                         if scan else 0)
        self.unit = task.batch_size * (self._scanned or 1)
        self._rate = jax.device_put(np.float32(task.learning_rate))
        self._rates = jax.device_put(np.full(self._scanned, task.learning_rate, np.float32))
        self._count_misread = jax.jit(self._misread_of)
        self._test = None

    def losses(self, steps):
        """By a scan over as many steps, or call by call."""
        orders = self._order.take(steps * self._task.batch_size).reshape(steps, -1)
        if self._scanned:
            rates = np.full(steps, self._task.learning_rate, np.float32)
            return np.asarray(self._run_scan(orders, rates)).tolist()
        return [float(self._run_step(order, self._rate)) for order in orders]

    def run(self, samples):
        """Scans of a fixed length; what is left over goes batch by batch."""
        order, batch_size = self._order.take(samples), self._task.batch_size
        scanned = samples // self.unit * self.unit if self._scanned else 0
        for chunk in order[:scanned].reshape(-1, self._scanned or 1, batch_size):
            self._run_scan(chunk, self._rates)
        for first in range(scanned, samples, batch_size):
            self._run_step(order[first:first + batch_size], self._rate)
        self._jax.block_until_ready(self._state)

    def parameters(self):
        return {f"{name}.{parameter}": values for name, layer in self._layers.items()
                if layer.initial
                for parameter, values in layer.values(self._state[0][name]).items()}

    def versions(self):
        return _versions(self._jax, self._device)

    def reset(self, values):
        self._begin({name: layer.stored({parameter: values[f"{name}.{parameter}"]
                                         for parameter in layer.initial})
                     for name, layer in self._layers.items()})
        self._jax.block_until_ready(self._state)

    def train(self, order, shifts, rates):
        """By one scan over all whole batches, or batch by batch."""
        order, rates = self._task.padded_order(order, shifts), rates.astype(np.float32)
        batch_size = self._task.batch_size
        scanned = len(order) // batch_size if self._scanned else 0
        if scanned:
            self._run_scan(order[:scanned * batch_size].reshape(scanned, -1), rates[:scanned])
        for number in range(scanned, len(rates)):
            self._run_step(order[number * batch_size:][:batch_size], rates[number])

    def misread(self):
        if self._test is None:
            images, labels = self._task.padded_test_pictures()
            images = self._input.ordered(images, np)
            size = PREDICTED_AT_ONCE["cpu" if self._task.device == "cpu" else "cuda"][-1]
            self._test = [self._jax.device_put((images[first:first + size],
                                                labels[first:first + size]))
                          for first in range(0, len(images), size)]
        counts = [self._count_misread(self._state[0], *part) for part in self._test]
        return int(sum(self._jax.device_get(counts)))

    def _initial(self):
        """The network's initial parameters."""
        return {name: layer.initial for name, layer in self._layers.items()}

    def _begin(self, parameters):
        """The state of these parameters at rest. The arrays of a state are donated to each step, so
        that they must be nobody else's."""
        jax = self._jax
        velocities = jax.tree.map(np.zeros_like, parameters) if self._task.momentum else {}
        self._state = jax.tree.map(partial(jax.numpy.array, copy=True), (parameters, velocities))

    def _run_step(self, order, rate):
        self._state, loss = self._step(self._state, (order, rate), self._data)
        return loss

    def _run_scan(self, orders, rates):
        self._state, losses = self._scan(self._state, (orders, rates), self._data)
        return losses

    def _advance_by_scan(self, state, batches, data):
        return self._jax.lax.scan(partial(self._advance, data=data), state, batches)

    def _advance(self, state, batch, data):
        """((parameters, velocities), loss) behind a batch: the sample numbers of an order, and the
        learning rate."""
        (parameters, velocities), (order, rate) = state, batch
        (images, labels), tree_map = data, self._jax.tree.map
        loss, gradients = self._jax.value_and_grad(self._loss)(
            parameters, self._input.scaled(images[order]), labels[order])
        for name, masks in self._masks.items():
            gradients[name] |= {parameter: gradients[name][parameter] * mask
                                for parameter, mask in masks.items()}
        momentum, decay = self._task.momentum, self._task.weight_decay
        if decay:
            gradients = tree_map(lambda g, p: g + decay * p, gradients, parameters)
        steps = gradients
        if momentum:
            steps = velocities = tree_map(lambda v, g: momentum * v + g, velocities, gradients)
        parameters = tree_map(lambda p, s: p - rate * s, parameters, steps)
        return (parameters, velocities), loss

    def _loss(self, parameters, x, labels):
        outputs = _outputs(self._layers, parameters, x)
        if self._target is not None:
            here = self._jax.nn.one_hot(labels, outputs.shape[1])
            return 0.5 * ((outputs - self._target * (2 * here - 1))**2).sum() / len(labels)
        logarithms = self._jax.nn.log_softmax(outputs)
        return -self._jax.numpy.take_along_axis(logarithms, labels[:, None], axis=1).mean()

    def _misread_of(self, parameters, images, labels):
        x = self._input.scaled(images)
        return (_outputs(self._layers, parameters, x).argmax(axis=1) != labels).sum()


class Predictor:
    """Finds a task's labels by a jitted function of `batch_size` images at a time."""

    def __init__(self, task, batch_size=256, form=CONVOLUTIONS):
        self._jax, self._device = jax, _ = import_jax(task.device)
        network, self._images = task.network(), task.images()
        self._batch_size = batch_size
        self._layers = jax_layers(network, form)
        self._input = _Input(network, form)
        self._margins = _margins(network, self._images.shape[1:])
        self._parameters = jax.device_put({name: layer.initial
                                           for name, layer in self._layers.items()})
        self._predict = jax.jit(self._labels_of)

    def labels(self):
        parts = [self._predict(self._parameters, self._images[first:first + self._batch_size])
                 for first in range(0, len(self._images), self._batch_size)]
        return np.concatenate(self._jax.device_get(parts))

    def run(self, samples):
        for _ in range(samples // len(self._images)):
            self.labels()

    def versions(self):
        return _versions(self._jax, self._device)

    def _labels_of(self, parameters, images):
        arrays = self._jax.numpy
        x = self._input.scaled(self._input.ordered(arrays.pad(images, self._margins), arrays))
        return _outputs(self._layers, parameters, x).argmax(axis=1)


class _Input:
    """How uint8 images in the network's size become its input in a form."""

    def __init__(self, network, form):
        low, high = network.input_range
        self._low, self._scale = np.float32(low), np.float32((high - low) / 255)
        self._maps_last = form.maps_last

    def ordered(self, images, arrays):
        """Images in the form's order of axes, by NumPy or jax.numpy."""
        return arrays.moveaxis(images, 1, 3) if self._maps_last else images

    def scaled(self, images):
        return images.astype(np.float32) * self._scale + self._low


def _margins(network, image_shape):
    """How far images are padded along each axis, as `pad` wants it; zero is the background."""
    margins = [size - own for size, own in zip(network.input_shape[1:], image_shape[1:],
                                               strict=True)]
    return [(0, 0), (0, 0), *((margin // 2, margin - margin // 2) for margin in margins)]


def _outputs(layers, parameters, x):
    for name, layer in layers.items():
        x = layer(parameters[name], x)
    return x.reshape(len(x), -1)


def _versions(jax, device):
    return {"JAX": jax.__version__} | ({"GPU": device.device_kind} if device.platform == "gpu"
                                       else {})
