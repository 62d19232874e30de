"""How fast a training step could be at best: what it has to compute and to move, and how fast the
GPU computes and moves, measured in the same run."""

import time
from dataclasses import dataclass
from math import prod
from statistics import median

from benchmarks.peers_torch import import_torch
from benchmarks.precisions import TF32, precisions
from benchmarks.processes import Process

MATRIX_SIZE = 8192
COPIED_BYTES = 1 << 30
WARM_UP, REPEATS = 3, 10
FLOAT_BYTES, INTEGER_BYTES = 4, 4


@dataclass(frozen=True)
class Work:
    """What a training step of a batch has to do: multiply-adds, and bytes of memory to and fro."""

    multiply_adds: int
    bytes: int

    def seconds(self, speed, precision):
        """The least time at a `Speed`: computing and moving may overlap, so the longer of both."""
        return max(self.multiply_adds / speed.multiply_adds[precision], self.bytes / speed.bytes)


@dataclass(frozen=True)
class Speed:
    """What a GPU reaches in a second: precision -> multiply-adds of a large matrix product; bytes
    of a large copy, read and written."""

    multiply_adds: dict
    bytes: float

    def __str__(self):
        products = ", ".join(f"{2e-12 * rate:.3g} TFLOP/s in {precision}"
                             for precision, rate in self.multiply_adds.items())
        return f"products of matrices {products}; copy {1e-12 * self.bytes:.3g} TB/s"


def training_work(network, image_shape, batch_size):
    """The `Work` of a training step with SGD and momentum.

    Multiply-adds: as many as the forward pass in every layer for its parameters' gradients, and
    once more for its input's, which the first layer does not need. Bytes: what no way of computing
    spares, the batch's uint8 pictures of `image_shape`, labels and order, and parameters and
    velocities read and written; outputs of layers might never leave the chip.
    """
    forward = [layer.multiply_adds(shape) for layer, shape in zip(
        network.layers, (network.input_shape, *network.shapes), strict=False)]
    multiply_adds = 3 * sum(forward) - forward[0]
    parameters = 2 * 2 * FLOAT_BYTES * network.n_parameters
    return Work(batch_size * multiply_adds,
                batch_size * (prod(image_shape) + 2 * INTEGER_BYTES) + parameters)


def measured_speed(device):
    """The `Speed` of a GPU, measured in a process of its own, before any other uses it."""
    with Process("torch", "speed of the GPU", {}, SpeedTask(device)) as process:
        return process.ask("speed")


@dataclass(frozen=True)
class SpeedTask:
    """Measuring what a device reaches."""

    device: str
    matrix_size: int = MATRIX_SIZE
    copied_bytes: int = COPIED_BYTES
    unit: int = 1

    def worker(self, side, keywords):
        """What does the task in a side's process."""
        return SpeedMeter(self.device, self.matrix_size, self.copied_bytes)


class SpeedMeter:
    """Measures by PyTorch, with the products of cuBLAS."""

    def __init__(self, device, matrix_size=MATRIX_SIZE, copied_bytes=COPIED_BYTES):
        self._name = device
        self._matrix_size = matrix_size
        self._copied_bytes = copied_bytes
        self._torch = import_torch(device)
        self._device = self._torch.device(device)

    def speed(self):
        """The device's `Speed`."""
        return Speed({precision: self._multiply_adds(precision)
                      for precision in precisions(self._name)}, self._bytes())

    def _multiply_adds(self, precision):
        torch, size = self._torch, self._matrix_size
        torch.backends.cuda.matmul.allow_tf32 = precision == TF32
        left, right = (torch.rand(size, size, device=self._device) for _ in range(2))
        product = torch.empty_like(left)
        return size**3 / self._seconds(lambda: torch.mm(left, right, out=product))

    def _bytes(self):
        source = self._torch.zeros(self._copied_bytes, dtype=self._torch.uint8,
                                   device=self._device)
        copy = self._torch.empty_like(source)
        return 2 * self._copied_bytes / self._seconds(lambda: copy.copy_(source))

    def _seconds(self, work):
        """The median time of some work, each waited for."""
        times = []
        for number in range(WARM_UP + REPEATS):
            start = time.perf_counter()
            work()
            if self._device.type == "cuda":
                self._torch.cuda.synchronize(self._device)
            if number >= WARM_UP:
                times.append(time.perf_counter() - start)
        return median(times)
