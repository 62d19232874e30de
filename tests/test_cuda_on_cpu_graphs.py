"""Captures: a graph holds launches, runs them when it is launched, and refuses everything else."""

import gc
import threading
import weakref

import numpy as np
import pytest

from gpucnn.backends.cuda.kernels import Kernels
from gpucnn.backends.cuda.runtime import CupyRuntime
from gpucnn.errors import DeviceError, KernelError
from tests.cuda_on_cpu.runtime import HostRuntime
from tests.fake_cupy import FakeCupy

TEXT = """#line 1 "cuda_kernels/double.cu"
using real = float;
extern "C" __global__ void add(real *x, int n, real value) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) x[i] += value;
}
extern "C" __global__ void scale(real *x, int n, real factor) {
    extern __shared__ real tile[];
    for (int i = threadIdx.x; i < n; i += blockDim.x) tile[i] = factor * x[i];
    for (int i = threadIdx.x; i < n; i += blockDim.x) x[i] = tile[i];
}
"""


class Source:
    """A generated source: all that `Kernels` asks of a specialisation."""

    dtype = np.dtype(np.float32)

    def source(self):
        return TEXT

    def __str__(self):
        return "double.cu"


SOURCE = Source()


@pytest.fixture(params=["host", "cupy"])
def runtime(request):
    return HostRuntime() if request.param == "host" else CupyRuntime(FakeCupy(gpus=2), 1)


@pytest.fixture
def kernels(runtime):
    kernels = Kernels(runtime)
    kernels.prepare(SOURCE)
    return kernels


def step(kernels, array):
    """x -> 2 (x + 1), in two launches."""
    kernels.launch(SOURCE, "add", 1, 32, array, array.size, 1.0)
    kernels.launch(SOURCE, "scale", 1, 32, array, array.size, 2.0, shared_bytes=array.nbytes)


def test_a_capture_runs_nothing_and_its_graph_runs_the_launches_in_order(runtime, kernels):
    x = runtime.upload(np.arange(5, dtype=np.float32))
    graph = runtime.capture(lambda: step(kernels, x))
    np.testing.assert_array_equal(runtime.download(x), np.arange(5))
    graph.launch()
    np.testing.assert_array_equal(runtime.download(x), 2 * np.arange(5) + 2)
    graph.launch()
    np.testing.assert_array_equal(runtime.download(x), 4 * np.arange(5) + 6)


def test_a_graph_reads_what_its_arrays_hold_when_it_is_launched(runtime, kernels):
    x = runtime.upload(np.zeros(3, np.float32))
    graph = runtime.capture(lambda: step(kernels, x))
    runtime.upload(np.full(3, 9, np.float32), x)
    graph.launch()
    np.testing.assert_array_equal(runtime.download(x), [20, 20, 20])


def test_the_host_lists_the_launches_of_a_graph_when_it_is_launched():
    runtime = HostRuntime()
    kernels = Kernels(runtime)
    kernels.prepare(SOURCE)
    x = runtime.upload(np.zeros(3, np.float32))
    graph = runtime.capture(lambda: step(kernels, x))
    assert runtime.launches == []
    graph.launch()
    assert runtime.launches == [("add", 1, 32), ("scale", 1, 32)]


def test_a_graph_keeps_its_arrays_alive(runtime, kernels):
    arrays = [runtime.upload(np.zeros(3, np.float32))]
    memory = weakref.ref(arrays[0]._values.base.base)  # what its views look at
    graph = runtime.capture(lambda: step(kernels, arrays[0]))
    arrays.clear()
    gc.collect()
    graph.launch()
    assert memory() is not None
    del graph
    gc.collect()
    assert memory() is None


# -- misuse ----------------------------------------------------------------------------------------

MISUSES = {
    "empty": lambda runtime, x: runtime.empty(3, np.float32),
    "zero": lambda runtime, x: runtime.zero(x),
    "upload": lambda runtime, x: runtime.upload(np.zeros(3, np.float32), x),
    "download": lambda runtime, x: runtime.download(x),
    "copy": lambda runtime, x: runtime.copy(x, x),
    "synchronize": lambda runtime, x: runtime.synchronize(),
    "seconds": lambda runtime, x: runtime.seconds(lambda: None),
    "compile double.cu": lambda runtime, x: Kernels(runtime).prepare(SOURCE),
    "capture": lambda runtime, x: runtime.capture(lambda: None),
}


@pytest.mark.parametrize("what", MISUSES)
def test_a_capture_refuses(what, runtime):
    x = runtime.upload(np.zeros(3, np.float32))
    with pytest.raises(DeviceError, match=rf"^{what}: a graph is being captured on {runtime.device}"
                                          r", which takes launches of compiled kernels only"):
        runtime.capture(lambda: MISUSES[what](runtime, x))
    MISUSES[what](runtime, x)  # and the capture has ended


def test_a_capture_refuses_the_launch_of_a_graph(runtime):
    graph = runtime.capture(lambda: None)
    with pytest.raises(DeviceError, match=r"^launch of a graph: a graph is being captured"):
        runtime.capture(graph.launch)


def test_a_kernel_that_is_not_prepared_is_not_compiled_in_a_capture(runtime):
    x = runtime.upload(np.zeros(3, np.float32))
    with pytest.raises(DeviceError, match=r"^compile double\.cu: a graph is being captured"):
        runtime.capture(lambda: step(Kernels(runtime), x))


def test_a_wrong_launch_is_refused_in_the_capture_and_ends_it(runtime, kernels):
    x = runtime.upload(np.zeros(3, np.float32))
    with pytest.raises(KernelError, match="expected 3 arguments"):
        runtime.capture(lambda: kernels.launch(SOURCE, "add", 1, 32, x))
    step(kernels, x)
    np.testing.assert_array_equal(runtime.download(x), [2, 2, 2])


def test_other_threads_go_on_during_a_capture(runtime, kernels):
    x, results = runtime.upload(np.zeros(3, np.float32)), []

    def elsewhere():
        y = runtime.upload(np.ones(3, np.float32))
        Kernels(runtime).prepare(SOURCE)
        results.append(runtime.download(y))

    def work():
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        step(kernels, x)

    runtime.capture(work).launch()
    np.testing.assert_array_equal(results, [[1, 1, 1]])
    np.testing.assert_array_equal(runtime.download(x), [2, 2, 2])


# -- times -----------------------------------------------------------------------------------------


def test_the_time_of_work_is_the_mean_of_its_repetitions_after_two_more(runtime):
    calls = []
    taken = runtime.seconds(lambda: calls.append(None), 7)
    assert len(calls) == 9
    assert 0 < taken < 0.1
