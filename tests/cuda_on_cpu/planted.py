"""Kernels with planted faults, and the same kernels put right: tests of the tests.

Run as a program (under `run_sanitized`), it runs every kernel of `ADDRESS_FAULTS` in a process of
its own, wrong and right, and prints what became of it.
"""

import os
import sys
from dataclasses import dataclass

import numpy as np

from .runtime import HostRuntime

THREADS = 64
BLOCKS = 2
SIZE = BLOCKS * THREADS  # elements of both arrays


@dataclass(frozen=True)
class Planted:
    """The body of a kernel `planted(const float *x, float *y, int n)`, in which `HERE` stands for
    a `wrong` or a `right` line; `i` is the thread's number in the grid, `n` the arrays' size.
    `symptom` is a part of the report."""

    body: str
    wrong: str
    right: str
    symptom: str = "data race"
    threads: int = THREADS
    shared_bytes: int = 4 * THREADS  # of dynamic shared memory

    def source(self, line):
        """The kernel with `line`, "wrong" or "right", at its place."""
        body = self.body.replace("HERE", getattr(self, line))
        return ('#line 1 "cuda_kernels/planted.cu"\n'
                'extern "C" __global__ void planted(const float *x, float *y, int n) {\n'
                "const int i = blockIdx.x * blockDim.x + threadIdx.x, t = threadIdx.x;\n"
                f"const int lane = t % 32;\n{body}\n(void)i, (void)lane;\n}}\n")

    @property
    def place(self):
        """The file and line of the fault."""
        before = self.source("wrong").partition(self.wrong)[0]
        return f"planted.cu:{before.count(chr(10))}"

    def run(self, line, **options):
        """Run it on a `HostRuntime(**options)` with x = 0, 1, 2, ...; returns y."""
        runtime = HostRuntime(**options)
        launcher = runtime.compile(self.source(line), "planted")("planted")
        y = runtime.empty(SIZE, np.float32)
        x = runtime.upload(np.arange(SIZE, dtype=np.float32))
        launcher(BLOCKS, self.threads, (x, y, np.int32(SIZE)), self.shared_bytes)
        return runtime.download(y)


_OVERFLOW = "heap-buffer-overflow"
ADDRESS_FAULTS = {
    "read behind an array": Planted(
        "HERE", "y[i] = x[i + 1];", "y[i] = x[i];", _OVERFLOW),
    "write before an array": Planted(
        "HERE", "y[i - 1] = x[i];", "y[i] = x[i];", _OVERFLOW),
    "read behind shared memory": Planted(
        "__shared__ float tile[64];\nfloat *p = tile;\np[t] = x[i];\n__syncthreads();\nHERE",
        "y[i] = p[t + 1];", "y[i] = p[t];", _OVERFLOW),
    "index beyond a row of shared memory": Planted(
        "__shared__ float tile[2][32];\ntile[t / 32][t % 32] = x[i];\n__syncthreads();\nHERE",
        "y[i] = tile[0][t];", "y[i] = tile[t / 32][t % 32];", "out of bounds"),
    "write behind dynamic shared memory": Planted(
        "extern __shared__ float tile[];\ntile[t] = x[i];\nHERE",
        "tile[t + 1] = x[i];", "y[i] = tile[t];", _OVERFLOW),
    "read behind a large dynamic shared memory": Planted(
        "extern __shared__ float4 tile[];\nconst int last = 100 * 1024 / 16 - 1;\n"
        "float4 v = {};\nif (t == 0) tile[last] = v;\n__syncthreads();\nHERE\ny[i] = v.x;",
        "v = tile[last + 1];", "v = tile[last];", _OVERFLOW, shared_bytes=100 * 1024),
    "use of dynamic shared memory that the launch did not ask for": Planted(
        "extern __shared__ float tile[];\nHERE", "tile[t] = x[i];", "y[i] = x[i];", _OVERFLOW,
        shared_bytes=0),
    "read behind a local array": Planted(
        "float v[4];\nfor (int k = 0; k < 4; ++k) v[k] = x[(i + k) % n];\nfloat *p = v;\nHERE",
        "y[i] = p[t % 5];", "y[i] = p[t % 4];", "stack-buffer-overflow"),
    "misaligned float4": Planted(
        "float4 v = {};\nHERE\ny[i] = v.x;",
        "if (i < 8) v = reinterpret_cast<const float4 *>(x + 1)[i];",
        "if (i < 8) v = reinterpret_cast<const float4 *>(x)[i];", "misaligned"),
    "signed overflow": Planted(
        "int big = 2147483647 - n;\nHERE\ny[i] = float(big);",
        "big += n + i;", "big += i;", "signed integer overflow"),
}

