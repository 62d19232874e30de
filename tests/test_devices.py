"""The switch: which backend a device's name means, and what is said when there is none."""

import logging
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from gpucnn import SGD, devices, get_backend, two_stage
from gpucnn.backends.cpu import CpuBackend
from gpucnn.backends.cuda import CudaBackend, finding
from gpucnn.backends.cuda.runtime import CupyRuntime, KernelResources
from gpucnn.errors import DeviceError, DTypeError, KernelError, ShapeError
from tests.cuda_on_cpu.runtime import HostRuntime
from tests.fake_cupy import FakeCupy, FakeError, ndarray


@pytest.fixture
def importing(monkeypatch):
    """Let `import cupy` give a module or raise an error, and forget what was found before."""
    devices._automatic.cache_clear()

    def use(outcome):
        def import_module(name):
            assert name == "cupy"
            if isinstance(outcome, Exception):
                raise outcome
            return outcome
        monkeypatch.setattr(finding.importlib, "import_module", import_module)

    yield use
    devices._automatic.cache_clear()


MISSING = ModuleNotFoundError("No module named 'cupy'", name="cupy")
BROKEN = [ImportError("libcuda.so.1: cannot open shared object file"),
          ModuleNotFoundError("No module named 'fastrlock'", name="fastrlock"),
          AttributeError("module 'numpy' has no attribute 'bool'")]
OLD_DRIVER, NO_DEVICE = 35, 100
MEMORY_CLOCK = 36  # cudaDevAttrMemoryClockRate


def test_cpu_is_numpy_everywhere():
    assert isinstance(get_backend("cpu"), CpuBackend)
    assert get_backend("cpu") is get_backend("cpu")
    assert "NumPy" in get_backend("cpu").description


def test_a_backend_is_its_own_device():
    backend = CudaBackend(HostRuntime())
    assert get_backend(backend) is backend


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "CPU", "", 0, None, "cuda:-1"])
def test_a_name_of_no_device_is_refused(name):
    with pytest.raises(DeviceError, match="expected 'cpu', 'cuda', 'cuda:N' or 'auto', got"):
        get_backend(name)


def test_cuda_without_cupy_says_what_to_install(importing):
    importing(MISSING)
    with pytest.raises(DeviceError, match=r"'cuda': CuPy is not installed: pip install gpucnn\["):
        get_backend("cuda")


def test_cuda_without_a_gpu_says_that_the_gpu_is_missing(importing):
    importing(FakeCupy(gpus=0))
    with pytest.raises(DeviceError, match="'cuda:1': CuPy is installed but finds no NVIDIA"):
        get_backend("cuda:1")


def driver_fails(status, message):
    """A CuPy whose driver is there and fails."""
    def fail():
        raise FakeError(status, message)
    cupy = FakeCupy(gpus=0)
    cupy.cuda.runtime.driverGetVersion = lambda: 11040
    cupy.cuda.runtime.getDeviceCount = fail
    return cupy


def without_compiler():
    """A CuPy with a GPU and without NVRTC."""
    def fail():
        raise RuntimeError("libnvrtc.so.12: not found")
    cupy = FakeCupy()
    cupy.cuda.nvrtc.getVersion = fail
    return cupy


@pytest.mark.parametrize("error", BROKEN, ids=lambda error: type(error).__name__)
def test_a_broken_cupy_is_told_apart_from_a_missing_one(importing, error):
    importing(error)
    with pytest.raises(DeviceError, match="installed but does not import"):
        get_backend("cuda")


@pytest.mark.parametrize("outcome", [MISSING, FakeCupy(gpus=0)], ids=["no CuPy", "no GPU"])
def test_auto_takes_the_cpu_quietly_and_logs_it(importing, caplog, recwarn, outcome):
    importing(outcome)
    with caplog.at_level(logging.INFO, "gpucnn"):
        assert get_backend("auto") is get_backend("cpu")
    assert not recwarn.list
    assert "no CUDA" in caplog.text and "taking cpu" in caplog.text


