"""Register tiles whose maps are staged by warps of their own, through a ring: conv2d_ring.cuh.

The same kernels as tiles.py's, with one large block on a multiprocessor in place of two small ones:
16 or 8 warps compute while 4 bring the next maps. What tiles.py adds up, staging and walking and
writing, is to go on at the same time here; and one block with twice the warps stages a map for
twice as many target maps. No GPU has been asked yet: these plans are taken where they are named, or
measured (`autotune=True`), and never by their estimates.
"""

from dataclasses import dataclass
from itertools import product

from gpucnn.backends.cuda.conv2d_kernels.problem import FORWARD, GRAD_INPUT
from gpucnn.backends.cuda.conv2d_kernels.speed import SCHEDULERS, WARP
from gpucnn.backends.cuda.conv2d_kernels.tiles import (
    BARRIERS,
    CONNECTION,
    DECODE,
    HIDDEN,
    SHAPES,
    WRITE,
    Cut,
    TilePlan,
    Walked,
    fits_registers,
    map_warps_of,
    used_maps,
    window_of,
)

PRODUCERS = 4
# Warps that compute: how many 4-byte registers a thread then has for sums, taps and a row of the
# window, forward and by the input, where rows may lie outside, and for sums alone.
WARPS = {16: ({FORWARD: 64, GRAD_INPUT: 50}, 36), 8: ({FORWARD: 112, GRAD_INPUT: 112}, 80)}
MAPS = (1, 2, 4)
CHUNKS = (1, 2, 4)
FEWEST_STAGES, MOST_STAGES = 3, 32   # the latter as in conv2d_ring.cuh
STATIC_BYTES = 1024                  # more than the kernels declare
COPY = 8                             # instructions for a group of pixels and map
PASSING = 16                         # instructions of a warp for a chunk, whatever is in it


def plans(problem, speed, warps):
    """The `TilePlan`s with producers, and so many WARPS that compute, that are possible for a
    forward or grad_input problem."""
    if not speed.async_copies or (problem.op == GRAD_INPUT and problem.stride != (1, 1)):
        return []
    walked, found = Walked.of(problem), []
    room, most_sums = WARPS[warps]
    for (rows, columns), maps in product(SHAPES, MAPS):
        larger = (rows > max(1, walked.size[0]) or columns > max(1, walked.size[1])
                  or maps >= 2 * walked.targets)
        if larger or not fits_registers(walked, rows, columns, maps, room[problem.op], most_sums):
            continue
        cut = Cut.of(walked, rows, columns)
        for map_warps, chunk in product(map_warps_of(walked, cut, maps, warps), CHUNKS):
            plan = _plan(problem, speed, walked, _Ring(cut, maps, warps, map_warps, chunk))
            if plan is not None:
                found.append(plan)
    return found


@dataclass(frozen=True)
class _Ring:
    cut: Cut
    maps: int
    warps: int
    map_warps: int
    chunk: int

    @property
    def samples(self):
        """Of a block."""
        return self.warps // self.map_warps * self.cut.warp_samples


def _plan(problem, speed, walked, ring):
    """The plan with as many stages as fit into shared memory, or None."""
    window = window_of(walked, ring.cut)
    used = used_maps(problem.table, problem.op == FORWARD, ring.map_warps * ring.maps)
    stage_bytes = (ring.chunk * ring.samples * window.plane * walked.itemsize
                   * (1 + problem.has_slope))
    store_bytes = ring.warps * WARP * ring.cut.rows * ring.cut.columns * walked.itemsize
    room = speed.dynamic_shared_bytes - STATIC_BYTES - store_bytes
    stages = min(MOST_STAGES, room // stage_bytes, 2 * -(-used // ring.chunk) + 1)
    if stages < FEWEST_STAGES:
        return None
    store_at = -(-stages * stage_bytes // 16) * 16
    regions = -(-walked.samples // ring.samples) * ring.cut.regions
    return TilePlan(ring.cut, window, ring.maps, ring.map_warps, 1, ring.chunk,
                    store_at // walked.itemsize, store_at + store_bytes, regions,
                    *_estimate(problem, speed, walked, window, ring, used, regions),
                    warps=ring.warps, producers=PRODUCERS, stages=stages)


def _estimate(problem, speed, walked, window, ring, used, regions):
    """(cycles of the busiest multiprocessor, bytes through the second cache)."""
    cut, pixel_warps = ring.cut, ring.warps // ring.map_warps
    tile, connections = cut.rows * cut.columns, problem.table.n_connections
    groups = -(-walked.targets // (ring.map_warps * ring.maps))
    issued = (problem.taps * (tile * speed.multiply_add(walked.itemsize) + 1) + window.loads
              + CONNECTION)
    connection = max(issued / SCHEDULERS, HIDDEN * (window.wavefronts + problem.taps))
    mean = connections / walked.targets * ring.maps
    walking = regions * pixel_warps * connections * connection * (1 + 0.3 / max(1, mean)**0.5)
    writing = regions * pixel_warps * walked.targets * (WRITE + tile) / SCHEDULERS
    passing = regions * groups * ring.warps * -(-used // ring.chunk) * PASSING / SCHEDULERS
    staged = -(-window.columns // window.vector) * window.rows * ring.samples
    copies = staged * (3 if problem.has_slope else 1) / WARP
    staging = regions * groups * copies * (used * COPY + DECODE) / SCHEDULERS
    blocks = regions * groups
    cycles = speed.busiest((walking + writing + passing + staging) / blocks, BARRIERS, blocks, 1)
    elements = blocks * used * window.rows * window.columns * ring.samples
    return cycles, elements * walked.itemsize * (1 + problem.has_slope)
