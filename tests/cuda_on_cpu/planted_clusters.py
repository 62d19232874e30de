"""Kernels in clusters with planted faults, and the same kernels put right: tests of the tests."""

from dataclasses import dataclass

import numpy as np

from gpucnn.backends.cuda.kernels import pasted_source

from .profiles import PROFILES
from .runtime import HostRuntime


def cluster_source(body, blocks=4, *, parameters="const float *x, float *y", bounds=1024):
    """A kernel `planted` in clusters of `blocks`, whose `body` begins at line 1 of planted.cu. `i`
    is the thread's number in the grid, `t` that in its block, `rank` the block's in its cluster."""
    kernel = ('#include "cluster.cuh"\n#include "constants.h"\n'
              f'extern "C" __global__ void CLUSTER_OF(BLOCKS) __launch_bounds__({bounds}, 1)\n'
              f"planted({parameters}) {{\n"
              "const int i = blockIdx.x * blockDim.x + threadIdx.x, t = threadIdx.x;\n"
              f'const int rank = cluster_rank();\n#line 1 "planted.cu"\n{body}\n'
              "(void)i, (void)t, (void)rank;\n}\n")
    return pasted_source("kernel.cu", {"kernel.cu": kernel,
                                       "constants.h": f"constexpr int BLOCKS = {blocks};\n"})


def run_clusters(body, *, blocks=4, clusters=2, threads=64, shared_bytes=None,
                 profile=PROFILES["sm_90"], **options):
    """y after a launch with x = 0, 1, 2, ...; both have an element for each thread of the grid."""
    runtime = HostRuntime(profile=profile, **options)
    launcher = runtime.compile(cluster_source(body, blocks), "planted")("planted")
    size = clusters * blocks * threads
    x, y = runtime.upload(np.arange(size, dtype=np.float32)), runtime.empty(size, np.float32)
    launcher(clusters * blocks, threads, (x, y),
             4 * threads if shared_bytes is None else shared_bytes)
    return runtime.download(y)


@dataclass(frozen=True)
class PlantedInCluster:
    """A body in which `HERE` stands for a `wrong` or a `right` line. `symptom` is a part of the
    report, which names the line of the fault, `line` if it is not HERE's."""

    body: str
    wrong: str
    right: str
    symptom: str = "data race"
    line: str | None = None
    clusters: int = 1
    shared_bytes: int | None = None

    def run(self, which, **options):
        return run_clusters(self.body.replace("HERE", getattr(self, which)),
                            clusters=self.clusters, shared_bytes=self.shared_bytes, **options)

    @property
    def place(self):
        body = self.body.replace("HERE", self.wrong)
        return f"planted.cu:{body.partition(self.line or self.wrong)[0].count(chr(10)) + 1}"


DECLARED = ("extern __shared__ float tile[];\nconst int next = (rank + 1) % BLOCKS;\n"
            "(void)tile, (void)next;\n")