@pytest.mark.parametrize(("cupy", "words"), [
    (driver_fails(OLD_DRIVER, "driver version is insufficient"), "cannot use the NVIDIA driver"),
    (without_compiler(), r"no compiler, NVRTC: pip install gpucnn\[cuda12\]"),
], ids=["old driver", "no NVRTC"])
def test_an_old_driver_or_a_missing_compiler_is_named_and_auto_warns(importing, cupy, words):
    importing(cupy)
    with pytest.raises(DeviceError, match=words):
        get_backend("cuda")
    with pytest.warns(RuntimeWarning, match=words):
        assert get_backend("auto") is get_backend("cpu")


def test_a_driver_that_shows_no_gpu_is_no_reason_to_warn(importing, recwarn):
    importing(driver_fails(NO_DEVICE, "no CUDA-capable device is detected"))
    assert get_backend("auto") is get_backend("cpu")
    assert not recwarn.list


@pytest.mark.parametrize("error", BROKEN, ids=lambda error: type(error).__name__)
def test_auto_warns_of_a_broken_cupy(importing, error):
    importing(error)
    with pytest.warns(RuntimeWarning, match="takes the CPU: CuPy is installed but does not import"):
        assert get_backend("auto") is get_backend("cpu")


def test_auto_takes_a_gpu_that_is_usable(importing, caplog):
    importing(FakeCupy())
    with caplog.at_level(logging.INFO, "gpucnn"):
        backend = get_backend("auto")
    assert backend.device == "cuda:0"
    assert backend.description == ("Fake GPU (compute capability 9.0, driver for CUDA 12.9, "
                                   "NVRTC 12.9)")
    assert "taking cuda:0, Fake GPU" in caplog.text


def test_a_compiler_newer_than_the_driver_is_warned_of():
    cupy = FakeCupy()
    cupy.cuda.nvrtc.getVersion = lambda: (13, 5)
    with pytest.warns(RuntimeWarning, match=r"CUDA 12\.9, NVRTC 13\.5.*NVRTC of CUDA 12 or"):
        CupyRuntime(cupy)


def test_an_index_beyond_the_gpus_is_refused(importing):
    importing(FakeCupy(gpus=2))
    assert get_backend("cuda:1").device == "cuda:1"
    with pytest.raises(DeviceError, match="'cuda:2': expected an index below 2"):
        get_backend("cuda:2")


def test_asking_for_cuda_is_quick_and_leaves_the_cpu_usable():
    code = ("import time, gpucnn; start = time.perf_counter()\n"
            "gpucnn.get_backend('auto'); assert time.perf_counter() - start < 20\n"
            "print(gpucnn.lenet5(device='cpu').device)")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "cpu"


# -- CuPy's runtime, on a stand-in -----------------------------------------------------------------


@pytest.fixture
def cupy_backend():
    return CudaBackend(CupyRuntime(FakeCupy(gpus=2), 1))


def test_a_training_step_through_cupys_runtime_is_that_of_the_host_runner(cupy_backend):
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 28), dtype=np.uint8)
    flats = []
    for backend in (cupy_backend, CudaBackend(HostRuntime())):
        network = two_stage(device=backend)
        plan = network.compile_step(loss="cross_entropy", optimizer=SGD(lr=0.1, momentum=0.9),
                                    batch_size=2)
        loss = plan.step(images, np.array([3, 5]))
        flats.append((float(loss), backend.to_host(network.parameters.flat).tobytes()))
        backend.synchronize()
    assert flats[0] == flats[1]


def test_cupys_runtime_works_on_its_own_device(cupy_backend):
    runtime = cupy_backend.runtime
    array = runtime.upload(np.arange(3.0))
    assert runtime.owns(array) and set(runtime._cupy.entered) == {1}
    assert not CupyRuntime(runtime._cupy, 0).owns(array)
    assert not runtime.owns(np.arange(3.0))


def test_cupys_runtime_copies_only_between_equal_shapes_and_types(cupy_backend):
    runtime = cupy_backend.runtime
    source = runtime.upload(np.arange(6.0).reshape(2, 3))
    out = runtime.empty((2, 3), np.float64)
    runtime.copy(source, out)
    assert runtime.download(out).tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ShapeError, match=r"expected `out` of shape \(1, 3\), got \(2, 3\)"):
        runtime.copy(source[:1], out)
    with pytest.raises(DTypeError, match="of type float64, got float32"):
        runtime.copy(source, runtime.empty((2, 3), np.float32))


