"""PyTorch, written for speed as its best users would.

- The data set is padded once, as uint8 on the device, and batches are gathered and scaled there.
- A convolution through a table is dense. Its weight is masked at the start, and its gradient after
  each backward pass, so that the absent connections stay at zero; a mask in the forward pass would
  cost two more operations.
- A convolution whose kernel covers its whole input is a `linear`.
- Subsampling is a sum pooling and one `addcmul`; activations work in place where autograd allows.
- SGD is the fused one. There is no module, hence no module overhead, and nothing is counted.
- On a GPU the whole step, from the order of the samples to the update, is a CUDA graph as well,
  with and without `torch.compile`; `torch_ways.py` tells more.
- Inference runs under `inference_mode`; pictures are padded as uint8, then scaled in place.
"""

import numpy as np

from benchmarks.precisions import FLOAT32, TF32, in_each_precision
from benchmarks.sides import BenchmarkError
from benchmarks.torch_layers import torch_layers
from benchmarks.torch_step import Step, scaling
from benchmarks.torch_ways import COMPILED_GRAPH, EAGER, GRAPH, make_way

PREDICTED_AT_ONCE = {"cpu": (64, 256, 1024), "cuda": (1024, 10000)}


def settings(device, cores):
    """On a CPU one thread, all cores, and one thread with PyTorch's own convolutions in place of
    oneDNN's, which are quicker for a sample at a time. On a GPU every way, in both precisions."""
    if device != "cpu":
        return in_each_precision({name: {"way": name} for name in (EAGER, GRAPH, COMPILED_GRAPH)},
                                 device)
    return {"1 thread": {"threads": 1}} | (
        {f"{cores} threads": {"threads": cores}} if cores > 1 else {}) | (
        {"1 thread, no oneDNN": {"threads": 1, "onednn": False}})


def race_settings(device, cores):
    """Of a race's batch size: on a GPU graphs alone, on a CPU without what is quick at batch 1."""
    if device != "cpu":
        return in_each_precision({name: {"way": name} for name in (GRAPH, COMPILED_GRAPH)}, device)
    return {f"{threads} thread{'s' * (threads > 1)}": {"threads": threads}
            for threads in sorted({1, cores})}


def prediction_settings(device, cores):
    """A few batch sizes; on a CPU, each with one thread and with all cores."""
    if device != "cpu":
        return {f"batch {size}": {"batch_size": size} for size in PREDICTED_AT_ONCE["cuda"]}
    return {f"batch {size}, {threads} thread{'s' * (threads > 1)}":
            {"batch_size": size, "threads": threads}
            for threads in sorted({1, cores}) for size in PREDICTED_AT_ONCE["cpu"]}


def import_torch(device="cpu", precision=FLOAT32):
    """PyTorch for a device, or a `BenchmarkError` that says what to install."""
    try:
        import torch
    except ImportError as error:
        raise BenchmarkError(f"peer torch: expected PyTorch to be installed (pip install torch), "
                             f"got {error}") from error
    if device != "cpu":
        if not torch.cuda.is_available():
            raise BenchmarkError(f"peer torch: expected a PyTorch with CUDA for device "
                                 f"{device!r}, got {torch.__version__} without a usable GPU")
        torch.cuda.set_device(_index(device))  # graphs are captured on the current device
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = precision == TF32
    torch.backends.cuda.matmul.allow_tf32 = precision == TF32
    return torch


class Trainer:
    """Trains a task with PyTorch's autograd."""

    step_type = Step

    def __init__(self, task, way=EAGER, precision=FLOAT32, threads=None, onednn=True):
        torch = self._torch = import_torch(task.device, precision)
        if threads is not None:
            torch.set_num_threads(threads)
        torch.backends.mkldnn.enabled = onednn
        self._task = task
        self._device = torch.device(task.device)
        self._step = self.step_type(torch, task, self._device)
        self._way = make_way(way, torch, self._step, task)
        self._order = task.order()
        self._test = None

    def losses(self, steps):
        order = self._order.take(steps * self._task.batch_size)
        return [loss.item() for loss in self._way.losses(order)]

    def run(self, samples):
        self._way.train(self._order.take(samples))
        self._synchronize()

    def parameters(self):
        return self._step.parameters()

    def versions(self):
        return _versions(self._torch, self._device)

    def reset(self, values):
        self._step.reset(values)
        self._synchronize()

    def train(self, order, shifts, rates):
        self._way.train(self._task.padded_order(order, shifts), rates.astype(np.float32))

    def misread(self):
        if self._test is None:
            images, labels = self._task.padded_test_pictures()
            size = PREDICTED_AT_ONCE[self._device.type][-1]
            self._test = [(self._torch.from_numpy(images[first:first + size]).to(self._device),
                           self._torch.from_numpy(labels[first:first + size]).to(self._device))
                          for first in range(0, len(images), size)]
        with self._torch.no_grad():
            wrong = [(self._step.outputs(self._step.scaled(images)).argmax(1) != labels).sum()
                     for images, labels in self._test]
            return int(self._torch.stack(wrong).sum())

    def _synchronize(self):
        if self._device.type == "cuda":
            self._torch.cuda.synchronize(self._device)


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
        self._low, self._scale = scaling(network)
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


def _index(device):
    """The number of a GPU in a device's name."""
    return int(device.partition(":")[2] or 0)


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
