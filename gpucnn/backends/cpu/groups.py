"""A connection table as groups of output maps that see the same input maps."""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

MOST_PADDING = 1.25  # the largest of groups that are computed as if all had its size


@dataclass(frozen=True, eq=False)
class Groups:
    """Groups of one shape: group g joins each input map of `inputs[g]` to each output map of
    `outputs[g]`. `connections[g]` (outputs, inputs) are the weights' numbers, and one more than the
    last number for a pair that is not joined."""

    inputs: np.ndarray
    outputs: np.ndarray
    connections: np.ndarray
    n_connections: int

    @cached_property
    def input_indices(self):
        """What picks each group's input maps: a slice where they are evenly spaced, since that
        needs no copy."""
        return [_as_slice(inputs) for inputs in self.inputs]

    @cached_property
    def output_indices(self):
        """The same of its output maps."""
        return [_as_slice(outputs) for outputs in self.outputs]

    @cached_property
    def input_run(self):
        """All groups' input maps, one group's after the other's, as a slice; None where they are
        not evenly spaced."""
        return _run(self.inputs)

    @cached_property
    def output_run(self):
        """The same of output maps."""
        return _run(self.outputs)

    @cached_property
    def is_full(self):
        """Whether all pairs are joined."""
        return bool((self.connections < self.n_connections).all())

    @cached_property
    def are_the_weights(self):
        """Whether the connections are all of them, in their own order."""
        return np.array_equal(self.connections.reshape(-1), np.arange(self.n_connections))

    def weights(self, weight):
        """(groups, outputs, inputs, kernel height, kernel width) from the table's weights, with
        zeros where nothing is joined."""
        shape = *self.connections.shape, *weight.shape[1:]
        if self.are_the_weights:
            return weight.reshape(shape)
        if not self.is_full:
            weight = np.concatenate([weight, np.zeros((1, *weight.shape[1:]), weight.dtype)])
        return np.take(weight, self.connections, axis=0)

    def put_gradient(self, gradient, grad_weight):
        """Write a gradient of the shape of `weights` where it belongs."""
        if self.are_the_weights:
            grad_weight[...] = gradient.reshape(grad_weight.shape)
        elif self.is_full:
            grad_weight[self.connections] = gradient
        else:
            pairs, numbers = self._joined
            grad_weight[numbers] = gradient.reshape(-1, *grad_weight.shape[1:])[pairs]

    @cached_property
    def _joined(self):
        """Which of all pairs are joined, and by which weights."""
        pairs = np.flatnonzero(self.connections < self.n_connections)
        return pairs, self.connections.reshape(-1)[pairs]

    def exchanged(self):
        """The same with inputs and outputs exchanged."""
        return Groups(self.outputs, self.inputs, self.connections.swapaxes(1, 2),
                      self.n_connections)


@lru_cache(maxsize=256)
def one_group(connections):
    """All maps in one group, with zeros where nothing is joined."""
    everything = [(np.arange(connections.in_maps), np.arange(connections.out_maps))]
    return (_groups(everything, *connections.pairs, connections.matrix.shape),)


@lru_cache(maxsize=256)
def one_group_of_outputs(connections):
    """The same with inputs and outputs exchanged, for the gradient by the input."""
    everything = [(np.arange(connections.out_maps), np.arange(connections.in_maps))]
    return (_groups(everything, *connections.pairs[::-1], connections.matrix.shape[::-1]),)


@lru_cache(maxsize=256)
def sets_of_inputs(connections):
    """A group for each distinct set of input maps, as `Groups` of one shape each."""
    return _sets(*connections.pairs, connections.matrix)


@lru_cache(maxsize=256)
def sets_of_outputs(connections):
    """The same of the table with inputs and outputs exchanged, for the gradient by the input. Input
    maps without outputs are in no group."""
    return _sets(*connections.pairs[::-1], connections.matrix.T)


@lru_cache(maxsize=256)
def inputs_of_one_set(connections):
    """A group for each distinct set of output maps, with the inputs that it is joined to: of these
    each is in one group, of the output maps in several. Sets of few sizes, as `merged`."""
    return merged([groups.exchanged() for groups in sets_of_outputs(connections)], "outputs")


@lru_cache(maxsize=256)
def sets_of_few_sizes(connections):
    """`sets_of_inputs`, `merged`."""
    return merged(sets_of_inputs(connections), "inputs")


def merged(many, side):
    """`Groups` of fewer shapes: those whose `side`, "inputs" or "outputs", has nearly as many maps
    have as many as the largest, one of their own several times and then joined to nothing. So
    there are fewer and longer calls. Groups whose inputs lie together stay as they are."""
    if all(groups.input_run is not None for groups in many):
        return tuple(many)
    axis = ("outputs", "inputs").index(side) + 1  # of the connections
    left = sorted(many, key=lambda groups: (groups.connections.shape[3 - axis],
                                            groups.connections.shape[axis]))
    found = []
    while left:
        shape = left[0].connections.shape
        alike = [groups for groups in left
                 if groups.connections.shape[3 - axis] == shape[3 - axis]
                 and groups.connections.shape[axis] <= MOST_PADDING * shape[axis]]
        found.append(_padded(alike, axis))
        left = left[len(alike):]
    return tuple(found)


def _padded(many, axis):
    """`Groups` of several shapes as one; `axis`: that of the connections in which they differ."""
    size = max(groups.connections.shape[axis] for groups in many)
    sides, connections = ([], []), []
    for groups in many:
        more = size - groups.connections.shape[axis]
        for side, maps in enumerate((groups.outputs, groups.inputs), start=1):
            width = (0, 0), (0, more * (side == axis))
            sides[side - 1].append(np.pad(maps, width, mode="edge"))
        width = (0, 0), (0, more * (axis == 1)), (0, more * (axis == 2))
        connections.append(np.pad(groups.connections, width,
                                  constant_values=groups.n_connections))
    outputs, inputs = map(np.concatenate, sides)
    return Groups(inputs, outputs, np.concatenate(connections), many[0].n_connections)


def _run(maps):
    run = _as_slice(maps.reshape(-1))
    return run if isinstance(run, slice) and run.step > 0 else None


def _as_slice(maps):
    step = int(maps[1] - maps[0]) if len(maps) > 1 else 1
    if (np.diff(maps) == step).all():
        return slice(int(maps[0]), int(maps[-1]) + 1, step)
    return maps


def _sets(inputs, outputs, matrix):
    sets, members = np.unique(matrix, axis=1, return_inverse=True)
    members = members.reshape(-1)
    by_shape = {}
    for number in range(sets.shape[1]):
        group = np.flatnonzero(sets[:, number]), np.flatnonzero(members == number)
        if len(group[0]):
            by_shape.setdefault(tuple(map(len, group)), []).append(group)
    return tuple(_groups(sorted(by_shape[shape], key=lambda group: tuple(group[1])),
                         inputs, outputs, matrix.shape) for shape in sorted(by_shape))


def _groups(groups, inputs, outputs, shape):
    numbers = np.full(shape, len(inputs))
    numbers[inputs, outputs] = np.arange(len(inputs))
    sides = (np.stack(maps) for maps in zip(*groups, strict=True))
    return Groups(*sides, np.stack([numbers[np.ix_(*group)].T for group in groups]), len(inputs))
