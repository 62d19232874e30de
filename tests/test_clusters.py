"""cuda_kernels/cluster.cuh: clusters compile for GPUs, run right on the host, and their planted
faults are found there."""

import re
from dataclasses import dataclass, replace

import numpy as np
import pytest

from gpucnn.backends.cuda.kernels import Kernels, pasted_source
from gpucnn.errors import KernelError
from tests.cuda_on_cpu.profiles import PROFILES
from tests.cuda_on_cpu.runtime import HostRuntime, KernelFault
from tests.cuda_on_cpu.sanitized import run_sanitized
from tests.nvrtc import compile_for, ptx_for

ORDERS = ("forward", "reverse", 1, 2)
H100 = PROFILES["sm_90"]


def source(body, blocks=4, *, parameters="const float *x, float *y", bounds=1024):
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


def run(body, *, blocks=4, clusters=2, threads=64, shared_bytes=None, profile=H100, **options):
    """y after a launch with x = 0, 1, 2, ...; both have an element for each thread of the grid."""
    runtime = HostRuntime(profile=profile, **options)
    launcher = runtime.compile(source(body, blocks), "planted")("planted")
    size = clusters * blocks * threads
    x, y = runtime.upload(np.arange(size, dtype=np.float32)), runtime.empty(size, np.float32)
    launcher(clusters * blocks, threads, (x, y),
             4 * threads if shared_bytes is None else shared_bytes)
    return runtime.download(y)


# -- right kernels run right -----------------------------------------------------------------------

# Three times round the ring of a cluster's blocks, in dynamic and static memory of 4 and 8 bytes.
RING = """extern __shared__ float tile[];
__shared__ double twice[1024];
__shared__ float2 pairs[1024];
const int next = (rank + 1) % BLOCKS;
float mine = x[i];
for (int round = 0; round < 3; ++round) {
    cluster_barrier();
    store_to_block(tile + t, next, mine);
    store_to_block(&twice[t], next, 2.0 * mine);
    store_to_block(&pairs[t], next, make_float2(mine, 3 * mine));
    cluster_barrier();
    const int other = blockDim.x - 1 - t;
    mine = tile[other] + twice[other] + pairs[other].x + pairs[other].y;
}
y[i] = mine;"""


def after_ring(clusters, blocks, threads):
    values = np.arange(clusters * blocks * threads, dtype=np.float32)
    values = values.reshape(clusters, blocks, threads)
    for _ in range(3):
        values = 7 * np.roll(values, 1, axis=1)[:, :, ::-1]
    return values.reshape(-1)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("clusters", "blocks", "threads"),
                         [(3, 1, 40), (1, 2, 64), (2, 3, 33), (2, 8, 32)])
def test_blocks_write_into_each_others_memory_in_every_order(clusters, blocks, threads, order):
    got = run(RING, clusters=clusters, blocks=blocks, threads=threads, order=order)
    np.testing.assert_array_equal(got, after_ring(clusters, blocks, threads))


@pytest.mark.parametrize("order", ORDERS)
def test_the_race_detector_is_silent_where_barriers_are_right(order):
    got = run(RING, blocks=3, threads=40, order=order, sanitizer="thread")
    np.testing.assert_array_equal(got, after_ring(2, 3, 40))


@pytest.mark.parametrize("order", ORDERS)
def test_a_cluster_barrier_is_a_blocks_barrier_too(order):
    body = """extern __shared__ float tile[];
        tile[t] = x[i];
        cluster_barrier();
        y[i] = tile[63 - t];"""
    wanted = np.arange(512).reshape(8, 64)[:, ::-1].reshape(-1)
    np.testing.assert_array_equal(run(body, order=order, sanitizer="thread"), wanted)


@pytest.mark.parametrize("threads", [512, 1024])
def test_the_largest_clusters_run(threads):
    got = run(RING, clusters=1, blocks=8, threads=threads, order=3)
    np.testing.assert_array_equal(got, after_ring(1, 8, threads))


