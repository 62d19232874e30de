"""The end of a planned training step on the CUDA kernels: gradients, update, losses."""

from dataclasses import replace

import numpy as np
import pytest

from gpucnn import SGD, Adam
from gpucnn.backends.cuda import CudaBackend
from gpucnn.backends.cuda.plan.shares import plan_shares
from gpucnn.backends.cuda.plan.update import BlockTotals, Matrix, Ready, Rows, Update
from gpucnn.errors import ArgumentError
from tests.cases import DOUBLE
from tests.cuda_on_cpu.profiles import PROFILES
from tests.cuda_on_cpu.runtime import HostRuntime
from tests.layouts import get, put
from tests.representative import RecordingRuntime
from tests.test_kernels_compile import ARCHITECTURES, compiled_once
from tests.update_cases import LENET5, MIXED, UpdateCase, placed

SGDS = {"plain": SGD(lr=0.1), "momentum": SGD(lr=0.1, momentum=0.9),
        "nesterov": SGD(lr=0.1, momentum=0.5, nesterov=True),
        "weight decay": SGD(lr=0.1, momentum=0.9, weight_decay=0.2)}
WHOLE, SHARED = UpdateCase(), UpdateCase(samples=50, batch_size=90, optimizer=Adam(), shares=3)
ADAM = UpdateCase(optimizer=Adam(weight_decay=0.1, epsilon=0.01), dtype=DOUBLE)
CASES = {
    **{f"sgd, {name}": replace(WHOLE, optimizer=optimizer) for name, optimizer in SGDS.items()},
    "the whole batch": replace(WHOLE, samples=30),
    "one sample": replace(WHOLE, samples=1),
    "adam": ADAM,
    "shares": SHARED,
    "shares, doubles": replace(SHARED, optimizer=SGD(lr=0.1), dtype=DOUBLE),
    "shares, as many samples as fit": replace(SHARED, samples=90),
    "shares, one sample": replace(SHARED, samples=1),
    "shares, tf32": replace(SHARED, precision="tf32"),
}
BIT_CASES = {"whole": WHOLE, "adam": ADAM, "shares": SHARED, "tf32": CASES["shares, tf32"]}


def bits(results):
    return {name: array.tobytes() for name, array in results.items() if array is not None}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_gradients_parameters_state_and_losses_match_plain_loops(case, cuda_on_cpu):
    case.check(cuda_on_cpu)


def test_a_long_section_of_rows_and_one_without_losses_match_plain_loops(cuda_on_cpu):
    UpdateCase((Rows(0, 16400, 0, parts=1, blocks=9, samples=4),), totals=None).check(cuda_on_cpu)


@pytest.mark.parametrize("case", BIT_CASES.values(), ids=BIT_CASES)
def test_the_optimisers_own_kernels_make_the_same_bits_of_the_gradients(case, cuda_on_cpu):
    results, arrays = case.run(cuda_on_cpu), case.arrays()
    device = {name: put(cuda_on_cpu, arrays[name]) for name in ("parameters", *case.state)}
    state = {name: device[name] for name in case.state}
    scalars = put(cuda_on_cpu, arrays["scalars"][int(arrays["number"][0])])
    case.optimizer.update(cuda_on_cpu, device["parameters"],
                          put(cuda_on_cpu, results["gradients"]), state, scalars)
    for name, array in device.items():
        assert get(cuda_on_cpu, array).tobytes() == results[name].tobytes(), name


@pytest.mark.parametrize("case", BIT_CASES.values(), ids=BIT_CASES)
def test_results_have_the_same_bits_in_every_order_and_on_every_grid(case):
    first = bits(case.run(CudaBackend(HostRuntime())))
    for options in ({}, {"order": "reverse"}, {"order": 1}, {"order": 2}, {"max_blocks": 1},
                    {"max_blocks": 7}):
        assert bits(case.run(CudaBackend(HostRuntime(**options)))) == first, options


def test_a_shorter_batch_does_not_depend_on_the_largest():
    """Saved rows of a smaller plan are the same; its shares are others."""
    backend = CudaBackend(HostRuntime())
    few, many = replace(WHOLE, batch_size=23), replace(WHOLE, batch_size=200)
    assert bits(few.run(backend)) == bits(many.run(backend))


