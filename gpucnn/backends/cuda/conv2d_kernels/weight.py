"""Teams of lanes that sum the gradients of some taps, by register tiles: conv2d_grad_weight.cu.

For a tile of ROWS x COLUMNS pixels and SHARED connections of one input map a lane reads the tile's
window once, (ROWS + taps - 1) * (COLUMNS + taps - 1) words, and each connection's tile of dz, for
SHARED * taps * ROWS * COLUMNS multiply-adds: for 3x3, 5x4 pixels and 4 connections 122 words and
720 multiply-adds, 122 and 180 cycles of a warp; for 5x5, 2x4 pixels and 2 connections 64 words and
400 multiply-adds, 64 and 100 cycles.

A block stages the input maps of its teams and the output maps of one run, which serve its own
connections alone: 512 threads with 4 connections a team own 256. Two buffers let the next region
come meanwhile.
"""

from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import ceil, gcd

import numpy as np

from gpucnn.backends.cuda.conv2d_kernels import walks
from gpucnn.backends.cuda.conv2d_kernels.speed import (
    SCHEDULERS,
    WARP,
    conflicts,
    even_parts,
    row_loads,
)
from gpucnn.backends.cuda.kernels import Specialisation

LANES = 8                    # of a team
SHAPES = ((5, 4), (4, 4), (3, 4), (2, 4), (1, 4), (2, 5), (1, 5), (2, 2), (1, 1))
LARGEST_TAPS = 36            # whose gradients a team sums
REGISTERS = 104              # 4-byte registers for sums, window and a row of dz
BLOCKS = ((512, 1), (256, 2), (128, 4))   # threads, and how many blocks a multiprocessor holds
LARGEST_TILES = 64           # of a region: their places take shared memory
TABLE_BYTES = 8 * LARGEST_TILES + 64
RESERVED_BYTES = 1024
COPY, DECODE, TILE = 30, 60, 73   # instructions as in tiles.py, and of a tile beside its own
BARRIERS, ENDING = 300, 1500     # cycles of a region's barriers; of the sums over lanes at the end
# fitted on an H200: a multiply-add among others, a load with what waits for it
MULTIPLY_ADD, LOAD = 0.8, 2.5
HIDDEN = 0.8                     # as in tiles.py
# loads of 16 bytes are served a team at a time, smaller ones together with those of other teams
TEAMS_APART = {4: 4, 2: 3.2, 1: 2.4}
SUMS = {"ROWS": 8, "COLUMNS": 32}   # of conv2d_sums.cu


