"""A network's parameters, gradients and optimiser state in the order in which steps want them."""

from functools import partial
from math import prod

import numpy as np

from gpucnn.backends.cpu.memory import padded, zeros
from gpucnn.backends.cpu.plan.step import slot_of


class Block:
    """A parameter as a part of a step's array: `place` indexes that, and there, in row-major order,
    are the parameter's numbers as an array of `shape` whose axes are put in the order `axes`."""

    def __init__(self, place, slot, shape, axes=None):
        self._place, self._slot, self._shape = place, slot, shape
        self._axes = axes or range(len(shape))

    def copies(self, own, flat):
        """(a call that copies from a network's flat array to a step's, one that copies back)."""
        networks = slot_of(self._slot, flat).reshape(self._shape).transpose(self._axes)
        part = own[self._place].reshape(networks.shape, copy=False)
        return partial(np.copyto, part, networks), partial(np.copyto, networks, part)


class Scattered:
    """A parameter that lies apart in a step's array: `index` has the shape of the array and says
    for each number which of the parameter's it is, -1 for none, where there are zeros."""

    def __init__(self, index, slot):
        self._slot = slot
        held = np.flatnonzero(index.reshape(-1) >= 0)
        self._places = np.empty(slot.size, np.intp)
        self._places[index.reshape(-1)[held]] = held

    def copies(self, own, flat):
        """(a call that copies from a network's flat array to a step's, one that copies back)."""
        networks, own = slot_of(self._slot, flat), own.reshape(-1)
        return (partial(own.__setitem__, self._places, networks),
                partial(np.take, own, self._places, out=networks, mode="clip"))


class OwnParameters:
    """The parameters of the steps, one step's behind the other's: `load` copies a network's flat
    arrays here, `store` copies back.

    `values` and `gradients` are the steps' arrays, None for steps without.
    """

    def __init__(self, steps, dtype):
        self._steps = steps
        size = sum(padded(prod(step.shape)) for step in steps if step.shape)
        self.flat, self.flat_gradients = zeros((size,), dtype), zeros((size,), dtype)
        self.state = {}
        self.values, self.gradients = self._arrays(self.flat), self._arrays(self.flat_gradients)
        self._copies = {}

    def _arrays(self, flat):
        """Each step's part of a flat array."""
        arrays, first = [], 0
        for step in self._steps:
            if step.shape is None:
                arrays.append(None)
                continue
            count = prod(step.shape)
            arrays.append(flat[first:first + count].reshape(step.shape))
            first += padded(count)
        return arrays

    def load(self, parameters, state):
        """Take a network's parameters, and the optimiser's arrays by name."""
        for name, array in state.items():
            if name not in self.state:
                self.state[name] = zeros(self.flat.shape, self.flat.dtype)
            self._fill(self.state[name], array)
        self._fill(self.flat, parameters)

    def store(self, parameters, gradients, state):
        """Bring them back, and the gradients of the last sample."""
        self._copy(self.flat, parameters, back=True)
        self._copy(self.flat_gradients, gradients, back=True)
        for name, array in state.items():
            self._copy(self.state[name], array, back=True)

    def _fill(self, own, networks):
        own.fill(0)  # where nothing is joined training that diverged has left NaN
        self._copy(own, networks, back=False)

    def _copy(self, own, networks, *, back):
        """Copy between two flat arrays, by calls that are kept as long as the arrays stay these."""
        kept, copies = self._copies.get(id(own), (None, None))
        if kept is not networks:
            copies = list(zip(*(part.copies(array, networks)
                                for step, array in zip(self._steps, self._arrays(own), strict=True)
                                for part in step.parts), strict=True)) or [(), ()]
            self._copies[id(own)] = networks, copies
        for copy in copies[back]:
            copy()
