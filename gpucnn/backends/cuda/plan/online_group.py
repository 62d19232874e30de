"""A network planned for online training in a block, or in a cluster of blocks: where each weight
lives, and which phases the blocks of a cluster divide among themselves.

The maps of one sample come first, then the weights of convolutions and subsampling with their
partial sums, then the matrices, the smallest first. A matrix that shared memory has no room for is
kept in registers in part; one that does not even fit so stays in global memory.
"""

from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import numpy as np

from gpucnn.backends.cuda.plan import description, tiles
from gpucnn.backends.cuda.plan.group import (
    GLOBAL_LATENCY,
    L2_BYTES,
    PlannedGroup,
    planned_with,
    registers,
    room,
    spread_out,
)
from gpucnn.backends.cuda.plan.grouping import chain_for
from gpucnn.backends.cuda.plan.layout import ALIGNMENT
from gpucnn.backends.cuda.plan.optimizer_op import op_of
from gpucnn.backends.cuda.plan.sources import PlanSource
from gpucnn.backends.cuda.plan.tiles import Block, Convolution, Cycles

THREADS = (256, 512)
HELD_REGISTERS = (0, 16, 32, 48, 64, 80)  # of a thread, for weights
PARTS = (4, 2, 1)  # of a sum at most: each takes room of its own
CLUSTERS = (2, 4, 8)
# Cycles of a barrier of a cluster, with what its blocks wait for each other, and of sending a
# result to a block: so that estimates rank eight ways to train LeNet-5 as an H200 does.
CLUSTER_BARRIER, SENDING = 2000, 0.15
RESIDENT = {2: 0.9, 4: 0.9, 8: 0.9}  # the share of multiprocessors that clusters of a size can use


@dataclass(frozen=True)
class Home:
    """Where a layer's weight lives: "shared", "held" (a matrix in registers and shared memory) or
    "global". `held`: how many inputs of each warp's are in registers; `scratch` and `arrivals`:
    places in shared memory for the sums of warps and of blocks."""

    kind: str
    held: int = 0
    scratch: int = -1
    arrivals: int = -1


