"""conv2d on NumPy: blocks of samples, threads, and what a workspace keeps."""

import copy
import gc
import importlib
import pickle
import re
import weakref
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from gpucnn import ConnectionTable, get_backend
from gpucnn.backends.base import Workspace
from gpucnn.backends.cpu import column_bands, column_lane, gradients, lanes, stacks, ways
from gpucnn.backends.cpu.convolution import Convolution
from tests.cases import Conv2dCase

conv2d = importlib.import_module("gpucnn.backends.cpu.conv2d")  # the package has the op's name


@pytest.fixture
def cpu():
    return get_backend("cpu")


LARGE = Conv2dCase(ConnectionTable.grouped(16, 16, 2), 70, (12, 12), (3, 3), padding=(1, 1))


@pytest.fixture
def divided(monkeypatch):
    """Blocks of few samples, and threads for any work."""
    monkeypatch.setattr(conv2d, "MOST_SAMPLES", 4)
    monkeypatch.setattr(conv2d, "FEWEST_SAMPLES", 2)
    monkeypatch.setattr(conv2d, "WORTH_A_THREAD", 1)
    conv2d._blocks.cache_clear()
    yield
    conv2d._blocks.cache_clear()


KINDS = "columns", "rows", "lines of each"  # of ways, as they are named


@pytest.fixture
def take(monkeypatch):
    """take(kind): from here on each pass goes the cheapest way whose name has that pattern, if
    there is one."""
    def taken(kind):
        for name in ("forward_ways", "weight_ways", "input_ways"):
            considered = getattr(ways, name)

            def only(*arguments, considered=considered):
                found = considered(*arguments)
                return [way for way in found if re.search(kind, way.name)] or found

            for module in (conv2d, ways):
                monkeypatch.setattr(module, name, only)
        monkeypatch.setattr(gradients, "gradient_ways", ways.gradient_ways.__wrapped__)
    return taken


@pytest.mark.parametrize("memory", ["contiguous", "batch-last"])
@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_threads_gives_the_same_bits(memory, kind, cpu, divided, take):
    take(kind)
    results = []
    for threads in (1, 2, 3):
        compute = LARGE.run if results else LARGE.check
        with threadpool_limits(threads, user_api="blas"):
            results.append(compute(cpu, layout=memory, workspace=Workspace(cpu)))
    for others in results[1:]:
        for name, array in others.items():
            np.testing.assert_array_equal(array, results[0][name], name)


def test_as_many_threads_work_as_numpy_s_products_may_use(cpu, divided, monkeypatch):
    asked = []
    real = lanes._workers
    monkeypatch.setattr(lanes, "_workers", lambda threads: asked.append(threads) or real(threads))
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            LARGE.run(cpu)
    with threadpool_limits(2, user_api="blas"), cpu.computing():
        LARGE.run(cpu)
    assert asked == [2, 2]  # forward and backward; a single thread needs no workers


def test_a_small_batch_of_little_work_is_one_block():
    convolution = Convolution((14, 14), (5, 5), (1, 1), (0, 0))
    blocks = conv2d._blocks(16, ConnectionTable.lenet5_c3(), convolution, 4)
    assert blocks == (slice(0, 16),)


@pytest.mark.parametrize("samples", [1, 2, 7, 33, 256, 1000])
def test_blocks_are_all_samples_one_after_the_other(samples):
    convolution = Convolution((32, 32), (3, 3), (1, 1), (0, 0))
    blocks = conv2d._blocks(samples, ConnectionTable.full(64, 64), convolution, 4)
    assert [number for block in blocks for number in range(samples)[block]] == list(range(samples))


def test_a_workspace_is_used_again(cpu):
    taken = []

    class Watched(Workspace):
        def take(self, name, shape, dtype):
            array = super().take(name, shape, dtype)
            taken.append((name, array.__array_interface__["data"][0]))
            return array

    workspace = Watched(cpu)
    with threadpool_limits(1, user_api="blas"):
        LARGE.run(cpu, workspace=workspace)
        first = set(taken)
        taken.clear()
        LARGE.run(cpu, workspace=workspace)
    assert set(taken) <= first


IN_PLACE = {
    "Table I": Conv2dCase(ConnectionTable.lenet5_c3(), 11, (14, 14), (5, 5)),
    "groups": Conv2dCase(ConnectionTable.grouped(6, 9, 3), 11, (9, 8), (4, 3)),
    "strided": Conv2dCase(ConnectionTable.full(3, 5), 11, (10, 9), (3, 3), (2, 2)),
    "uneven": Conv2dCase(ConnectionTable.random(8, 6, density=0.4, seed=2), 11, (7, 8), (2, 3)),
}


