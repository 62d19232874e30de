"""Register tiles that walk a table, forward and by the input: conv2d.cu and conv2d_grad_input.cu.

For a connection and a tile of ROWS x COLUMNS pixels a warp issues taps * ROWS * COLUMNS
multiply-adds, four a cycle, and reads (ROWS + kernel - 1) * (COLUMNS + kernel - 1) words for each
lane, one a cycle: a 3x3 kernel and 4x8 pixels make 72 cycles of the one and 60 of the other, 5x5
and 4x7 make 175 and 88. So the multiply-adds are the limit as long as lanes meet in few banks,
which pitch and skew are chosen for. Beside them stand the connection's taps (a load each, the same
for all lanes) and about 12 instructions.

Staging a map costs a block COPY instructions for each group of up to four pixels, whatever its
connections: a group of target maps as large as a block can own shares it.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import gcd

import numpy as np

from gpucnn.backends.cuda.conv2d_kernels import walks
from gpucnn.backends.cuda.conv2d_kernels.problem import FORWARD, GRAD_INPUT
from gpucnn.backends.cuda.conv2d_kernels.speed import (
    SCHEDULERS,
    WARP,
    even_parts,
    row_loads,
    wavefronts,
)
from gpucnn.backends.cuda.kernels import Specialisation

WARPS = 8
# rows x columns of a tile: the largest that a thread has registers for, and others for maps that
# those do not cut evenly
SHAPES = ((4, 8), (5, 8), (5, 6), (7, 7), (4, 7), (2, 14), (2, 12), (2, 10), (5, 5), (4, 4),
          (2, 8), (2, 4), (1, 8), (1, 4), (2, 2), (1, 1))
# 4-byte registers for sums, taps and a row of the window (36 more are for all else), for sums alone
REGISTERS, REGISTERS_WITHOUT_ASYNC, SUMS = 92, 80, 64
LARGEST_IN_REGISTERS = 36   # taps, as in conv2d.cuh
MAPS = (1, 2, 4)            # target maps of a warp: more share what is staged
BLOCKS_AT_ONCE = 2          # as in conv2d_walk.cuh
RESERVED_BYTES = 1024       # that the system takes of each block's shared memory
STATIC_BYTES = 64           # more than the kernels declare
# instructions beside loads and multiply-adds: of a connection, of writing a tile, of copying a
# group of pixels, of finding the place of one
CONNECTION, WRITE, COPY, DECODE = 25, 400, 35, 60
BARRIERS = 400              # cycles: of a chunk's two, with a first copy's latency
HIDDEN = 0.8                # of the accesses to shared memory, in the time of multiply-adds


@dataclass(frozen=True)
class Walked:
    """An op in the walk's terms: target maps of `size` pixels depend on source maps."""

    samples: int
    targets: int
    size: tuple[int, int]
    source_width: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    first_column: int   # of the source, that pixel 0 sees
    itemsize: int

    @classmethod
    def of(cls, problem):
        """Of a forward or grad_input problem."""
        table, kernel, padding = problem.table, problem.kernel_size, problem.padding
        if problem.op == FORWARD:
            return cls(problem.samples, table.out_maps, problem.out_size, problem.size[1], kernel,
                       problem.stride, -padding[1], problem.itemsize)
        return cls(problem.samples, table.in_maps, problem.size, problem.out_size[1], kernel,
                   (1, 1), padding[1] - kernel[1] + 1, problem.itemsize)

    @property
    def band(self):
        """(rows, number) of the bands of the kernel whose taps are in registers at a time."""
        return even_parts(self.kernel[0], max(1, LARGEST_IN_REGISTERS // self.kernel[1]))


@dataclass(frozen=True)
class Cut:
    """Maps cut into regions of at most 32 tiles, one for each lane of a warp."""

    rows: int           # pixels of a tile
    columns: int
    down: int           # tiles of a region
    across: int
    regions: int        # of a map
    warp_samples: int   # regions of a warp, of as many samples

    @classmethod
    def of(cls, walked, rows, columns):
        """For tiles of rows x columns pixels."""
        across, regions_across = even_parts(-(-walked.size[1] // columns), WARP)
        down, regions_down = even_parts(-(-walked.size[0] // rows), WARP // across)
        return cls(rows, columns, down, across, regions_down * regions_across,
                   max(1, min(WARP // (down * across), walked.samples)))


@dataclass(frozen=True)
class Window:
    """What a region stages of a map: rows x columns pixels, as the kernel's parameters say; how
    many neighbours are copied at once; the loads of one connection and the cycles they take."""

    rows: int
    columns: int
    lead: int
    alignment: int
    pitch: int
    skew: int
    plane: int
    vector: int
    loads: int
    wavefronts: int


@lru_cache(maxsize=1024)
def window_of(walked, cut):
    """The `Window` in which the lanes of a warp meet in the fewest banks."""
    band_rows, bands = walked.band
    vector = gcd(16 // walked.itemsize, walked.source_width)
    lead = walked.first_column % vector
    step_down, step_across = cut.rows * walked.stride[0], cut.columns * walked.stride[1]
    alignment = gcd(16 // walked.itemsize, step_across, lead)
    rows = cut.down * step_down - walked.stride[0] + walked.kernel[0]
    columns = lead + cut.across * step_across - walked.stride[1] + walked.kernel[1]
    lane = np.arange(WARP)
    lane = np.where(lane < cut.down * cut.across * cut.warp_samples, lane, 0)
    sample, tile = np.divmod(lane, cut.down * cut.across)
    down, across = np.divmod(tile, cut.across)
    least = -(-columns // 4) * 4
    skews = range(0, 32, 4) if cut.down > 1 and walked.kernel[1] <= LARGEST_IN_REGISTERS else (0,)
    more = range(0, 32, 4) if cut.warp_samples > 1 else (0,)
    layouts = np.array([(pitch, skew, rows * pitch + (rows - 1) // step_down * skew + extra)
                        for pitch, skew, extra in product((least, least + 4), skews, more)])
    pitch, skew, plane = layouts.T[:, :, None]
    words = walked.itemsize // 4
    places = words * (sample * plane + down * (step_down * pitch + skew) + across * step_across)
    loads = row_loads(step_across - walked.stride[1] + walked.kernel[1], alignment)
    costs = sum(number * max(1, width * words // 4) * wavefronts(places, min(4, width * words))
                for width, number in loads)
    best = np.lexsort((layouts[:, 2], costs))[0]
    tile_rows = bands * (step_down - walked.stride[0] + band_rows)
    return Window(rows, columns, lead, alignment, *layouts[best].tolist(), vector,
                  tile_rows * sum(number for _, number in loads), tile_rows * int(costs[best]))


@dataclass(frozen=True)
class TilePlan:
    """How a launch cuts maps and table; what is not explained here is conv2d_walk.cuh's."""

    cut: Cut
    window: Window
    maps: int
    map_warps: int
    turns: int
    chunk: int
    store_at: int
    shared_bytes: int
    regions: int        # of the batch, each of block_samples samples
    cycles: float
    l2_bytes: float
    launches: float = 1
    warps: int = WARPS  # that compute
    producers: int = 0  # warps that stage for them; 0 if they do it themselves
    stages: int = 1     # chunks that are staged at a time

    @property
    def label(self):
        """What tells this plan from others of the same problem."""
        family, last = ("ring", self.chunk) if self.producers else ("tiles", self.turns)
        return (f"{family}:{self.cut.rows}x{self.cut.columns}x{self.maps}:{self.map_warps}x"
                f"{self.warps // self.map_warps}x{last}")

    @property
    def block_samples(self):
        """Samples that a block computes at a time."""
        return self.warps // self.map_warps * self.cut.warp_samples


def plans(problem, speed):
    """The `TilePlan`s that are possible for a forward or grad_input problem, in no order."""
    if problem.op == GRAD_INPUT and problem.stride != (1, 1):
        return []
    walked, found = Walked.of(problem), []
    for (rows, columns), maps in product(SHAPES, MAPS):
        larger = (rows > max(1, walked.size[0]) or columns > max(1, walked.size[1])
                  or maps >= 2 * walked.targets)
        if larger or not _fits_registers(walked, speed, rows, columns, maps):
            continue
        cut = Cut.of(walked, rows, columns)
        for map_warps in map_warps_of(walked, cut, maps, WARPS):
            found += _staged(problem, speed, walked, cut, maps, map_warps)
    return found


def _fits_registers(walked, speed, rows, columns, maps):
    room = REGISTERS if speed.async_copies else REGISTERS_WITHOUT_ASYNC
    return fits_registers(walked, rows, columns, maps, room, SUMS)


def fits_registers(walked, rows, columns, maps, room, most_sums):
    """Whether a thread with `room` registers for values, `most_sums` for sums, has enough."""
    taps = walked.band[0] * walked.kernel[1]
    row = (columns - 1) * walked.stride[1] + walked.kernel[1]
    sums, words = rows * columns * maps, walked.itemsize // 4
    values = sums + (taps + row if taps <= LARGEST_IN_REGISTERS else 8)
    return (values * words <= room and sums * words <= most_sums) or sums == 1


def map_warps_of(walked, cut, maps, warps):
    """How many of a block's warps may have maps of their own without lacking maps or samples."""
    found = [own for own in (16, 8, 4, 2, 1) if own <= warps
             and (own == 1 or own // 2 * maps < walked.targets)
             and (own == warps or warps // own * cut.warp_samples < 2 * walked.samples)]
    return found or [warps]


def _staged(problem, speed, walked, cut, maps, map_warps):
    """The plans for one tile and split of warps: for as many blocks at once as there is shared
    memory for, with all maps staged at once or some at a time."""
    window, samples = window_of(walked, cut), WARPS // map_warps * cut.warp_samples
    slot_bytes = samples * window.plane * walked.itemsize * (1 + problem.has_slope)
    store_bytes = WARPS * WARP * cut.rows * cut.columns * walked.itemsize
    regions = -(-walked.samples // samples) * cut.regions
    for at_once in (BLOCKS_AT_ONCE, 1):
        room = min(speed.dynamic_shared_bytes - STATIC_BYTES,
                   speed.shared_bytes_of_multiprocessor // at_once - RESERVED_BYTES)
        found = []
        for turns in {1, -(-walked.targets // (map_warps * maps))}:
            used = used_maps(problem.table, problem.op == FORWARD, map_warps * maps * turns)
            chunk = min(used, (room - (store_bytes if turns > 1 else 0)) // slot_bytes)
            if chunk < (used if turns > 1 else 1) or store_bytes > room:
                continue
            staged = -(-chunk * slot_bytes // 16) * 16
            shared, store_at = max(staged, store_bytes), 0
            if turns > 1:
                shared, store_at = staged + store_bytes, staged // walked.itemsize
            split = _Split(maps, map_warps, turns, used, chunk, at_once, regions)
            found.append(TilePlan(cut, window, maps, map_warps, turns, chunk, store_at, shared,
                                  regions, *_estimate(problem, speed, walked, cut, window, split)))
        if found:
            return found
    return []


@lru_cache(maxsize=4096)
def used_maps(table, forward, members):
    """The most source maps that a group of `members` neighbouring target maps depends on."""
    matrix = table.matrix if forward else table.matrix.T
    firsts = np.arange(0, matrix.shape[1], members)
    return max(1, int(np.logical_or.reduceat(matrix, firsts, axis=1).sum(0).max()))


@dataclass(frozen=True)
class _Split:
    maps: int
    map_warps: int
    turns: int
    used: int      # source maps of a group
    chunk: int     # of them, staged at a time
    at_once: int   # blocks of a multiprocessor
    regions: int


def _estimate(problem, speed, walked, cut, window, split):
    """(cycles of the busiest multiprocessor, bytes through the second cache)."""
    tile, warps = cut.rows * cut.columns, WARPS // split.map_warps
    connections, samples = problem.table.n_connections, warps * cut.warp_samples
    members = split.map_warps * split.maps * split.turns
    blocks = split.regions * -(-walked.targets // members)
    issued = (problem.taps * (tile * speed.multiply_add(walked.itemsize) + 1) + window.loads
              + CONNECTION)
    connection = max(issued / SCHEDULERS, HIDDEN * (window.wavefronts + problem.taps))
    # the warp with most connections keeps the others waiting, but for the other block's work
    mean = connections / walked.targets * split.maps * split.turns * split.chunk / split.used
    spread = 0.3 if split.used <= split.chunk else 0.9 if split.at_once > 1 else 1.8
    walking = split.regions * warps * connections * connection * (1 + spread / max(1, mean)**0.5)
    writing = split.regions * warps * walked.targets * (WRITE + 3 * tile) / SCHEDULERS
    staged = -(-window.columns // window.vector) * window.rows * samples
    copies = staged * (3 if problem.has_slope else 1) / WARP
    staging = blocks * copies * (split.used * COPY + DECODE) / SCHEDULERS
    waiting = -(-split.used // split.chunk) * BARRIERS
    cycles = speed.busiest((walking + writing + staging) / blocks, waiting, blocks, split.at_once)
    elements = blocks * split.used * window.rows * window.columns * samples
    return cycles, elements * walked.itemsize * (1 + problem.has_slope)


def launch(backend, problem, plan, arrays, target):
    """One launch; arrays: x, weight and bias, or grad_output, output and weight, contiguous."""
    forward, cut, window = problem.op == FORWARD, plan.cut, plan.window
    constants = problem.constants | {
        "TILE_ROWS": cut.rows, "TILE_COLUMNS": cut.columns, "MAPS": plan.maps,
        "WARPS": plan.warps, "PRODUCERS": plan.producers, "WINDOW_ALIGNMENT": window.alignment,
        "SKEWED": int(window.skew > 0)}
    specialisation = Specialisation("conv2d.cu" if forward else "conv2d_grad_input.cu",
                                    problem.dtype, problem.activation, tuple(constants.items()))
    walk = backend.table_order(problem.table, walks.walk, forward, plan.map_warps, plan.maps,
                               plan.turns, plan.chunk)
    blocks = plan.regions * walk.groups
    if plan.producers:  # those that are there at a time: they bring the next maps while they write
        blocks = min(blocks, backend.runtime.profile.multiprocessors)
    backend.kernels.launch(
        specialisation, "conv2d_forward" if forward else "conv2d_grad_input", blocks,
        WARP * (plan.warps + plan.producers), *arrays,
        walk.used_starts, walk.used, walk.target_maps, walk.starts, walk.entries, target,
        *problem.sizes, window.lead, cut.down, cut.across, cut.warp_samples, plan.block_samples,
        window.pitch, window.skew, window.plane, walk.groups, plan.turns, plan.chunk, walk.chunks,
        plan.store_at, plan.stages, shared_bytes=plan.shared_bytes)
