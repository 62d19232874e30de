"""Kernels.launch, which every launch passes, and the house's order: one op, one name."""

import re
from pathlib import Path

import numpy as np
import pytest

from gpucnn.backends.base import Backend
from gpucnn.backends.cuda.kernels import (
    Kernels,
    Specialisation,
    kernel_directory,
    kernel_parameters,
    pasted_source,
)
from gpucnn.backends.cuda.launch import BLOCK
from gpucnn.backends.cuda.runtime import CupyRuntime
from gpucnn.errors import KernelError
from tests.cuda_on_cpu.runtime import HostRuntime
from tests.fake_cupy import FakeCupy

FILES = sorted(kernel_directory().glob("*.cu*"))
PACKAGE = Path(__file__).resolve().parents[1] / "gpucnn"
SGD = Specialisation("optimizers.cu", np.dtype(np.float32), None, (BLOCK,))


@pytest.fixture
def runtime():
    return HostRuntime(max_blocks=3)


@pytest.fixture
def launch(runtime):
    """Launch sgd_step with some of its arguments replaced."""
    kernels = Kernels(runtime)

    def launch_with(*more, blocks=1, **replaced):
        arguments = {name: runtime.upload(np.ones(4, np.float32))
                     for name in ("parameters", "gradients", "velocity", "scalars")}
        arguments |= {"count": 4, "momentum": 0.9, "nesterov": 0, "weight_decay": 0.0} | replaced
        kernels.launch(SGD, "sgd_step", blocks, 128, *arguments.values(), *more)

    return launch_with


# -- what a launch refuses -------------------------------------------------------------------------


def refused(launch, message, *more, **replaced):
    with pytest.raises(KernelError) as caught:
        launch(*more, **replaced)
    assert message in str(caught.value)


def test_an_array_of_another_type_is_refused(launch, runtime):
    refused(launch, "kernel sgd_step, argument 'gradients': expected float32, got float64",
            gradients=runtime.empty(4, np.float64))


def test_an_array_that_is_not_contiguous_is_refused(launch, runtime):
    refused(launch, "kernel sgd_step, argument 'parameters': expected a C-contiguous array, got "
                    "one of shape (4,) with strides (8,)",
            parameters=runtime.empty(8, np.float32)[::2])
    refused(launch, "with strides (-4,)", parameters=runtime.empty(4, np.float32)[::-1])


def test_an_array_of_the_host_or_of_another_device_is_refused(launch):
    refused(launch, "argument 'scalars': expected an array on cuda-on-cpu, got ndarray",
            scalars=np.ones(1, np.float32))
    refused(launch, "argument 'scalars': expected an array on cuda-on-cpu, got DeviceArray",
            scalars=HostRuntime(device="other").empty(1, np.float32))
    refused(launch, "got float", scalars=1.0)


def test_a_wrong_number_of_arguments_is_refused_with_the_parameters_names(launch):
    refused(launch, "kernel sgd_step: expected 8 arguments (parameters, gradients, velocity, "
                    "scalars, count, momentum, nesterov, weight_decay), got 9", 1)


@pytest.mark.parametrize("value", [4.0, "4", None, True, np.float32(4)], ids=repr)
def test_what_is_no_int_is_refused_where_an_int_belongs(launch, value):
    refused(launch, "argument 'count': expected an int", count=value)


@pytest.mark.parametrize("value", [2**31, -2**31 - 1, 2**40])
def test_an_int_out_of_range_is_refused(launch, value):
    refused(launch, f"argument 'count': expected a value that fits int32, got {value}", count=value)


@pytest.mark.parametrize("value", ["0.9", None, [0.9]], ids=repr)
def test_what_is_no_number_is_refused_where_a_real_belongs(launch, value):
    refused(launch, "argument 'momentum': expected a number", momentum=value)


# -- what a launch does ----------------------------------------------------------------------------


def test_scalars_reach_the_kernel_as_its_own_types(launch, runtime):
    parameters = runtime.upload(np.ones(4, np.float32))
    launch(parameters=parameters, count=np.int64(4), momentum=np.float64(0.5), weight_decay=1,
           velocity=runtime.upload(np.full(4, 2, np.float32)))
    np.testing.assert_array_equal(runtime.download(parameters), [1 - (0.5 * 2 + 1 + 1)] * 4)