@dataclass(frozen=True)
class OnlineGroup:
    """A `PlannedGroup` of the whole network for one sample, a `Home` for each layer, and the blocks
    that train a network together. `cycles` estimates an update."""

    group: PlannedGroup
    homes: tuple[Home, ...]
    blocks: int
    memory: int
    n_parameters: int
    cycles: Cycles

    @property
    def threads(self):
        return self.group.threads

    @property
    def shared_bytes(self):
        return self.memory * np.dtype(self.group.dtype).itemsize

    @property
    def parameters_apart(self):
        """By how much flat arrays of networks lie apart, so that vectors of each are aligned."""
        return -(-self.n_parameters // ALIGNMENT) * ALIGNMENT

    @property
    def registers_of_weights(self):
        """How many registers of a thread hold weights."""
        return sum(home.held * _registers(layer.link, np.dtype(self.group.dtype).itemsize)
                   for layer, home in zip(self.group.layers, self.homes, strict=True))

    def source(self, optimizer):
        """The `PlanSource` for an optimiser's struct, "Sgd" or "Adam"."""
        wrappers = {"shared": "SharedLayer", "held": "HeldMatrix", "global": "FlowingMatrix"}
        row = ", ".join(f"{wrappers[home.kind]}<Layer{number}>"
                        for number, home in enumerate(self.homes))
        homes = {id(layer): home
                 for layer, home in zip(self.group.layers, self.homes, strict=True)}

        def members(layer):
            home = homes[id(layer)]
            parts = {} if layer.link.kind == "conv2d" else {"PARTS": 1}
            return parts | {"HELD": home.held, "SCRATCH": home.scratch, "ARRIVALS": home.arrivals}

        constants = description.constants(replace(self.group, memory=self.memory, batch_size=1),
                                          blocks=self.blocks)
        headers = (
            ("constants.h", f"{constants}constexpr int PARAMETERS = {self.parameters_apart};\n"),
            ("network.h", f"using Optimizer = {optimizer};\n"
             + description.layers(self.group, f"OnlineChain<{row}>", members)))
        blocks = f", {self.blocks} blocks" if self.blocks > 1 else ""
        return PlanSource("online.cu", np.dtype(self.group.dtype), headers,
                          f"online.cu ({self.group.dtype}, {optimizer}, {self.threads} threads"
                          f"{blocks})")


def plan_online(program, profile, networks=1):
    """The `OnlineGroup` that is estimated to be quickest for so many networks at once, or None
    where the network's maps and the weights of its convolutions do not fit into a block's shared
    memory."""
    sizes = _cluster_sizes(program, profile, networks)
    for most_parts in PARTS:
        planner = _Planner(program, profile, most_parts)
        found = {choice: planner.attempt(*choice)
                 for choice in product(sizes, THREADS, HELD_REGISTERS)}
        # tiles that avoid collisions in banks may take more parts, for which there may be no room
        for choice in sorted((choice for choice, group in found.items() if group is not None),
                             key=lambda choice: found[choice].cycles.total):
            group = spread_out(planner.chain, partial(planner.attempt, *choice))
            if group is not None:
                return group
    return None


def _cluster_sizes(program, profile, networks):
    """How many blocks may train a network together, so that all networks run at the same time.
    Blocks of a cluster do not share an optimiser's state."""
    stateless = not op_of(program.optimizer, np.dtype(program.dtype)).has_state
    if profile.compute_capability < (9, 0) or not stateless:
        return (1,)
    return (1, *(blocks for blocks in CLUSTERS
                 if networks * blocks <= RESIDENT[blocks] * profile.multiprocessors))


class _Planner:
    """Plans one network for one device, with at most so many parts of a sum."""

    def __init__(self, program, profile, most_parts):
        self.chain = chain_for(program, 0, len(program.layers))
        self._program = replace(program, batch_size=1)
        self._profile = profile
        self._most_parts = most_parts
        self._itemsize = np.dtype(program.dtype).itemsize
        self._limit = room(profile) // self._itemsize

    def attempt(self, blocks, threads, reserved, spreads=None):
        """The `OnlineGroup` for so many blocks and threads, of whose registers so many are reserved
        for weights; or None if there is no room."""
        group = planned_with(self.chain, self._program, self._profile, 1, threads, spreads,
                             reserved, most_parts=self._most_parts)
        if group is None:
            return None
        layers, cycles = self._divided(group, blocks, reserved, spreads is not None)
        return self._with_homes(replace(group, layers=layers), cycles, blocks, reserved)

    # -- phases --------------------------------------------------------------------------------

    def _divided(self, group, blocks, reserved, colliding):
        """The layers with the phases of convolutions that pay divided among the blocks, and what an
        update takes."""
        if blocks == 1:
            return group.layers, group.cycles
        block = Block(group.threads, 1, self._itemsize,
                      registers(self._profile, group.threads) - reserved, blocks,
                      self._most_parts)
        layers, cycles = list(group.layers), group.cycles + _barrier(2)
        for number, layer in enumerate(layers):
            if layer.link.kind == "conv2d":
                layers[number], saved = self._divided_layer(block, group, number, colliding)
                cycles += saved
        return tuple(layers), cycles

    def _divided_layer(self, block, group, number, colliding):
        layer, spread, saved = group.layers[number], set(), Cycles(0, 0)
        link = layer.link
        convolution = Convolution(link.kernel_size, link.stride, link.connections)
        here, output, gradient = (replace(maps, offset=0) for maps in (
            group.maps[number], group.maps[number + 1], group.gradient_maps[number + 1]))
        weight_tile = tiles.weight_tile(block, convolution, here, gradient, colliding)
        others = {
            "forward": ("forward_tile", tiles.forward_tile(block, convolution, here, output,
                                                           colliding), 1, output.size),
            "grad_parameters": ("weight_tile", weight_tile, 1,
                                weight_tile.parts * layer.partial_size)}
        if link.needs_grad_input:  # a barrier before it too
            others["grad_input"] = ("input_tile", tiles.input_tile(
                block, convolution, here, gradient, colliding), 2, here.size)
        for phase, (name, tile, barriers, results) in others.items():
            gain = (tile.cycles + _barrier(barriers) + _sending(results, block.blocks)
                    - getattr(layer, name).cycles)
            if gain.total < 0:
                layer, saved = replace(layer, **{name: tile}), saved + gain
                spread.add(phase)
        return replace(layer, spread=frozenset(spread)), saved

    # -- weights -------------------------------------------------------------------------------

    def _with_homes(self, group, cycles, blocks, reserved):
        """The group with a home for each weight, or None if there is no room."""
        memory, warps = _Memory(group.maps_end), group.threads // tiles.WARP
        layers, homes = list(group.layers), [Home("shared")] * len(group.layers)
        for number, layer in enumerate(layers):
            layers[number] = _with_shared_places(layer, memory)
        matrices = sorted((number for number, layer in enumerate(layers)
                           if layer.link.kind == "matrix"),
                          key=lambda number: layers[number].link.weight.size)
        widest = max((layers[number].link.features[1] for number in matrices), default=0)
        scratch = memory.take(warps * widest)
        for number in matrices:
            layer = layers[number]
            inputs, outputs = layer.link.features
            of_input = _registers(layer.link, self._itemsize)

            def held_by(owners, inputs=inputs, outputs=outputs, of_input=of_input, free=reserved):
                return _held(-(-inputs // (warps * owners)), of_input, warps * outputs,
                             self._limit - memory.end, free)

            saved = _in_shared(layer.link) * (1 - 1 / blocks)
            divided = blocks > 1 and (saved > 2 * CLUSTER_BARRIER or held_by(1) is None)
            of_warp = -(-inputs // (warps * (blocks if divided else 1)))
            arrivals = memory.take(blocks * outputs) if divided else -1
            held = held_by(blocks if divided else 1)
            if held is None and blocks > 1:
                return None
            homes[number] = (Home("global") if held is None
                             else Home("held", held, scratch, arrivals))
            if held is not None:
                reserved -= held * of_input
                layers[number] = replace(
                    layer, shared_weight=memory.take(warps * (of_warp - held) * outputs),
                    spread=frozenset(description.PHASES if divided else ()))
            cycles += _matrix_cycles(layer.link, homes[number], self._itemsize,
                                     blocks if divided else 1)
        if memory.end > self._limit:
            return None
        return OnlineGroup(replace(group, layers=tuple(layers)), tuple(homes), blocks, memory.end,
                           self._program.n_parameters, cycles)


class _Memory:
    """Shared memory, given out from a place on."""

    def __init__(self, end):
        self.end = end

    def take(self, size):
        """The place of so many elements."""
        place, self.end = self.end, self.end + -(-size // ALIGNMENT) * ALIGNMENT
        return place


def _with_shared_places(layer, memory):
    """A layer with places for what always is in shared memory: the weights and partial sums of
    convolutions and subsampling, the biases of matrices."""
    link = layer.link
    if layer.partial_size:
        weight = memory.take(layer.partial_size)
        return replace(layer, shared_weight=weight,
                       partials=memory.take(layer.parts * layer.partial_size),
                       shared_bias=weight + link.weight.size if link.bias else -1)
    if link.kind == "matrix":
        return replace(layer, shared_weight=-1, shared_bias=(
            memory.take(link.features[1]) if link.bias else -1))
    return layer


def _registers(link, itemsize):
    """The registers of a lane for its weights of an input: those of every 32nd output."""
    return -(-link.features[1] // tiles.WARP) * itemsize // 4


def _held(of_warp, of_input, input_size, free, registers_left):
    """How many of a warp's inputs go into registers, `of_input` for each, so that the others, each
    `input_size` elements for all warps, fit into the `free` shared memory; None if they do not."""
    held = max(0, of_warp - max(0, free) // input_size)
    return held if held * of_input <= registers_left else None


def _barrier(count):
    return Cycles(0, count * CLUSTER_BARRIER)


def _sending(results, blocks):
    """What a block waits while all of them send each other their shares of so many results."""
    return Cycles(0, SENDING * results * blocks)


def _in_shared(link):
    """Cycles to read a matrix in shared memory twice and to write it, a warp's lanes at once."""
    return 3 * link.weight.size / tiles.WARP


def _matrix_cycles(link, home, itemsize, blocks):
    """What a matrix takes beyond what `group.cycles` counts, which is a pass over a weight in
    global memory for each direction."""
    from_global = link.weight.size * itemsize / L2_BYTES
    if home.kind == "global":  # and written back
        return Cycles(from_global, from_global)
    passes = 1 + link.needs_grad_input
    busy = _in_shared(link) / blocks - passes * from_global
    barriers = 2 * CLUSTER_BARRIER if blocks > 1 else 0
    return Cycles(busy, busy - passes * GLOBAL_LATENCY + barriers)