def tap_blocks(kernel_size):
    """(rows, columns) of the taps that a team sums, and (first row, first column, first own row,
    first own column) of each part of a kernel: the last ones are moved inwards."""
    columns, parts_across = even_parts(kernel_size[1], LARGEST_TAPS)
    rows, parts_down = even_parts(kernel_size[0], max(1, LARGEST_TAPS // columns))
    return (rows, columns), tuple(
        (min(row, kernel_size[0] - rows), min(column, kernel_size[1] - columns), row, column)
        for row, column in product(range(0, parts_down * rows, rows),
                                   range(0, parts_across * columns, columns)))


@dataclass(frozen=True)
class Layout:
    """How maps of rows x columns pixels lie in shared memory, and what the loads of one tile of
    each cost: how many there are, and the cycles that a warp's take."""

    rows: int
    columns: int
    alignment: int
    pitch: int
    skew: int
    plane: int
    loads: int
    wavefronts: float


@lru_cache(maxsize=4096)
def layout_of(region, steps, seen, border, alignment, words, skewed):
    """The `Layout` in which the lanes of a team meet in the fewest banks.

    region: (tiles down, tiles across, samples); steps: pixels from one tile to the next; seen: the
    pixels that a tile reads; border: what is staged before the first tile and beyond the last.
    """
    tiles_down, tiles_across, samples = region
    rows, columns = tiles_down * steps[0] + border[0], tiles_across * steps[1] + border[1]
    sample, tile = np.divmod(np.arange(LANES) % (tiles_down * tiles_across * samples),
                             tiles_down * tiles_across)
    down, across = np.divmod(tile, tiles_across)
    pitch = -(-columns // 4) * 4
    skews = range(0, 32, 4) if skewed and tiles_down > 1 else (0,)
    extras = range(0, 32, 4) if samples > 1 else (0,)
    layouts = np.array([(skew, rows * pitch + (rows - 1) // steps[0] * skew + extra)
                        for skew, extra in product(skews, extras)])
    skew, plane = layouts.T[:, :, None]
    places = words * (sample * plane + down * (steps[0] * pitch + skew) + across * steps[1])
    loads = row_loads(seen[1], alignment)
    costs = sum(number * max(1, width * words // 4) * conflicts(places, min(4, width * words))
                * TEAMS_APART[min(4, width * words)] for width, number in loads)
    best = np.lexsort((layouts[:, 1], costs))[0]
    skew, plane = layouts[best].tolist()
    return Layout(rows, columns, alignment, pitch, skew, plane,
                  seen[0] * sum(number for _, number in loads), seen[0] * float(costs[best]))


@dataclass(frozen=True)
class Teams:
    """A table cut into teams and blocks, for tiles of rows x columns pixels."""

    rows: int
    columns: int
    shared: int      # connections of a team
    threads: int
    at_once: int     # blocks of a multiprocessor
    run: int         # neighbouring output maps of a block
    runs: int
    teams: int       # of a block
    blocks: int
    slices: int      # of each team, with samples of their own


@dataclass(frozen=True)
class WeightPlan:
    """How a launch cuts table and maps; what is not explained is conv2d_grad_weight.cu's."""

    cut: Teams
    region: tuple[int, int, int]   # tiles down, tiles across, samples of a slice
    x: Layout
    dz: Layout
    lead: int
    x_slots: int                   # at most
    regions: int                   # of the batch
    cycles: float
    l2_bytes: float
    launches: float = 1.5          # the second, of the sums, is small

    @property
    def label(self):
        """What tells this plan from others of the same problem."""
        cut, (down, across, samples) = self.cut, self.region
        return (f"tiles:{cut.rows}x{cut.columns}x{cut.shared}:{cut.threads}:"
                f"{down}x{across}x{samples}:{cut.run}")


def plans(problem, speed):
    """The `WeightPlan`s that are possible for a grad_weight problem, in no order."""
    found = []
    taps, parts = tap_blocks(problem.kernel_size)
    height, width = problem.out_size
    for (rows, columns), shared in product(SHAPES, (4, 2, 1)):
        larger = rows > max(1, height) or columns > max(1, width)
        if larger or not _fits_registers(problem, taps, rows, columns, shared):
            continue
        for run, (threads, at_once) in product(_runs(problem.table.out_maps), BLOCKS):
            of_run = _teams_of_runs(problem.table, run, shared) * len(parts)
            most = threads // LANES
            if threads > BLOCKS[-1][0] and of_run.max() <= most // 4:
                continue  # most lanes would be slices, which cost shared memory
            teams = even_parts(int(of_run.max()), most)[0]
            cut = Teams(rows, columns, shared, threads, at_once, run, len(of_run), teams,
                        int((-(-of_run // teams)).sum()),
                        max(1, min(most // teams, problem.samples)))
            regions = [plan for region in _regions(-(-height // rows), -(-width // columns))
                       if (plan := _plan(problem, speed, cut, taps, *region)) is not None]
            found += sorted(regions, key=lambda plan: plan.cycles)[:1]
    return found


def _fits_registers(problem, taps, rows, columns, shared):
    seen = (rows - 1) * problem.stride[0] + taps[0], (columns - 1) * problem.stride[1] + taps[1]
    window = seen[1] + rows * columns if shared == 1 else seen[0] * seen[1] + columns
    values = window + shared * (taps[0] * taps[1] + 1)
    return values * problem.itemsize // 4 <= REGISTERS or rows * columns * shared == 1


def _runs(maps):
    """Lengths of runs of output maps worth trying."""
    return sorted({-(-maps // parts) for parts in (1, 2, 4, 8, 16)
                   if parts == 1 or maps >= 8 * parts})


@lru_cache(maxsize=4096)
def _teams_of_runs(table, run, shared):
    """How many teams the connections of each run of output maps make."""
    firsts = np.arange(0, table.out_maps, run)
    counts = np.add.reduceat(table.matrix.astype(np.int32), firsts, axis=1)
    return -(-counts // shared).sum(0)


@lru_cache(maxsize=1024)
def _regions(tiles_down, tiles_across):
    """((tiles down, tiles across, samples), regions of a map) of ways to cut maps."""
    found = set()
    for across_most, down_most, samples in product((LANES, LARGEST_TILES),
                                                   (1, 2, 4, LARGEST_TILES), (1, 2, 4)):
        across, regions_across = even_parts(tiles_across, across_most)
        down, regions_down = even_parts(tiles_down, max(1, min(down_most,
                                                               LARGEST_TILES // across)))
        if down * across * samples <= LARGEST_TILES:
            found.add(((down, across, samples), regions_across * regions_down))
    return sorted(found)


def _plan(problem, speed, cut, taps, region, regions_of_map):
    samples = region[2]
    if samples > 1 and samples * cut.slices > problem.samples:
        return None
    itemsize, kernel, stride = problem.itemsize, problem.kernel_size, problem.stride
    largest, words, copies = 16 // itemsize, itemsize // 4, 1 + problem.has_slope
    steps = cut.rows * stride[0], cut.columns * stride[1]
    vector = gcd(largest, problem.size[1])
    lead = -problem.padding[1] % vector
    whole = taps == kernel
    x = layout_of(region, steps, (steps[0] - stride[0] + taps[0], steps[1] - stride[1] + taps[1]),
                  (kernel[0] - stride[0], kernel[1] - stride[1] + lead),
                  gcd(largest, steps[1], lead) if taps[1] == kernel[1] else 1, words,
                  whole and cut.shared > 1)
    dz = layout_of(region, (cut.rows, cut.columns), (cut.rows, cut.columns), (0, 0),
                   gcd(largest, cut.columns), words, True)
    room = min(speed.dynamic_shared_bytes,
               speed.shared_bytes_of_multiprocessor // cut.at_once - RESERVED_BYTES) - TABLE_BYTES
    block_samples = samples * cut.slices
    slot_bytes = [block_samples * each.plane * itemsize for each in (x, dz)]
    # the input maps that a block's teams would like: those of its share of a run's
    wanted = min(problem.table.in_maps, -(-problem.table.in_maps * cut.runs // cut.blocks) + 2)
    x_slots = min(wanted, (room // 2 - cut.run * slot_bytes[1] * copies) // slot_bytes[0])
    if x_slots < 1 or _sums(cut, taps) * itemsize > room:
        return None
    regions = -(-problem.samples // block_samples) * regions_of_map
    return WeightPlan(cut, region, x, dz, lead, x_slots, regions, *_estimate(
        problem, speed, cut, taps, region, (x, dz), (vector, wanted, x_slots), regions))


def _sums(cut, taps):
    """The reals through which a block's sums pass."""
    return cut.threads // LANES * cut.shared * (taps[0] * taps[1] + 1)


def _estimate(problem, speed, cut, taps, region, layouts, inputs, regions):
    """(cycles of the busiest multiprocessor, bytes through the second cache)."""
    (down, across, samples), (x, dz), (vector, wanted, x_slots) = region, layouts, inputs
    block_samples, copies = samples * cut.slices, 1 + problem.has_slope
    blocks = ceil(cut.blocks * wanted / x_slots)  # fewer input maps than wanted make more blocks
    pixels = cut.rows * cut.columns * cut.shared
    issued = (MULTIPLY_ADD * pixels * taps[0] * taps[1] * speed.multiply_add(problem.itemsize)
              + LOAD * (x.loads + cut.shared * dz.loads) + TILE)
    tile = max(issued / SCHEDULERS, HIDDEN * (x.wavefronts + cut.shared * dz.wavefronts))
    computing = (-(-down * across * samples // LANES)
                 * -(-cut.teams * cut.slices * LANES // WARP) * tile)
    x_elements, dz_elements = x.rows * x.columns * x_slots, dz.rows * dz.columns * cut.run
    copied = block_samples * (x_elements / vector + dz_elements * (3 if problem.has_slope else 1)
                              / gcd(16 // problem.itemsize, problem.out_size[1]))
    staging = (copied / WARP * COPY + cut.threads / WARP * 3 * DECODE) / SCHEDULERS
    shares = shares_of(speed, cut, blocks, regions)
    rounds = -(-regions // shares)
    cycles = speed.busiest(rounds * (computing + staging), rounds * BARRIERS + ENDING
                           + 8 * cut.shared * taps[0] * taps[1], blocks * shares, cut.at_once)
    l2_elements = (blocks * regions * block_samples * (x_elements + dz_elements * copies)
                   + 2 * shares * problem.table.n_connections * problem.taps)
    return cycles, l2_elements * problem.itemsize


def shares_of(speed, cut, blocks, regions):
    """Into how many shares the regions are cut, by sizes and device alone."""
    return max(1, min(speed.multiprocessors * cut.at_once // max(1, blocks), regions))


def launch(backend, problem, plan, arrays, results, speed, workspace):
    """Two launches. arrays: grad_output, output and x; results: grad_weight and grad_bias."""
    cut, x, dz, (down, across, samples) = plan.cut, plan.x, plan.dz, plan.region
    taps, parts = tap_blocks(problem.kernel_size)
    constants = problem.constants | {
        "TILE_ROWS": cut.rows, "TILE_COLUMNS": cut.columns, "TAP_ROWS": taps[0],
        "TAP_COLUMNS": taps[1], "SHARED": cut.shared, "LANES": LANES, "THREADS": cut.threads,
        "BLOCKS_AT_ONCE": cut.at_once, "WINDOW_ALIGNMENT": x.alignment,
        "DZ_ALIGNMENT": dz.alignment}
    specialisation = Specialisation("conv2d_grad_weight.cu", problem.dtype, problem.activation,
                                    tuple(constants.items()))
    order = backend.table_order(problem.table, walks.teams, cut.teams, cut.shared, cut.run,
                                plan.x_slots, parts)
    shares = shares_of(speed, cut, order.blocks, plan.regions)
    block_samples, table = samples * cut.slices, -(-2 * down * across * samples // 4) * 4
    buffer = block_samples * (order.x_slots * x.plane
                              + order.dz_slots * dz.plane * (1 + problem.has_slope))
    with shared_sums(backend, problem, results, shares, workspace) as (grad_weight, grad_bias):
        backend.kernels.launch(
            specialisation, "conv2d_grad_weight", order.blocks * shares, cut.threads, *arrays,
            order.x_starts, order.x_maps, order.dz_starts, order.dz_maps, order.records,
            grad_weight, grad_bias, *problem.sizes, problem.table.n_connections, plan.lead, down,
            across, samples, block_samples, x.pitch, x.skew, x.plane, dz.pitch, dz.skew, dz.plane,
            order.x_slots, order.dz_slots, order.blocks, cut.teams, shares, table,
            shared_bytes=4 * table + max(2 * buffer, _sums(cut, taps)) * problem.itemsize)


@contextmanager
def shared_sums(backend, problem, results, shares, workspace):
    """Arrays (shares, *shape) for the shares of grad_weight and grad_bias, to be filled inside; on
    leaving, their sums are in `results`. For a single share they are `results` themselves."""
    if shares == 1:
        yield results
        return
    partials = [backend.scratch(workspace, f"conv2d.{name}_shares", (shares, *result.shape),
                                result.dtype)
                for name, result in zip(("weight", "bias"), results, strict=True)]
    yield partials
    blocks = sum(-(-result.size // SUMS["COLUMNS"]) for result in results)
    backend.kernels.launch(
        Specialisation("conv2d_sums.cu", problem.dtype, None, tuple(SUMS.items())), "conv2d_sums",
        blocks, SUMS["ROWS"] * SUMS["COLUMNS"], *partials, *results, results[0].size,
        results[1].size, shares)
