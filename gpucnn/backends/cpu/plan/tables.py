"""A connection table as matrix products: which output maps share one, by an estimated cost."""

from dataclasses import dataclass

import numpy as np

# What an estimate counts with, in seconds, measured on one core of an AMD EPYC (family 25) and
# rounded; only their proportions matter.
MULTIPLY_ADD = 1 / 50e9
MOVED_NUMBER = 0.2e-9
RUN = 12e-9
CALL = 1.5e-6

CALLS_OF_A_PRODUCT = 8     # NumPy calls for one product, forward and backward
EXTRA_ROWS = 6             # a product takes as long as with so many more rows at full speed


@dataclass(frozen=True)
class Stack:
    """Products of one shape that are computed by one call: group g joins the input maps
    `inputs[g]` to the output maps `outputs[g]`, with zeros where they are not joined."""

    inputs: np.ndarray
    outputs: np.ndarray


@dataclass(frozen=True)
class Grouping:
    """A way to compute a table: stacks of products, and the estimated time of one sample."""

    name: str
    stacks: tuple[Stack, ...]
    seconds: float


def groupings(connections, windows, samples, *, first):
    """Every way that is considered, the cheapest first. `samples` share the cost of a call; nobody
    needs the gradient by the input of the `first` layer."""
    matrix = connections.matrix != 0
    everything = np.arange(connections.in_maps), np.arange(connections.out_maps)
    ways = {"one dense product": [everything],
            "a product for each separate part": _separate_parts(matrix),
            "a product for each set of inputs": _sets_of_inputs(matrix)}
    found, seen = [], set()
    for name, groups in ways.items():
        stacks = _stacked(groups)
        if len(groups) not in seen:  # fewer ways than names: a full table has one
            found.append(Grouping(name, stacks, _seconds(stacks, windows, samples, first)))
        seen.add(len(groups))
    return sorted(found, key=lambda way: way.seconds)


def runs(maps):
    """`maps`, ascending, as slices of evenly spaced ones, as few as a glance from left finds."""
    found, first = [], 0
    while first < len(maps):
        last = first + 1
        step = maps[last] - maps[first] if last < len(maps) else 1
        while last < len(maps) and maps[last] - maps[last - 1] == step:
            last += 1
        found.append(slice(int(maps[first]), int(maps[last - 1]) + 1, int(step)))
        first = last
    return found


def seconds_to_move(run_length):
    """The time that one number takes to be copied or added, in runs of `run_length` numbers."""
    return MOVED_NUMBER + RUN / run_length


def _seconds(stacks, windows, samples, first):
    """Products forward, by weights and by inputs; columns copied, written as gradients and added
    back."""
    products = 2 if first else 3
    seconds = 0.0
    pixels = windows.slab_rows[0] * windows.slab_rows[1]
    for stack in stacks:
        groups, n_inputs = stack.inputs.shape
        rows = stack.outputs.shape[1] * pixels
        numbers = n_inputs * windows.area
        seconds += (groups * numbers * windows.columns * products * (rows + EXTRA_ROWS)
                    * MULTIPLY_ADD)
        seconds += groups * n_inputs * _seconds_of_columns(windows, samples, first)
        if windows.lines:  # the gradient by the weights is that of each row of cells, added up
            seconds += 2 * groups * windows.cells[0] * rows * numbers * MOVED_NUMBER / samples
        seconds += CALLS_OF_A_PRODUCT * CALL / samples
    return seconds


def _seconds_of_columns(windows, samples, first):
    """For one input map's columns."""
    moved = seconds_to_move(windows.run_length(samples))
    numbers = windows.area * windows.columns
    if not windows.lines:
        return (1 if first else 3) * numbers * moved
    line_groups = windows.line_groups(windows.cells[0])
    lines = line_groups * (windows.area // windows.steps) * windows.cells[1]
    return lines * moved if first else 2 * numbers * MOVED_NUMBER + 2 * lines * moved


def _sets_of_inputs(matrix):
    """Output maps that see the same input maps, together."""
    sets, members = np.unique(matrix, axis=1, return_inverse=True)
    members = members.reshape(-1)
    return [(np.flatnonzero(sets[:, number]), np.flatnonzero(members == number))
            for number in range(sets.shape[1])]


def _separate_parts(matrix):
    """Maps that are joined by any path, together."""
    out_maps = matrix.shape[1]
    part = np.arange(out_maps)
    while True:
        lowest = np.where(matrix, part, out_maps).min(axis=1)  # of each input map
        joined = np.where(matrix, lowest[:, None], out_maps).min(axis=0)
        if np.array_equal(joined, part):
            break
        part = joined
    return [(np.flatnonzero(matrix[:, part == number].any(axis=1)), np.flatnonzero(part == number))
            for number in np.unique(part)]


def _stacked(groups):
    """Neighbouring groups of one shape and evenly spaced maps as one stack."""
    groups = sorted(groups, key=lambda group: (group[0].shape, group[1].shape, group[0][0]))
    stacks, first = [], 0
    while first < len(groups):
        last = first + 1
        while last < len(groups) and _continues(groups[first:last + 1]):
            last += 1
        stacks.append(Stack(np.stack([inputs for inputs, _ in groups[first:last]]),
                            np.stack([outputs for _, outputs in groups[first:last]])))
        first = last
    return tuple(stacks)


def _continues(groups):
    """Whether both sides of the groups are evenly spaced, within and from group to group, and no
    map belongs to two groups (their gradients would be added to one pixel at the same time)."""
    for side in (0, 1):
        maps = [group[side] for group in groups]
        if len({len(one) for one in maps}) > 1 or not evenly_spaced(np.stack(maps)):
            return False
        if len(np.unique(maps)) < np.size(maps):
            return False
    return True


def evenly_spaced(maps):
    """Whether maps (groups, count) are base + group * a + number * b with b > 0."""
    within, between = np.diff(maps, axis=1), np.diff(maps, axis=0)
    return bool((within == within[:1, :1]).all() and (between == between[:1, :1]).all()
                if within.size else (between == between[:1]).all())
