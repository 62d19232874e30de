"""PyTorch in eager mode, written for speed as its best users would.

- The data set is padded once, on the device; a few thousand samples at a time are gathered and
  scaled, and batches are views of them.
- A convolution through a table is dense. Its weight is masked at the start, and its gradient after
  each backward pass, so that the absent connections stay at zero; a mask in the forward pass would
  cost two more operations.
- A convolution whose kernel covers its whole input is a `linear`.
- Subsampling is a sum pooling and one `addcmul`; activations work in place where autograd allows.
- SGD is the fused one. There is no module, hence no module overhead, and nothing is counted.
"""

import numpy as np

from benchmarks.sides import BenchmarkError
from gpucnn.activations import SCALED_TANH_AMPLITUDE, SCALED_TANH_SLOPE

GATHERED_AT_ONCE = 1024


def settings(device, cores):
    """On a CPU one thread, all cores, and one thread with PyTorch's own convolutions in place of
    oneDNN's, which are quicker for a sample at a time."""
    if device != "cpu":
        return {"eager": {}}
    return {"1 thread": {"threads": 1}} | (
        {f"{cores} threads": {"threads": cores}} if cores > 1 else {}) | (
        {"1 thread, no oneDNN": {"threads": 1, "onednn": False}})


def import_torch():
    """PyTorch, or a `BenchmarkError` that says what to install."""
    try:
        import torch
    except ImportError as error:
        raise BenchmarkError(f"peer torch: expected PyTorch to be installed (pip install torch), "
                             f"got {error}") from error
    return torch


