"""The ways to compute a convolution through a table, and which is taken: by its estimated cost.

Groups are all maps in one (with zeros where they are not joined), one for each set of inputs or,
for gradients, one for each set of outputs; each way computes them by columns (`products.py`) or by
rows (`rows.py`). Or each input map is computed by itself (`by_input.py`).
"""

from dataclasses import dataclass
from functools import lru_cache
from math import prod

import numpy as np

from gpucnn.backends.cpu.by_input import InputProducts, rows_at_once
from gpucnn.backends.cpu.columns import Columns
from gpucnn.backends.cpu.convolution import Convolution
from gpucnn.backends.cpu.costs import Costs, costs_here
from gpucnn.backends.cpu.groups import (
    Groups,
    inputs_of_one_set,
    one_group,
    one_group_of_outputs,
    sets_of_few_sizes,
    sets_of_inputs,
    sets_of_outputs,
)
from gpucnn.backends.cpu.lines import Lines
from gpucnn.backends.cpu.products import ColumnProducts
from gpucnn.backends.cpu.rows import RowProducts
from gpucnn.backends.cpu.stacks import COLUMN_BYTES
from gpucnn.connections import ConnectionTable

FLOAT_BYTES = 4
MOST_LINES = 16
CELLS = (1, 1), (2, 1), (2, 2)


@dataclass(frozen=True)
class Way:
    """One way to compute one pass. `output_rows`: by rows, how many are computed together; 0 by
    columns, of which each is the window of a `cell` of output pixels, and which share lines of the
    input if `shares_lines`. `connections`: the table, where each input map is computed by itself,
    in no group. `is_transposed`: the gradient by the input as a convolution of the output's
    gradient, and not added up. `seconds`: the estimated time of one sample; `gathering` is what of
    it brings the output's gradient to where it is multiplied."""

    name: str
    groups: tuple[Groups, ...]
    output_rows: int
    seconds: float
    is_transposed: bool = False
    cell: tuple[int, int] = (1, 1)
    shares_lines: bool = False
    connections: ConnectionTable | None = None
    gathering: float = 0.0

    def products(self, convolution, dtype):
        """What computes it, once it has weights: the mirrored ones if `is_transposed`."""
        if self.is_transposed:
            convolution = convolution.transposed
        if self.connections is not None:
            return InputProducts(convolution, *_ends(self.connections, self.is_transposed), dtype)
        if self.output_rows:
            return RowProducts(convolution, self.groups, self.output_rows, dtype)
        return ColumnProducts(convolution, self.groups, dtype, self.cell,
                              Lines if self.shares_lines else Columns)

    def shares_columns_with(self, other):
        """Whether this way to the gradient by the input multiplies the same matrices of the
        output's gradient as that way to the gradient by the weights, which bring it there once."""
        others = (self.is_transposed, self.output_rows, other.output_rows, self.shares_lines,
                  other.shares_lines)
        return self.groups is other.groups and self.cell == other.cell and not any(others)


@lru_cache(maxsize=1024)
def forward_ways(connections, convolution, samples, costs=None):
    """The ways to convolve, the cheapest first; `samples` are computed together. `costs`: None for
    this machine's."""
    estimate = _Estimate(costs or costs_here(), convolution, samples)
    ways = [estimate.by_rows(maps, groups, moves=1) for maps, groups in _groupings(connections)]
    for maps, groups in _groupings(connections, few_sizes=True):
        ways += estimate.by_columns(maps, groups, estimate.costs.forward_by_columns, writes=True)
    return _sorted([*ways, estimate.by_input(connections)])


@lru_cache(maxsize=1024)
def weight_ways(connections, convolution, samples, costs=None):
    """The ways to the gradient by the weights."""
    estimate = _Estimate(costs or costs_here(), convolution, samples)
    ways = [estimate.by_rows(maps, groups, moves=2) for maps, groups in _groupings(connections)]
    for maps, groups in (*_groupings(connections, few_sizes=True),
                         ("each set of outputs", inputs_of_one_set(connections))):
        ways += estimate.by_columns(maps, groups, estimate.costs.weight_by_columns)
    return _sorted(ways)


@lru_cache(maxsize=1024)
def input_ways(connections, convolution, samples, costs=None):
    """The ways to the gradient by the input: columns or rows are added up, or rows convolve the
    output's gradient."""
    costs = costs or costs_here()
    estimate, ways = _Estimate(costs, convolution, samples), []
    for maps, groups in _groupings(connections):
        ways += estimate.by_columns(maps, groups, costs.backward_by_columns)
        if all(one.input_run is not None for one in groups):
            ways.append(estimate.by_rows(maps, groups, moves=2))
    if convolution.can_be_transposed:
        transposed = _Estimate(costs, convolution.transposed, samples)
        for maps, groups in (("all maps", one_group_of_outputs(connections)),
                             ("each set of outputs", sets_of_outputs(connections))):
            ways.append(transposed.by_rows(maps, groups, moves=1, is_transposed=True))
        ways.append(transposed.by_input(connections, is_transposed=True))
    return _sorted([*ways, *estimate.by_columns(
        "each set of outputs", inputs_of_one_set(connections), costs.backward_by_columns)])


