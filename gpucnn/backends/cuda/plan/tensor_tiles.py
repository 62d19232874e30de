"""Tiles of the phases that tensor cores compute, by an estimate of cycles.

A convolution's phases are those of group_tensor_conv2d.cuh, which says what strips, positions and
sets are; a matrix layer's those of group_tensor_matrix.cuh. As tiles.py does for the other ways,
estimates count instructions and accesses of shared memory, and what tensor cores take. Nobody has
compared these with a GPU's own times.
"""

from dataclasses import dataclass
from functools import cache
from itertools import product
from math import prod

from gpucnn.backends.cuda.plan import tiles
from gpucnn.backends.cuda.plan.tiles import SCHEDULERS, WARP, Cycles

# Instructions are counted in what NVRTC makes of LeNet-5's layers for sm_90. OPERAND is a load, and
# rounding (compare, add), or splitting (the same, mask, subtract, the same).
PRODUCT = 16 * 8 * 8    # multiply-adds of one mma
CONFLICTS = 1.25        # accesses of a warp's read: fragments reach over rows, maps and samples
OPERAND = {1: 3, 2: 4, 3: 7}
UNIT = 100              # a unit, or an item of grad_weight, beside all else
CHUNK = 60              # eight columns of A
GATHER = 16             # until a lane knows where its two weights of a tile are, for each
EDGE = 40               # a tile of sums that is written: which map, whether in it
WRITTEN = 2             # a sum of forward or grad_input, without its activation, as in tiles.py
BROUGHT = 10            # a sum of grad_weight
PIXELS = (1, 2, 4, 6, 8)
LARGEST_WINDOW = 8      # of strips of more than two pixels: longer ones are mostly zeros
TILES = (1, 2, 3, 4)
SPLITS = (1, 2, 4, 8, 16)
TALLEST = 8             # rows of a unit
# Registers of a lane's sums, half of them where operands are split and take two each. The compiler
# reads ahead, so that more would be spilled; and as many activations stand in the code.
MOST_SUMS = 64
MOST_OF_WEIGHT = 80     # the same of grad_weight, where nothing but sums are written
L2_BYTES = 40           # that a multiprocessor gets from L2 in a cycle, as in group.py
GLOBAL_LATENCY = 700
IN_FLIGHT = 4           # steps of a matrix whose weights are on their way, AT_ONCE there


@dataclass(frozen=True)
class TensorCores:
    """A device's tensor cores as a program may use them: multiply-adds a cycle of a multiprocessor,
    and products for each multiply-add."""

    rate: float
    passes: int


@dataclass(frozen=True)
class Columns:
    """The columns (map, pixel of a strip) of one side of a table, cut into sets: `order` of the
    maps, and for each set the maps of the other side that any of it is joined to."""

    order: tuple[int, ...]
    joined: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class TensorPhase:
    """A convolution's phase on tensor cores; names as in group_tensor_conv2d.cuh."""

    passes: int
    pixels: int
    rows: int
    tiles: int
    splits: int
    columns: Columns
    cycles: Cycles

    @property
    def parts(self):
        """The rows of partial sums of grad_weight."""
        return self.splits * self.pixels


@dataclass(frozen=True)
class MatrixPhase:
    """A matrix layer's phase on tensor cores."""

    passes: int
    cycles: Cycles


@dataclass(frozen=True)
class Side:
    """One way through a convolution, as its tiles depend on it: height and width of the maps that
    positions lie in; `joined`, for each map of the side that columns (map, p) belong to, whether
    each of the other side is joined to it. Row y sees rows y * stride + ky; where `rows_seen` is
    given, others are zeros that nobody multiplies."""

    height: int
    width: int
    joined: tuple[tuple[bool, ...], ...]
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    partial_size: int = 0
    rows_seen: range | None = None


# -- convolutions ----------------------------------------------------------------------------------


@cache
def product_phase(block, cores, side, pixels):
    """The best `TensorPhase` of forward or grad_input; `pixels` are the strips to try."""
    return _best(_product_phase(block, cores, side, *shape) for shape in product(
        _strips(side, pixels), tiles._parts_of(side.height, TALLEST), TILES))


@cache
def weight_phase(block, cores, side, pixels):
    """The best `TensorPhase` of grad_weight, whose Side is that of forward."""
    return _best(_weight_phase(block, cores, side, *shape) for shape in product(
        _strips(side, pixels), tiles._parts_of(side.height, TALLEST), TILES, SPLITS))


def _strips(side, pixels):
    """The lengths of strips worth trying, among them the first of `pixels`."""
    return [length for length in pixels if length <= side.width
            and (length <= 2 or _window(side, length) <= LARGEST_WINDOW or length == pixels[0])]


def _best(phases):
    return min((phase for phase in phases if phase), key=lambda phase: phase.cycles.total,
               default=None)


