"""Which tiles a thread computes at a time, by an estimate of cycles.

The estimates count what one multiprocessor does in a phase between barriers: instructions that its
four schedulers issue, shared-memory accesses (one a cycle for a warp, as many as its lanes collide
in a bank), and how long the busiest thread takes, since few threads cannot hide latencies. They
have to rank tiles, not to tell times: on an H200 LeNet-5's phases take two to three times as long,
as a scheduler with three or four warps issues every third cycle. The samples and threads they
choose there were the quickest of 15 tried, or within 2 % of them (benchmarks/RESULTS.md).
"""

from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import product
from math import prod

import numpy as np

from gpucnn.connections import ConnectionTable

BANKS = 32
WARP = 32
SCHEDULERS = 4
BARRIER = 60         # cycles: a barrier and the loop around the phase
ITEM = 40            # instructions of a tile beside its multiply-adds and loads: addresses, ends
ELEMENT = 20         # the same of a single element
LATENCY = 2.5        # cycles from one instruction of a thread to its next, with few others to run
BASE_REGISTERS = 36  # of a thread beside its tile
LARGEST_IN_REGISTERS = 36  # taps, as in conv2d.cuh
GUARDS = 18          # registers of grad_input for what it asks about each row and column
TALLEST, WIDEST = 4, 16    # sides of a tile
SUMS_APART = 8       # registers of what the sums over lanes exchange
MOST_PARTS = 4       # of a sum of gradients


@dataclass(frozen=True)
class Cycles:
    """What a phase takes: the multiprocessor is `busy` for so long, during which no other block can
    use it; a block that has it for itself needs `total`."""

    busy: float
    total: float

    def __add__(self, other):
        return Cycles(self.busy + other.busy, self.total + other.total)

    def __sub__(self, other):
        return Cycles(self.busy - other.busy, self.total - other.total)


@dataclass(frozen=True)
class Tile:
    """Pixels that a thread owns at a time, and what the phase is estimated to take."""

    rows: int
    columns: int
    cycles: Cycles


@dataclass(frozen=True)
class WeightTile:
    """As `Tile`, with the taps whose gradients a thread sums, the lanes of a team and how many
    teams share a sum."""

    rows: int
    columns: int
    tap_rows: int
    tap_columns: int
    slices: int
    parts: int
    cycles: Cycles


@dataclass(frozen=True)
class Block:
    """A block's threads, its samples, and the registers that a thread may have. `blocks` of them in
    a cluster may divide a phase. A sum of gradients is cut into at most `most_parts` parts, each of
    which takes memory of its own."""

    threads: int
    samples: int
    itemsize: int
    registers: int
    blocks: int = 1
    most_parts: int = MOST_PARTS

    @property
    def parts(self):
        """Into how many parts a sum of gradients may be cut."""
        return [parts for parts in (1, 2, 4) if parts <= self.most_parts]

    def holds(self, values):
        """Whether a thread has registers for so many values beside all else."""
        return values * self.itemsize // 4 + BASE_REGISTERS <= self.registers