class RecordedKernel:
    """A RawKernel that only records its launches."""

    num_regs, local_size_bytes, shared_size_bytes = 40, 16, 1024

    def __init__(self):
        self.launched, self.limits = [], []

    def __call__(self, *launch, shared_mem):
        self.launched.append((ndarray.current, *launch, shared_mem))

    def __setattr__(self, name, value):
        if name == "max_dynamic_shared_size_bytes":
            self.limits.append(value)
        else:
            super().__setattr__(name, value)


@pytest.fixture
def recorded(cupy_backend):
    """(a launcher of CuPy's runtime, the kernel that it launches)."""
    kernel = RecordedKernel()
    cupy_backend.runtime._cupy.RawModule = lambda **_: SimpleNamespace(
        compile=lambda: None, get_function=lambda name: kernel)
    return cupy_backend.runtime.compile("", "x.cu")("kernel"), kernel


def test_cupys_runtime_launches_on_its_device_with_null_pointers_for_none(recorded):
    launcher, kernel = recorded
    launcher(7, 128, (None, np.int32(3)))
    [(device, blocks, threads, (pointer, number), shared)] = kernel.launched
    assert (device, blocks, threads, shared) == (1, (7,), (128,), 0)
    assert pointer == 0 and pointer.nbytes == 8 and number == 3


def test_cupys_runtime_asks_for_shared_memory_beyond_48_kilobytes_when_it_grows(recorded):
    launcher, kernel = recorded
    for kilobytes in (0, 47, 48, 100, 64, 227):  # the kernel has 1 of its own
        launcher(1, 32, (), kilobytes * 1024)
    assert [shared // 1024 for *_, shared in kernel.launched] == [0, 47, 48, 100, 64, 227]
    assert [limit // 1024 for limit in kernel.limits] == [48, 100, 227]
    with pytest.raises(KernelError, match=r"kernel kernel: expected at most 232448 bytes of dynamic"
                                          r" shared memory on cuda:1, got 232449"):
        launcher(1, 32, (), 227 * 1024 + 1)


def test_cupys_runtime_tells_what_a_kernel_takes(recorded):
    assert recorded[0].resources == KernelResources(registers=40, local_bytes=16,
                                                    static_shared_bytes=1024)


def test_cupys_runtime_reads_the_devices_profile(cupy_backend):
    cupy = FakeCupy()
    profile = CupyRuntime(cupy).profile
    assert profile.dynamic_shared_bytes == 227 * 1024 and profile.shared_bytes == 48 * 1024
    assert profile.shared_bytes_of_multiprocessor == 228 * 1024
    assert (profile.registers_of_multiprocessor, profile.threads_of_multiprocessor) == (65536, 2048)
    assert (profile.clock, profile.bandwidth) == (1.98e9, 0)  # its memory's clock is not told
    cupy.attributes[MEMORY_CLOCK] = 2_619_000
    assert CupyRuntime(cupy).profile.bandwidth == pytest.approx(3.35e12, rel=1e-3)


def test_cupys_runtime_keeps_cautious_limits_where_the_driver_tells_nothing():
    cupy = FakeCupy()
    cupy.attributes.clear()
    profile = CupyRuntime(cupy).profile
    assert profile.dynamic_shared_bytes == profile.shared_bytes == 48 * 1024
    assert profile.clock == profile.bandwidth == 0


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3)])
def test_cupys_runtime_uploads_keep_scalars_and_empty_arrays_as_they_are(cupy_backend, shape):
    array = cupy_backend.runtime.upload(np.zeros(shape, np.float32))
    assert array.shape == shape and array.dtype == np.float32


def test_cupys_runtime_uploads_scalars_and_any_strides(cupy_backend):
    runtime = cupy_backend.runtime
    assert runtime.download(runtime.upload(np.array(3.0), runtime.empty((), np.float64))) == 3
    turned = np.arange(6.0).reshape(2, 3).T[::-1]
    assert np.array_equal(runtime.download(runtime.upload(turned)), turned)


def test_a_kernel_that_does_not_compile_names_the_device(cupy_backend):
    def fails(code, name):
        raise RuntimeError("error: identifier undefined")
    cupy_backend.runtime._cupy.runtime.compile = fails
    with pytest.raises(KernelError, match=r"dense\.cu does not compile for cuda:1.*undefined"):
        cupy_backend.runtime.compile("", "dense.cu")