class Trainer:
    """Trains a task with PyTorch's autograd."""

    def __init__(self, task, threads=None, onednn=True):
        torch = self._torch = import_torch()
        if task.device != "cpu" and not torch.cuda.is_available():
            raise BenchmarkError(f"peer torch: expected a PyTorch with CUDA for device "
                                 f"{task.device!r}, got {torch.__version__} without a usable GPU")
        if threads is not None:
            torch.set_num_threads(threads)
        torch.backends.mkldnn.enabled = onednn
        torch.backends.cudnn.benchmark = True
        self._task = task
        self._device = torch.device(task.device)
        network = task.network()
        self._steps = [(layer.name, _STEPS[layer.op](torch, layer, shape, self._device))
                       for layer, shape in zip(network.layers,
                                               (network.input_shape, *network.shapes),
                                               strict=False)]
        trained = [tensor for _, step in self._steps for tensor in step.parameters.values()]
        self._masked = [step for _, step in self._steps if getattr(step, "mask", None) is not None]
        self._optimizer = torch.optim.SGD(trained, lr=task.learning_rate, momentum=task.momentum,
                                          fused=True)
        self._load(task.dataset(), network)
        self._order = task.order()

    def losses(self, steps):
        return [self._step(x, labels).item() for _ in range(steps)
                for x, labels in self._batches(self._task.batch_size)]

    def train(self, samples):
        for x, labels in self._batches(samples):
            self._step(x, labels)
        if self._device.type == "cuda":
            self._torch.cuda.synchronize(self._device)

    def parameters(self):
        return {f"{layer}.{name}": values for layer, step in self._steps
                for name, values in step.values().items()}

    def versions(self):
        versions = {"PyTorch": self._torch.__version__}
        if self._device.type == "cuda":
            versions["GPU"] = self._torch.cuda.get_device_name(self._device)
        return versions

    def _load(self, dataset, network):
        """The images, padded with uint8 zeros, which are the background, and the labels."""
        torch = self._torch
        low, high = network.input_range
        self._low, self._scale = low, (high - low) / 255
        margins = [size - own for size, own in zip(network.input_shape[1:], dataset.image_shape[1:],
                                                   strict=True)]
        sides = [(0, 0), (0, 0), *((margin // 2, margin - margin // 2) for margin in margins)]
        self._images = torch.from_numpy(np.pad(dataset.images, sides)).to(self._device)
        self._labels = torch.from_numpy(dataset.labels.astype(np.int64)).to(self._device)

    def _batches(self, samples):
        """(x, labels) of each batch of the next `samples` of the order."""
        batch_size = self._task.batch_size
        order = self._torch.from_numpy(self._order.take(samples)).to(self._device)
        for part in order.split(batch_size * max(1, GATHERED_AT_ONCE // batch_size)):
            x = self._images.index_select(0, part).to(self._torch.float32)
            x.mul_(self._scale).add_(self._low)
            labels = self._labels.index_select(0, part)
            yield from zip(x.split(batch_size), labels.split(batch_size), strict=True)

    def _step(self, x, labels):
        for _, step in self._steps:
            x = step(x)
        loss = self._torch.nn.functional.cross_entropy(x.flatten(1), labels)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for step in self._masked:
            step.mask_gradient()
        self._optimizer.step()
        return loss.detach()


class _Step:
    """A layer of the network in PyTorch: `parameters` is name -> tensor that is trained."""

    def __init__(self, torch, layer, input_shape, device):
        self._functions = torch.nn.functional
        self._addcmul = torch.addcmul
        self._options = layer.options()
        self._squash = _activation(torch, self._options.get("activation", "identity"))
        self.parameters = {
            name: torch.tensor(self.stored(name, values, layer, input_shape), dtype=torch.float32,
                               device=device, requires_grad=True)
            for name, values in layer.parameters.items()}

    def stored(self, name, values, layer, input_shape):
        """The NumPy values of a parameter in the shape that PyTorch wants."""
        return values

    def values(self):
        """Name -> NumPy array as this library has it."""
        return {name: tensor.detach().cpu().numpy() for name, tensor in self.parameters.items()}


class _Conv2d(_Step):
    def __init__(self, torch, layer, input_shape, device):
        self._table = table = layer.connections
        self._dense_shape = table.out_maps, table.in_maps, *layer.weight.shape[1:]
        self._covers_input = (layer.options()["padding"] == (0, 0)
                              and input_shape[1:] == self._dense_shape[2:])
        super().__init__(torch, layer, input_shape, device)
        self.mask = None
        if table.n_connections < table.in_maps * table.out_maps:
            mask = table.matrix.T[:, :, None, None] != 0
            self.mask = torch.tensor(
                np.broadcast_to(mask, self._dense_shape).reshape(self.parameters["weight"].shape),
                dtype=torch.float32, device=device)

    def __call__(self, x):
        weight, bias = self.parameters["weight"], self.parameters.get("bias")
        if self._covers_input:
            return self._squash(self._functions.linear(x.flatten(1), weight, bias))
        return self._squash(self._functions.conv2d(x, weight, bias, self._options["stride"],
                                                   self._options["padding"]))

    def mask_gradient(self):
        self.parameters["weight"].grad.mul_(self.mask)

    def stored(self, name, values, layer, input_shape):
        if name != "weight":
            return values
        inputs, outputs = self._table.pairs
        dense = np.zeros(self._dense_shape, np.float32)
        dense[outputs, inputs] = values
        return dense.reshape(len(dense), -1) if self._covers_input else dense

    def values(self):
        inputs, outputs = self._table.pairs
        values = super().values()
        return values | {"weight": values["weight"].reshape(self._dense_shape)[outputs, inputs]}


class _Subsample2d(_Step):
    def __call__(self, x):
        options = self._options
        if not options["trainable"]:
            return self._squash(self._functions.avg_pool2d(x, options["pool_size"],
                                                           options["stride"]))
        sums = self._functions.avg_pool2d(x, options["pool_size"], options["stride"],
                                          divisor_override=1)
        return self._squash(self._addcmul(self.parameters["bias"], sums,
                                          self.parameters["coefficient"]))

    def stored(self, name, values, layer, input_shape):
        return values[:, None, None]

    def values(self):
        return {name: array[:, 0, 0] for name, array in super().values().items()}


class _Dense(_Step):
    def __call__(self, x):
        weight, bias = self.parameters["weight"], self.parameters["bias"]
        if x.ndim == 4:
            return self._squash(self._functions.conv2d(x, weight[:, :, None, None], bias))
        return self._squash(self._functions.linear(x, weight, bias))


class _MaxPool2d(_Step):
    def __call__(self, x):
        return self._functions.max_pool2d(x, self._options["pool_size"], self._options["stride"])


class _Flatten(_Step):
    def __call__(self, x):
        return x.flatten(1)


_STEPS = {"conv2d": _Conv2d, "subsample2d": _Subsample2d, "dense": _Dense,
          "max_pool2d": _MaxPool2d, "flatten": _Flatten}


def _activation(torch, name):
    """z -> y(z), in place but for the last product, since autograd needs tanh's result."""
    return {
        "identity": lambda z: z,
        "scaled_tanh": lambda z: z.mul_(SCALED_TANH_SLOPE).tanh_() * SCALED_TANH_AMPLITUDE,
        "tanh": torch.tanh_,
        "sigmoid": torch.sigmoid_,
        "relu": torch.relu_,
    }[name]
