"""Kernels whose warps pass memory on by mbarriers, with planted faults and put right: tests of the
tests."""

from dataclasses import dataclass

import numpy as np

from gpucnn.backends.cuda.kernels import pasted_source

from .profiles import PROFILES
from .runtime import HostRuntime

PRODUCERS, CONSUMERS, ROUNDS, BLOCKS = 64, 96, 7, 2   # threads, three warps of them; turns
THREADS = PRODUCERS + CONSUMERS


def mbarrier_source(body):
    """A kernel `planted`, whose `body` begins at line 1 of planted.cu. `t` is the thread's number
    in its block; x and y begin with the block's own part."""
    kernel = ('#include "async.cuh"\n#include "mbarrier.cuh"\n'
              f'extern "C" __global__ void __launch_bounds__({THREADS}, 1)\n'
              "planted(const float *x, float *y) {\nconst int t = threadIdx.x;\n"
              f"x += blockIdx.x * {ROUNDS * PRODUCERS};\ny += blockIdx.x * {CONSUMERS};\n"
              f'#line 1 "planted.cu"\n{body}\n(void)t;\n}}\n')
    return pasted_source("kernel.cu", {"kernel.cu": kernel})


def run(body, *, profile=PROFILES["sm_90"], **options):
    """y, an element for each consumer of every block, after a launch with x = 0, 1, 2, ..., of
    which each block reads PRODUCERS in each of ROUNDS."""
    runtime = HostRuntime(profile=profile, **options)
    launcher = runtime.compile(mbarrier_source(body), "planted")("planted")
    x = runtime.upload(np.arange(BLOCKS * ROUNDS * PRODUCERS, dtype=np.float32))
    y = runtime.empty(BLOCKS * CONSUMERS, np.float32)
    launcher(BLOCKS, THREADS, (x, y), 0)
    return runtime.download(y)


# A ring of two places: producers write numbers, each consumer adds up one of each round.
RING = f"""__shared__ Mbarrier full[2];
__shared__ Mbarrier empty[2];
__shared__ float ring[2][{PRODUCERS}];
__shared__ __align__(16) float sums[{CONSUMERS}];
(void)sums;
if (t < 2) {{ INIT }}
__syncthreads();
if (t >= {CONSUMERS}) {{
for (int n = 0; n < {ROUNDS}; ++n) {{
const int slot = n % 2, parity = n / 2 % 2, p = t - {CONSUMERS};
WAIT_EMPTY
PRODUCE
}}
}} else {{
float sum = 0;
for (int n = 0; n < {ROUNDS}; ++n) {{
const int slot = n % 2, parity = n / 2 % 2;
WAIT_FULL
sum += ring[slot][(5 * t + n) % {PRODUCERS}];
SYNCWARP
if (t % 32 == 0) arrive(&empty[slot]);
}}
STORE
}}"""
RIGHT = {
    "INIT": f"init_mbarrier(&full[t], {PRODUCERS}); init_mbarrier(&empty[t], 3);",
    "WAIT_EMPTY": "wait(&empty[slot], parity ^ 1);",
    "PRODUCE": f"ring[slot][p] = x[n * {PRODUCERS} + p];\narrive(&full[slot]);",
    "WAIT_FULL": "wait(&full[slot], parity);",
    "SYNCWARP": "__syncwarp();",
    "STORE": "y[t] = sum;",
}
COPIED = {"PRODUCE": f"copy_async<4>(&ring[slot][p], &x[n * {PRODUCERS} + p], true);\n"
                     "arrive_when_copied(&full[slot]);"}
BULK = {"STORE": "sums[t] = sum;\nfence_for_bulk_store();\n__syncwarp();\nif (t % 32 == 0) {\n"
                 "bulk_store(y + t, sums + t, 128);\nwait_for_bulk_reads();\n}"}


def ring(**parts):
    """The ring, some of whose parts are others."""
    body = RING
    for name, text in (RIGHT | parts).items():
        body = body.replace(name, text)
    return body


def sums():
    """What a ring puts into y."""
    x = np.arange(BLOCKS * ROUNDS * PRODUCERS, dtype=np.float32).reshape(BLOCKS, ROUNDS, PRODUCERS)
    t, n = np.arange(CONSUMERS), np.arange(ROUNDS)[:, None]
    return x[:, n, (5 * t + n) % PRODUCERS].sum(1).reshape(-1)


@dataclass(frozen=True)
class Planted:
    """Parts of a ring with a fault, a pattern of the report, and a part of the line that it names;
    an empty one where that depends on the order of the threads."""

    parts: dict
    symptom: str
    line: str

    @property
    def body(self):
        return ring(**self.parts)

    @property
    def place(self):
        return f"planted.cu:{self.body.partition(self.line)[0].count(chr(10)) + 1}"


RACES = {
    "a consumer that does not wait": Planted({"WAIT_FULL": "(void)parity;"}, "data race",
                                             "sum += "),
    "a producer that does not wait": Planted({"WAIT_EMPTY": "(void)parity;"},
                                             "data race|deadlock", ""),
    "a wait for the phase that lasts": Planted({"WAIT_EMPTY": "wait(&empty[slot], parity);"},
                                               "deadlock", "wait(&full"),
    "lanes that still read when one arrives": Planted({"SYNCWARP": ";"}, "data race",
                                                      "ring[slot][p] ="),
    "an arrival before the write": Planted(
        {"PRODUCE": f"arrive(&full[slot]);\nring[slot][p] = x[n * {PRODUCERS} + p];"}, "data race",
        "sum += "),
    "a place that is full after half of the arrivals": Planted(
        {"INIT": "init_mbarrier(&full[t], 32); init_mbarrier(&empty[t], 3);",
         "PRODUCE": f"ring[slot][p] = x[n * {PRODUCERS} + p];\nif (p < 32) arrive(&full[slot]);"},
        "data race|deadlock", ""),
    "a bulk store without a meeting of the warp": Planted(
        {"STORE": BULK["STORE"].replace("__syncwarp();", ";")}, "data race", "sums[t] = sum"),
}
FAULTS = {
    "an arrival that is missing": Planted(
        {"PRODUCE": f"ring[slot][p] = x[n * {PRODUCERS} + p];\nif (p > 0) arrive(&full[slot]);"},
        "waits at an mbarrier for 1 more of 64 arrivals", "wait(&full"),
    "a barrier that was not initialised": Planted(
        {"INIT": f"init_mbarrier(&full[t], {PRODUCERS});"},
        "an mbarrier that was not initialised", ""),
    "no arrivals": Planted({"INIT": "init_mbarrier(&full[t], 0);"},
                           "expected an mbarrier of at least one arrival, got 0", "init_mbarrier"),
    "a block's barrier that producers do not come to": Planted(
        {"SYNCWARP": "__syncthreads();"}, "divergent barrier", "__syncthreads();\nif (t % 32"),
}
