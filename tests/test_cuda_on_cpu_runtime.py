"""tests/cuda_on_cpu/runtime.py and build.py: launches are checked, arrays are not NumPy's."""

import re

import numpy as np
import pytest

from gpucnn.errors import DeviceError, DTypeError, KernelError, ShapeError
from tests.cuda_on_cpu import build
from tests.cuda_on_cpu.profiles import PROFILES
from tests.cuda_on_cpu.runtime import HostRuntime, KernelFault
from tests.cuda_on_cpu.sanitized import run_sanitized

ORDERS = ("forward", "reverse", 1, 2)

SCALE = """#line 1 "cuda_kernels/scale.cu"
using real = float;
extern "C" __global__ void __launch_bounds__(128)
scale(const real *x, real *y, int n, real factor) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        y[i] = x ? factor * x[i] : factor;
}
"""


@pytest.fixture
def runtime():
    return HostRuntime()


def scale(runtime):
    return runtime.compile(SCALE, "scale")("scale")


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_every_order_and_grid_gives_the_same_result(order, blocks):
    runtime = HostRuntime(order=order)
    x = np.arange(300, dtype=np.float32)
    y = runtime.empty(300, np.float32)
    scale(runtime)(blocks, 64, (runtime.upload(x), y, np.int32(300), np.float32(0.5)))
    np.testing.assert_array_equal(runtime.download(y), x / 2)
    assert runtime.launches == [("scale", blocks, 64)]


def test_none_is_a_null_pointer(runtime):
    y = runtime.empty(3, np.float32)
    scale(runtime)(1, 32, (None, y, np.int32(3), np.float32(7)))
    np.testing.assert_array_equal(runtime.download(y), [7, 7, 7])


def test_double_is_taken_where_real_is_double(runtime):
    launcher = runtime.compile(SCALE.replace("real = float", "real = double"), "scale")("scale")
    y = runtime.empty(2, np.float64)
    launcher(1, 32, (runtime.upload(np.ones(2)), y, np.int32(2), np.float64(1 / 3)))
    np.testing.assert_array_equal(runtime.download(y), [1 / 3, 1 / 3])


def test_run_sanitized_sets_the_runtimes_sanitizer():
    script = "from tests.cuda_on_cpu.runtime import HostRuntime; print(HostRuntime().sanitizer)"
    assert run_sanitized("thread", ["-c", script]).stdout == "thread\n"


def test_the_address_sanitizer_needs_its_process():
    with pytest.raises(DeviceError, match="run_sanitized"):
        HostRuntime(sanitizer="address")


def test_arguments_of_wrong_number_or_type_are_refused(runtime):
    launcher = scale(runtime)
    x = runtime.empty(3, np.float32)
    n, factor = np.int32(3), np.float32(1)
    for arguments, message in [
        ((x, x, n), "expected 4 arguments, got 3"),
        ((x, x, 3, factor), "'n': expected int32, got 3 (int)"),
        ((x, x, n, 1.0), "'factor': expected float32, got 1.0 (float)"),
        ((x, x, n, n), "'factor': expected float32"),
        ((x, x, None, factor), "'n': expected int32"),
        ((np.zeros(3, np.float32), x, n, factor), "'x': expected an array of float32"),
        ((runtime.empty(3, np.float64), x, n, factor), "'x': expected an array of float32"),
        ((HostRuntime(device="other").empty(3, np.float32), x, n, factor), "'x': expected"),
    ]:
        with pytest.raises(TypeError, match=re.escape(message)):
            launcher(1, 32, arguments)


def test_launches_beyond_the_devices_limits_are_refused():
    runtime = HostRuntime(max_blocks=3)
    assert runtime.profile.max_blocks == 3
    launcher = scale(runtime)
    arguments = (None, runtime.empty(1, np.float32), np.int32(1), np.float32(1))
    for blocks, threads, message in [(0, 32, "1 to 3 blocks, got 0"), (4, 32, "3 blocks, got 4"),
                                     (1, 1025, "1 to 1024 threads, got 1025"),
                                     (1, 0, "1 to 1024 threads, got 0")]:
        with pytest.raises(KernelError, match=message):
            launcher(blocks, threads, arguments)
    with pytest.raises(KernelFault, match="at most 128 threads, as its __launch_bounds__ says"):
        launcher(1, 160, arguments)


DYNAMIC = """
extern "C" __global__ void turn(float *x, int n) {
    extern __shared__ float tile[];
    for (int i = threadIdx.x; i < n; i += blockDim.x) tile[i] = x[i];
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) x[i] = tile[n - 1 - i];
}
"""


