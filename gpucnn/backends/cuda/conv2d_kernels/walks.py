"""Connection tables in the orders that kernels walk: plain arrays, made once for each table.

`walk` is for conv2d.cu and conv2d_grad_input.cu, `teams` for conv2d_grad_weight.cu; the kernels'
heads say what the arrays mean.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Walk:
    """The arrays of conv2d_walk.cuh, int32, and the largest number of chunks of a group."""

    used_starts: np.ndarray
    used: np.ndarray
    target_maps: np.ndarray
    starts: np.ndarray
    entries: np.ndarray
    groups: int
    chunks: int


def walk(table, forward, map_warps, maps, turns, chunk):
    """The `Walk` of a table; targets are its output maps if `forward`, else its input maps.

    A group is map_warps * maps * turns neighbouring target maps; its warps get maps so that their
    connections into each chunk of source maps are about as many.
    """
    order, targets = ((table.by_output, table.out_maps) if forward
                      else (table.by_input, table.in_maps))
    size = map_warps * maps * turns
    groups = -(-targets // size)
    target = np.repeat(np.arange(targets), np.diff(order.starts))
    group = target // size
    sources = int(order.others.max(initial=0)) + 1
    keys, which = np.unique(group.astype(np.int64) * sources + order.others, return_inverse=True)
    used_starts = np.searchsorted(keys, np.arange(groups + 1, dtype=np.int64) * sources)
    place = which - used_starts[group]
    chunks = max(1, int(-(-np.diff(used_starts).max(initial=1) // chunk)))
    counts = np.zeros((targets, chunks), np.int64)
    np.add.at(counts, (target, place // chunk), 1)
    target_maps = np.full(groups * size, -1, np.int32)
    slot_of = np.empty(targets, np.int64)
    for first in range(0, targets, size):
        members = np.arange(first, min(first + size, targets))
        slot_of[members] = first + _slots(counts[members], map_warps, maps, turns)
        target_maps[slot_of[members]] = members
    slot = slot_of[target]
    sequence = np.lexsort((place, slot))
    starts = np.searchsorted(slot[sequence] * chunks + place[sequence] // chunk,
                             np.arange(groups * size * chunks + 1))
    entries = np.stack((place % chunk, order.connections), -1)[sequence]
    return Walk(_int32(used_starts), _int32(keys % sources), target_maps, _int32(starts),
                _int32(entries).reshape(-1), groups, chunks)


def _slots(counts, map_warps, maps, turns):
    """The slots (turn, warp, map) of a group's target maps, given their connections by chunk: the
    maps with most connections first, each to the warp whose load it evens out best."""
    loads = np.zeros((map_warps, counts.shape[1]))
    taken = np.zeros(map_warps, int)
    slots = np.empty(len(counts), int)
    for member in np.argsort(-counts.sum(1), kind="stable"):
        grows = loads @ counts[member] + np.where(taken < maps * turns, 0, np.inf)
        warp = int(np.argmin(grows + 1e-6 * loads.sum(1)))
        loads[warp] += counts[member]
        turn, place = divmod(taken[warp], maps)
        slots[member] = (turn * map_warps + warp) * maps + place
        taken[warp] += 1
    return slots


@dataclass(frozen=True)
class Teams:
    """The arrays of conv2d_grad_weight.cu, int32, and how many maps a block stages at most."""

    x_starts: np.ndarray
    x_maps: np.ndarray
    dz_starts: np.ndarray
    dz_maps: np.ndarray
    records: np.ndarray
    blocks: int
    x_slots: int
    dz_slots: int


def teams(table, teams, shared, outputs, x_slots, tap_blocks):
    """The `Teams` of a table: blocks of up to `teams` teams, each with `shared` connections of one
    input map.

    A block's output maps lie in one run of `outputs`, and it has at most `x_slots` input maps.
    tap_blocks: (tap row, tap column, first own row, first own column) of each part of a kernel.
    """
    blocks, block = [], None
    bias_taken = np.zeros(table.out_maps, bool)
    order = np.lexsort((table.pairs[1], table.pairs[0], table.pairs[1] // outputs))
    run = np.stack((table.pairs[1][order] // outputs, table.pairs[0][order]))
    ends = np.flatnonzero((run[:, 1:] != run[:, :-1]).any(0)) + 1
    for part in np.split(order, ends):
        i, of = int(table.pairs[0, part[0]]), int(table.pairs[1, part[0]]) // outputs
        for first in range(0, len(part), shared):
            connections = part[first:first + shared]
            owners = table.pairs[1, connections]
            biases = np.where(bias_taken[owners], -1, owners)
            bias_taken[owners] = True
            for number, taps in enumerate(tap_blocks):
                if block is None or block.full(of, i, teams, x_slots):
                    block = _Block(of)
                    blocks.append(block)
                block.add(i, taps, connections, owners, biases if number == 0 else biases * 0 - 1)
    records = np.zeros((len(blocks), teams, 5 + 3 * shared), np.int32)
    records[:, :, 6::3] = records[:, :, 7::3] = -1
    for number, block in enumerate(blocks):
        for team, (i, taps, connections, owners, biases) in enumerate(block.members):
            record = records[number, team]
            record[:5] = (block.inputs[i], *taps)
            for q, (c, o, bias) in enumerate(zip(connections, owners, biases, strict=True)):
                record[5 + 3 * q:8 + 3 * q] = block.outputs[int(o)], c, bias
    x_lists, dz_lists = ([list(maps) for maps in each] for each in (
        (block.inputs for block in blocks), (block.outputs for block in blocks)))
    return Teams(*_lists(x_lists), *_lists(dz_lists), records.reshape(-1), len(blocks),
                 max(map(len, x_lists)), max(map(len, dz_lists)))


class _Block:
    """The teams of one block, and its maps by their places."""

    def __init__(self, of):
        self.of, self.inputs, self.outputs, self.members = of, {}, {}, []

    def full(self, of, i, teams, x_slots):
        return (of != self.of or len(self.members) == teams
                or (i not in self.inputs and len(self.inputs) == x_slots))

    def add(self, i, taps, connections, owners, biases):
        self.inputs.setdefault(i, len(self.inputs))
        for o in owners:
            self.outputs.setdefault(int(o), len(self.outputs))
        self.members.append((i, taps, connections, owners, biases))


def _lists(lists):
    """(starts, elements) of several lists."""
    starts = np.concatenate(([0], np.cumsum([len(each) for each in lists])))
    return _int32(starts), _int32(np.concatenate([np.asarray(each, np.int64) for each in lists]))


def _int32(array):
    return np.ascontiguousarray(array, np.int32)
