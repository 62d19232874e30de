"""PyTorch in eager mode, written for speed as its best users would.

- The data set is padded once, on the device; a few thousand samples at a time are gathered and
  scaled, and batches are views of them.
- A convolution through a table is dense. Its weight is masked at the start, and its gradient after
  each backward pass, so that the absent connections stay at zero; a mask in the forward pass would
  cost two more operations.
- A convolution whose kernel covers its whole input is a `linear`.
- Subsampling is a sum pooling and one `addcmul`; activations work in place where autograd allows.
- SGD is the fused one. There is no module, hence no module overhead, and nothing is counted.
- Inference runs under `inference_mode`; pictures are padded as uint8, then scaled in place.
"""

import numpy as np

from benchmarks.sides import BenchmarkError
from benchmarks.torch_layers import torch_layers

GATHERED_AT_ONCE = 1024
PREDICTED_AT_ONCE = {"cpu": (64, 256, 1024), "cuda": (1024, 10000)}


def settings(device, cores):
    """On a CPU one thread, all cores, and one thread with PyTorch's own convolutions in place of
    oneDNN's, which are quicker for a sample at a time."""
    if device != "cpu":
        return {"eager": {}}
    return {"1 thread": {"threads": 1}} | (
        {f"{cores} threads": {"threads": cores}} if cores > 1 else {}) | (
        {"1 thread, no oneDNN": {"threads": 1, "onednn": False}})


def prediction_settings(device, cores):
    """A few batch sizes; on a CPU, each with one thread and with all cores."""
    if device != "cpu":
        return {f"batch {size}": {"batch_size": size} for size in PREDICTED_AT_ONCE["cuda"]}
    return {f"batch {size}, {threads} thread{'s' * (threads > 1)}":
            {"batch_size": size, "threads": threads}
            for threads in sorted({1, cores}) for size in PREDICTED_AT_ONCE["cpu"]}


def import_torch(device="cpu"):
    """PyTorch for a device, or a `BenchmarkError` that says what to install."""
    try:
        import torch
    except ImportError as error:
        raise BenchmarkError(f"peer torch: expected PyTorch to be installed (pip install torch), "
                             f"got {error}") from error
    if device != "cpu" and not torch.cuda.is_available():
        raise BenchmarkError(f"peer torch: expected a PyTorch with CUDA for device "
                             f"{device!r}, got {torch.__version__} without a usable GPU")
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False  # float32 throughout, as every side computes
    return torch


class Trainer:
    """Trains a task with PyTorch's autograd."""

    def __init__(self, task, threads=None, onednn=True):
        torch = self._torch = import_torch(task.device)
        if threads is not None:
            torch.set_num_threads(threads)
        torch.backends.mkldnn.enabled = onednn
        self._task = task
        self._device = torch.device(task.device)
        network = task.network()
        self._steps = torch_layers(torch, network, self._device)
        trained = [tensor for _, step in self._steps for tensor in step.parameters.values()]
        self._masked = [step for _, step in self._steps if getattr(step, "mask", None) is not None]
        self._optimizer = torch.optim.SGD(trained, lr=task.learning_rate, momentum=task.momentum,
                                          fused=True)
        self._load(task.dataset(), network)
        self._order = task.order()

    def losses(self, steps):
        return [self._step(x, labels).item() for _ in range(steps)
                for x, labels in self._batches(self._task.batch_size)]

    def run(self, samples):
        for x, labels in self._batches(samples):
            self._step(x, labels)
        if self._device.type == "cuda":
            self._torch.cuda.synchronize(self._device)

    def parameters(self):
        return {f"{layer}.{name}": values for layer, step in self._steps
                for name, values in step.values().items()}

    def versions(self):
        return _versions(self._torch, self._device)

    def _load(self, dataset, network):
        """The images, padded with uint8 zeros, which are the background, and the labels."""
        torch = self._torch
        self._low, self._scale = _scaling(network)
        self._images = torch.nn.functional.pad(
            torch.from_numpy(np.array(dataset.images)),
            _margins(network, dataset.image_shape)).to(self._device)
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


class Predictor:
    """Finds a task's labels, `batch_size` images at a time."""

    def __init__(self, task, batch_size=256, threads=None):
        torch = self._torch = import_torch(task.device)
        if threads is not None:
            torch.set_num_threads(threads)
        self._device = torch.device(task.device)
        self._batch_size = batch_size
        network, images = task.network(), task.images()
        self._steps = torch_layers(torch, network, self._device, training=False)
        self._low, self._scale = _scaling(network)
        self._margins = _margins(network, images.shape[1:])
        self._images = torch.from_numpy(images)

    def labels(self):
        with self._torch.inference_mode():
            parts = [self._predict(part) for part in self._images.split(self._batch_size)]
            return self._torch.cat(parts).cpu().numpy()

    def run(self, samples):
        for _ in range(samples // len(self._images)):
            self.labels()

    def versions(self):
        return _versions(self._torch, self._device)

    def _predict(self, images):
        x = images.to(self._device)
        if any(self._margins):
            x = self._torch.nn.functional.pad(x, self._margins)
        x = x.to(self._torch.float32).mul_(self._scale).add_(self._low)
        for _, step in self._steps:
            x = step(x)
        return x.flatten(1).argmax(1)


def _scaling(network):
    """(what uint8 zero becomes, the width of one uint8 step)."""
    low, high = network.input_range
    return low, (high - low) / 255


def _margins(network, image_shape):
    """How far images are padded to the left, right, top and bottom, as PyTorch's pad wants it."""
    height, width = (size - own for size, own in zip(network.input_shape[1:], image_shape[1:],
                                                     strict=True))
    return [width // 2, width - width // 2, height // 2, height - height // 2]


def _versions(torch, device):
    versions = {"PyTorch": torch.__version__}
    if device.type == "cuda":
        versions["GPU"] = torch.cuda.get_device_name(device)
    return versions