@lru_cache(maxsize=1024)
def gradient_ways(connections, convolution, samples, needs_grad_input, costs=None):
    """The `Way` to the gradient by the weights that is taken, and that to the gradient by the
    input, None if nobody needs it: two that share columns, if both together are the cheapest."""
    by_weight = weight_ways(connections, convolution, samples, costs)
    if not needs_grad_input:
        return by_weight[0], None
    by_input = input_ways(connections, convolution, samples, costs)
    pairs = [(one, other) for other in by_input for one in by_weight
             if other.shares_columns_with(one)]
    return min([(by_weight[0], by_input[0]), *pairs], key=lambda pair: sum(
        way.seconds for way in pair) - pair[1].gathering * pair[1].shares_columns_with(pair[0]))


def _groupings(connections, *, few_sizes=False):
    sets = sets_of_few_sizes if few_sizes else sets_of_inputs
    return ("all maps", one_group(connections)), ("each set of inputs", sets(connections))


def _sorted(ways):
    return tuple(sorted(ways, key=lambda way: way.seconds))


@dataclass(frozen=True)
class _Estimate:
    """Ways with their cost for one convolution."""

    costs: Costs
    convolution: Convolution
    samples: int

    def by_columns(self, maps, groups, cost, *, writes=False):
        """By every cell that divides the output, with and without lines that are shared; outputs
        are read, or else written."""
        convolution, samples = self.convolution, self.samples
        for cell in CELLS:
            if any(size % pixels for size, pixels
                   in zip(convolution.out_size, cell, strict=True)):
                continue
            by_cells, pixels = convolution.by_cells(cell), prod(cell)
            for shares_lines in (False, True) if _can_share_lines(by_cells) else (False,):
                total = gathering = 0.0
                for one in groups:
                    count, n_outputs, n_inputs = one.connections.shape
                    of_group, calls = cost(by_cells, n_inputs, n_outputs * pixels, samples,
                                           shares_lines)
                    if writes:
                        of_group += self.costs.moving_cells(convolution, cell, n_outputs, samples)
                    elif one.output_run is None:
                        gathering += count * self.costs.gathering(convolution, n_outputs)
                    turns = (1 if one.input_run is not None
                             else _turns(one, by_cells, pixels, samples))
                    total += count * of_group + turns * calls * self.costs.call / samples
                if not writes:
                    outputs = 1 + max(int(one.outputs.max()) for one in groups)
                    gathering += self.costs.moving_cells(convolution, cell, outputs, samples)
                name = f"columns of {maps}" + f" by cells of {cell[0]}x{cell[1]}" * (pixels > 1)
                yield Way(name + ", lines shared" * shares_lines, groups, 0, total + gathering,
                          cell=cell, shares_lines=shares_lines, gathering=gathering)

    def by_rows(self, maps, groups, *, moves, is_transposed=False):
        """With as many lines as are the cheapest; `moves`: how often a product's numbers are moved,
        besides by the product itself."""
        in_maps = 1 + max(int(one.inputs.max()) for one in groups)
        height = self.convolution.out_size[0]

        def seconds(lines):
            total = self.costs.copying_rows(self.convolution, in_maps, lines)
            for one in groups:
                count, n_outputs, n_inputs = one.connections.shape
                total += 12 * self.costs.call / self.samples + count * self.costs.by_rows(
                    self.convolution, n_inputs, n_outputs, lines, moves=moves,
                    chooses=one.input_run is None)
            return total

        lines = min((lines for lines in range(1, MOST_LINES + 1) if height % lines == 0),
                    key=seconds)
        way = "output gradient's rows" if is_transposed else "rows"
        return Way(f"{way} of {maps}", groups, lines, seconds(lines), is_transposed)

    def by_input(self, connections, *, is_transposed=False):
        """Each input map, or each one of the output's gradient, by itself."""
        (inputs, _), out_maps = _ends(connections, is_transposed)
        fan_out, out_size = np.bincount(inputs), self.convolution.out_size
        rows = rows_at_once(out_size, int(fan_out.max()), self.samples, FLOAT_BYTES)
        seconds = self.costs.by_input(self.convolution, fan_out, out_maps, self.samples,
                                      -(-out_size[0] // rows))
        way = "output gradient's lines of each output map" if is_transposed else (
            "lines of each input map")
        return Way(way, (), 0, seconds, is_transposed, connections=connections)


def _ends(connections, is_transposed):
    """The pairs (maps that are read, maps that are written), and how many are written."""
    if is_transposed:
        return connections.pairs[::-1], connections.in_maps
    return connections.pairs, connections.out_maps


def _turns(groups, convolution, pixels, samples):
    """About how many times some groups of a shape are computed at once."""
    count, n_outputs, n_inputs = groups.connections.shape
    numbers = ((n_inputs * convolution.area + n_outputs * pixels) * samples
               * prod(convolution.out_size))
    return -(-count // max(1, COLUMN_BYTES // (FLOAT_BYTES * numbers)))


def _can_share_lines(convolution):
    """Whether rows of windows overlap."""
    return convolution.out_size[0] > 1 and convolution.kernel[0] > convolution.stride[0]