def test_tf32_rounds_operands_and_nothing_else(cuda_on_cpu):
    case = replace(SHARED, sections=(Matrix(0, 40, 30, 0, 0),), samples=90)
    exact, rounded = case.run(cuda_on_cpu), replace(case, precision="tf32")
    arrays = case.arrays()
    device = {name: put(cuda_on_cpu, array) for name, array in arrays.items()}
    got = get(cuda_on_cpu, rounded.call(cuda_on_cpu, device)["gradients"])
    error = np.linalg.norm(got - exact["gradients"]) / np.linalg.norm(exact["gradients"])
    assert 1e-5 < error < 1e-3


def recorded(architecture, **options):
    """(update, sources by name) of LeNet-5 on a GPU."""
    runtime = RecordingRuntime()
    runtime.profile = PROFILES[architecture]
    case = UpdateCase(LENET5, totals=BlockTotals(132, 1), shares=None, **options)
    update = case.update(CudaBackend(runtime))
    return update, {str(source): source.source() for source in update.sources()}


@pytest.mark.parametrize("options", [
    {"batch_size": 64}, {"batch_size": 64, "optimizer": Adam()}, {"batch_size": 16384},
    {"batch_size": 16384, "precision": "tf32"}, {"batch_size": 16384, "dtype": DOUBLE}],
    ids=("64", "64, adam", "16384", "16384, tf32", "16384, float64"))
def test_lenet5s_kernels_spill_no_registers_on_any_gpu(options):
    # before sm_80 there is no TF32
    for architecture in ARCHITECTURES[options.get("precision") == "tf32":]:
        for name, source in recorded(architecture, **options)[1].items():
            for kernel, taken in compiled_once(source, name, architecture).items():
                assert taken.spill_bytes == taken.stack_bytes == 0, (kernel, architecture)
                assert taken.shared_bytes < 40 * 1024


def test_figures_of_lenet5_on_an_h100():
    small, large = (recorded("sm_90", batch_size=size)[0].kernels() for size in (64, 16384))
    assert [(each.name, each.blocks, each.threads) for each in small] == [
        ("update", 131 + 55 + 1, 256)]
    assert small[0].multiply_adds == 64 * 59134
    assert [each.name for each in large] == ["matrix_partials", "update"]
    assert large[0].multiply_adds == 16384 * 59134
    assert large[1].multiply_adds == 0


def test_figures_agree_with_the_compiled_kernels_and_with_the_launches():
    backend = CudaBackend(HostRuntime())
    for case in (replace(WHOLE, samples=30), replace(SHARED, samples=90)):
        backend.runtime.launches.clear()
        case.run_blind(backend)
        figures = case.update(backend).kernels()
        assert backend.runtime.launches == [(each.name, each.blocks, each.threads)
                                            for each in figures]
        for source, each in zip(case.update(backend).sources(), figures, strict=True):
            compiled = compiled_once(source.source(), str(source), "sm_75")
            assert compiled[each.name].shared_bytes == each.shared_bytes


def test_the_whole_batch_at_once_is_for_small_batches():
    lenet5 = [(120, 401), (84, 121), (10, 85)]
    for tensor_cores in (False, True):
        for batch_size in (1, 16, 64, 256, 512):
            assert plan_shares(lenet5, batch_size, 4, tensor_cores, 132) is None
        for batch_size in (8192, 16384, 60000):
            shares = plan_shares(lenet5, batch_size, 4, tensor_cores, 132)
            blocks = sum(each.blocks(matrix) for each, matrix in zip(shares, lenet5, strict=True))
            assert 132 < blocks <= 264
            for each in shares:
                assert (each.count - 1) * each.samples < batch_size <= each.count * each.samples
                assert each.samples % 16 == 0


def test_sections_that_are_not_the_whole_array_are_refused(cuda_on_cpu):
    for sections in ((Ready(0, 10), Ready(11, 5)), (Ready(0, 10), Ready(9, 5)), (Ready(1, 10),)):
        with pytest.raises(ArgumentError, match="expected a section that begins at parameter"):
            Update(cuda_on_cpu, "float32", sections, SGD(lr=0.1), 8)


def test_a_precision_that_there_is_not_is_refused(cuda_on_cpu):
    old = CudaBackend(HostRuntime(profile=PROFILES["sm_75"]))
    for backend, dtype, precision in ((cuda_on_cpu, "float64", "tf32"), (old, "float32", "tf32"),
                                      (cuda_on_cpu, "float32", "half")):
        with pytest.raises(ArgumentError, match="expected a precision"):
            Update(backend, dtype, placed(MIXED, 8)[0], SGD(lr=0.1), 8, precision)
