"""The ways to compute a convolution through a table, and which is taken: by an estimated cost.

Groups are all maps in one (with zeros where they are not joined), one for each set of inputs or,
for gradients, one for each set of outputs; each way computes them by columns (`products.py`) or by
rows (`rows.py`).
"""

from dataclasses import dataclass
from functools import lru_cache
from math import prod

from gpucnn.backends.cpu.columns import Columns
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
from gpucnn.backends.cpu.rows import RowProducts, window_rows
from gpucnn.backends.cpu.stacks import COLUMN_BYTES

# What an estimate counts with, in seconds; only their proportions matter. They were fitted on an
# AMD EPYC (family 25, model 17) to the times of all ways for 41 tables, three passes each, on one
# thread with OpenBLAS's kernels for AVX-512 and with those for AVX2, and on two threads: what is
# taken takes 6, 7 and 6 per cent longer than the quickest, on average.
MULTIPLY_ADD = 1 / 60e9
MOVED_NUMBER = 0.33e-9   # to columns; ADDED_NUMBER when they are added back
ADDED_NUMBER = 0.2e-9
ROW_NUMBER = 0.07e-9     # moved by rows; CHOSEN_NUMBER if their maps are chosen
CHOSEN_NUMBER = 1.1e-9
RUN = 5e-9               # of numbers that lie together
CALL = 2e-6

# A product takes as long as with so many more rows, and so much longer sums: what it reads and
# writes takes time, too. By rows its factors lie apart in memory.
EXTRA_ROWS, EXTRA_DEPTH = 1.5, 17
EXTRA_ROWS_BY_ROWS, EXTRA_DEPTH_BY_ROWS = 10, 17
LONG_SUMS = 1.1          # times as long takes one whose sums run over all pixels
FLOAT_BYTES = 4
MOST_LINES = 16
CELLS = (1, 1), (2, 2)


@dataclass(frozen=True)
class Way:
    """One way to compute one pass. `output_rows`: by rows, how many are computed together; 0 by
    columns, of which each is the window of a `cell` of output pixels, and which share lines of the
    input if `shares_lines`. `is_transposed`: the gradient by the input as a convolution of the
    output's gradient, and not added up. `seconds`: the estimated time of one sample."""

    name: str
    groups: tuple[Groups, ...]
    output_rows: int
    seconds: float
    is_transposed: bool = False
    cell: tuple[int, int] = (1, 1)
    shares_lines: bool = False

    def products(self, convolution, dtype):
        """What computes it, once it has weights: the mirrored ones if `is_transposed`."""
        if self.is_transposed:
            convolution = convolution.transposed
        if self.output_rows:
            return RowProducts(convolution, self.groups, self.output_rows, dtype)
        return ColumnProducts(convolution, self.groups, dtype, self.cell,
                              Lines if self.shares_lines else Columns)


@lru_cache(maxsize=1024)
def forward_ways(connections, convolution, samples):
    """The ways to convolve, the cheapest first; `samples` are computed together."""
    ways = [_by_rows(maps, groups, convolution, samples, moves=1)
            for maps, groups in _groupings(connections)]
    for maps, groups in _groupings(connections, few_sizes=True):
        ways += _by_columns(maps, groups, convolution, samples, _forward_by_columns)
    return _sorted(ways)


@lru_cache(maxsize=1024)
def weight_ways(connections, convolution, samples):
    """The ways to the gradient by the weights."""
    ways = [_by_rows(maps, groups, convolution, samples, moves=2)
            for maps, groups in _groupings(connections)]
    for maps, groups in (*_groupings(connections, few_sizes=True),
                         ("each set of outputs", inputs_of_one_set(connections))):
        ways += _by_columns(maps, groups, convolution, samples, _weight_by_columns)
    return _sorted(ways)


@lru_cache(maxsize=1024)
def input_ways(connections, convolution, samples):
    """The ways to the gradient by the input: columns or rows are added up, or rows convolve the
    output's gradient."""
    ways = []
    for maps, groups in _groupings(connections):
        ways += _by_columns(maps, groups, convolution, samples, _backward_by_columns)
        if all(one.input_run is not None for one in groups):
            ways.append(_by_rows(maps, groups, convolution, samples, moves=2))
    if convolution.can_be_transposed:
        for maps, groups in (("all maps", one_group_of_outputs(connections)),
                             ("each set of outputs", sets_of_outputs(connections))):
            ways.append(_by_rows(maps, groups, convolution.transposed, samples, moves=1,
                                 is_transposed=True))
    return _sorted([*ways, *_by_columns("each set of outputs", inputs_of_one_set(connections),
                                        convolution, samples, _backward_by_columns)])


def _groupings(connections, *, few_sizes=False):
    sets = sets_of_few_sizes if few_sizes else sets_of_inputs
    return ("all maps", one_group(connections)), ("each set of inputs", sets(connections))


def _sorted(ways):
    return tuple(sorted(ways, key=lambda way: way.seconds))


def _by_columns(maps, groups, convolution, samples, cost):
    """By every cell that divides the output, with and without lines that are shared."""
    for cell in CELLS:
        if any(size % pixels for size, pixels in zip(convolution.out_size, cell, strict=True)):
            continue
        by_cells, pixels = convolution.by_cells(cell), prod(cell)
        for shares_lines in (False, True) if _can_share_lines(by_cells) else (False,):
            total = 0.0
            for one in groups:
                count, n_outputs, n_inputs = one.connections.shape
                of_group, calls = cost(by_cells, n_inputs, n_outputs * pixels, samples,
                                       shares_lines)
                if pixels > 1:  # the output's pixels are put where they belong, or fetched
                    of_group += (n_outputs * _pixels(convolution)
                                 * (MOVED_NUMBER + RUN / samples))
                turns = 1 if one.input_run is not None else _turns(one, by_cells, pixels, samples)
                total += count * of_group + turns * calls * CALL / samples
            name = f"columns of {maps}" + f" by cells of {cell[0]}x{cell[1]}" * (pixels > 1)
            yield Way(name + ", lines shared" * shares_lines, groups, 0, total, cell=cell,
                      shares_lines=shares_lines)


