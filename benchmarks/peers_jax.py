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
- Compiling lies outside the windows: they hold whole scans of a fixed length, a scan's worth of
  batches being compiled when the trainer is made.
"""

from functools import partial

import numpy as np

from benchmarks.jax_layers import Form, jax_layers
from benchmarks.sides import BenchmarkError

SCANNED_SAMPLES, LEAST_SCANNED_BATCHES = 256, 4
PREDICTED_AT_ONCE = {"cpu": (64, 256), "cuda": (1024, 10000)}
COLUMNS, COLUMNS_MAPS_LAST = Form(columns=True), Form(columns=True, maps_last=True)
CONVOLUTIONS, CONVOLUTIONS_MAPS_LAST = Form(), Form(maps_last=True)


def settings(device, cores):
    """One call a batch or a scan over many; on a CPU in the forms that were best at some size."""
    if device != "cpu":
        return {"scan": {"scan": True, "form": CONVOLUTIONS},
                "jit step": {"scan": False, "form": CONVOLUTIONS}}
    return {"scan, columns": {"scan": True, "form": COLUMNS},
            "scan, columns, maps last": {"scan": True, "form": COLUMNS_MAPS_LAST},
            "jit step, columns, maps last": {"scan": False, "form": COLUMNS_MAPS_LAST},
            "jit step": {"scan": False, "form": CONVOLUTIONS_MAPS_LAST}}


def prediction_settings(device, cores):
    """A few batch sizes; on a CPU, in two forms each."""
    if device != "cpu":
        return {f"batch {size}": {"batch_size": size, "form": CONVOLUTIONS}
                for size in PREDICTED_AT_ONCE["cuda"]}
    return {f"{name}batch {size}": {"batch_size": size, "form": form}
            for name, form in (("", CONVOLUTIONS_MAPS_LAST), ("columns, ", COLUMNS))
            for size in PREDICTED_AT_ONCE["cpu"]}


def import_jax(device="cpu"):
    """(JAX, its device), or a `BenchmarkError` that says what to install."""
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
    jax.config.update("jax_default_matmul_precision", "float32")  # as every side computes
    return jax, found


class Trainer:
    """Trains a task with JAX's gradients."""

    def __init__(self, task, scan=True, form=CONVOLUTIONS):
        self._jax, self._device = jax, _ = import_jax(task.device)
        self._task = task
        network, dataset = task.network(), task.dataset()
        self._layers = jax_layers(network, form)
        self._input = _Input(network, dataset.image_shape, form)
        parameters = {name: layer.initial for name, layer in self._layers.items()}
        self._masks = jax.device_put({name: layer.masks for name, layer in self._layers.items()
                                      if layer.masks is not None})
        self._state = jax.device_put((parameters, jax.tree.map(np.zeros_like, parameters)))
        self._data = jax.device_put((self._input.padded(dataset.images, np), dataset.labels))
        self._order = task.order()
        self._step = jax.jit(self._advance, donate_argnums=0)
        self._scan = jax.jit(self._advance_by_scan, donate_argnums=0)
        self._scanned = (max(LEAST_SCANNED_BATCHES, SCANNED_SAMPLES // task.batch_size)
                         if scan else 0)
        self.unit = task.batch_size * (self._scanned or 1)
        self._compile()

    def losses(self, steps):
        """By a scan over as many steps, or call by call."""
        orders = self._order.take(steps * self._task.batch_size).reshape(steps, -1)
        if self._scanned:
            self._state, losses = self._scan(self._state, orders, self._data)
            return np.asarray(losses).tolist()
        return [float(self._run_step(order)) for order in orders]

    def run(self, samples):
        """Scans of the compiled length; what is left over goes batch by batch."""
        order, batch_size = self._order.take(samples), self._task.batch_size
        scanned = samples // self.unit * self.unit if self._scanned else 0
        for chunk in order[:scanned].reshape(-1, self._scanned or 1, batch_size):
            self._state, _ = self._scan(self._state, chunk, self._data)
        for first in range(scanned, samples, batch_size):
            self._run_step(order[first:first + batch_size])
        self._jax.block_until_ready(self._state)

    def parameters(self):
        return {f"{name}.{parameter}": values for name, layer in self._layers.items()
                if layer.initial
                for parameter, values in layer.values(self._state[0][name]).items()}

    def versions(self):
        return _versions(self._jax, self._device)

    def _compile(self):
        """Compile what the windows run, on a copy of the state, which is donated."""
        shape = (self._scanned, self._task.batch_size) if self._scanned else self._task.batch_size
        state = self._jax.tree.map(self._jax.numpy.copy, self._state)
        compiled = self._scan if self._scanned else self._step
        self._jax.block_until_ready(compiled(state, np.zeros(shape, np.int32), self._data))

    def _run_step(self, order):
        self._state, loss = self._step(self._state, order, self._data)
        return loss

    def _advance_by_scan(self, state, orders, data):
        return self._jax.lax.scan(partial(self._advance, data=data), state, orders)

    def _advance(self, state, order, data):
        """((parameters, velocities), loss) behind the batch of the sample numbers in `order`."""
        parameters, velocities = state
        (images, labels), tree_map = data, self._jax.tree.map
        loss, gradients = self._jax.value_and_grad(self._loss)(
            parameters, self._input.scaled(images[order]), labels[order])
        for name, masks in self._masks.items():
            gradients[name] |= {parameter: gradients[name][parameter] * mask
                                for parameter, mask in masks.items()}
        momentum, rate = self._task.momentum, self._task.learning_rate
        velocities = tree_map(lambda v, g: momentum * v + g, velocities, gradients)
        parameters = tree_map(lambda p, v: p - rate * v, parameters, velocities)
        return (parameters, velocities), loss

    def _loss(self, parameters, x, labels):
        outputs = self._jax.nn.log_softmax(_outputs(self._layers, parameters, x))
        return -self._jax.numpy.take_along_axis(outputs, labels[:, None], axis=1).mean()


class Predictor:
    """Finds a task's labels by a jitted function of `batch_size` images at a time."""

    def __init__(self, task, batch_size=256, form=CONVOLUTIONS):
        self._jax, self._device = jax, _ = import_jax(task.device)
        network, self._images = task.network(), task.images()
        self._batch_size = batch_size
        self._layers = jax_layers(network, form)
        self._input = _Input(network, self._images.shape[1:], form)
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
        x = self._input.scaled(self._input.padded(images, self._jax.numpy))
        return _outputs(self._layers, parameters, x).argmax(axis=1)


class _Input:
    """How uint8 images become a network's input in a form."""

    def __init__(self, network, image_shape, form):
        low, high = network.input_range
        self._low, self._scale = np.float32(low), np.float32((high - low) / 255)
        margins = [size - own for size, own in zip(network.input_shape[1:], image_shape[1:],
                                                   strict=True)]
        self._margins = [(0, 0), (0, 0), *((margin // 2, margin - margin // 2)
                                           for margin in margins)]
        self._maps_last = form.maps_last

    def padded(self, images, arrays):
        """uint8 images in the network's size and the form's order, by NumPy or jax.numpy; zero is
        the background."""
        images = arrays.pad(images, self._margins)
        return arrays.moveaxis(images, 1, 3) if self._maps_last else images

    def scaled(self, images):
        return images.astype(np.float32) * self._scale + self._low


def _outputs(layers, parameters, x):
    for name, layer in layers.items():
        x = layer(parameters[name], x)
    return x.reshape(len(x), -1)


def _versions(jax, device):
    return {"JAX": jax.__version__} | ({"GPU": device.device_kind} if device.platform == "gpu"
                                       else {})