def test_each_block_has_barriers_and_warps_and_memory_of_its_own():
    body = """__shared__ int sum;
        if (t == 0) sum = 0;
        for (int k = 0; k <= rank; ++k) {  // so many barriers
            __syncthreads();
            atomicAdd(&sum, t + rank);
        }
        __syncthreads();
        y[i] = sum + 10000.0f * __syncthreads_count(t < rank)
               + 1000000.0f * __shfl_xor_sync(~0u, rank, 1);"""
    for order in ORDERS:
        got = run(body, clusters=1, order=order, sanitizer="thread").reshape(4, 64)
        for rank in range(4):
            wanted = (rank + 1) * (64 * 63 // 2 + 64 * rank) + 10000 * rank + 1000000 * rank
            np.testing.assert_array_equal(got[rank], wanted)


def turns(order):
    """The blocks of a cluster of 3 in the order in which their threads come to run."""
    body = "float *turn = const_cast<float *>(x); y[int(atomicAdd(turn, 1.0f))] = rank;"
    return run(body, blocks=3, clusters=1, threads=32, order=order)


def test_an_order_is_that_of_all_threads_of_a_cluster():
    np.testing.assert_array_equal(turns("forward"), np.repeat([0, 1, 2], 32))
    np.testing.assert_array_equal(turns("reverse"), np.repeat([2, 1, 0], 32))
    assert np.count_nonzero(np.diff(turns(1))) > 30


# -- planted faults are found ----------------------------------------------------------------------


@dataclass(frozen=True)
class Planted:
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
        return run(self.body.replace("HERE", getattr(self, which)), clusters=self.clusters,
                   shared_bytes=self.shared_bytes, **options)

    @property
    def place(self):
        body = self.body.replace("HERE", self.wrong)
        return f"planted.cu:{body.partition(self.line or self.wrong)[0].count(chr(10)) + 1}"


DECLARED = ("extern __shared__ float tile[];\nconst int next = (rank + 1) % BLOCKS;\n"
            "(void)tile, (void)next;\n")
RACES = {
    "a missing cluster barrier": Planted(
        DECLARED + "cluster_barrier();\nstore_to_block(tile + t, next, x[i]);\nHERE\n"
        "y[i] = tile[t];\ncluster_barrier();", ";", "cluster_barrier();", line="y[i] = tile"),
    "a block's barrier in place of a cluster's": Planted(
        DECLARED + "cluster_barrier();\nstore_to_block(tile + t, next, x[i]);\nHERE\n"
        "y[i] = tile[t];\ncluster_barrier();", "__syncthreads();", "cluster_barrier();",
        line="y[i] = tile"),
    "a missing cluster barrier before reuse": Planted(
        DECLARED + "for (int k = 0; k < 2; ++k) {\nHERE\n"
        "store_to_block(tile + t, next, k + x[i]);\ncluster_barrier();\n"
        "if (k == 0) y[i] = tile[t];\n}\ncluster_barrier();",
        "if (k == 0) cluster_barrier();", "cluster_barrier();", line=""),
    "two blocks that write to the same place": Planted(
        DECLARED + "cluster_barrier();\nHERE\ncluster_barrier();\ny[i] = tile[t];",
        "store_to_block(tile + t, (rank + t) % 2, x[i]);",
        "store_to_block(tile + t, (rank + t) % BLOCKS, x[i]);"),
    "a write of its own beside another block's": Planted(
        DECLARED + "cluster_barrier();\nstore_to_block(tile + t, next, x[i]);\nHERE\n"
        "cluster_barrier();\ny[i] = tile[t];", "tile[t] = 0;", "y[i] = 0;", line=""),
    "a read of what another block of the cluster wrote to global memory": Planted(
        "y[i] = x[i];\nHERE\nconst float sum = y[i] + y[i ^ 64];\ncluster_barrier();\ny[i] = sum;",
        "__syncthreads();", "cluster_barrier();", line="const float sum"),
    "a write after reads by a block and by another": Planted(
        "const float sum = rank == 0 || t == 0 ? x[0] : 0;\n__syncthreads();\nHERE\n"
        "if (i == 0) const_cast<float *>(x)[0] = 1;\ny[i] = sum;", ";",
        "cluster_barrier();", line="if (i == 0)"),
    "a read of what another cluster writes": Planted(
        "if (i < 256) y[i] = 1;\ncluster_barrier();\nHERE", "if (i >= 256) y[i] = y[i - 256];",
        "if (i >= 256) y[i] = x[i - 256];", symptom="of another block", clusters=2),
}
FAULTS = {
    "cluster barriers in two branches": Planted(
        "HERE\nelse\ncluster_barrier();", "if (rank == 1) cluster_barrier();",
        "if (rank < 4) cluster_barrier();",
        "divergent barrier: other threads of the cluster wait in cluster_barrier", line=""),
    "a block that does not come to the cluster's barrier": Planted(
        "if (rank != 2)\nHERE", "cluster_barrier();", "{} cluster_barrier();",
        "divergent barrier: thread 0 of block 0 waits in cluster_barrier, but thread 0 of block 2 "
        "has left the kernel"),
    "a thread that does not come to the cluster's barrier": Planted(
        "if (i != 70)\nHERE", "cluster_barrier();", "{} cluster_barrier();",
        "thread 0 of block 0 waits in cluster_barrier, but thread 6 of block 1 has left"),
    "a cluster's barrier that meets a block's": Planted(
        "HERE\ncluster_barrier();", "if (rank == 3 && t >= 32) __syncthreads();",
        "if (rank == 3) __syncthreads();", "divergent barrier: thread 32 of block 3 waits in "
        "__syncthreads, but thread 0 of block 3 waits in cluster_barrier at planted.cu:2"),
    "a rank too large": Planted(
        DECLARED + "cluster_barrier();\nHERE\ncluster_barrier();",
        "store_to_block(tile + t, rank + 1, x[i]);", "store_to_block(tile + t, next, x[i]);",
        "store_to_block: expected a rank of 0 to 3, got 4"),
    "a negative rank": Planted(
        DECLARED + "cluster_barrier();\nHERE\ncluster_barrier();",
        "store_to_block(tile + t, rank - 1, x[i]);", "store_to_block(tile + t, next, x[i]);",
        "store_to_block: expected a rank of 0 to 3, got -1"),
    "a write behind the other block's dynamic memory": Planted(
        DECLARED + "cluster_barrier();\nHERE\ncluster_barrier();",
        "store_to_block(tile + t + 1, next, x[i]);", "store_to_block(tile + t, next, x[i]);",
        "expected a place of 4 bytes in the block's shared memory"),
    "a write that is half behind a variable": Planted(
        "__shared__ float pair[3];\ncluster_barrier();\nif (t == 0)\nHERE\ncluster_barrier();",
        "store_to_block(reinterpret_cast<double *>(pair + 2), rank ^ 1, 1.0);",
        "store_to_block(reinterpret_cast<double *>(pair), rank ^ 1, 1.0);",
        "expected a place of 8 bytes in the block's shared memory"),
    "a place in global memory": Planted(
        DECLARED + "cluster_barrier();\nHERE\ncluster_barrier();",
        "store_to_block(y + i, next, x[i]);", "store_to_block(tile + t, next, x[i]);",
        "expected a place of 4 bytes in the block's shared memory"),
    "a misaligned place": Planted(
        DECLARED + "cluster_barrier();\nif (t == 0)\nHERE\ncluster_barrier();",
        "store_to_block(reinterpret_cast<double *>(tile + 1), next, 1.0);",
        "store_to_block(reinterpret_cast<double *>(tile + 2), next, 1.0);", "misaligned"),
    "a write to a block that may not have begun": Planted(
        DECLARED + "HERE\nstore_to_block(tile + t, next, x[i]);\ncluster_barrier();", ";",
        "cluster_barrier();", "may not have begun", line="store_to_block"),
    "a write to a block that may have ended": Planted(
        DECLARED + "cluster_barrier();\nstore_to_block(tile + t, next, x[i]);\nHERE", ";",
        "cluster_barrier();", "which may have ended", line="store_to_block"),
    "a shuffle from a lane that does not take part": Planted(
        "float sum = x[i];\nHERE\ny[i] = sum;",
        "if (t < 16) sum += __shfl_sync(0xffff, sum, rank == 2 ? 16 : 0);",
        "if (t < 16) sum += __shfl_sync(0xffff, sum, 15);", "of warp 0 shuffles from lane 16"),
    "a shuffle that a lane does not reach": Planted(
        "float sum = x[i];\nif (rank != 1 || t != 5)\nHERE\n__syncwarp();\ny[i] = sum;",
        "sum += __shfl_xor_sync(~0u, sum, 1);", "{}", "of block 1 waits in"),
    "too much shared memory": Planted(
        "cluster_barrier();\nHERE", "__shared__ double big[6200]; big[t] = 0;",
        "__shared__ double big[6100]; big[t] = 0;", "shared memory grows"),
    "too much shared memory beside dynamic": Planted(
        "cluster_barrier();\nHERE", "__shared__ float beside[2000]; beside[t] = 0;",
        "__shared__ float beside[1700]; beside[t] = 0;", "shared memory grows to",
        shared_bytes=220 * 1024),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", RACES)
def test_the_race_detector_finds(name, order):
    planted = RACES[name]
    with pytest.raises(KernelFault, match="data race") as caught:
        planted.run("wrong", sanitizer="thread", order=order)
    report = str(caught.value)
    assert planted.symptom in report
    assert len(re.findall(r"planted\.cu:\d+", report)) == 2
    if planted.line != "":
        assert planted.place in report


@pytest.mark.parametrize("name", RACES)
def test_the_race_detector_is_silent_without(name):
    results = [RACES[name].run("right", sanitizer="thread", order=order) for order in ORDERS]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_the_race_detector_remembers_readers_of_two_blocks():
    planted = RACES["a write after reads by a block and by another"]
    for order in range(12):  # in some of them two warps of the block that writes read first
        with pytest.raises(KernelFault, match="data race"):
            planted.run("wrong", sanitizer="thread", order=order, blocks=2)


@pytest.mark.parametrize("name", ["a missing cluster barrier",
                                  "a block's barrier in place of a cluster's",
                                  "a missing cluster barrier before reuse"])
def test_orders_show(name):
    wrong = [RACES[name].run("wrong", order=order) for order in ORDERS]
    assert not all(np.array_equal(wrong[0], other, equal_nan=True) for other in wrong)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", FAULTS)
def test_the_scheduler_finds(name, order):
    planted = FAULTS[name]
    with pytest.raises(KernelFault, match=re.escape(planted.symptom)) as caught:
        planted.run("wrong", order=order)
    assert re.search(r"planted\.cu:\d+\)$", str(caught.value))
    if planted.line != "":
        assert planted.place in str(caught.value)
    planted.run("right", order=order)


def test_a_race_names_the_other_block():
    with pytest.raises(KernelFault, match=r"block 1, thread 0: data race: read here is not ordered "
                                          r"after the write by thread 0 of block 0 \(at"):
        RACES["a missing cluster barrier"].run("wrong", sanitizer="thread")


def test_a_fault_leaves_the_next_launch_alone():
    for _ in range(2):
        for name in ("a block that does not come to the cluster's barrier",
                     "a write to a block that may have ended"):
            with pytest.raises(KernelFault):
                FAULTS[name].run("wrong")
            np.testing.assert_array_equal(run(RING, blocks=1, clusters=3, threads=40),
                                          after_ring(3, 1, 40))
            np.testing.assert_array_equal(run(RING, blocks=2), after_ring(2, 2, 64))


@pytest.mark.parametrize("kind", ["address", "thread"])
def test_all_of_this_holds_with_the_sanitizer(kind):
    tests = "every_order or largest or scheduler_finds or next_launch"
    result = run_sanitized(kind, ["-m", "pytest", "-q", "-p", "no:cacheprovider", __file__,
                                  "-k", f"({tests}) and not race"])
    assert result.returncode == 0, result.stdout[-5000:]


# -- launches --------------------------------------------------------------------------------------


def launcher(blocks=4, profile=H100):
    runtime = HostRuntime(profile=profile)
    x = runtime.empty(1024, np.float32)
    compiled = runtime.compile(source("y[i] = x[i];", blocks), "planted")("planted")
    return lambda grid: compiled(grid, 32, (x, x))


def test_a_grid_is_a_multiple_of_the_cluster():
    launch = launcher()
    launch(8)
    with pytest.raises(KernelError, match="kernel planted: expected a multiple of 4 blocks, those "
                                          "of its clusters, got 10"):
        launch(10)


@pytest.mark.parametrize("architecture", PROFILES)
def test_clusters_need_compute_capability_9(architecture):
    profile = PROFILES[architecture]
    launcher(1, profile)(3)
    if profile.compute_capability >= (9, 0):
        launcher(4, profile)(4)
        return
    with pytest.raises(KernelError, match="kernel planted: clusters of 4 blocks need compute "
                                          rf"capability 9\.0, {profile.name} has"):
        launcher(4, profile)(4)


@pytest.mark.parametrize(("size", "message"), [
    (9, "kernel planted: expected a cluster of 1 to 8 blocks, got 9"),
    (0, "expected a cluster of 1 to 8 blocks, got 0")])
def test_a_cluster_has_1_to_8_blocks(size, message):
    with pytest.raises(KernelError, match=message):
        launcher(size)


def test_a_clusters_size_is_known_from_the_source():
    text = source("y[i] = x[i];").replace("CLUSTER_OF(BLOCKS)", "CLUSTER_OF(SIZE)")
    with pytest.raises(KernelError, match="kernel planted: expected CLUSTER_OF a number or of the "
                                          r"name of a `constexpr int` .*, got CLUSTER_OF\(SIZE\)"):
        HostRuntime(profile=H100).compile(text, "planted")
    text = source("y[i] = x[i];").replace("CLUSTER_OF(BLOCKS)", "CLUSTER_OF(2)")
    assert isinstance(HostRuntime(profile=H100).compile(text, "planted")("planted"), object)


def test_launch_bounds_hold_for_clusters():
    runtime = HostRuntime(profile=H100)
    x = runtime.empty(4096, np.float32)
    for text in (source("y[i] = x[i];", bounds=64),
                 source("y[i] = x[i];", bounds=64).replace(
                     "CLUSTER_OF(BLOCKS) __launch_bounds__(64, 1)",
                     "__launch_bounds__(64, 1) CLUSTER_OF(BLOCKS)")):
        with pytest.raises(KernelFault, match="expected at most 64 threads"):
            runtime.compile(text, "planted")("planted")(4, 96, (x, x))


@dataclass(frozen=True)
class Generated:
    """A specialisation that loops over its grid."""

    blocks: int

    @property
    def dtype(self):
        return np.dtype(np.float32)

    def source(self):
        return source("""for (int k = i; k < n; k += gridDim.x * blockDim.x) {
            cluster_barrier();
            y[k] = rank;
        }""", self.blocks, parameters="float *y, int n")


@pytest.mark.parametrize(("max_blocks", "grid"), [(100, 12), (12, 12), (11, 9), (5, 3), (3, 3)])
def test_a_grid_is_cut_to_whole_clusters(max_blocks, grid):
    runtime = HostRuntime(profile=replace(H100, max_blocks=max_blocks))
    kernels = Kernels(runtime)
    y = runtime.empty(12 * 32 * 3, np.float32)
    kernels.launch(Generated(3), "planted", 12, 32, y, y.size)
    assert runtime.launches == [("planted", grid, 32)]
    np.testing.assert_array_equal(runtime.download(y).reshape(-1, 32)[:, 0], np.tile([0, 1, 2], 12))


def test_a_largest_grid_below_a_cluster_is_refused():
    runtime = HostRuntime(profile=replace(H100, max_blocks=2))
    y = runtime.empty(96, np.float32)
    with pytest.raises(KernelError, match="clusters of 3 blocks are more than the largest grid, 2"):
        Kernels(runtime).launch(Generated(3), "planted", 3, 32, y, y.size)


def test_a_launch_that_is_no_whole_number_of_clusters_is_refused():
    runtime = HostRuntime(profile=H100)
    y = runtime.empty(96, np.float32)
    with pytest.raises(KernelError, match="expected a multiple of 3 blocks"):
        Kernels(runtime).launch(Generated(3), "planted", 4, 32, y, y.size)


# -- GPUs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", PROFILES)
@pytest.mark.parametrize("blocks", [1, 8])
def test_clusters_compile(architecture, blocks):
    text = source(RING, blocks)
    if blocks == 1 or PROFILES[architecture].compute_capability >= (9, 0):
        resources = compile_for(text, "planted.cu", architecture)["planted"]
        assert resources.spill_bytes == resources.stack_bytes == 0


def test_ptx_says_what_a_cluster_is_and_where_a_write_goes():
    text = ptx_for(source(RING, 8), "planted.cu", "compute_90")
    for instruction in (".reqnctapercluster 8, 1, 1", "%cluster_ctarank",
                        "mapa.shared::cluster.u32", "st.shared::cluster.b32",
                        "st.shared::cluster.b64", "barrier.cluster.arrive.release",
                        "barrier.cluster.wait.acquire"):
        assert instruction in text
    assert "cluster" not in ptx_for(source(RING, 1), "planted.cu", "compute_75")
