"""How fast an online update could be at best: its multiply-adds, at the rate that one
multiprocessor of the GPU reaches in a kernel that does nothing else, measured in the same run."""

from dataclasses import dataclass

import numpy as np

from benchmarks.processes import Process
from benchmarks.sides import OURS
from gpucnn import get_backend

CHAINS, UNROLLED, REPEATS = 8, 16, 4096  # multiply-adds of a thread
THREADS, BLOCKS_OF_MULTIPROCESSOR = 512, 2

SOURCE = f"""using real = float;
constexpr int CHAINS = {CHAINS}, UNROLLED = {UNROLLED};

// sums[thread] = of CHAINS values, multiplied and added to again and again. Chains do not wait for
// each other, so that a thread always has one that can go on.
extern "C" __global__ void __launch_bounds__({THREADS})
multiply_adds(float *sums, float factor, int repeats) {{
    float values[CHAINS];
#pragma unroll
    for (int chain = 0; chain < CHAINS; ++chain) values[chain] = chain + threadIdx.x;
#pragma unroll 1
    for (int repeat = 0; repeat < repeats; ++repeat)
#pragma unroll
        for (int step = 0; step < UNROLLED; ++step)
#pragma unroll
            for (int chain = 0; chain < CHAINS; ++chain)
                values[chain] = values[chain] * factor + factor;
    float sum = 0;
    for (int chain = 0; chain < CHAINS; ++chain) sum += values[chain];
    sums[blockIdx.x * {THREADS} + threadIdx.x] = sum;
}}
"""


@dataclass(frozen=True)
class Speed:
    """multiply_adds: what one multiprocessor does in a second; multiprocessors: how many there are.
    """

    multiply_adds: float
    multiprocessors: int

    def __str__(self):
        return (f"{2e-9 * self.multiply_adds:,.0f} GFLOP/s of float32 in each of "
                f"{self.multiprocessors} multiprocessors")

    def seconds(self, multiply_adds, networks):
        """The least time in which each of so many networks is updated once, if a network is trained
        by one multiprocessor."""
        at_once = min(networks, self.multiprocessors)
        return multiply_adds / self.multiply_adds * networks / at_once


@dataclass(frozen=True)
class MultiplyAdds:
    """The kernel, as `Kernels` takes it."""

    dtype = np.dtype(np.float32)

    def source(self):
        return SOURCE

    def __str__(self):
        return "multiply_adds"


def measured_speed(device):
    """The `Speed` of a GPU, measured in a process of its own."""
    with Process(OURS, "speed of a multiprocessor", {}, SpeedTask(device)) as process:
        return process.ask("speed")


@dataclass(frozen=True)
class SpeedTask:
    """Measuring what a multiprocessor reaches."""

    device: str
    unit: int = 1

    def worker(self, side, keywords):
        """What does the task in a side's process."""
        return SpeedMeter(get_backend(self.device))


class SpeedMeter:
    """Measures on a CUDA backend, by this library's way of launching kernels."""

    def __init__(self, backend, repeats=REPEATS):
        self._backend = backend
        self._repeats = repeats

    def speed(self):
        """The device's `Speed`."""
        backend = self._backend
        count = backend.runtime.profile.multiprocessors
        blocks = BLOCKS_OF_MULTIPROCESSOR * count
        sums = backend.empty((blocks * THREADS,), np.float32)
        seconds = backend.runtime.seconds(lambda: backend.kernels.launch(
            MultiplyAdds(), "multiply_adds", blocks, THREADS, sums, 0.5, self._repeats))
        done = THREADS * BLOCKS_OF_MULTIPROCESSOR * CHAINS * UNROLLED * self._repeats
        return Speed(done / seconds, count)