RACES = {
    "a missing __syncthreads": Planted(
        "__shared__ float tile[64];\ntile[t] = x[i];\n__syncwarp();\nHERE",
        "y[i] = tile[63 - t];", "__syncthreads(); y[i] = tile[63 - t];"),
    "a missing __syncwarp": Planted(
        "__shared__ float tile[64];\ntile[t] = x[i];\nHERE",
        "y[i] = tile[t ^ 1];", "__syncwarp(); y[i] = tile[t ^ 1];"),
    "a __syncwarp of half a warp": Planted(
        "__shared__ float tile[64];\ntile[t] = x[i];\n"
        "__syncwarp(lane < 16 ? 0x0000ffff : 0xffff0000);\nHERE",
        "y[i] = tile[t ^ 16];", "y[i] = tile[t ^ 8];"),
    "a missing barrier before reuse": Planted(
        "__shared__ float tile[64];\nfor (int k = 0; k < 3; ++k) {\ntile[t] = k;\n"
        "__syncthreads();\ny[i] = tile[63 - t];\nHERE\n}",
        ";", "__syncthreads();"),
    "a missing __syncthreads for dynamic shared memory": Planted(
        "extern __shared__ float tile[];\ntile[t] = x[i];\nHERE",
        "y[i] = tile[63 - t];", "__syncthreads(); y[i] = tile[63 - t];"),
    "parts of dynamic shared memory that overlap": Planted(
        "extern __shared__ float tile[];\nconst int half = n / 4;\nfloat *sums = tile + half;\n"
        "if (t <= half) tile[t] = x[i];\nHERE\n__syncthreads();\ny[i] = tile[t];",
        "if (t == 63) sums[0] = 0;", "if (t == 63) sums[1] = 0;"),
    "a sum that is not atomic, within a block": Planted(
        "__shared__ float sum;\nif (t == 0) sum = 0;\n__syncthreads();\nHERE\n__syncthreads();\n"
        "y[i] = sum;", "sum += 1;", "atomicAdd(&sum, 1);"),
    "a sum that is not atomic, across blocks": Planted(
        "HERE", "if (t == 0) y[0] += 1;", "if (t == 0) atomicAdd(&y[0], 1);"),
    "a read of what another block writes": Planted(
        "if (blockIdx.x == 0) y[t] = t;\nHERE",
        "if (blockIdx.x == 1) y[i] = y[t];", "if (blockIdx.x == 1) y[i] = x[t];"),
    "a byte that two threads write": Planted(
        "unsigned char *bytes = reinterpret_cast<unsigned char *>(y);\nHERE",
        "bytes[i / 2] = 1;", "bytes[i] = 1;"),
}

MEETING_FAULTS = {
    "barriers in two branches": Planted(
        "HERE\nelse\n__syncthreads();", "if (t < 32) __syncthreads();",
        "if (t < 64) __syncthreads();", "divergent barrier"),
    "a barrier that some threads do not reach": Planted(
        "if (t < 40)\nHERE", "__syncthreads();", "{} __syncthreads();", "divergent barrier"),
    "a shuffle that one lane does not reach": Planted(
        "float sum = x[i];\nHERE\n__syncthreads();\ny[i] = sum;",
        "if (lane != 5) sum += __shfl_xor_sync(0xffffffff, sum, 1);",
        "sum += __shfl_xor_sync(0xffffffff, sum, 1);", "deadlock"),
    "a shuffle from a lane outside the mask": Planted(
        "float sum = x[i];\nif (lane < 16)\nHERE\ny[i] = sum;",
        "sum += __shfl_sync(0x0000ffff, sum, 16);", "sum += __shfl_sync(0x0000ffff, sum, 15);",
        "not in its mask"),
    "a shuffle from a lane that is gone": Planted(
        "if (lane == 31) return;\nfloat sum = x[i];\nHERE\ny[i] = sum;",
        "sum = __shfl_down_sync(0xffffffff, sum, 1);",
        "sum = __shfl_up_sync(0xffffffff, sum, 1);", "is not running"),
    "a shuffle from beyond the block": Planted(
        "float sum = x[i];\nHERE\ny[i] = sum;",
        "sum += __shfl_xor_sync(0xffffffff, sum, 16);",
        "sum += __shfl_xor_sync(0xffffffff, sum, 4);", "is not running", threads=40),
    "a lane outside its own mask": Planted(
        "HERE", "__syncwarp(0x7fffffff);", "if (lane < 31) __syncwarp(0x7fffffff);",
        "not in its own mask"),
    "a trap": Planted("HERE", "if (t == 3) __trap();", "if (t == 64) __trap();", "__trap()"),
    "too much shared memory": Planted(
        "HERE", "__shared__ double big[6200]; big[t] = 0;", "__shared__ double big[6100]; "
        "big[t] = 0;", "shared memory grows"),
    "too much shared memory beside dynamic": Planted(
        "HERE", "__shared__ float beside[1000]; beside[t] = 0;",
        "__shared__ float beside[768]; beside[t] = 0;",
        "shared memory grows to 167840 bytes, 163840 of them dynamic, the device allows 166912",
        shared_bytes=160 * 1024),
}


def _run_all():
    for name, planted in ADDRESS_FAULTS.items():
        for line in ("wrong", "right"):
            sys.stdout.flush()
            child = os.fork()
            if not child:
                os.dup2(1, 2)
                planted.run(line)
                os._exit(0)
            status = os.waitpid(child, 0)[1]
            print(f"\n=== {line}: {name}: {'silent' if status == 0 else 'found'}")


if __name__ == "__main__":
    _run_all()
