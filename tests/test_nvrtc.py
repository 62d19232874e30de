"""tests/nvrtc.py: what it tells of kernels compiled for real GPUs."""

import pytest

from gpucnn.errors import KernelError
from tests import nvrtc

ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_100", "sm_120")

SPILL = """#line 1 "cuda_kernels/spill.cu"
extern "C" __global__ void lean(float *x) {
    __shared__ float tile[128];
    tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = tile[127 - threadIdx.x];
}
extern "C" __global__ void __launch_bounds__(1024) fat(float *x, int n) {
    float v[200];
    _Pragma("unroll") for (int i = 0; i < 200; ++i) v[i] = x[i * n + threadIdx.x];
    __syncthreads();
    _Pragma("unroll") for (int i = 0; i < 200; ++i) x[i * n] = v[i] * v[199 - i] + v[i * 7 % 200];
}
"""


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nvrtc_tells_a_kernels_resources(architecture):
    resources = nvrtc.compile_for(SPILL, "spill", architecture)
    assert resources["fat"].spill_bytes > 1000
    assert resources["fat"].registers == 64
    assert resources["lean"].spill_bytes == resources["lean"].stack_bytes == 0
    assert resources["lean"].barriers == 1
    assert 512 <= resources["lean"].shared_bytes <= 512 + 1024  # and the system's, on some


def test_nvrtc_raises_with_the_line_of_an_error():
    with pytest.raises(KernelError, match=r"cuda_kernels/spill\.cu\(3\): error"):
        nvrtc.compile_for(SPILL.replace("tile[threadIdx.x] =", "til[threadIdx.x] ="), "spill",
                          "sm_80")


def test_nvrtc_knows_the_architectures_that_are_tested():
    assert set(ARCHITECTURES) <= set(nvrtc.architectures())


def test_nvrtc_takes_more_options():
    with pytest.raises(KernelError, match="spill does not compile for sm_80"):
        nvrtc.compile_for(SPILL, "spill", "sm_80", ("-Xptxas=-warn-spills", "-Xptxas=-Werror"))


def test_nvrtc_gives_ptx():
    assert ".visible .entry lean(" in nvrtc.ptx_for(SPILL, "spill", "compute_80")
