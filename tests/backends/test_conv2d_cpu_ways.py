"""conv2d on NumPy: every way to compute each pass, and which is taken.

What a convolution is, on every backend, test_conv2d.py tests.
"""

import importlib
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from gpucnn import ConnectionTable, get_backend
from gpucnn.backends.cpu import by_input, column_lane, gradients, rows, small_products, stacks, ways
from gpucnn.backends.cpu.convolution import Convolution
from gpucnn.backends.cpu.costs import AVX2, AVX512, costs_here
from gpucnn.backends.cpu.groups import (
    inputs_of_one_set,
    one_group,
    sets_of_inputs,
    sets_of_outputs,
)
from gpucnn.backends.cpu.vectors import has_avx512
from tests.cases import DOUBLE, Conv2dCase

conv2d = importlib.import_module("gpucnn.backends.cpu.conv2d")  # the package has the op's name

COLUMNS = "columns of all maps", "columns of each set of inputs"
BY_CELLS = " by cells of 2x1", " by cells of 2x2"
CELLS = tuple(name + cells for name in COLUMNS for cells in BY_CELLS)
LINES = tuple(f"{name}, lines shared" for name in COLUMNS + CELLS)
OUTPUTS = tuple(f"columns of each set of outputs{cells}{rest}" for cells in ("", *BY_CELLS)
                for rest in ("", ", lines shared"))