def _product_phase(block, cores, side, pixels, rows, count):
    kernel_height, _ = side.kernel_size
    parts = 1 if cores.passes == 1 else 2
    sums = 4 * rows * count
    if not _fits(block, sums, MOST_SUMS // parts, parts * (2 * kernel_height * count + 4) + 4):
        return None
    columns = columns_of(side.joined, 8 * count, pixels)
    chunks = [-(-len(joined) * _window(side, pixels) // 8) for joined in columns.joined]
    across = -(-_positions(block, side, pixels) // 16)
    units, n_chunks = (across * -(-side.height // rows) * each
                       for each in (len(chunks), sum(chunks)))
    seen, multiplied = _rows(side.height, rows, kernel_height, side.stride[0], side.rows_seen)
    stay = len(chunks) == 1 and chunks[0] == 1  # the weights, in registers
    gathers = 2 * count * (min(block.threads // WARP, units) if stay else n_chunks)
    loads = 4 * across * sum(chunks) * seen
    products = across * sum(chunks) * multiplied * count
    instructions = (units * (UNIT + EDGE * count + WRITTEN * sums) + n_chunks * CHUNK
                    + gathers * GATHER + (loads + gathers * kernel_height) * OPERAND[cores.passes]
                    + products * cores.passes)
    cycles = _cycles(block, cores, units, instructions, loads + gathers * kernel_height, products)
    return TensorPhase(cores.passes, pixels, rows, count, 1, columns, cycles)


@cache
def _rows(height, rows, kernel_height, stride, rows_seen):
    """For units of so many rows, from top to bottom of a map: how many rows they see, and how many
    times a row is multiplied with a row of taps."""
    seen = multiplied = 0
    for begin in range(0, height, rows):
        first = min(begin, height - rows)
        pairs = [y * stride + ky for y in range(first, first + rows)
                 for ky in range(kernel_height)]
        inside = [row for row in pairs if rows_seen is None or row in rows_seen]
        seen += len(set(inside))
        multiplied += len(inside)
    return seen, multiplied


def _weight_phase(block, cores, side, pixels, rows, count, splits):
    kernel_height, _ = side.kernel_size
    parts = 1 if cores.passes == 1 else 2
    sums = 4 * kernel_height * count
    window_rows = min(rows, -(-kernel_height // side.stride[0]) + 1)
    if not _fits(block, sums, MOST_OF_WEIGHT // parts, parts * (4 * window_rows + 2 * count) + 4):
        return None
    columns = columns_of(side.joined, 16, pixels)
    across = -(-_positions(block, side, pixels) // 8)
    if splits > across * -(-side.height // rows):
        return None
    of_columns = sum(-(-len(joined) * _window(side, pixels) // (8 * count))
                     for joined in columns.joined)
    units, items = of_columns * splits, of_columns * across * -(-side.height // rows)
    seen, multiplied = _rows(side.height, rows, kernel_height, side.stride[0], None)
    loads = items * 4 * rows + of_columns * across * 2 * count * seen
    products = of_columns * across * multiplied * count
    instructions = ((units + items) * UNIT + units * BROUGHT * sums
                    + loads * OPERAND[cores.passes] + products * cores.passes)
    cycles = _cycles(block, cores, units, instructions, loads, products)
    cycles += bringing(block, splits * pixels * side.partial_size)
    return TensorPhase(cores.passes, pixels, rows, count, splits, columns, cycles)


def _cycles(block, cores, units, instructions, loads, products):
    """Estimated `Cycles` of so many units of a warp, with these instructions, loads and products in
    all. A warp's own instructions follow each other as slowly as in tiles.phase, and it has one of
    the four tensor cores."""
    tensor = products * cores.passes * PRODUCT / cores.rate
    busy = max(instructions / SCHEDULERS, loads * CONFLICTS, tensor)
    rounds = -(-units // (block.threads // WARP))
    alone = rounds / units * max(instructions * tiles.LATENCY, tensor * SCHEDULERS)
    return Cycles(busy, tiles.BARRIER + max(busy, alone))


def _fits(block, sums, most, beside):
    """Whether a thread has registers for its sums and what it multiplies."""
    return sums <= most and block.holds(sums + beside)


def _window(side, pixels):
    return (pixels - 1) * side.stride[1] + side.kernel_size[1]


def _positions(block, side, pixels):
    return block.samples * -(-side.width // pixels)


def bringing(block, elements):
    """Cycles until sums are added to those in global memory, which L2 answers."""
    cycles = 2 * elements * block.itemsize / L2_BYTES
    return Cycles(cycles, cycles)


@cache
def columns_of(joined, size, pixels):
    """The `Columns` of the maps that `joined` is about (see `Side`), in sets of `size` columns.
    Maps with the same connections become neighbours if that saves any."""
    ways = []
    for order in (range(len(joined)), sorted(range(len(joined)), key=lambda map_: joined[map_])):
        order = tuple(order)
        sets = []
        for begin in range(0, len(joined) * pixels, size):
            end = min(begin + size - 1, len(joined) * pixels - 1)
            members = order[begin // pixels:end // pixels + 1]
            found = [other for other in range(len(joined[0]))
                     if any(joined[map_][other] for map_ in members)]
            sets.append(tuple(found) or (0,))  # a set without any still has to write zeros
        ways.append(Columns(order, tuple(sets)))
    return min(ways, key=lambda way: sum(map(len, way.joined)))  # the first if they are equal


# -- matrices --------------------------------------------------------------------------------------


def matrix_cycles(block, cores, features, phase):
    """Estimated `Cycles` of a phase of a matrix layer."""
    inputs, outputs = features
    warps, tiles_of_samples = block.threads // WARP, -(-block.samples // 8)
    if phase == "forward":  # 16 outputs a unit, 16 inputs a step
        units, steps = -(-outputs // 16), -(-inputs // 16)
    else:                   # 32 inputs a unit, 8 outputs a step
        units, steps = -(-inputs // 32), -(-outputs // 8)
    products = units * steps * 2 * tiles_of_samples
    operands = units * steps * (8 + 4 * tiles_of_samples)
    instructions = units * (UNIT + EDGE * tiles_of_samples) + units * steps * 12 + (
        operands * (OPERAND[cores.passes] - 1) + products * cores.passes)
    memory = prod(features) * block.itemsize / L2_BYTES
    busy = max(memory, instructions / SCHEDULERS, products * cores.passes * PRODUCT / cores.rate)
    rounds = -(-units // warps)
    alone = rounds * max(-(-steps // IN_FLIGHT) * GLOBAL_LATENCY,
                         instructions / units * tiles.LATENCY)
    return Cycles(busy, max(busy, alone) + GLOBAL_LATENCY)
