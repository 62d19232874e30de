"""cuda_kernels/cluster.cuh: clusters compile for GPUs, run right on the host, and their planted
faults are found there."""

import re
from dataclasses import dataclass, replace

import numpy as np
import pytest

from gpucnn.backends.cuda.kernels import Kernels
from gpucnn.backends.cuda.runtime import CupyRuntime
from gpucnn.errors import KernelError
from tests.cuda_on_cpu.planted_clusters import FAULTS, RACES, cluster_source, run_clusters
from tests.cuda_on_cpu.profiles import PROFILES
from tests.cuda_on_cpu.runtime import HostRuntime, KernelFault
from tests.cuda_on_cpu.sanitized import run_sanitized
from tests.fake_cupy import FakeCupy
from tests.nvrtc import compile_for, ptx_for

ORDERS = ("forward", "reverse", 1, 2)
H100 = PROFILES["sm_90"]


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
    got = run_clusters(RING, clusters=clusters, blocks=blocks, threads=threads, order=order)
    np.testing.assert_array_equal(got, after_ring(clusters, blocks, threads))


@pytest.mark.parametrize("order", ORDERS)
def test_the_race_detector_is_silent_where_barriers_are_right(order):
    got = run_clusters(RING, blocks=3, threads=40, order=order, sanitizer="thread")
    np.testing.assert_array_equal(got, after_ring(2, 3, 40))


@pytest.mark.parametrize("order", ORDERS)
def test_a_cluster_barrier_is_a_blocks_barrier_too(order):
    body = """extern __shared__ float tile[];
        tile[t] = x[i];
        cluster_barrier();
        y[i] = tile[63 - t];"""
    wanted = np.arange(512).reshape(8, 64)[:, ::-1].reshape(-1)
    np.testing.assert_array_equal(run_clusters(body, order=order, sanitizer="thread"), wanted)


@pytest.mark.parametrize("threads", [512, 1024])
def test_the_largest_clusters_run(threads):
    got = run_clusters(RING, clusters=1, blocks=8, threads=threads, order=3)
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
        got = run_clusters(body, clusters=1, order=order, sanitizer="thread").reshape(4, 64)
        for rank in range(4):
            wanted = (rank + 1) * (64 * 63 // 2 + 64 * rank) + 10000 * rank + 1000000 * rank
            np.testing.assert_array_equal(got[rank], wanted)


def turns(order):
    """The blocks of a cluster of 3 in the order in which their threads come to run."""
    body = "float *turn = const_cast<float *>(x); y[int(atomicAdd(turn, 1.0f))] = rank;"
    return run_clusters(body, blocks=3, clusters=1, threads=32, order=order)


def test_an_order_is_that_of_all_threads_of_a_cluster():
    np.testing.assert_array_equal(turns("forward"), np.repeat([0, 1, 2], 32))
    np.testing.assert_array_equal(turns("reverse"), np.repeat([2, 1, 0], 32))
    assert np.count_nonzero(np.diff(turns(1))) > 30


# -- planted faults are found ----------------------------------------------------------------------


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
            np.testing.assert_array_equal(run_clusters(RING, blocks=1, clusters=3, threads=40),
                                          after_ring(3, 1, 40))
            np.testing.assert_array_equal(run_clusters(RING, blocks=2), after_ring(2, 2, 64))


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["address", "thread"])
def test_all_of_this_holds_with_the_sanitizer(kind):
    tests = "every_order or largest or scheduler_finds or next_launch"
    result = run_sanitized(kind, ["-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider",
                                  __file__, "-k", f"({tests}) and not race"])
    assert result.returncode == 0, result.stdout[-5000:]


# -- launches --------------------------------------------------------------------------------------


def launcher(blocks=4, profile=H100):
    runtime = HostRuntime(profile=profile)
    x = runtime.empty(1024, np.float32)
    compiled = runtime.compile(cluster_source("y[i] = x[i];", blocks), "planted")("planted")
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
    text = cluster_source("y[i] = x[i];").replace("CLUSTER_OF(BLOCKS)", "CLUSTER_OF(SIZE)")
    with pytest.raises(KernelError, match="kernel planted: expected CLUSTER_OF a number or of the "
                                          r"name of a `constexpr int` .*, got CLUSTER_OF\(SIZE\)"):
        HostRuntime(profile=H100).compile(text, "planted")
    text = cluster_source("y[i] = x[i];").replace("CLUSTER_OF(BLOCKS)", "CLUSTER_OF(2)")
    runtime = HostRuntime(profile=H100)
    y = runtime.empty(96, np.float32)
    with pytest.raises(KernelError, match="a multiple of 2 blocks"):
        runtime.compile(text, "planted")("planted")(3, 32, (y, y))


def test_launch_bounds_hold_for_clusters():
    runtime = HostRuntime(profile=H100)
    x = runtime.empty(4096, np.float32)
    for text in (cluster_source("y[i] = x[i];", bounds=64),
                 cluster_source("y[i] = x[i];", bounds=64).replace(
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
        return cluster_source("""for (int k = i; k < n; k += gridDim.x * blockDim.x) {
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


def test_cupy_launches_clusters_as_other_kernels():
    cupy = FakeCupy()
    cupy.runtime.profile = H100
    runtime = CupyRuntime(cupy)
    kernels, y = Kernels(runtime), runtime.empty(6 * 32, np.float32)
    wanted = np.tile(np.repeat([0, 1, 2], 32), 2)
    kernels.launch(Generated(3), "planted", 6, 32, y, y.size)
    np.testing.assert_array_equal(runtime.download(y), wanted)
    graph = runtime.capture(lambda: kernels.launch(Generated(3), "planted", 6, 32, y, y.size))
    runtime.zero(y)
    graph.launch()
    np.testing.assert_array_equal(runtime.download(y), wanted)


# -- GPUs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("architecture", "blocks"), [
    *((architecture, 1) for architecture in PROFILES),
    *((architecture, 8) for architecture in ("sm_90", "sm_100", "sm_120"))])
def test_clusters_compile(architecture, blocks):
    resources = compile_for(cluster_source(RING, blocks), "planted.cu", architecture)["planted"]
    assert resources.spill_bytes == resources.stack_bytes == 0


def test_ptx_says_what_a_cluster_is_and_where_a_write_goes():
    text = ptx_for(cluster_source(RING, 8), "planted.cu", "compute_90")
    for instruction in (".reqnctapercluster 8, 1, 1", "%cluster_ctarank",
                        "mapa.shared::cluster.u32", "st.shared::cluster.b32",
                        "st.shared::cluster.b64", "barrier.cluster.arrive.release",
                        "barrier.cluster.wait.acquire"):
        assert instruction in text
    assert "cluster" not in ptx_for(cluster_source(RING, 1), "planted.cu", "compute_75")
