"""One group of layers, planned: samples and threads of a block, memory, tiles."""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import prod

import numpy as np

from gpucnn.backends.cuda.launch import blocks_for
from gpucnn.backends.cuda.plan import description, tensor_cores, tiles
from gpucnn.backends.cuda.plan.chain import Chain, Link
from gpucnn.backends.cuda.plan.layout import ALIGNMENT, Maps, placed, smallest_size, stacked
from gpucnn.backends.cuda.plan.sources import PlanSource
from gpucnn.backends.cuda.plan.tensor_cores import TensorLayer
from gpucnn.backends.cuda.plan.tiles import Block, Convolution, Cycles, Tile, WeightTile

RESERVED_BYTES = 2048  # of a block's shared memory: what kernels declare statically, the system's
THREADS = (128, 256, 384, 512)
# With 512 threads, which have 128 registers each, what lives through all phases would be spilled by
# phases that take most of them: of more samples, and those on tensor cores.
MANY_THREADS, FEW_SAMPLES = 512, 2
RESERVED = {MANY_THREADS: 12}  # registers of a thread that tiles must leave alone
USUALLY_RESERVED = 4
SAMPLES = (1, 2, 3, 4, 5, 6, 8)
MOST_OUTPUTS = 8       # of a matrix link, that a warp computes at a time
PROLOGUE = 1500        # cycles: a block starts, clears its memory and loads its weights
GLOBAL_LATENCY = 700   # cycles until what is read from global memory is there, and used
L2_BYTES = 40          # that a multiprocessor gets from L2 in a cycle
SPREADS = tuple(product(range(4), range(0, 32, 8)))  # of rows and samples, see `layout.placed`


@dataclass(frozen=True)
class PlannedLayer:
    """A link and how the kernels compute it. Places are in elements, -1 for none: `shared_weight`
    and `shared_bias` in shared memory; `partials`, `saved_input` and `saved_gradient` in the plan's
    arrays of these names. `input` and `input_gradient` are set where the link sees a boundary as a
    vector. `spread` names the phases that a cluster's blocks divide among themselves."""

    link: Link
    input: Maps | None = None
    input_gradient: Maps | None = None
    shared_weight: int = -1
    shared_bias: int = -1
    forward_tile: Tile | None = None
    input_tile: Tile | None = None
    weight_tile: WeightTile | None = None
    outputs_at_once: int = 0
    vector: int = 1
    tensor: TensorLayer | None = None
    partials: int = -1
    saved_input: int = -1
    saved_gradient: int = -1
    spread: frozenset = frozenset()

    @property
    def parts(self):
        """How many rows of partial sums a block has."""
        if self.tensor and self.tensor.grad_weight:
            return self.tensor.grad_weight.parts
        return self.weight_tile.parts if self.weight_tile else 1

    @property
    def partial_size(self):
        """The elements of a row of partial sums: weights, then biases."""
        if self.link.kind == "matrix" or self.link.weight is None:
            return 0
        return self.link.weight.size + (self.link.bias.size if self.link.bias else 0)


@dataclass(frozen=True)
class PlannedGroup:
    """A group with everything that its kernels are specialised for. `memory` is in elements, the
    maps `maps_end` of them; `cycles` estimates one pass of a block over its samples, forward and
    backward."""

    chain: Chain
    dtype: str
    loss: object
    batch_size: int
    samples: int
    threads: int
    maps: tuple[Maps, ...]
    gradient_maps: tuple[Maps, ...]
    layers: tuple[PlannedLayer, ...]
    memory: int
    cycles: Cycles
    maps_end: int

    @property
    def shared_bytes(self):
        return self.memory * np.dtype(self.dtype).itemsize

    def blocks(self, profile, samples=None):
        """The blocks of a launch for so many samples, the whole batch unless given: no more than
        run at the same time."""
        parts = blocks_for(samples or self.batch_size, self.samples)
        return min(parts, profile.multiprocessors * self.resident(profile), profile.max_blocks)

    def resident(self, profile):
        """How many blocks a multiprocessor runs at once, by shared memory and registers."""
        by_memory = profile.shared_bytes_of_multiprocessor // (self.shared_bytes + RESERVED_BYTES)
        by_registers = profile.registers_of_multiprocessor // (self.threads
                                                               * registers(profile, self.threads))
        return max(1, min(by_memory, by_registers))

    def step_cycles(self, profile):
        """Estimated cycles of a whole batch: the blocks of a multiprocessor run at the same time,
        but share what keeps it busy."""
        blocks = self.blocks(profile)
        passes = blocks_for(blocks_for(self.batch_size, self.samples), blocks)
        together = blocks_for(blocks, profile.multiprocessors)
        return PROLOGUE + passes * max(self.cycles.total, together * self.cycles.busy)

    @cached_property
    def headers(self):
        """The generated headers, as `PlanSource` takes them."""
        return (("constants.h", description.constants(self)),
                ("network.h", description.network(self)))

    def source(self, kernel):
        """The `PlanSource` of "group_forward" or "group_backward"."""
        names = [planned.link.spec.name for planned in self.layers]
        return PlanSource(f"{kernel}.cu", np.dtype(self.dtype), self.headers,
                          f"{kernel}.cu ({self.dtype}, {', '.join(names) or 'no layers'}, "
                          f"{self.samples} samples, {self.threads} threads)")