def test_none_is_a_null_pointer(launch, runtime):
    parameters = runtime.upload(np.ones(4, np.float32))
    launch(parameters=parameters, velocity=None)
    np.testing.assert_array_equal(runtime.download(parameters), [0, 0, 0, 0])


def test_no_blocks_launch_nothing(launch, runtime):
    launch(blocks=0)
    assert runtime.launches == []


def test_a_grid_is_cut_to_the_devices_largest(launch, runtime):
    launch(blocks=1000)
    assert runtime.launches == [("sgd_step", 3, 128)]


@pytest.fixture
def compiled(runtime, monkeypatch):
    """The names of what the runtime has compiled."""
    names = []
    compile_kernels = runtime.compile
    monkeypatch.setattr(runtime, "compile", lambda source, name: (
        names.append(name), compile_kernels(source, name))[1])
    return names


def test_a_specialisation_is_compiled_once(compiled, launch):
    launch()
    launch()
    assert compiled == ["optimizers.cu (float32, THREADS=128)"]


def test_what_is_prepared_is_not_compiled_by_its_launch(runtime, compiled):
    kernels = Kernels(runtime)
    reduce = Specialisation("reduce.cu", np.dtype(np.float32), None, (BLOCK,))
    kernels.prepare_all([SGD, reduce, SGD])
    assert sorted(compiled) == [str(SGD), str(reduce)]
    kernels.prepare(SGD)
    kernels.launch(reduce, "sum_partials", 1, 128, runtime.empty((2, 3), np.float32),
                   runtime.empty(3, np.float32), 3, 2)
    assert len(compiled) == 2


def test_an_error_while_preparing_several_is_raised(runtime):
    class Wrong(Generated):
        text = Generated.text.replace("tile[t]", "tile[missing]", 1)

    with pytest.raises(KernelError, match=r"generated\.cu:8:.*'missing' was not declared"):
        Kernels(runtime).prepare_all([SGD, Wrong()])


def test_an_unknown_kernel_is_refused_with_the_names_of_those_there_are(runtime):
    with pytest.raises(KernelError, match=r"optimizers\.cu .*: expected one of the kernels "
                                          r"sgd_step, adam_step, got 'sgd'"):
        Kernels(runtime).launch(SGD, "sgd", 1, 32)


def test_the_resources_of_a_kernel_are_what_its_runtime_knows(runtime):
    assert Kernels(runtime).resources(SGD, "sgd_step") is None
    assert Kernels(CupyRuntime(FakeCupy())).resources(SGD, "sgd_step").registers == 40


class Generated:
    """A specialisation that is no `Specialisation`: a generated file with generated headers."""

    dtype = np.dtype(np.float32)
    text = """// A generated kernel.
#include "constants.h"
#include "network.h"
extern "C" __global__ void turned(const real *x, real *y) {
    extern __shared__ real tile[];
    const int t = threadIdx.x;
    if (t >= SIZE) return;
    tile[t] = x[SIZE - 1 - t];
    y[t] = tile[t];
}
"""

    def source(self):
        return pasted_source("generated.cu", {
            "generated.cu": self.text, "constants.h": "using real = float;\n",
            "network.h": '#include "constants.h"\n#include "sizes.h"\n',
            "sizes.h": "constexpr int SIZE = 5;\n"})

    def __str__(self):
        return "generated.cu"


@pytest.mark.parametrize("make", [HostRuntime, lambda: CupyRuntime(FakeCupy())],
                         ids=["host", "cupy"])
def test_a_generated_source_is_launched_with_dynamic_shared_memory(make):
    runtime = make()
    x, y = runtime.upload(np.arange(5, dtype=np.float32)), runtime.empty(5, np.float32)
    Kernels(runtime).launch(Generated(), "turned", 1, 32, x, y, shared_bytes=20)
    np.testing.assert_array_equal(runtime.download(y), [4, 3, 2, 1, 0])


# -- sources ---------------------------------------------------------------------------------------


