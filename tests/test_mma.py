"""cuda_kernels/mma.cuh: a warp's products in TF32, as the host computes them, as shuffles do, and
as they are compiled for real GPUs."""

import numpy as np
import pytest

from gpucnn.backends.cuda.kernels import pasted_source
from tests import nvrtc
from tests.cuda_on_cpu.runtime import HostRuntime, KernelFault
from tests.cuda_on_cpu.sanitized import run_sanitized

ORDERS = ("forward", "reverse", 1)
ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_100", "sm_120")
LANES = np.arange(32)
GROUP, MEMBER = LANES // 4, LANES % 4
WAYS = {"host": "", "shuffles": "#undef CUDA_ON_CPU\n"}  # without it and an architecture: sm_75

# Lane l's parts of warp w's matrices lie at 32 w + l.
KERNELS = """#include "mma.cuh"
// mma_split<PASSES>, or mma_tf32 for 0 passes
template <int PASSES>
__device__ void multiply(const float *a, const float *b, float *d) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    float sums[4], left[4], right[2];
    for (int k = 0; k < 4; ++k) sums[k] = d[4 * i + k];
    for (int k = 0; k < 4; ++k) left[k] = a[4 * i + k];
    for (int k = 0; k < 2; ++k) right[k] = b[2 * i + k];
    if constexpr (PASSES > 0) {
        mma_split<PASSES>(sums, left, right);
    } else {
        const unsigned left_bits[] = {__float_as_uint(left[0]), __float_as_uint(left[1]),
                                      __float_as_uint(left[2]), __float_as_uint(left[3])};
        const unsigned right_bits[] = {__float_as_uint(right[0]), __float_as_uint(right[1])};
        mma_tf32(sums, left_bits, right_bits);
    }
    for (int k = 0; k < 4; ++k) d[4 * i + k] = sums[k];
}
extern "C" __global__ void split1(const float *a, const float *b, float *d) {
    multiply<1>(a, b, d);
}
extern "C" __global__ void split2(const float *a, const float *b, float *d) {
    multiply<2>(a, b, d);
}
extern "C" __global__ void split3(const float *a, const float *b, float *d) {
    multiply<3>(a, b, d);
}
extern "C" __global__ void whole(const float *a, const float *b, float *d) {
    multiply<0>(a, b, d);
}
extern "C" __global__ void rounded(const float *x, float *y, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = __uint_as_float(to_tf32(x[i]));
}
"""


def source(way="host"):
    return pasted_source("products.cu", {"products.cu": WAYS[way] + KERNELS})


def kernel(name, way="host", **options):
    runtime = HostRuntime(**options)
    return runtime, runtime.compile(source(way), "products.cu")(name)


def in_lanes(a, b, d):
    """Matrices (..., rows, columns), dealt out to lanes as the PTX ISA says."""
    return (np.stack([a[..., GROUP + row, MEMBER + column] for column in (0, 4) for row in (0, 8)],
                     -1),
            np.stack([b[..., MEMBER + row, GROUP] for row in (0, 4)], -1),
            np.stack([d[..., GROUP + row, 2 * MEMBER + column] for row in (0, 8)
                      for column in (0, 1)], -1))


def from_lanes(parts):
    """The matrices d whose parts are (..., lanes, 4)."""
    d = np.full((*parts.shape[:-2], 16, 8), np.nan, parts.dtype)
    for i, (row, column) in enumerate([(0, 0), (0, 1), (8, 0), (8, 1)]):
        d[..., GROUP + row, 2 * MEMBER + column] = parts[..., i]
    return d