BY_INPUT, BY_OUTPUT = "lines of each input map", "output gradient's lines of each output map"
ROWS = "rows of all maps", "rows of each set of inputs"
TRANSPOSED = "output gradient's rows of all maps", "output gradient's rows of each set of outputs"
UNEVEN = ConnectionTable.from_pairs([[0, 4, 2, 0, 2, 4, 3], [1, 1, 0, 2, 2, 2, 3]], in_maps=6)
CASES = {
    "Table I": Conv2dCase(ConnectionTable.lenet5_c3(), 3, (14, 14), (5, 5), dtype=DOUBLE),
    "groups": Conv2dCase(ConnectionTable.grouped(6, 9, 3), 5, (9, 7), (4, 3), (1, 1), (2, 1),
                         dtype=DOUBLE),
    "one to one": Conv2dCase(ConnectionTable.one_to_one(7), 4, (8, 9), (3, 3), (1, 2), (1, 0),
                             dtype=DOUBLE),
    "each input of several": Conv2dCase(ConnectionTable.grouped(3, 12, 3), 2, (7, 7), (2, 2),
                                        (3, 2), dtype=DOUBLE),
    "uneven": Conv2dCase(UNEVEN, 3, (11, 6), (3, 2), (2, 1), (0, 1), dtype=DOUBLE),
    "random": Conv2dCase(ConnectionTable.random(12, 10, density=0.3, seed=1), 2, (6, 8), (1, 3),
                         dtype=DOUBLE),
    "full, kernels of a pixel": Conv2dCase(ConnectionTable.full(4, 3), 3, (5, 4), (1, 1),
                                           dtype=DOUBLE),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@pytest.fixture
def cpu():
    return get_backend("cpu")


@pytest.fixture
def take(monkeypatch):
    """take(which, name, lines=None): from here on a pass (`forward`, `weight` or `input`) goes the
    way of that name, by that many lines. Returns whether the case has such a way."""
    every = {which: getattr(ways, f"{which}_ways") for which in ("forward", "weight", "input")}

    def taken(case, which, name, lines=None):
        def only(connections, convolution, samples, costs=None):
            found = [way for way in every[which](connections, convolution, samples, costs)
                     if way.name == name]
            return [replace(way, output_rows=lines or way.output_rows) for way in found]

        monkeypatch.setattr(conv2d if which == "forward" else ways, f"{which}_ways", only)
        monkeypatch.setattr(gradients, "gradient_ways", ways.gradient_ways.__wrapped__)
        return bool(only(case.table, convolution_of(case), 1))
    return taken


def convolution_of(case):
    return Convolution(case.size, case.kernel, case.stride, case.padding)


def lacks(case, name):
    """Whether a way is none of a case's: cells do not divide its output, or its windows share no
    lines."""
    convolution = convolution_of(case)
    cell = next((cell for cell in ways.CELLS if "cells of {}x{}".format(*cell) in name), (1, 1))
    if any(size % pixels for size, pixels in zip(convolution.out_size, cell, strict=True)):
        return True
    by_cells = convolution.by_cells(cell)
    return "lines shared" in name and (by_cells.out_size[0] == 1
                              or by_cells.kernel[0] <= by_cells.stride[0])


def names(considered):
    return [way.name for way in considered]


# -- every way computes the same -------------------------------------------------------------------


@each_case
@pytest.mark.parametrize("name", [*COLUMNS, *CELLS, *LINES, *ROWS, BY_INPUT])
def test_forward_by_every_way_matches_plain_loops(case, name, cpu, take):
    assert take(case, "forward", name) != lacks(case, name)
    if not lacks(case, name):
        case.check(cpu)


@each_case
@pytest.mark.parametrize("name", [*COLUMNS, *CELLS, *LINES, *OUTPUTS, *ROWS])
def test_the_gradient_by_the_weights_by_every_way_matches_plain_loops(case, name, cpu, take):
    assert take(case, "weight", name) != lacks(case, name)
    if not lacks(case, name):
        case.check(cpu)


@each_case
@pytest.mark.parametrize("name", [*COLUMNS, *CELLS, *LINES, *OUTPUTS, *ROWS, *TRANSPOSED,
                                  BY_OUTPUT])
def test_the_gradient_by_the_input_by_every_way_matches_plain_loops(case, name, cpu, take):
    if lacks(case, name):
        return
    if not take(case, "input", name):
        groups = sets_of_inputs(case.table)
        assert name == ROWS[1] and any(one.input_run is None for one in groups)
        return
    case.check(cpu)


@each_case
def test_rows_match_plain_loops_however_many_lines_are_computed_together(case, cpu, take):
    for lines in range(2, case.size[0] + 1):
        forward = case.out_shape[2] % lines == 0
        back = case.size[0] % lines == 0 and case.padding[0] == 0
        if forward:
            take(case, "forward", ROWS[1], lines)
            take(case, "weight", ROWS[0], lines)
        if back:
            take(case, "input", TRANSPOSED[1], lines)
        if forward or back:
            case.check(cpu)


@each_case
@pytest.mark.parametrize("which", ["forward", "weight", "input"])
def test_rows_in_many_bands_and_groups_one_after_the_other_match_plain_loops(
        case, which, cpu, take, monkeypatch):
    monkeypatch.setattr(rows, "ROWS_BYTES", 1)
    monkeypatch.setattr(rows, "GROUP_BYTES", 1)
    name = TRANSPOSED[1] if which == "input" else ROWS[1]
    assert take(case, which, name)
    case.check(cpu)
    if which == "input":
        take(case, which, ROWS[0])
        case.check(cpu)


@each_case
def test_products_in_many_pieces_match_plain_loops(case, cpu, take, monkeypatch):
    monkeypatch.setattr(small_products, "SMALL_PRODUCT", 500)
    monkeypatch.setattr(small_products, "SHORTEST_CHUNK", 1)
    monkeypatch.setattr(small_products, "CHUNK_STEP", 1)
    monkeypatch.setattr(small_products, "SMALL_RESULT", 20)
    for forward, back in product((COLUMNS[0], ROWS[0]), repeat=2):
        take(case, "forward", forward)
        take(case, "weight", back)
        take(case, "input", back)
        case.check(cpu)


@each_case
def test_inputs_by_themselves_in_many_bands_match_plain_loops(case, cpu, take, monkeypatch):
    monkeypatch.setattr(by_input, "PRODUCT_BYTES", 1)
    take(case, "forward", BY_INPUT)
    take(case, "input", BY_OUTPUT)
    case.check(cpu)


def test_padding_wider_than_a_kernel_needs_is_added_back_and_not_transposed(cpu):
    case = Conv2dCase(UNEVEN, 2, (4, 5), (2, 2), padding=(3, 2), dtype=DOUBLE)
    assert not convolution_of(case).can_be_transposed
    considered = names(ways.input_ways(case.table, convolution_of(case), 2))
    assert not set(considered) & {*TRANSPOSED, BY_OUTPUT}
    case.check(cpu)


# -- which way is taken ----------------------------------------------------------------------------


each_machine = pytest.mark.parametrize("costs", [AVX2, AVX512], ids=["AVX2", "AVX-512"])


def taken(table, size, kernel, samples=16, costs=None):
    """The names of the ways for the three passes."""
    convolution = Convolution((size, size), (kernel, kernel), (1, 1), (0, 0))
    return [considered(table, convolution, samples, costs)[0].name for considered in
            (ways.forward_ways, ways.weight_ways, ways.input_ways)]


@each_machine
def test_full_tables_and_nearly_full_ones_are_computed_as_if_full(costs):
    for density in (1.0, 0.8):
        table = ConnectionTable.random(64, 64, density=density, seed=0)
        assert all("of all maps" in name for name in taken(table, 32, 3, costs=costs))


@each_machine
@pytest.mark.parametrize("density", [0.125, 0.0625, 0.03])
def test_sparse_tables_are_computed_without_what_is_not_joined(density, costs):
    table = ConnectionTable.random(128, 128, density=density, seed=0)
    assert not any("all maps" in name for name in taken(table, 28, 5, costs=costs))


@each_machine
def test_inputs_are_computed_by_themselves_where_sets_of_inputs_have_one_output_each(costs):
    table = ConnectionTable.random(64, 64, density=0.125, seed=0)
    assert taken(table, 32, 5, costs=costs)[0] == BY_INPUT


@each_machine
@pytest.mark.parametrize("table", [ConnectionTable.one_to_one(64),
                                   ConnectionTable.grouped(64, 64, 4),
                                   ConnectionTable.grouped(64, 128, 16)])
def test_grouped_tables_are_computed_group_by_group(table, costs):
    assert not any("all maps" in name for name in taken(table, 32, 3, costs=costs))


@each_machine
def test_lenet5_s_c3_is_as_if_full_forward_since_its_output_maps_see_sixteen_sets(costs):
    assert "of all maps" in taken(ConnectionTable.lenet5_c3(), 14, 5, 64, costs)[0]


@each_machine
@pytest.mark.parametrize("maps, size, kernel", [(64, 32, 3), (64, 32, 5), (256, 16, 3),
                                                (128, 28, 5)])
@pytest.mark.parametrize("samples", [4, 16, 64])
def test_the_estimate_falls_with_the_density(maps, size, kernel, samples, costs):
    convolution = Convolution((size, size), (kernel, kernel), (1, 1), (0, 0))
    seconds = [sum(considered(ConnectionTable.random(maps, maps, density=density, seed=0),
                              convolution, samples, costs)[0].seconds
                   for considered in (ways.forward_ways, ways.weight_ways, ways.input_ways))
               for density in (1, 0.5, 0.25, 0.125, 0.0625, 0.031)]
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[2] < 0.95 * seconds[0]
    assert seconds[-1] < 0.45 * seconds[0]


def test_costs_are_those_of_the_machine_s_vectors(monkeypatch):
    for found, expected in ((["X86_V3"], AVX2), (["X86_V3", "X86_V4"], AVX512),
                            (["SSE3", "AVX512F", "AVX512_SKX"], AVX512), (["NEON"], AVX2)):
        config = {"SIMD Extensions": {"found": found}}
        monkeypatch.setattr(np, "show_config", lambda mode, config=config: config)
        monkeypatch.setattr("gpucnn.backends.cpu.costs.has_avx512", has_avx512.__wrapped__)
        assert costs_here() is expected
    monkeypatch.setattr(np, "show_config", lambda mode: {})
    assert costs_here() is AVX2


def test_the_cheapest_of_the_ways_considered_comes_first_and_each_is_there_once():
    convolution = Convolution((14, 14), (5, 5), (1, 1), (0, 0))
    for considered in (ways.forward_ways, ways.weight_ways, ways.input_ways):
        found = considered(ConnectionTable.lenet5_c3(), convolution, 8)
        assert [way.seconds for way in found] == sorted(way.seconds for way in found)
        assert len(set(names(found))) == len(found)


def test_what_would_be_taken_can_be_asked_for():
    table = ConnectionTable.random(128, 128, density=0.05, seed=0)
    found = conv2d.conv2d_ways((16, 128, 28, 28), (5, 5), table)
    assert [found[name][0].name for name in ("forward", "grad_weight", "grad_input")] == taken(
        table, 28, 5, samples=8)
    for name, considered in (("grad_weight", ways.weight_ways), ("grad_input", ways.input_ways)):
        every = considered(table, Convolution((28, 28), (5, 5), (1, 1), (0, 0)), 8)
        assert sorted(names(found[name])) == sorted(names(every))


SHARED = [name for name in (COLUMNS[0], *CELLS[:2], *OUTPUTS) if "lines" not in name]


@each_case
@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("band", [1, 3 * 1024 * 1024])
def test_both_gradients_by_the_same_columns_match_plain_loops(case, name, band, cpu, take,
                                                              monkeypatch):
    monkeypatch.setattr(stacks, "COLUMN_BYTES", band)
    monkeypatch.setattr(column_lane, "COLUMN_BYTES", band)
    if lacks(case, name):
        return
    take(case, "weight", name)
    take(case, "input", name)
    by_weight, by_input = gradients.gradient_ways(case.table, convolution_of(case), 2, True)
    assert by_input.shares_columns_with(by_weight)
    for samples in (case.samples, 1):
        replace(case, samples=samples).check(cpu)


def test_gradients_share_columns_where_both_together_are_the_cheapest():
    table = ConnectionTable.lenet5_c3()
    convolution = Convolution((14, 14), (5, 5), (1, 1), (0, 0))
    by_weight, by_input = ways.gradient_ways(table, convolution, 64, True, AVX2)
    alone = ways.weight_ways(table, convolution, 64, AVX2)[0]
    assert by_input.shares_columns_with(by_weight)
    assert by_weight.seconds - by_input.gathering < alone.seconds < by_weight.seconds
    assert ways.gradient_ways(table, convolution, 64, False, AVX2) == (alone, None)


# -- groups ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [ConnectionTable.lenet5_c3(), UNEVEN,
                                   ConnectionTable.grouped(6, 4, 2), ConnectionTable.full(3, 4)])
def test_groups_have_every_connection_once(table):
    for groups, maps in ((one_group(table), table.pairs), (sets_of_inputs(table), table.pairs),
                         (inputs_of_one_set(table), table.pairs),
                         (sets_of_outputs(table), table.pairs[::-1])):
        found = []
        for one in groups:
            for inputs, outputs, connections in zip(one.inputs, one.outputs, one.connections,
                                                    strict=True):
                for (o, i), connection in np.ndenumerate(connections):
                    if connection < table.n_connections:
                        assert tuple(maps[:, connection]) == (inputs[i], outputs[o])
                        found.append(connection)
        assert sorted(found) == list(range(table.n_connections))


def test_a_group_s_weights_and_their_gradient_are_the_connections_own():
    weight = np.arange(1.0, UNEVEN.n_connections + 1).reshape(-1, 1, 1)
    for groups in (one_group(UNEVEN), sets_of_inputs(UNEVEN)):
        gradient = np.zeros_like(weight)
        for one in groups:
            values = one.weights(weight)
            assert (values[one.connections == UNEVEN.n_connections] == 0).all()
            one.put_gradient(values, gradient)
        np.testing.assert_array_equal(gradient, weight)