def test_a_specialisation_names_its_type_activation_and_constants():
    specialisation = Specialisation("subsample2d.cu", np.dtype(np.float64), "scaled_tanh",
                                    (("POOL_HEIGHT", 2), ("POOL_WIDTH", 3)))
    assert specialisation.header() == ("using real = double;\nusing Squash = ScaledTanh;\n"
                                       "constexpr int POOL_HEIGHT = 2;\n"
                                       "constexpr int POOL_WIDTH = 3;\n")
    assert str(specialisation) == ("subsample2d.cu (float64, scaled_tanh, POOL_HEIGHT=2, "
                                   "POOL_WIDTH=3)")


def test_headers_are_pasted_in_once_and_lines_keep_their_own_numbers():
    source = Specialisation("conv2d.cu", np.dtype(np.float32), "relu").source()
    assert "#include" not in source
    assert source.count("struct Relu") == source.count("struct TileGrid") == 1
    file, line, found = None, 0, 0
    for row in source.split("\n"):
        directive = re.match(r'#line (\d+) "(?:cuda_kernels/)?([\w.]+)"', row)
        if directive:
            line, file = int(directive.group(1)), directive.group(2)
            continue
        if file != "constants.h" and row.strip():
            assert (kernel_directory() / file).read_text().split("\n")[line - 1] == row
            found += 1
        line += 1
    assert found > 100


def test_generated_headers_are_pasted_in_once_under_their_own_names():
    source = Generated().source()
    assert source.count("using real") == source.count("SIZE = 5") == 1
    assert re.findall("#line .*", source) == [
        '#line 1 "generated.cu"', '#line 1 "constants.h"', '#line 3 "generated.cu"',
        '#line 1 "network.h"', '#line 1 "sizes.h"', '#line 3 "network.h"', '#line 4 "generated.cu"']


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_parameter_of_every_kernel_has_a_known_type(file):
    text = file.read_text(encoding="utf-8")
    kernels = kernel_parameters(text, np.dtype(np.float32))
    assert len(kernels) == text.count("__global__")
    for parameters in kernels.values():
        assert len({parameter.name for parameter in parameters}) == len(parameters)


# -- the house -------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_kernel_file_opens_with_what_it_computes(file):
    opening = re.match(r"(//[^\n]*\n)+", file.read_text(encoding="utf-8"))
    assert opening and len(opening.group().split()) >= 10


@pytest.mark.parametrize("file", [file for file in FILES if file.suffix == ".cu"],
                         ids=lambda file: file.name)
def test_every_kernel_file_says_how_it_is_launched(file):
    opening = re.match(r"(//[^\n]*\n)+", file.read_text(encoding="utf-8")).group()
    assert re.search("thread|warp", opening) and "block" in opening


# The ops that share a file with others of their kind; every other op has a file of its own name.
FILE_OF = {"mse": "losses", "cross_entropy": "losses", "sgd_step": "optimizers",
           "adam_step": "optimizers"}
# What the CUDA backend alone can be told: which of its kernels computes an op.
KERNEL_OPTIONS = ("kernel=None", "autotune=False", "precision='float32'")
NOT_OPS = {"owns", "empty", "zero", "empty_batch", "from_host", "to_host", "from_dlpack", "copy",
           "synchronize"}
OPS = sorted(Backend.__abstractmethods__ - NOT_OPS)


@pytest.mark.parametrize("op", OPS)
def test_every_op_has_files_of_its_name(op):
    name = FILE_OF.get(op, op.removesuffix("_backward"))
    for backend in ("cpu", "cuda"):
        text = (PACKAGE / "backends" / backend / f"{name}.py").read_text(encoding="utf-8")
        assert f"\ndef {op}(" in text
    assert (kernel_directory() / f"{name}.cu").is_file()
    assert (PACKAGE.parent / "tests" / "backends" / f"test_{name}.py").is_file()


@pytest.mark.parametrize("op", OPS)
def test_every_op_takes_arguments_of_the_same_names_on_every_backend(op):
    import inspect

    from gpucnn.backends.cpu import CpuBackend
    from gpucnn.backends.cuda import CudaBackend

    wanted = list(inspect.signature(getattr(Backend, op)).parameters.values())[1:]
    of_cpu = list(inspect.signature(getattr(CpuBackend, op)).parameters.values())
    of_cuda = [parameter for parameter in
               list(inspect.signature(getattr(CudaBackend, op)).parameters.values())[1:]
               if str(parameter) not in KERNEL_OPTIONS]
    assert [str(p) for p in of_cpu] == [str(p) for p in of_cuda] == [str(p) for p in wanted]
