"""tests/cuda_on_cpu: right kernels run right, and planted faults are found."""

import re

import numpy as np
import pytest

from tests.cuda_on_cpu.planted import ADDRESS_FAULTS, MEETING_FAULTS, RACES
from tests.cuda_on_cpu.runtime import HostRuntime, KernelFault
from tests.cuda_on_cpu.sanitized import run_sanitized

ORDERS = ("forward", "reverse", 1, 2)


def run(body, count, *, threads=64, blocks=1, dtype=np.float32, **options):
    """The values that a kernel's `body` writes to y[0] ... y[count - 1]."""
    kind = "float" if dtype == np.float32 else "int"
    runtime = HostRuntime(**options)
    source = f'extern "C" __global__ void body({kind} *y) {{ const int t = threadIdx.x;\n{body}\n}}'
    y = runtime.empty(count, dtype)
    runtime.compile(source, "body")("body")(blocks, threads, (y,))
    return runtime.download(y)


# -- right kernels run right ---------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
def test_shuffles_move_values_between_the_lanes_of_a_segment(order):
    lanes = np.arange(32)
    for call, source in [
        ("__shfl_sync(~0u, t, 3)", np.full(32, 3)),
        ("__shfl_sync(~0u, t, 3, 8)", lanes // 8 * 8 + 3),
        ("__shfl_up_sync(~0u, t, 2)", np.where(lanes < 2, lanes, lanes - 2)),
        ("__shfl_up_sync(~0u, t, 2, 16)", np.where(lanes % 16 < 2, lanes, lanes - 2)),
        ("__shfl_down_sync(~0u, t, 5)", np.where(lanes > 26, lanes, lanes + 5)),
        ("__shfl_down_sync(~0u, t, 1, 4)", np.where(lanes % 4 == 3, lanes, lanes + 1)),
        ("__shfl_xor_sync(~0u, t, 12)", lanes ^ 12),
        ("int(__shfl_xor_sync(~0u, (double)t, 1))", lanes ^ 1),
    ]:
        got = run(f"y[t] = {call};", 32, threads=32, dtype=np.int32, order=order)
        np.testing.assert_array_equal(got, source, err_msg=call)


@pytest.mark.parametrize("order", ORDERS)
def test_votes_count_the_lanes_of_their_mask(order):
    got = run("""const unsigned half = t < 16 ? 0xffff : 0xffff0000;
                 y[t] = __popc(__ballot_sync(half, t % 3 == 0)) + 100 * __any_sync(half, t == 20)
                        + 1000 * __all_sync(half, t < 16)
                        + 10000 * __syncthreads_count(t % 2) + 1000000 * __syncthreads_or(t == 9)
                        + 2000000 * __syncthreads_and(t == 9);""", 32, threads=32, dtype=np.int32,
              order=order)
    np.testing.assert_array_equal(got, [1161006] * 16 + [1160105] * 16)


def test_exited_lanes_are_not_waited_for():
    got = run("if (t >= 20) return; y[t] = __shfl_xor_sync(~0u, t, 1);", 20, threads=24,
              dtype=np.int32)
    np.testing.assert_array_equal(got, np.arange(20) ^ 1)


def test_atomics_return_the_old_value():
    got = run("""if (t == 0) for (int i = 0; i < 6; ++i) y[i] = 10;
                 __syncthreads();
                 atomicAdd(&y[0], 2); atomicMax(&y[1], t); atomicMin(&y[2], t);
                 atomicCAS(&y[3], 10 + t, 11 + t);
                 if (t == 5) { y[4] = atomicExch(&y[5], 3); }""", 6, dtype=np.int32,
              sanitizer="thread")
    np.testing.assert_array_equal(got, [138, 63, 0, 74, 10, 3])


def test_functions_have_cudas_names_and_overloads():
    got = run("""const float x = 0.25f;
                 const float values[] = {tanhf(x), tanh(x), expf(x), fmaf(x, x, 1), rsqrtf(x),
                     max(x, 1.0f), fminf(x, NOT_A_NUMBER), float(isnan(NOT_A_NUMBER)),
                     __ldg(&x), float(min(3, 2)), float(__float2int_rn(2.5f)),
                     make_float4(1, 2, 3, 4).w, float(sizeof(float2) + alignof(float4))};
                 if (t == 0) for (int i = 0; i < 13; ++i) y[i] = values[i];"""
              .replace("NOT_A_NUMBER", "__int_as_float(0x7fffffff)"), 13)
    x = np.float32(0.25)
    expected = [np.tanh(x), np.tanh(x), np.exp(x), x * x + 1, 2, 1, x, 1, x, 2, 2, 4, 24]
    np.testing.assert_allclose(got, np.array(expected, np.float32), rtol=1e-6)


def test_shared_variables_of_every_form_are_a_blocks_own():
    got = run("""constexpr int W = 4;
                 __shared__ alignas(16) float grid[2][W /* columns */ + 1];
                 __shared__ int
                     count;
                 __shared__ float4 four[(W > 2 ? 3 : 1)];
                 if (t == 0) { count = 0; four[2].w = 1; grid[1][W] = blockIdx.x; }
                 __syncthreads();
                 atomicAdd(&count, 1);
                 __syncthreads();
                 if (t == 0) y[blockIdx.x] = count + grid[1][W] + four[2].w + sizeof(grid);""",
              3, blocks=3)
    np.testing.assert_array_equal(got, [105, 106, 107])


# -- planted faults are found --------------------------------------------------------------------


@pytest.fixture(scope="module")
def address_reports():
    """For each ("wrong" or "right", name of a fault): (whether it was found, the report)."""
    result = run_sanitized("address", ["-m", "tests.cuda_on_cpu.planted"])
    assert result.returncode == 0, result.stdout
    parts = re.split(r"\n=== (\w+): (.*): (\w+)\n", result.stdout)
    return {(line, name): (verdict == "found", report) for report, line, name, verdict
            in zip(parts[0::4], parts[1::4], parts[2::4], parts[3::4], strict=False)}


@pytest.mark.parametrize("name", ADDRESS_FAULTS)
def test_the_address_sanitizer_finds(name, address_reports):
    found, report = address_reports["wrong", name]
    assert found
    assert ADDRESS_FAULTS[name].symptom in report
    assert ADDRESS_FAULTS[name].place in report


@pytest.mark.parametrize("name", ADDRESS_FAULTS)
def test_the_address_sanitizer_is_silent_without(name, address_reports):
    assert address_reports["right", name] == (False, "")


@pytest.mark.parametrize("order", ["forward", "reverse", 1])
@pytest.mark.parametrize("name", RACES)
def test_the_race_detector_finds(name, order):
    with pytest.raises(KernelFault, match="data race") as caught:
        RACES[name].run("wrong", sanitizer="thread", order=order)
    if RACES[name].wrong != ";":
        assert RACES[name].place in str(caught.value)


@pytest.mark.parametrize("name", RACES)
def test_the_race_detector_is_silent_without(name):
    results = [RACES[name].run("right", sanitizer="thread", order=order) for order in ORDERS]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize("name", ["a missing __syncthreads", "a missing __syncwarp",
                                  "a __syncwarp of half a warp"])
def test_thread_orders_show(name):
    wrong = [RACES[name].run("wrong", order=order) for order in ORDERS]
    assert not all(np.array_equal(wrong[0], other, equal_nan=True) for other in wrong)


@pytest.mark.parametrize("name", MEETING_FAULTS)
def test_the_scheduler_finds(name):
    planted = MEETING_FAULTS[name]
    with pytest.raises(KernelFault, match=re.escape(planted.symptom)) as caught:
        planted.run("wrong")
    assert planted.place in str(caught.value)
    planted.run("right")


def test_a_fault_leaves_the_next_launch_alone():
    planted = MEETING_FAULTS["barriers in two branches"]
    for _ in range(3):
        with pytest.raises(KernelFault, match="kernel planted: block 0, thread 32: divergent"):
            planted.run("wrong")
        RACES["a missing __syncthreads"].run("right")


def test_unwritten_shared_and_global_memory_is_nan():
    got = run("__shared__ float tile[64]; if (t < 32) tile[t] = 1; __syncthreads();\n"
              "if (t < 50) y[t] = tile[t];", 64, blocks=2)
    np.testing.assert_array_equal(np.isnan(got), np.arange(64) >= 32)