def registers(profile, threads):
    """How many registers a thread may have: a multiprocessor has four files of them, whose warps
    take turns with eight registers a thread as the unit."""
    warps = blocks_for(threads, tiles.SCHEDULERS * tiles.WARP)
    file = profile.registers_of_multiprocessor // tiles.SCHEDULERS
    return min(255, file // (warps * tiles.WARP) // 8 * 8)


def fits(chain, dtype, profile):
    """Whether a block can have one sample of a group in its shared memory."""
    sizes = [smallest_size(boundary) for boundary in chain.boundaries]
    sizes += [smallest_size(chain.boundaries[number]) for number in _apart(chain)]
    # each boundary begins at a multiple of the alignment
    return (sum(sizes) + ALIGNMENT) * np.dtype(dtype).itemsize <= room(profile)


def room(profile):
    """The bytes of shared memory that a block may have for maps and weights."""
    return profile.dynamic_shared_bytes - RESERVED_BYTES


def plan_group(chain, program, profile):
    """The `PlannedGroup` of a chain that `fits`, with the samples and threads that are estimated to
    be quickest for the program's batch."""
    most = blocks_for(program.batch_size, profile.multiprocessors)
    cores = tensor_cores.tensor_cores(profile, program)
    best = None
    for samples, threads in product(SAMPLES, THREADS):
        if samples > 1 and samples > most:
            continue
        planned = planned_with(chain, program, profile, samples, threads, cores=cores)
        if planned is None or (threads == MANY_THREADS and not _suits_many_threads(planned)):
            continue
        cycles = planned.step_cycles(profile)
        if best is None or cycles < best[0]:
            best = cycles, planned
    planned = best[1]
    return spread_out(chain, lambda spreads: planned_with(
        chain, program, profile, planned.samples, planned.threads, spreads, cores=cores))


def _suits_many_threads(planned):
    return planned.samples <= FEW_SAMPLES and not any(layer.tensor for layer in planned.layers)


def spread_out(chain, attempt):
    """The group with rows and samples moved apart where that saves cycles and fits: the best of
    what `attempt(spreads)` gives, a spread of `layout.placed` for each boundary, or None."""
    spreads = [(0, 0)] * len(chain.boundaries)
    best = attempt(spreads)
    if best is None:
        return None
    for number in _read_by_convolutions(chain):
        for spread in SPREADS:
            tried = [*spreads[:number], spread, *spreads[number + 1:]]
            other = attempt(tried)
            if other is not None and other.cycles.total < best.cycles.total:
                best, spreads = other, tried
    return best


def _read_by_convolutions(chain):
    """The boundaries whose pixels or gradients convolutions read, that may be spread out."""
    around = {place for number, link in enumerate(chain.links) if link.kind == "conv2d"
              for place in (number, number + 1)}
    return [number for number in sorted(around) if not chain.boundaries[number].compact]


def planned_with(chain, program, profile, samples, threads, spreads=None, reserved=None, cores=None,
                 most_parts=tiles.MOST_PARTS):
    """The group for so many samples and threads, or None if that does not fit. Without `spreads`
    nothing is moved apart, and lanes that meet in a bank are not counted. reserved: registers of a
    thread that the layers must leave alone; cores: the `TensorCores` that they may use; most_parts:
    see `tiles.Block`."""
    itemsize = np.dtype(program.dtype).itemsize
    if reserved is None:
        reserved = RESERVED.get(threads, USUALLY_RESERVED)
    block = Block(threads, samples, itemsize, registers(profile, threads) - reserved,
                  most_parts=most_parts)
    places = [placed(boundary, *(() if spreads is None else (spreads[number],)))
              for number, boundary in enumerate(chain.boundaries)]
    apart = _apart(chain)
    stack, end = stacked(places + [places[number] for number in apart], samples)
    limit = room(profile) // itemsize
    if end > limit:
        return None
    maps, others = stack[:len(places)], dict(zip(apart, stack[len(places):], strict=True))
    gradient_maps = [others.get(number, place) for number, place in enumerate(maps)]
    shared, memory = _shared_weights(chain, end, limit)
    layers = tuple(_planned_layer(block, cores, link, maps, gradient_maps, number,
                                  shared.get(number, -1), chain.boundaries[number],
                                  spreads is not None)
                   for number, link in enumerate(chain.links))
    cycles = sum((_layer_cycles(block, layer, maps, number)
                  for number, layer in enumerate(layers)), _io_cycles(block, chain))
    return PlannedGroup(chain, program.dtype, program.loss, program.batch_size, samples, threads,
                        tuple(maps), tuple(gradient_maps), layers, memory, cycles, end)


def _apart(chain):
    """The boundaries whose gradient cannot take the place of the maps: pooling windows that
    overlap read each other's pixels."""
    return [number for number, link in enumerate(chain.links)
            if link.kind == "max_pool2d" and link.needs_grad_input and link.overlaps]


def _shared_weights(chain, start, limit):
    """(link -> place of its weight in shared memory, end), the smallest first, while they fit."""
    sizes = sorted((link.weight.size, number) for number, link in enumerate(chain.links)
                   if link.kind in ("conv2d", "subsample2d") and link.weight)
    found = {}
    for size, number in sizes:
        if start + size <= limit:
            found[number] = start
            start += -(-size // ALIGNMENT) * ALIGNMENT
    return found, min(start, limit)


def _planned_layer(block, cores, link, maps, gradient_maps, number, shared_weight, boundary,
                   colliding):
    layer = PlannedLayer(link, shared_weight=shared_weight)
    if link.input_shape != boundary.shape:
        layer = replace(layer, input=maps[number].as_vector(),
                        input_gradient=gradient_maps[number].as_vector())
    if link.kind == "conv2d":
        convolution = Convolution(link.kernel_size, link.stride, link.connections)
        here, output, gradient = (replace(place, offset=0) for place in (
            maps[number], maps[number + 1], gradient_maps[number + 1]))
        return replace(
            layer, tensor=tensor_cores.of_convolution(block, cores, link),
            forward_tile=tiles.forward_tile(block, convolution, here, output, colliding),
            input_tile=tiles.input_tile(block, convolution, here, gradient, colliding),
            weight_tile=tiles.weight_tile(block, convolution, here, gradient, colliding))
    if link.kind == "matrix":
        inputs, outputs = link.features
        vector = next(size for size in (16 // block.itemsize, 2, 1)
                      if inputs % size == 0 and link.weight.offset % size == 0)
        at_once = min(MOST_OUTPUTS, blocks_for(outputs, block.threads // tiles.WARP))
        while at_once > 1 and not block.holds(_matrix_values(at_once, block.samples, vector)):
            at_once -= 1
        return replace(
            layer, outputs_at_once=at_once, vector=vector,
            tensor=tensor_cores.of_matrix(block, cores, link, _matrix_cycles(block, link)))
    return layer


def _matrix_values(outputs, samples, vector):
    """What a lane holds of a matrix product: sums, padded as LaneSums does, weights and inputs, and
    addresses of weights, which take two registers each."""
    sums = blocks_for(outputs * samples, tiles.WARP) * tiles.WARP
    return (sums if outputs * samples > tiles.WARP // 2 else outputs * samples) + (
        outputs + samples) * vector + 2 * outputs


def _io_cycles(block, chain):
    """Estimated cycles of what comes into the block and goes out of it."""
    sizes = [prod(chain.boundaries[0].shape)] * (1 if chain.first else 3)
    sizes += [] if chain.last else [prod(chain.boundaries[-1].shape)] * 2
    return sum((tiles.phase(block, block.samples * size, 10, 2, beside=tiles.ELEMENT)
                for size in sizes),
               Cycles(0, GLOBAL_LATENCY))


def _layer_cycles(block, layer, maps, number):
    """Estimated cycles of a layer's phases, forward and backward."""
    link = layer.link
    tensor = layer.tensor or TensorLayer()
    if link.kind == "conv2d":
        phases = [tensor.forward or layer.forward_tile, tensor.grad_weight or layer.weight_tile]
        phases += [tensor.grad_input or layer.input_tile] if link.needs_grad_input else []
        return sum((phase.cycles for phase in phases), Cycles(0, 0))
    if link.kind == "matrix":
        phases = [tensor.forward] + ([tensor.grad_input] if link.needs_grad_input else [])
        return sum((phase.cycles if phase else _matrix_cycles(block, link) for phase in phases),
                   Cycles(0, 0))
    window = prod(link.pool_size)
    outputs = tiles.phase(block, block.samples * maps[number + 1].size, window, window,
                          beside=tiles.ELEMENT)
    inputs = tiles.phase(block, block.samples * maps[number].size, 6, 2,
                         beside=tiles.ELEMENT / window)
    return outputs + outputs + inputs


def _matrix_cycles(block, link):
    """Estimated cycles of a matrix layer, forward or for the gradient by its input."""
    weights = link.weight.size
    busy = max(weights * block.itemsize / L2_BYTES,
               weights * block.samples / (tiles.SCHEDULERS * tiles.WARP))
    return Cycles(busy, busy + GLOBAL_LATENCY)