@pytest.mark.parametrize("architecture", PROFILES)
def test_a_block_has_the_dynamic_shared_memory_of_its_device_and_no_more(architecture):
    most = PROFILES[architecture].dynamic_shared_bytes
    runtime = HostRuntime(profile=PROFILES[architecture])
    launcher = runtime.compile(DYNAMIC, "turn")("turn")
    x = np.arange(most // 4, dtype=np.float32)
    on_device = runtime.upload(x)
    launcher(1, 64, (on_device, np.int32(x.size)), most)
    np.testing.assert_array_equal(runtime.download(on_device), x[::-1])
    with pytest.raises(KernelError, match=f"kernel turn: expected 0 to {most} bytes of dynamic "
                                          f"shared memory, got {most + 4}"):
        launcher(1, 64, (on_device, np.int32(x.size)), most + 4)


def test_profiles_are_those_of_their_architectures():
    for name, profile in PROFILES.items():
        assert name == "sm_{}{}".format(*profile.compute_capability)
        assert profile.shared_bytes == 48 * 1024 < profile.dynamic_shared_bytes
        assert profile.dynamic_shared_bytes <= profile.shared_bytes_of_multiprocessor
        assert profile.threads_of_multiprocessor in (1024, 1536, 2048)
        assert 1e9 < profile.clock < 3e9 and 1e11 < profile.bandwidth < 1e13
    limits = [profile.dynamic_shared_bytes // 1024 for profile in PROFILES.values()]
    assert limits == [64, 163, 99, 99, 227, 227, 99]


def test_an_unknown_kernel_is_an_error(runtime):
    with pytest.raises(KernelError, match="expected one of the kernels scale, got 'scaled'"):
        runtime.compile(SCALE, "scale")("scaled")


@pytest.mark.parametrize(("body", "message"), [
    ("y[0] = missing;", r"x\.cu:7:.*error: 'missing' was not declared"),
    ("int unused;", r"x\.cu:7:.*unused variable"),
    ("__shared__ float a[2], b[2];", r"x\.cu:7: expected __shared__ memory as"),
])
def test_a_kernel_that_does_not_compile_raises_with_its_line(runtime, body, message):
    source = ('#line 5 "x.cu"\nextern "C" __global__ void k(float *y) {\n// text\n'
              f"{body} y[1] = 0; }}")
    with pytest.raises(KernelError, match=message):
        runtime.compile(source, "x")


def test_a_missing_compiler_is_named(monkeypatch):
    build._compiler_version.cache_clear()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(KernelError, match=r"g\+\+ is not installed"):
        build.kernel_library("", "x")


def test_a_text_is_compiled_once(monkeypatch):
    text = '#include "cuda_on_cpu.h"\n'
    path = build.kernel_library(text, "empty")
    monkeypatch.setattr(build, "_compile", None)
    assert build.kernel_library(text, "empty") == path
    assert build.BUILD in path.parents


# -- arrays are not NumPy's ----------------------------------------------------------------------


def test_numpy_does_not_read_device_arrays(runtime):
    array = runtime.upload(np.ones((2, 3), np.float32))
    for use in (np.asarray, np.sum, np.sqrt, np.ascontiguousarray, list, bool, float,
                lambda a: a + 1, lambda a: np.ones(3) * a, lambda a: a == 1, lambda a: a[[0, 1]],
                lambda a: np.concatenate([a, a]), lambda a: np.copyto(np.ones((2, 3)), a)):
        with pytest.raises(TypeError):
            use(array)


def test_slices_and_reshapes_are_views(runtime):
    array = runtime.upload(np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    runtime.zero(array[1])
    expected = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    expected[1] = 0
    np.testing.assert_array_equal(runtime.download(array), expected)
    np.testing.assert_array_equal(runtime.download(array[:, ::2, 1:3]), expected[:, ::2, 1:3])
    np.testing.assert_array_equal(runtime.download(array.reshape(4, -1)), expected.reshape(4, -1))
    assert array[0, 1, 2].shape == ()
    assert not array[:, 1].flags.c_contiguous
    assert (len(array), array.ndim, array.size, array.nbytes) == (2, 3, 24, 96)
    with pytest.raises(ValueError, match="without a copy"):
        array[:, :, 1:3].reshape(12)


def test_copies_check_shape_type_and_device(runtime):
    array = runtime.empty((2, 3), np.float32)
    assert np.isnan(runtime.download(array)).all()
    runtime.upload(np.ones((2, 3), np.float32), array)
    np.testing.assert_array_equal(runtime.download(array), np.ones((2, 3)))
    with pytest.raises(ShapeError, match=r"\(3, 2\), got \(2, 3\)"):
        runtime.upload(np.ones((3, 2), np.float32), array)
    with pytest.raises(DTypeError, match="float64, got float32"):
        runtime.upload(np.ones((2, 3)), array)
    with pytest.raises(ShapeError):
        runtime.copy(runtime.empty(6, np.float32), array)
    with pytest.raises(DeviceError, match="got ndarray"):
        runtime.from_dlpack(np.ones(3))
    with pytest.raises(DeviceError, match="got ndarray"):
        runtime.download(np.ones(3))
    assert runtime.download(runtime.empty((0, 4), np.int32)).shape == (0, 4)
