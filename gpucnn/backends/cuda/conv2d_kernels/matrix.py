"""Products of gathered matrices, for dense tables and few pixels: conv2d_matrix.cu.

They multiply what is not joined too: in_maps * out_maps * taps for every pixel. Of a step of 16 in
depth a thread issues ROWS * 8 * 16 multiply-adds and finds the places of 8 elements that it
gathers, which takes as long on tensor cores as without them: on an H200 (see COSTS) more than half
of the time, and more than tiles.py needs even for full tables of 64 to 256 maps. With few pixels,
strides or 1x1 kernels, where its lanes idle or its loads serve few multiply-adds, this is ahead.
"""

from dataclasses import dataclass
from math import prod

import numpy as np

from gpucnn.backends.cuda.conv2d_kernels.problem import FORWARD, GRAD_INPUT, GRAD_WEIGHT
from gpucnn.backends.cuda.conv2d_kernels.speed import SCHEDULERS, WARP
from gpucnn.backends.cuda.conv2d_kernels.weight import shared_sums
from gpucnn.backends.cuda.kernels import Specialisation

THREADS, TILE_IN, STEP = 128, 64, 16  # as in product_tile.cuh
GATHERED = 8                        # elements of the maps that a thread gathers in a step
LEAST_SHARE = 256                   # positions of a share of grad_weight
BLOCKS_AT_ONCE = 2                  # of a multiprocessor, at least
LATENCY, ENDING = 600, 15000        # cycles of a step that waits for its loads, and at the end
SLOPE = 20                          # issue slots of the activation's derivative
# Without and with tensor cores, fitted to 312 times on an H200: how often as long as its pipe needs
# the multiplication takes, the issue slots of an element that is gathered, cycles of a step beside.
COSTS = ({FORWARD: (1.45, 43, 0), GRAD_INPUT: (1.3, 50, 0), GRAD_WEIGHT: (2.5, 106, 550)},
         {FORWARD: (2.0, 53, 0), GRAD_INPUT: (1.8, 60, 0), GRAD_WEIGHT: (3.75, 115, 950)})
FRAGMENTS, PASS = 1.3, 0.57         # in passes: what all passes share, and what each takes


@dataclass(frozen=True)
class MatrixPlan:
    """A tile's height and the passes on tensor cores, 0 for none."""

    rows: int
    passes: int
    pitch: int
    tiles: int
    shares: int
    cycles: float
    l2_bytes: float
    launches: float

    @property
    def label(self):
        """What tells this plan from others of the same problem."""
        return f"{'tensor_cores' if self.passes else 'matrix'}:{16 * self.rows}"


def plans(problem, speed, tensor_cores):
    """The `MatrixPlan`s that are possible, in no order."""
    passes = 0
    if tensor_cores:
        if problem.itemsize != 4 or not speed.tensor_cores:
            return []
        passes = 1 if problem.precision == "tf32" else 3
    return [_plan(problem, speed, rows, passes) for rows in (1, 2, 4, 8)
            if problem.itemsize == 4 or rows < 8]


def _plan(problem, speed, rows, passes):
    table, taps = problem.table, problem.taps
    pixels = problem.samples * prod(problem.size if problem.op == GRAD_INPUT else problem.out_size)
    if problem.op == GRAD_WEIGHT:
        height, width, depth = table.out_maps, table.in_maps * taps + 1, pixels
    else:
        sources, height = ((table.in_maps, table.out_maps) if problem.op == FORWARD
                           else (table.out_maps, table.in_maps))
        width, depth = pixels, sources * taps
    tiles = -(-height // (16 * rows)) * -(-width // TILE_IN)
    shares = 1
    if problem.op == GRAD_WEIGHT:
        shares = max(1, min(4 * speed.multiprocessors // max(1, tiles), depth // LEAST_SHARE))
    steps, blocks = -(-depth // (shares * STEP)), tiles * shares
    # a block that is alone waits for its loads, a step at a time
    step, together = _step_cycles(problem, speed, rows, passes), min(
        BLOCKS_AT_ONCE, -(-blocks // speed.multiprocessors))
    cycles = speed.busiest(steps * max(step, LATENCY / together), ENDING, blocks, BLOCKS_AT_ONCE)
    gathered = blocks * steps * STEP * (TILE_IN + 16 * rows) * problem.itemsize
    # neighbouring pixels see the same elements, which the first cache has
    return MatrixPlan(rows, passes, -(-height // (16 * rows)) * 16 * rows, tiles, shares, cycles,
                      gathered / 2, 1.5 if problem.op != GRAD_WEIGHT or shares > 1 else 1)


def _step_cycles(problem, speed, rows, passes):
    """Of a multiprocessor for one step of a block."""
    slower, gather, beside = COSTS[passes > 0][problem.op]
    slots = GATHERED * (gather + SLOPE * problem.has_slope)
    if passes:
        fragments = rows * TILE_IN // 8 * 2   # mma of the block's step, for one pass
        cycles = fragments * (FRAGMENTS + PASS * passes) * 1024 / speed.tensor_cores
    else:
        multiply_adds = STEP * GATHERED * rows * speed.multiply_add(problem.itemsize)
        cycles = multiply_adds * THREADS // WARP / SCHEDULERS
    return slower * cycles + slots * THREADS // WARP / SCHEDULERS + beside


def launch(backend, problem, plan, arrays, results, workspace):
    """Two launches. arrays: x, weight and bias; grad_output, output and weight; or grad_output,
    output and x. results: output; grad_input; or grad_weight and grad_bias."""
    table, forward = problem.table, problem.op != GRAD_INPUT
    constants = problem.constants | {"ROWS": plan.rows, "PASSES": plan.passes}
    specialisation = Specialisation("conv2d_matrix.cu", problem.dtype, problem.activation,
                                    tuple(constants.items()))
    connection_of = backend.table_order(table, connections_by_target, forward).connection_of
    name = f"conv2d_matrix_{problem.op}"
    if problem.op == GRAD_WEIGHT:
        with shared_sums(backend, problem, results, plan.shares, workspace) as sums:
            backend.kernels.launch(specialisation, name, plan.tiles * plan.shares, THREADS,
                                   *arrays, connection_of, *sums, table.n_connections,
                                   *problem.sizes, plan.shares)
        return
    sources, targets = ((table.in_maps, table.out_maps) if forward
                        else (table.out_maps, table.in_maps))
    shape = sources * problem.taps, plan.pitch
    dense = backend.scratch(workspace, "conv2d.dense", shape, problem.dtype)
    backend.kernels.launch(specialisation, "conv2d_dense_weight", -(-prod(shape) // THREADS),
                           THREADS, arrays[1 if forward else 2], connection_of, dense, sources,
                           targets, plan.pitch)
    operands = (arrays[0], dense, arrays[2]) if forward else (*arrays[:2], dense)
    backend.kernels.launch(specialisation, name, plan.tiles, THREADS, *operands, *results,
                           *problem.sizes, plan.pitch)


@dataclass(frozen=True)
class ConnectionOf:
    """connection_of[target][source]: the connection that joins them, or -1; int32."""

    connection_of: np.ndarray


def connections_by_target(table, forward):
    """The `ConnectionOf` of a table; targets are output maps if `forward`, else input maps."""
    matrix = np.full((table.out_maps, table.in_maps), -1, np.int32)
    matrix[table.pairs[1], table.pairs[0]] = np.arange(table.n_connections)
    return ConnectionOf(np.ascontiguousarray(matrix if forward else matrix.T))