def _turns(groups, convolution, pixels, samples):
    """About how many times some groups of a shape are computed at once."""
    count, n_outputs, n_inputs = groups.connections.shape
    numbers = (n_inputs * convolution.area + n_outputs * pixels) * _pixels(convolution) * samples
    return -(-count // max(1, COLUMN_BYTES // (FLOAT_BYTES * numbers)))


def _can_share_lines(convolution):
    """Whether rows of windows overlap."""
    return convolution.out_size[0] > 1 and convolution.kernel[0] > convolution.stride[0]


def _line_numbers(convolution, n_inputs):
    """Numbers of all lines."""
    lines = (convolution.out_size[0] - 1) * convolution.stride[0] + convolution.kernel[0]
    return lines * n_inputs * convolution.kernel[1] * convolution.out_size[1]


def _seconds_of_matrices(convolution, n_outputs, depth, samples):
    """BLAS brings a matrix into its own form for each product: for each output row."""
    return convolution.out_size[0] * n_outputs * depth * MOVED_NUMBER / samples


def _forward_by_columns(convolution, n_inputs, n_outputs, samples, shares_lines):
    """Columns copied, and a product by them: the seconds of a group, and the calls of NumPy for as
    many groups as are computed at once."""
    depth, pixels = n_inputs * convolution.area, _pixels(convolution)
    seconds = _product(n_outputs, depth, pixels)
    if shares_lines:
        seconds += _seconds_of_matrices(convolution, n_outputs, depth, samples)
        copied = _line_numbers(convolution, n_inputs)
    else:
        copied = depth * pixels
    return seconds + copied * _moved(convolution, samples), 4


def _weight_by_columns(convolution, n_inputs, n_outputs, samples, shares_lines):
    """The same, and of shared lines the gradients of all output rows added up."""
    seconds, calls = _forward_by_columns(convolution, n_inputs, n_outputs, samples, shares_lines)
    depth = n_inputs * convolution.area
    if shares_lines:
        seconds += _seconds_of_matrices(convolution, n_outputs, depth, samples)
    else:
        seconds += (LONG_SUMS - 1) * _product(n_outputs, depth, _pixels(convolution))
    return seconds, calls


def _backward_by_columns(convolution, n_inputs, n_outputs, samples, shares_lines):
    """A product that gives the columns' gradient, and its addition: by phases of the stride, or by
    lines and then by shifts."""
    depth, pixels = n_inputs * convolution.area, _pixels(convolution)
    product = _product(depth, n_outputs, pixels)
    added = ADDED_NUMBER + 2 * RUN / (samples * convolution.out_size[1])
    if shares_lines:
        steps = convolution.kernel[0] / convolution.stride[0] + convolution.kernel[1]
        lines = _line_numbers(convolution, n_inputs) * _moved(convolution, samples)
        return (product + _seconds_of_matrices(convolution, n_outputs, depth, samples)
                + depth * pixels * ADDED_NUMBER + 2 * lines), 3 + steps
    shifts = convolution.area / prod(convolution.stride)
    return product + depth * pixels * added, 2 + 2 * shifts


def _by_rows(maps, groups, convolution, samples, *, moves, is_transposed=False):
    """With as many lines as are the cheapest; `moves`: how often a product's numbers are moved,
    besides by the product itself."""
    height = convolution.out_size[0]
    in_maps = 1 + max(int(one.inputs.max()) for one in groups)

    def seconds(lines):
        pixels = height // lines * convolution.padded_size[1]
        copied = in_maps * window_rows(convolution, lines) * pixels * ROW_NUMBER
        return copied + sum(_seconds_by_rows(one, convolution, lines, pixels, samples, moves)
                            for one in groups)

    lines = min((lines for lines in range(1, MOST_LINES + 1) if height % lines == 0), key=seconds)
    way = "output gradient's rows" if is_transposed else "rows"
    return Way(f"{way} of {maps}", groups, lines, seconds(lines), is_transposed)


def _seconds_by_rows(groups, convolution, lines, pixels, samples, moves):
    count, n_outputs, n_inputs = groups.connections.shape
    rows = convolution.kernel[1] * n_outputs * lines
    depth = n_inputs * window_rows(convolution, lines)
    chosen = 0 if groups.input_run is not None else depth * pixels * CHOSEN_NUMBER
    product = _product(rows, depth, pixels, EXTRA_ROWS_BY_ROWS, EXTRA_DEPTH_BY_ROWS)
    return (count * (product + (1 + moves) * rows * pixels * ROW_NUMBER + chosen)
            + 12 * CALL / samples)


def _product(rows, depth, columns, extra_rows=EXTRA_ROWS, extra_depth=EXTRA_DEPTH):
    return MULTIPLY_ADD * (rows + extra_rows) * (depth + extra_depth) * columns


def _pixels(convolution):
    return convolution.out_size[0] * convolution.out_size[1]


def _moved(convolution, samples):
    """The time that a number takes to be copied to a column."""
    run = samples * (convolution.out_size[1] if convolution.stride[1] == 1 else 1)
    return MOVED_NUMBER + RUN / run