RACES = {
    "a missing cluster barrier": PlantedInCluster(
        DECLARED + "cluster_barrier();\nstore_to_block(tile + t, next, x[i]);\nHERE\n"
        "y[i] = tile[t];\ncluster_barrier();", ";", "cluster_barrier();", line="y[i] = tile"),
    "a block's barrier in place of a cluster's": PlantedInCluster(
        DECLARED + "cluster_barrier();\nstore_to_block(tile + t, next, x[i]);\nHERE\n"
        "y[i] = tile[t];\ncluster_barrier();", "__syncthreads();", "cluster_barrier();",
        line="y[i] = tile"),
    "a missing cluster barrier before reuse": PlantedInCluster(
        DECLARED + "for (int k = 0; k < 2; ++k) {\nHERE\n"
        "store_to_block(tile + t, next, k + x[i]);\ncluster_barrier();\n"
        "if (k == 0) y[i] = tile[t];\n}\ncluster_barrier();",
        "if (k == 0) cluster_barrier();", "cluster_barrier();", line=""),
    "two blocks that write to the same place": PlantedInCluster(
        DECLARED + "cluster_barrier();\nHERE\ncluster_barrier();\ny[i] = tile[t];",
        "store_to_block(tile + t, (rank + t) % 2, x[i]);",
        "store_to_block(tile + t, (rank + t) % BLOCKS, x[i]);"),
    "a write of its own beside another block's": PlantedInCluster(
        DECLARED + "cluster_barrier();\nstore_to_block(tile + t, next, x[i]);\nHERE\n"
        "cluster_barrier();\ny[i] = tile[t];", "tile[t] = 0;", "y[i] = 0;", line=""),
    "a read of what another block of the cluster wrote to global memory": PlantedInCluster(
        "y[i] = x[i];\nHERE\nconst float sum = y[i] + y[i ^ 64];\ncluster_barrier();\ny[i] = sum;",
        "__syncthreads();", "cluster_barrier();", line="const float sum"),
    "a write after reads by a block and by another": PlantedInCluster(
        "const float sum = rank == 0 || t == 0 ? x[0] : 0;\n__syncthreads();\nHERE\n"
        "if (i == 0) const_cast<float *>(x)[0] = 1;\ny[i] = sum;", ";",
        "cluster_barrier();", line="if (i == 0)"),
    "a read of what another cluster writes": PlantedInCluster(
        "if (i < 256) y[i] = 1;\ncluster_barrier();\nHERE", "if (i >= 256) y[i] = y[i - 256];",
        "if (i >= 256) y[i] = x[i - 256];", symptom="of another block", clusters=2),
}
FAULTS = {
    "cluster barriers in two branches": PlantedInCluster(
        "HERE\nelse\ncluster_barrier();", "if (rank == 1) cluster_barrier();",
        "if (rank < 4) cluster_barrier();",
        "divergent barrier: other threads of the cluster wait in cluster_barrier", line=""),
    "a block that does not come to the cluster's barrier": PlantedInCluster(
        "if (rank != 2)\nHERE", "cluster_barrier();", "{} cluster_barrier();",
        "divergent barrier: thread 0 of block 0 waits in cluster_barrier, but thread 0 of block 2 "
        "has left the kernel"),
    "a thread that does not come to the cluster's barrier": PlantedInCluster(
        "if (i != 70)\nHERE", "cluster_barrier();", "{} cluster_barrier();",
        "thread 0 of block 0 waits in cluster_barrier, but thread 6 of block 1 has left"),
    "a cluster's barrier that meets a block's": PlantedInCluster(
        "HERE\ncluster_barrier();", "if (rank == 3 && t >= 32) __syncthreads();",
        "if (rank == 3) __syncthreads();", "divergent barrier: thread 32 of block 3 waits in "
        "__syncthreads, but thread 0 of block 3 waits in cluster_barrier at planted.cu:2"),
    "a rank too large": PlantedInCluster(
        DECLARED + "cluster_barrier();\nHERE\ncluster_barrier();",
        "store_to_block(tile + t, rank + 1, x[i]);", "store_to_block(tile + t, next, x[i]);",
        "store_to_block: expected a rank of 0 to 3, got 4"),
    "a negative rank": PlantedInCluster(
        DECLARED + "cluster_barrier();\nHERE\ncluster_barrier();",
        "store_to_block(tile + t, rank - 1, x[i]);", "store_to_block(tile + t, next, x[i]);",
        "store_to_block: expected a rank of 0 to 3, got -1"),
    "a write behind the other block's dynamic memory": PlantedInCluster(
        DECLARED + "cluster_barrier();\nHERE\ncluster_barrier();",
        "store_to_block(tile + t + 1, next, x[i]);", "store_to_block(tile + t, next, x[i]);",
        "expected a place of 4 bytes in the block's shared memory"),
    "a write that is half behind a variable": PlantedInCluster(
        "__shared__ float pair[3];\ncluster_barrier();\nif (t == 0)\nHERE\ncluster_barrier();",
        "store_to_block(reinterpret_cast<double *>(pair + 2), rank ^ 1, 1.0);",
        "store_to_block(reinterpret_cast<double *>(pair), rank ^ 1, 1.0);",
        "expected a place of 8 bytes in the block's shared memory"),
    "a place in global memory": PlantedInCluster(
        DECLARED + "cluster_barrier();\nHERE\ncluster_barrier();",
        "store_to_block(y + i, next, x[i]);", "store_to_block(tile + t, next, x[i]);",
        "expected a place of 4 bytes in the block's shared memory"),
    "a misaligned place": PlantedInCluster(
        DECLARED + "cluster_barrier();\nif (t == 0)\nHERE\ncluster_barrier();",
        "store_to_block(reinterpret_cast<double *>(tile + 1), next, 1.0);",
        "store_to_block(reinterpret_cast<double *>(tile + 2), next, 1.0);", "misaligned"),
    "a write to a block that may not have begun": PlantedInCluster(
        DECLARED + "HERE\nstore_to_block(tile + t, next, x[i]);\ncluster_barrier();", ";",
        "cluster_barrier();", "may not have begun", line="store_to_block"),
    "a write to a block that may have ended": PlantedInCluster(
        DECLARED + "cluster_barrier();\nstore_to_block(tile + t, next, x[i]);\nHERE", ";",
        "cluster_barrier();", "which may have ended", line="store_to_block"),
    "a shuffle from a lane that does not take part": PlantedInCluster(
        "float sum = x[i];\nHERE\ny[i] = sum;",
        "if (t < 16) sum += __shfl_sync(0xffff, sum, rank == 2 ? 16 : 0);",
        "if (t < 16) sum += __shfl_sync(0xffff, sum, 15);", "of warp 0 shuffles from lane 16"),
    "a shuffle that a lane does not reach": PlantedInCluster(
        "float sum = x[i];\nif (rank != 1 || t != 5)\nHERE\n__syncwarp();\ny[i] = sum;",
        "sum += __shfl_xor_sync(~0u, sum, 1);", "{}", "of block 1 waits in"),
    "too much shared memory": PlantedInCluster(
        "cluster_barrier();\nHERE", "__shared__ double big[6200]; big[t] = 0;",
        "__shared__ double big[6100]; big[t] = 0;", "shared memory grows"),
    "too much shared memory beside dynamic": PlantedInCluster(
        "cluster_barrier();\nHERE", "__shared__ float beside[2000]; beside[t] = 0;",
        "__shared__ float beside[1700]; beside[t] = 0;", "shared memory grows to",
        shared_bytes=220 * 1024),
}