@pytest.mark.parametrize("case", IN_PLACE.values(), ids=IN_PLACE)
@pytest.mark.parametrize("pixel_by_pixel", [True, False])
@pytest.mark.parametrize("band", [1, 1 << 20])
def test_blocks_are_read_and_written_in_batch_last_arrays(case, pixel_by_pixel, band, cpu, divided,
                                                          take, monkeypatch):
    take("columns(?!.* by cells)")
    monkeypatch.setattr(column_bands, "FEWEST_SAMPLES_APART", 1 if pixel_by_pixel else 1000)
    monkeypatch.setattr(column_lane, "COLUMN_BYTES", band)
    monkeypatch.setattr(stacks, "COLUMN_BYTES", band)
    in_place = []
    writing = column_bands.Band._multiplying_by_pixel
    monkeypatch.setattr(column_bands.Band, "_multiplying_by_pixel",
                        lambda *arguments: in_place.append(writing(*arguments)) or in_place[-1])

    def allocate(shape, dtype):
        return cpu.empty_batch(shape, dtype) if len(shape) == 4 else cpu.empty(shape, dtype)

    case.check(cpu, layout="batch-last", allocate=allocate)
    assert any(multiply is not None for multiply in in_place) == pixel_by_pixel


@pytest.mark.parametrize("case", IN_PLACE.values(), ids=IN_PLACE)
def test_blocks_of_batch_last_arrays_match_plain_loops_by_every_way(case, cpu, divided, take,
                                                                    monkeypatch):
    monkeypatch.setattr(column_bands, "FEWEST_SAMPLES_APART", 1)
    convolution = Convolution(case.size, case.kernel, case.stride, case.padding)
    names = {way.name for considered in (ways.forward_ways, ways.weight_ways, ways.input_ways)
             for way in considered(case.table, convolution, 4)}

    def allocate(shape, dtype):
        return cpu.empty_batch(shape, dtype) if len(shape) == 4 else cpu.empty(shape, dtype)

    for name in sorted(names):
        take(f"^{name}$")
        replace(case, samples=7).check(cpu, layout="batch-last", allocate=allocate)


@pytest.mark.parametrize("kind", KINDS)
def test_a_workspace_serves_other_weights_sizes_and_tables_in_turn(kind, cpu, divided, take):
    take(kind)
    workspace = Workspace(cpu)
    cases = [replace(case, samples=samples, seed=seed) for seed, (case, samples) in enumerate(
        product((*IN_PLACE.values(), LARGE), (3, 9, 3, 10)))]
    for case in [*cases, *cases[::-3]]:
        case.check(cpu, workspace=workspace)


def test_zeros_around_maps_stay_whatever_the_block_s_size(cpu, divided):
    """Blocks of 4 and of 3 samples, padded, and by a convolution of the output's gradient."""
    case = Conv2dCase(ConnectionTable.one_to_one(6), 11, (5, 5), (3, 3), padding=(1, 1))
    workspace = Workspace(cpu)
    with threadpool_limits(1, user_api="blas"):
        for samples in (11, 3, 11, 4):
            replace(case, samples=samples).check(cpu, workspace=workspace)


def test_what_is_kept_is_made_anew_when_memory_has_grown(cpu):
    workspace = Workspace(cpu)
    first = workspace.keep("views", lambda: workspace.take("x", (3,), np.float32))
    assert workspace.keep("views", lambda: None) is first
    workspace.take("x", (2,), np.float32)
    assert workspace.keep("views", lambda: None) is first
    workspace.take("x", (4,), np.float32)
    second = workspace.keep("views", lambda: workspace.take("x", (3,), np.float32))
    assert second is not first
    assert not np.shares_memory(first, second)


TRANSPOSED = Conv2dCase(ConnectionTable.grouped(16, 16, 16), 9, (12, 12), (3, 3), padding=(1, 1))


@pytest.fixture
def no_collector():
    """No search for cycles: what is not freed at once stays."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("case", [*IN_PLACE.values(), LARGE, TRANSPOSED])
@pytest.mark.parametrize("kind", KINDS)
def test_a_workspace_does_not_hold_the_arrays_of_a_call(case, kind, cpu, divided, take,
                                                        no_collector):
    take(kind)
    workspace, values = Workspace(cpu), case.arrays()
    arrays = [cpu.from_host(values[name]) for name in ("x", "weight", "grad_output")]
    output = cpu.conv2d(*arrays[:2], None, case.table, **case.options, workspace=workspace)
    gradients = cpu.conv2d_backward(arrays[2], output, *arrays[:2], case.table, **case.options,
                                    workspace=workspace)
    alive = [weakref.ref(array) for array in (*arrays, output, *gradients)]
    del arrays, output, gradients
    assert not any(reference() is not None for reference in alive)


@pytest.mark.parametrize("case", [*IN_PLACE.values(), LARGE, TRANSPOSED])
@pytest.mark.parametrize("kind", KINDS)
def test_a_call_without_a_workspace_gives_its_memory_back(case, kind, cpu, divided, take,
                                                          no_collector, monkeypatch):
    take(kind)
    used = []

    class Watched(Workspace):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            used.append(weakref.ref(self))

    monkeypatch.setattr(conv2d, "Workspace", Watched)
    case.run(cpu)
    assert len(used) == 2
    assert not any(reference() is not None for reference in used)


def test_a_workspace_that_has_been_used_can_be_copied_and_pickled(cpu, divided):
    workspace, case = Workspace(cpu), replace(LARGE, samples=9)
    case.check(cpu, workspace=workspace)
    for other in (copy.deepcopy(workspace), pickle.loads(pickle.dumps(workspace))):
        case.check(cpu, workspace=other)
        case.check(cpu, workspace=workspace)
