"""Connection tables as matrix products, and batches in parts: how the CPU's plan divides work."""

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from gpucnn import SGD, ConnectionTable, lenet5
from gpucnn.backends.cpu.plan import lanes, tables
from gpucnn.backends.cpu.plan.step import parts
from gpucnn.backends.cpu.plan.windows import Windows
from gpucnn.models import TWO_STAGE_C3

# -- tables as products ----------------------------------------------------------------------------


def windows(kernel=5, cells=10):
    """Windows by pixel of a convolution without pooling."""
    return Windows((kernel, kernel), (1, 1), (cells, cells), (1, 1), (1, 1), (1, 1), aligned=True)


def grouped_by(connections, name):
    """The `Grouping` of a table that has this name."""
    found = tables.groupings(connections, windows(), 32, first=False)
    return next(way for way in found if way.name == name)


TABLES = {
    "full": ConnectionTable.full(5, 7), "one to one": ConnectionTable.one_to_one(6),
    "grouped": ConnectionTable.grouped(6, 9, 3), "LeNet-5's": ConnectionTable.lenet5_c3(),
    "two_stage's": TWO_STAGE_C3,
    **{f"random {seed}": ConnectionTable.random(7, 12, density=0.3, seed=seed)
       for seed in range(5)},
}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_grouping_joins_each_connection_once_and_the_cheapest_is_first(table):
    found = tables.groupings(table, windows(), 32, first=False)
    assert [way.seconds for way in found] == sorted(way.seconds for way in found)
    assert len({way.name for way in found}) == len(found)
    for way in found:
        joined = np.zeros((table.in_maps, table.out_maps), int)
        for stack in way.stacks:
            for inputs, outputs in zip(stack.inputs, stack.outputs, strict=True):
                joined[np.ix_(inputs, outputs)] += 1
        assert joined.max() == 1 and (joined[table.matrix != 0] == 1).all(), way.name


def test_a_full_table_is_one_dense_product_and_nothing_else():
    found = tables.groupings(ConnectionTable.full(6, 16), windows(), 32, first=False)
    assert [way.name for way in found] == ["one dense product"]


def test_two_stages_c3_falls_into_two_parts_of_two_maps_and_eight():
    """Each by a call of its own, since maps 0 and 3 lie further apart than 1 and 2."""
    stacks = grouped_by(TWO_STAGE_C3, "a product for each separate part").stacks
    assert sorted(stack.inputs.tolist() for stack in stacks) == [[[0, 3]], [[1, 2]]]
    assert [stack.outputs.shape for stack in stacks] == [(1, 8), (1, 8)]


def test_groups_of_neighbours_are_one_stack():
    stack, = grouped_by(ConnectionTable.grouped(6, 9, 3), "a product for each separate part").stacks
    assert stack.inputs.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert stack.outputs.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_one_to_one_is_a_single_stack_of_products_of_one_map_by_one():
    stack, = grouped_by(ConnectionTable.one_to_one(6), "a product for each separate part").stacks
    assert stack.inputs.tolist() == stack.outputs.tolist() == [[number] for number in range(6)]


def test_lenet5s_c3_is_one_part_and_a_set_of_inputs_for_each_output_map():
    table = ConnectionTable.lenet5_c3()
    names = {way.name for way in tables.groupings(table, windows(), 32, first=False)}
    assert names == {"one dense product", "a product for each set of inputs"}
    stacks = grouped_by(table, "a product for each set of inputs").stacks
    assert sum(len(stack.outputs) for stack in stacks) == 16


def test_estimates_fall_with_the_number_of_groups():
    seconds = [grouped_by(ConnectionTable.grouped(16, 16, groups),
                          "a product for each separate part" if groups > 1
                          else "one dense product").seconds for groups in (1, 2, 4)]
    assert seconds == sorted(seconds, reverse=True) and len(set(seconds)) == 3


def test_a_one_to_one_table_of_16_maps_is_estimated_to_be_cheaper_than_a_full_one():
    sparse, full = (tables.groupings(table, windows(), 32, first=False)[0] for table in (
        ConnectionTable.one_to_one(16), ConnectionTable.full(16, 16)))
    assert sparse.seconds < full.seconds


def test_the_first_layer_costs_less_as_nobody_needs_the_gradient_by_its_input():
    table = ConnectionTable.lenet5_c3()
    first, later = (tables.groupings(table, windows(), 32, first=first)[0].seconds
                    for first in (True, False))
    assert first < later


@pytest.mark.parametrize(("maps", "slices"), [
    ([], []), ([4], [slice(4, 5, 1)]), ([0, 1, 2], [slice(0, 3, 1)]),
    ([0, 2, 4, 5], [slice(0, 5, 2), slice(5, 6, 1)]),
    ([1, 2, 5, 8], [slice(1, 3, 1), slice(5, 9, 3)])], ids=str)
def test_runs_are_slices_of_evenly_spaced_maps(maps, slices):
    assert tables.runs(np.array(maps, int)) == slices
    everything = np.arange(10)
    assert np.concatenate([everything[one] for one in slices] + [[]]).tolist() == maps