def phase(block, items, multiply_adds, loads, conflicts=1.0, beside=ITEM):
    """Estimated `Cycles` of `items` work items, each of so many multiply-adds and loads, with
    `beside` other instructions."""
    instructions = multiply_adds + loads + beside
    warps = -(-items // WARP) / block.blocks
    waves = -(-items // (block.threads * block.blocks))
    busy = max(warps * instructions / SCHEDULERS, warps * loads * conflicts)
    return Cycles(busy, BARRIER + max(busy, waves * instructions * LATENCY))


@dataclass(frozen=True)
class Convolution:
    """What a tile's cost depends on, of a convolution: pairs are (vertical, horizontal)."""

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    table: ConnectionTable

    @property
    def n_connections(self):
        return self.table.n_connections

    @property
    def taps(self):
        return self.kernel_size[0] * self.kernel_size[1]

    @property
    def in_registers(self):
        """Whether a connection's taps are kept in registers, as conv2d.cuh does."""
        return self.taps <= LARGEST_IN_REGISTERS

    def reads(self, window, pixels):
        """Loads of one connection: its taps, which all lanes of a warp share, and its pixels."""
        return self.taps + (window if self.in_registers else self.taps * pixels)

    def held(self, pixels, width):
        """The values in registers beside all else."""
        return pixels + (self.taps + width if self.in_registers else 0)


@cache
def forward_tile(block, convolution, input_maps, output_maps, colliding):
    """The best `Tile` of output pixels for the forward pass.

    input_maps, output_maps: `Maps`, best with offset 0, as results are kept. colliding: whether to
    count lanes that meet in a bank; it takes time.
    """
    (kernel_height, kernel_width), (down, right) = convolution.kernel_size, convolution.stride
    connections = convolution.n_connections / output_maps.maps

    def estimate(rows, columns, colliding):
        window = (rows - 1) * down + kernel_height, (columns - 1) * right + kernel_width
        if not block.holds(convolution.held(rows * columns, window[1])) and rows * columns > 1:
            return None
        loads = connections * convolution.reads(window[0] * window[1], rows * columns)
        conflicts = colliding and tile_conflicts(
            input_maps, _count(output_maps, rows, columns), (rows * down, columns * right),
            block.samples)
        return Tile(rows, columns, phase(
            block, _items(block, output_maps, rows, columns),
            connections * convolution.taps * rows * columns, loads, conflicts or 1))

    return _best(output_maps, estimate, colliding)


@cache
def input_tile(block, convolution, input_maps, gradient_maps, colliding):
    """The best `Tile` of input pixels for the gradient by the input; as `forward_tile`."""
    connections = convolution.n_connections / input_maps.maps
    kernel_height, kernel_width = convolution.kernel_size

    def estimate(rows, columns, colliding):
        # nothing beyond a row is read or multiplied where a tile is as wide as the map
        whole = columns == input_maps.width and convolution.in_registers
        width = columns + kernel_width - 1
        window = rows + kernel_height - 1, min(gradient_maps.width, width) if whole else width
        if not block.holds(convolution.held(rows * columns, width) + GUARDS) and rows * columns > 1:
            return None
        loads = connections * convolution.reads(window[0] * window[1], rows * columns)
        conflicts = colliding and tile_conflicts(
            gradient_maps, _count(input_maps, rows, columns), (rows, columns), block.samples)
        products = connections * convolution.taps * rows * columns
        products *= min(1, gradient_maps.width / columns) if whole else 1
        return Tile(rows, columns, phase(block, _items(block, input_maps, rows, columns), products,
                                         loads, conflicts or 1))

    if convolution.stride != (1, 1):
        return estimate(1, 1, colliding)
    return _best(input_maps, estimate, colliding)


@cache
def weight_tile(block, convolution, input_maps, gradient_maps, colliding):
    """The best `WeightTile` for the gradient by the weights; as `forward_tile`."""
    tap_rows, tap_columns = _tap_block(convolution.kernel_size)
    taps = tap_rows * tap_columns
    kernel_height, kernel_width = convolution.kernel_size
    tap_blocks = -(-kernel_height // tap_rows) * -(-kernel_width // tap_columns)

    def estimate(rows, columns, colliding):
        width = (columns - 1) * convolution.stride[1] + tap_columns
        if not block.holds(rows * columns + taps + SUMS_APART + width) and rows * columns > 1:
            return None
        down, across = _count(gradient_maps, rows, columns)
        steps = rows * convolution.stride[0], columns * convolution.stride[1]
        reads = np.array([(steps[0] - convolution.stride[0] + tap_rows) * width, rows * columns])

        def cycles(slices, parts, conflicts=(1, 1)):
            turns = -(-block.samples * down * across // (slices * parts))
            sums = 2 * (taps + slices)
            loads = turns * int(reads.sum()) + sums
            return phase(block, convolution.n_connections * tap_blocks * parts * slices,
                         turns * taps * rows * columns, loads,
                         (turns * float(reads @ conflicts) + sums) / loads)

        ways = sorted(((cycles(*way), *way) for way in product((1, 2, 4, 8, 16, 32), block.parts)),
                      key=lambda each: each[0].total)
        best = None
        for least, slices, parts in ways:
            if best is not None and least.total >= best.cycles.total:
                break
            taken = least if not colliding else cycles(slices, parts, team_conflicts(
                input_maps, gradient_maps, convolution.table, (down, across), steps,
                (rows, columns), block.samples, (slices, parts, tap_blocks)))
            if best is None or taken.total < best.cycles.total:
                best = WeightTile(rows, columns, tap_rows, tap_columns, slices, parts, taken)
        return best

    return _best(gradient_maps, estimate, colliding)


@lru_cache(maxsize=4096)
def _lanes(down, across, samples):
    """(sample, row, column) of the tiles of the first few warps, a row for each warp."""
    count = samples * down * across
    lane = np.arange(min(4, -(-count // WARP)) * WARP) % count
    return np.stack((lane // (down * across), lane // across % down, lane % across)).reshape(
        3, -1, WARP)


def tile_conflicts(maps, count, steps, samples):
    """Into how many accesses a warp's read falls apart, on average, when its lanes read the same
    pixel of neighbouring tiles, `steps` = (down, right) apart."""
    sample, down, across = _lanes(*count, samples)
    return bank_conflicts(maps.at(sample, 0, down * steps[0], across * steps[1]))


def team_conflicts(input_maps, gradient_maps, table, count, steps, size, samples, team):
    """The same for the gradient by the weights, whose teams read the maps of their connections: of
    the input and of the gradient. Tiles of `size` pixels see `steps` pixels of the input; team:
    lanes of a team, teams that share a sum, and of a connection's taps."""
    slices, parts, tap_blocks = team
    teams = table.n_connections * tap_blocks * parts
    warps = -(-teams * slices // WARP)
    warp = np.unique(np.linspace(0, warps - 1, 6).astype(int))  # a few of them, evenly
    thread = np.minimum(warp[:, None] * WARP + np.arange(WARP), teams * slices - 1)
    number, lane = np.divmod(thread, slices)
    unit = (number % parts * slices + lane) % (samples * count[0] * count[1])
    sample, tile = np.divmod(unit, count[0] * count[1])
    down, across = np.divmod(tile, count[1])
    inputs, outputs = table.pairs[:, number // (parts * tap_blocks)]
    return (bank_conflicts(input_maps.at(sample, inputs, down * steps[0], across * steps[1])),
            bank_conflicts(gradient_maps.at(sample, outputs, down * size[0], across * size[1])))


def bank_conflicts(places):
    """The accesses that a load takes, on average over warps; places (warps, 32)."""
    places = np.sort(places, axis=1)
    different = np.diff(places, axis=1, prepend=places[:, :1] - 1) != 0  # a word is read once
    banks = (places % BANKS)[:, :, None] == np.arange(BANKS)
    return float((banks & different[:, :, None]).sum(axis=1).max(axis=1).mean())


def _best(maps, estimate, colliding):
    """The quickest of the tiles that `estimate` gives for shapes. Those that are too slow even
    without collisions are not looked at twice."""
    tiles = [estimate(rows, columns, False) for rows, columns in _shapes(maps)]
    tiles = sorted((tile for tile in tiles if tile is not None), key=_total)
    if not colliding:
        return tiles[0]
    best = None
    for tile in tiles:
        if best is not None and _total(tile) >= _total(best):
            break
        best = min(filter(None, (best, estimate(tile.rows, tile.columns, True))), key=_total)
    return best


def _total(tile):
    return tile.cycles.total


@cache
def _parts_of(length, most):
    """Lengths that cut `length` into parts as equal as may be."""
    return tuple(sorted({-(-length // parts) for parts in range(1, length + 1)}
                        & set(range(1, most + 1))))


def _shapes(maps):
    """Tile shapes worth trying."""
    return product(_parts_of(maps.height, TALLEST), _parts_of(maps.width, WIDEST))


def _count(maps, rows, columns):
    return -(-maps.height // rows), -(-maps.width // columns)


def _items(block, maps, rows, columns):
    return block.samples * maps.maps * prod(_count(maps, rows, columns))


def _tap_block(kernel_size):
    """As many taps as a thread sums the gradients of: all of a small kernel's."""
    height, width = kernel_size
    columns = min(width, LARGEST_IN_REGISTERS)
    return max(1, min(height, LARGEST_IN_REGISTERS // columns)), columns
