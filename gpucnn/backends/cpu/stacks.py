"""Groups of maps that are computed by one call."""

import numpy as np

# Of columns that are made at once. It is more than a core's L2 cache, since between NumPy's calls
# threads wait for each other.
COLUMN_BYTES = 3 * 1024 * 1024


class Stack:
    """Some groups: their `matrices` (groups, outputs * pixels of a cell, inputs * pixels of a
    window), those of `part` of the `Groups` with this `number`; their maps, an index of `inputs`,
    a slice where no copy is needed, and of `outputs` if these lie together; and the `place` of
    their inputs among the sums that are the gradient by them."""

    def __init__(self, groups, number, part, matrices, place=None):
        self.number = number
        self.part = part
        self.matrices = matrices[part]
        self.n_inputs = groups.connections.shape[2]
        self.output_maps = groups.outputs[part].reshape(-1)
        count = part.stop - part.start
        if count == 1:
            self.inputs = groups.input_indices[part.start]
            self.outputs = groups.output_indices[part.start]
        else:
            every = count == len(groups.inputs)
            self.inputs = groups.input_run if every else None
            self.outputs = groups.output_run if every else None
        if self.inputs is None:
            self.inputs = groups.inputs[part].reshape(-1)
        if not isinstance(self.outputs, slice):
            self.outputs = None
        self.place = self.inputs if place is None else place


def reading_stacks(products, samples):
    """`ColumnProducts` as stacks for blocks of so many samples: all groups of a shape where their
    inputs lie together, else as many as keep their columns within `COLUMN_BYTES`."""
    return [Stack(groups, number, part, matrices)
            for number, groups, matrices in _numbered(products)
            for part in _parts(groups, _at_once(products, products.columns.row_numbers, groups,
                                                matrices, samples))]


def adding_stacks(products, samples, maps):
    """(stacks that add the gradient by the input to sums, the maps, of so many, in the order of the
    sums, or None where it is their own). Where an input is in several groups, each group adds by
    itself."""
    if not products.inputs_are_apart:
        return [Stack(groups, number, part, matrices)
                for number, groups, matrices in _numbered(products)
                for part in _parts(groups, 1)], None
    if products.reads_any_strides:
        return reading_stacks(products, samples), None
    stacks, order = [], []
    for number, groups, matrices in _numbered(products):
        for part in _parts(groups, _at_once(products, products.columns.grad_row_numbers, groups,
                                            matrices, samples)):
            inputs = groups.inputs[part].reshape(-1)
            place = slice(len(order), len(order) + len(inputs))
            stacks.append(Stack(groups, number, part, matrices, place))
            order += inputs.tolist()
    return stacks, np.array([*order, *np.setdiff1d(np.arange(maps), order)])


def _numbered(products):
    return zip(range(len(products.groups)), products.groups, products.matrices, strict=True)


def _at_once(products, row_numbers, groups, matrices, samples):
    """How many groups of a shape are computed at once."""
    if groups.input_run is not None:
        return len(matrices)
    height, width = products.columns.out_size
    numbers = row_numbers(groups.connections.shape[2]) + matrices.shape[1] * width
    return max(1, COLUMN_BYTES // (numbers * height * samples * matrices.itemsize))


def _parts(groups, at_once):
    count = len(groups.inputs)
    return [slice(first, min(first + at_once, count)) for first in range(0, count, at_once)]