@pytest.mark.parametrize(("maps", "even"), [
    ([[3]], True), ([[0, 1, 2]], True), ([[0, 3], [1, 4], [2, 5]], True), ([[0], [5], [10]], True),
    ([[0, 1, 3]], False), ([[0], [1], [3]], False), ([[0, 1], [2, 4]], False),
    ([[0, 1], [4, 5], [6, 7]], False)], ids=str)
def test_maps_are_evenly_spaced_if_base_group_and_number_tell_them(maps, even):
    assert tables.evenly_spaced(np.array(maps)) is even


# -- windows that share lines ----------------------------------------------------------------------


def of_cells(kernel, stride, pool_size, cells=6, **options):
    """Windows by pooling cell, in rows of two phases."""
    return Windows((kernel, kernel), (stride, stride), (cells, cells), (pool_size, pool_size),
                   (1, 2), (1, 1), aligned=True, **options)


@pytest.mark.parametrize(("kernel", "stride", "pool_size", "can_share"), [
    (3, 1, 1, True), (5, 1, 2, True), (4, 2, 1, True), (5, 1, 3, False), (3, 2, 1, False),
    (1, 1, 1, False), (2, 2, 1, False), (1, 1, 2, False)])
def test_rows_of_windows_share_lines_if_they_overlap_by_whole_steps(
        kernel, stride, pool_size, can_share):
    assert of_cells(kernel, stride, pool_size).can_share_lines is can_share


def test_one_row_of_windows_shares_nothing():
    assert not of_cells(3, 1, 1, cells=1).can_share_lines


@pytest.mark.parametrize("in_phases", [(1, 1), (2, 2), (2, 1)], ids=str)
@pytest.mark.parametrize("rows", [slice(None), slice(1, 4)], ids=str)
def test_lines_one_behind_the_other_are_the_windows_of_each_row(rows, in_phases):
    """Of a cell of 2 x 2 output pixels and a 5 x 5 kernel, so that windows of 6 x 6 move by 2."""
    form = replace(of_cells(5, 1, 2, lines=True), in_phases=in_phases)
    down, right = in_phases
    x = np.random.default_rng(0).random((3, 1, 1, down, right, 16 // down, 16 // right, 4))
    windows = form.view(x, rows)          # maps, shifts, phases, 1, 1, 1, 2, rows, 3, samples
    lines = form.line_view(x, rows)
    numbers = np.arange(3 * form.area).reshape(3, form.area)
    ordered = form.by_lines(numbers)      # which (map, window pixel) is in which place of a line
    n_rows = windows.shape[-3]
    assert lines.shape[1] == form.line_groups(n_rows)
    by_pixel = windows.reshape(3, form.area, 2, n_rows, 3, 4)
    by_line = np.moveaxis(lines, 0, 3).reshape(lines.shape[1], -1, 2, 3, 4)
    for row in range(n_rows):
        of_row = by_line[row:row + form.steps].reshape(-1, 2, 3, 4)
        wanted = by_pixel.reshape(-1, 2, n_rows, 3, 4)[ordered.reshape(-1), :, row]
        assert np.array_equal(of_row, wanted)


def test_lenet5s_convolutions_share_lines():
    network = lenet5(device="cpu")
    plan = network.compile_step(loss="cross_entropy", optimizer=SGD(lr=0.1), batch_size=64)
    assert plan.explain().count("lines shared") == 2


# -- parts of a batch ------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 2, 7, 32])
def test_parts_are_nearly_equal_and_never_empty_or_above_the_limit(most):
    for samples in (1, 2, 3, 7, 31, 32, 33, 63, 64, 65, 100, 1000):
        pieces = parts(samples, most)
        sizes = [piece.stop - piece.start for piece in pieces]
        assert sum(sizes) == samples and max(sizes) - min(sizes) <= 1
        assert min(sizes) >= 1 and max(sizes) <= most and len(pieces) == -(-samples // most)
        assert pieces[0].start == 0 and all(
            one.stop == other.start for one, other in pairwise(pieces))


def test_nothing_has_no_parts():
    assert parts(0, 32) == lanes.shares(0, 32) == []


@pytest.mark.parametrize("most", [1, 2, 7, 32])
def test_shares_are_nearly_equal_parts_and_two_or_more_of_what_fills_half_a_micro_batch(most):
    for samples in (1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 64, 65, 1000):
        sizes = [piece.stop - piece.start for piece in lanes.shares(samples, most)]
        assert sum(sizes) == samples and max(sizes) - min(sizes) <= 1
        assert min(sizes) >= 1 and max(sizes) <= most
        assert len(sizes) >= 2 or samples <= max(1, most // 2)


@pytest.mark.parametrize("share", [2, 1.01, 1, 0.99, 0.3, 0.1, 0.01, 0.0001])
def test_a_micro_batch_is_the_largest_that_stays_within_the_limit(share):
    """`share`: how much of the memory that there is one sample takes."""
    step = SimpleNamespace(numbers=int(share * lanes.LANE_BYTES / 4))
    fitting = [size for size in lanes.MICRO_BATCHES if size * step.numbers * 4 <= lanes.LANE_BYTES]
    assert lanes.micro_batch([step], 4) == max(fitting, default=1)