def multiply(name, a, b, d, *, way="host", blocks=1, **options):
    """d + a b for matrices (products, rows, columns), by one warp for each product."""
    runtime, launcher = kernel(name, way, **options)
    parts = [runtime.upload(part.astype(np.float32)) for part in in_lanes(a, b, d)]
    launcher(blocks, 32 * len(a) // blocks, tuple(parts))
    return from_lanes(runtime.download(parts[2]))


def operands(products=4, left_scale=1.0, right_scale=1.0, seed=0):
    """Random float32 matrices a (16 x 8), b (8 x 8) and d (16 x 8)."""
    draw = np.random.default_rng(seed).standard_normal
    return ((left_scale * draw((products, 16, 8))).astype(np.float32),
            (right_scale * draw((products, 8, 8))).astype(np.float32),
            (left_scale * right_scale * draw((products, 16, 8))).astype(np.float32))


def tf32(x):
    """The nearest number with 10 bits of mantissa, ties away from zero, by float64's arithmetic."""
    mantissa, exponent = np.frexp(x.astype(np.float64))
    scaled = mantissa * 2**11
    return np.ldexp(np.sign(scaled) * np.floor(np.abs(scaled) + 0.5), exponent - 11)


def error(got, wanted):
    return np.linalg.norm(got - wanted) / np.linalg.norm(wanted)


# -- right results -----------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_rounding_is_to_the_nearest_and_away_from_zero_in_ties(way):
    runtime, launcher = kernel("rounded", way)
    x = np.random.default_rng(0).standard_normal(2000).astype(np.float32)
    ties = np.float32(1) + np.arange(64, dtype=np.float32) * np.float32(2**-11)
    x = np.concatenate([x, 1e30 * x, 1e-30 * x, ties, -ties, [0, -0.0, 2.0**-126]])
    x = x.astype(np.float32)
    y = runtime.empty(x.shape, np.float32)
    launcher(1, 64, (runtime.upload(x), y, np.int32(x.size)))
    got = runtime.download(y)
    np.testing.assert_array_equal(got, tf32(x))
    np.testing.assert_array_equal(np.signbit(got), np.signbit(x))


@pytest.mark.parametrize("way", WAYS)
def test_rounding_keeps_infinities_and_nan_and_overflows_to_infinity(way):
    runtime, launcher = kernel("rounded", way)
    x = np.array([np.inf, -np.inf, np.nan, np.finfo(np.float32).max], np.float32)
    y = runtime.empty(4, np.float32)
    launcher(1, 32, (runtime.upload(x), y, np.int32(4)))
    np.testing.assert_array_equal(runtime.download(y), [np.inf, -np.inf, np.nan, np.inf])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("way", WAYS)
def test_one_pass_is_the_product_of_the_rounded_operands(way, order):
    a, b, d = operands()
    wanted = d + tf32(a) @ tf32(b)
    got = multiply("split1", a, b, d, way=way, order=order)
    assert np.abs(got - wanted).max() < 4e-6
    assert error(got, wanted) < 3e-7
    assert error(got, d + a.astype(np.float64) @ b) > 1e-5


@pytest.mark.parametrize("way", WAYS)
def test_two_passes_take_the_right_operand_as_it_is(way):
    a, b, d = operands()
    rounded = tf32(a).astype(np.float32)
    assert error(multiply("split2", rounded, b, d, way=way), d + tf32(a) @ b) < 1e-6
    if way == "host":
        assert error(multiply("split2", a, b, d, way=way), d + tf32(a) @ b) < 1e-6


@pytest.mark.parametrize("way", WAYS)
def test_operands_that_are_not_rounded_lose_their_last_bits(way):
    a, b, d = operands()

    def cut(x):
        return (x.view(np.uint32) & 0xffffe000).view(np.float32).astype(np.float64)

    assert error(multiply("whole", a, b, d, way=way), d + cut(a) @ cut(b)) < 3e-7


@pytest.mark.parametrize("scales", [(1, 1), (1e4, 1e4), (1e-4, 1e-4), (1e4, 1e-4)], ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_three_passes_are_as_good_as_float(way, scales):
    a, b, d = operands(8, *scales)
    wanted = d + a.astype(np.float64) @ b
    got = multiply("split3", a, b, d, way=way)
    assert error(got, wanted) < 1e-6
    assert error(got, wanted) < 4 * error(d + a @ b, wanted)


@pytest.mark.parametrize("name", ["split1", "split3", "whole"])
def test_every_element_of_every_matrix_has_its_place(name):
    """Whole numbers below 2^11 are exact; each element of a product is of one pair alone."""
    rows, columns = np.meshgrid(np.arange(16), np.arange(8), indexing="ij")
    for k in range(8):
        a, b = np.zeros((1, 16, 8)), np.zeros((1, 8, 8))
        a[0, :, k], b[0, k] = 1 + np.arange(16), 20 + np.arange(8)
        wanted = 1000 * rows + columns + (1 + rows) * (20 + columns)
        got = multiply(name, a, b, (1000 * rows + columns)[None])
        np.testing.assert_array_equal(got[0], wanted)


@pytest.mark.parametrize("name", ["split1", "whole"])
def test_shuffles_give_the_hosts_bits(name):
    a, b, d = operands(6)
    one = multiply(name, a, b, d, blocks=2)
    np.testing.assert_array_equal(one, multiply(name, a, b, d, blocks=3, way="shuffles"))


def test_the_last_lane_to_come_changes_no_bits():
    a, b, d = operands()
    results = [multiply("split3", a, b, d, order=order) for order in (*ORDERS, 2)]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.thorough
def test_products_do_nothing_undefined():
    result = run_sanitized("address", ["-m", "pytest", "-q", "-n", "0", "tests/test_mma.py", "-k",
                                       "rounding or every_element"])
    assert result.returncode == 0, result.stdout


def test_no_lanes_race_for_a_product():
    a, b, d = operands()
    one = multiply("split3", a, b, d, sanitizer="thread")
    np.testing.assert_array_equal(one, multiply("split3", a, b, d))


# -- misuse ------------------------------------------------------------------------------------

BODY = """#include "mma.cuh"
#line 1 "cuda_kernels/products.cu"
extern "C" __global__ void misuse(float *x) {
    __shared__ float tile[64];
    const int t = threadIdx.x, lane = t % 32;
    float d[4] = {}, a[4] = {1, 2, 3, 4}, b[2] = {5, 6};
    tile[t] = t;
HERE
    x[t] = d[0] + tile[t] + lane;
}
"""


def run(here, threads=64, **options):
    runtime = HostRuntime(**options)
    text = pasted_source("misuse.cu", {"misuse.cu": BODY.replace("HERE", here)})
    x = runtime.empty(64, np.float32)
    runtime.compile(text, "misuse.cu")("misuse")(1, threads, (x,))


PRODUCT = "mma_split<3>(d, a, b);"


@pytest.mark.parametrize(("here", "message"), [
    (f"if (lane == 7) return; {PRODUCT}",
     r"takes all lanes of a warp, but lane 7 of warp 0 is not running \(at .*products\.cu:6\)"),
    (f"if (lane == 7) __syncwarp(); else {PRODUCT}", r"deadlock: thread 0 waits in a warp's product"
     r" with mask 0xffffffff for thread 7, which waits in __syncwarp at .*products\.cu:6"),
    (f"if (lane == 7) __syncthreads(); else {PRODUCT}",
     "deadlock: .* for thread 7, which waits in __syncthreads"),
    (f"if (lane < 16)\n{PRODUCT}\nelse\n{PRODUCT}",
     r"lane 0 of warp 0 is in another, at .*products\.cu:7 \(at .*products\.cu:9\)"),
], ids=["a lane is gone", "a lane waits elsewhere", "a lane waits for the block", "two calls"])
def test_a_product_without_all_lanes_fails(here, message):
    with pytest.raises(KernelFault, match=message):
        run(here)


def test_a_product_in_a_warp_that_the_block_does_not_fill_fails():
    with pytest.raises(KernelFault, match="lane 8 of warp 1 is not running"):
        run(PRODUCT, threads=40)


def test_a_product_is_no_barrier_for_shared_memory():
    swap = "{} x[t] = tile[t ^ 1];"
    with pytest.raises(KernelFault, match="data race"):
        run(swap.format(PRODUCT), sanitizer="thread")
    run(swap.format(f"__syncwarp(); {PRODUCT}"), sanitizer="thread")


# -- real GPUs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_products_compile_for_real_gpus_without_spills(architecture):
    for name, taken in nvrtc.compile_for(source(), "products.cu", architecture).items():
        assert taken.spill_bytes == taken.stack_bytes == 0, name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_products_are_on_tensor_cores_from_sm_80_on(architecture):
    ptx = nvrtc.ptx_for(source(), "products.cu", architecture.replace("sm", "compute"))
    has_cores = architecture != "sm_75"
    assert ("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32" in ptx) == has_cores
    assert ("shfl.sync" in ptx) == (not has_cores)
    assert ptx.count("mma.sync") == (1 + 2 + 3 + 1 if has_cores else 0)
