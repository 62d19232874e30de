"""A lane for each pixel, for any sizes: conv2d_general.cu, _grad_input and _grad_weight.

Every multiply-add reads two words, its tap and its pixel; maps that are not joined are staged as
well. It takes kernels of any size, a strip of their rows at a time, as long as one row fits into
shared memory.
"""

from dataclasses import dataclass
from math import prod

from gpucnn.backends.cuda.conv2d_kernels.problem import FORWARD, GRAD_INPUT, GRAD_WEIGHT
from gpucnn.backends.cuda.conv2d_kernels.speed import SCHEDULERS, WARP
from gpucnn.backends.cuda.kernels import Specialisation
from gpucnn.backends.cuda.launch import blocks_for, shares_for, sum_partials

WARPS = 8  # maps a block computes
THREADS = 32 * WARPS
WEIGHT_THREADS = 128
STAGED_BYTES = 16 * 1024  # shared memory for staged maps that leaves room for several blocks
LARGEST_STAGED_BYTES = 32 * 1024
LARGEST_TAPS = 1024  # kernel elements of a weight block, eight of which a thread keeps
ENDING = 3000  # cycles of a launch beside
# Tiles of (samples, height, width) pixels: parts of one large map, or pixels of many small ones.
PIXEL_TILES = ((1, 4, 8), (2, 4, 4), (8, 2, 2), (32, 1, 1))
WEIGHT_TILES = ((1, 16, 16), (4, 8, 8), (16, 4, 4), (64, 2, 2), (256, 1, 1))
STAGE, PIXEL = 20, 9  # instructions of a staged pixel; beside a multiply-add, its loads and indices


@dataclass(frozen=True)
class GeneralPlan:
    """A tile shape with its strip of kernel rows and the reals that it stages of one map."""

    shape: tuple[int, int, int]
    strip: int
    staged: int
    tiles: int
    cycles: float
    l2_bytes: float
    launches: float
    label: str = "general"


def plans(problem, speed):
    """The one `GeneralPlan`, or none where a row of the kernel does not fit into shared memory."""
    shapes = WEIGHT_TILES if problem.op == GRAD_WEIGHT else PIXEL_TILES
    kernel_height, kernel_width = problem.kernel_size
    size = problem.size if problem.op == GRAD_INPUT else problem.out_size
    candidates = []
    for shape in shapes:
        strip = min(kernel_height, max(1, LARGEST_TAPS // kernel_width))
        most = LARGEST_STAGED_BYTES // problem.itemsize
        while strip > 1 and _staged(problem, shape, strip) > most:
            strip -= 1
        staged = _staged(problem, shape, strip)
        if staged <= most:
            tiles = (blocks_for(problem.samples, shape[0]) * blocks_for(size[0], shape[1])
                     * blocks_for(size[1], shape[2]))
            maps = 1 if problem.op == GRAD_WEIGHT else WARPS
            work = tiles * (prod(shape) * maps * kernel_height * kernel_width + 2 * staged)
            candidates.append((work, shape, strip, staged, tiles))
    if not candidates or kernel_width > LARGEST_TAPS:
        return []
    _, shape, strip, staged, tiles = min(candidates, key=lambda candidate: candidate[0])
    return [GeneralPlan(shape, strip, staged, tiles,
                        *_estimate(problem, speed, shape, strip, staged, tiles),
                        4 if problem.op == GRAD_WEIGHT else 1)]


def _staged(problem, shape, strip):
    """Reals: for output pixels every input pixel under the tile's windows, for input pixels every
    output pixel whose window touches the tile."""
    samples, height, width = shape
    (down, right), kernel_width = problem.stride, problem.kernel_size[1]
    if problem.op == GRAD_INPUT:
        rows, columns = (height + strip - 2) // down + 1, (width + kernel_width - 2) // right + 1
        return samples * (rows * columns | 1)
    return samples * (((height - 1) * down + strip) * ((width - 1) * right + kernel_width) | 1)


def _estimate(problem, speed, shape, strip, staged, tiles):
    table, pixels = problem.table, prod(shape)
    strips = -(-problem.kernel_size[0] // strip)
    if problem.op == GRAD_WEIGHT:
        products = tiles * table.n_connections * problem.taps * pixels / WARP
        stagings = tiles * table.n_connections * strips * (staged + 2 * pixels)
    else:
        sources, targets = ((table.in_maps, table.out_maps) if problem.op == FORWARD
                            else (table.out_maps, table.in_maps))
        products = tiles * table.n_connections * problem.taps
        stagings = tiles * -(-targets // WARPS) * sources * strips * staged
    instructions = (products * (PIXEL + speed.multiply_add(problem.itemsize))
                    + stagings / WARP * STAGE)
    return (instructions / SCHEDULERS / speed.multiprocessors + ENDING,
            stagings * problem.itemsize * (1 + problem.has_slope))


def launch(backend, problem, plan, arrays, results, workspace):
    """One launch, or two for each of grad_weight and grad_bias; operands as in matrix.py."""
    table = problem.table
    if problem.op == GRAD_WEIGHT:
        _grad_parameters(backend, problem, plan, arrays, results, workspace)
        return
    if problem.op == FORWARD:
        name, maps = "conv2d_general_forward", table.out_maps
        file, order = "conv2d_general.cu", backend.table(table).by_output
    else:
        name, maps = "conv2d_general_grad_input", table.in_maps
        file, order = f"{name}.cu", backend.table(table).by_input
    backend.kernels.launch(
        _specialised(file, problem, plan), name, plan.tiles * blocks_for(maps, WARPS), THREADS,
        *arrays, order.starts, order.connections, order.others, *results, *problem.sizes)


def _grad_parameters(backend, problem, plan, arrays, results, workspace):
    table, (grad_weight, grad_bias) = problem.table, results
    specialisation = _specialised("conv2d_general_grad_weight.cu", problem, plan)
    blocks = table.n_connections * blocks_for(problem.kernel_size[0], plan.strip)
    shares = shares_for(backend, blocks, plan.tiles)
    with sum_partials(backend, grad_weight, shares, "conv2d.weight_partials",
                      workspace) as partials:
        backend.kernels.launch(
            specialisation, "conv2d_general_grad_weight", blocks * shares, WEIGHT_THREADS, *arrays,
            backend.table(table).pairs, partials, table.n_connections, *problem.sizes, shares)
    shares = shares_for(backend, table.out_maps, problem.samples)
    with sum_partials(backend, grad_bias, shares, "conv2d.bias_partials", workspace) as partials:
        backend.kernels.launch(
            specialisation, "conv2d_general_grad_bias", table.out_maps * shares, WEIGHT_THREADS,
            *arrays[:2], partials, problem.samples, table.out_maps, prod(problem.out_size), shares)


def _specialised(file, problem, plan):
    samples, height, width = plan.shape
    constants = problem.constants | {"TILE_SAMPLES": samples, "TILE_HEIGHT": height,
                                     "TILE_WIDTH": width, "STRIP_HEIGHT": plan.strip}
    if problem.op == GRAD_WEIGHT:
        constants["THREADS"] = WEIGHT_THREADS
    else:
        constants["WARPS"] = WARPS
        constants["STAGED_MAPS"] = min(8, max(1, STAGED_BYTES // (plan.staged * problem.itemsize)))
    return Specialisation(file, problem.dtype, problem.activation, tuple(constants.items()))
