"""A training step in few launches: `CudaStep`, what the backend compiles a `Program` to."""

from dataclasses import replace

import numpy as np

from gpucnn.backends.base import CompiledStep
from gpucnn.backends.cuda.plan import update
from gpucnn.backends.cuda.plan.explain import explain
from gpucnn.backends.cuda.plan.group import plan_group
from gpucnn.backends.cuda.plan.grouping import chain_for, partition
from gpucnn.backends.cuda.plan.parts import (
    Arrays,
    Batch,
    GroupPart,
    LayerPart,
    sections_of,
    with_places,
)

GRAPH_STEPS = 16  # of a captured graph, an even number: steps take turns with two numbers
STEPS_BEFORE = 2  # an even number of steps outside graphs, which bring all memory and kernels in


class CudaStep(CompiledStep):
    """Parts in a row, forward; back in reverse; then the update.

    Whatever changes from step to step lies on the device: `numbers` holds the number of the batch
    within `order`, `shifts` and `scalars`, and the update advances it. Two such numbers take turns,
    so that nobody reads the one that is being written. So the same launches, captured in a graph,
    go through a whole epoch.
    """

    def __init__(self, program, parameters, gradients, backend):
        self.program = program
        self.backend = backend
        self.parameters = parameters
        self.gradients = gradients
        profile = backend.runtime.profile
        self.remarks = []
        self.precision = self._usable_precision(profile)
        self.parts = self._build_parts(profile)
        self._allocate(profile)
        last = self.parts[-1].planned
        self.update = update.Update(
            backend, program.dtype,
            [section for part in self.parts for section in sections_of(part, profile)],
            program.optimizer, program.batch_size, self.precision,
            totals=update.BlockTotals(last.blocks(profile), last.samples))
        backend.kernels.prepare_all([source for part in self.parts if isinstance(part, GroupPart)
                                     for source in part.sources()] + self.update.sources())
        self._graph = None
        self._graph_key = ()
        self._own = {}

    @property
    def groups(self):
        """The parts that are groups of layers."""
        return [part for part in self.parts if isinstance(part, GroupPart)]

    def explain(self, *, profile=False):
        return explain(self, profile)

    def train(self, images, labels, order, shifts, scalars, state, loss, totals, progress=None):
        size, samples = self.program.batch_size, len(order)
        images, labels = (self.backend.contiguous(array, name, None)
                          for array, name in ((images, "images"), (labels, "labels")))
        self.backend.zero(self._numbers)
        replayed = max(0, samples // size - STEPS_BEFORE) // GRAPH_STEPS
        if replayed:
            order, shifts, scalars = (self._owned(name, array) for name, array in (
                ("order", order), ("shifts", shifts), ("scalars", scalars)))
        batch = Batch(images, labels, order, shifts, None, size)

        def launch(numbers):
            for number in numbers:
                here = min(size, samples - number * size)
                self.launch(replace(batch, samples=here), number, scalars, state, loss, totals)
                if progress is not None:
                    progress(here)

        behind = 0
        if replayed:
            launch(range(STEPS_BEFORE))
            self._replay(batch, scalars, state, loss, totals, replayed, progress)
            behind = STEPS_BEFORE + replayed * GRAPH_STEPS
        launch(range(behind, -(-samples // size)))

    def launch(self, batch, number, scalars, state, loss, totals):
        """One step on batch `number` of an epoch; `batch` has no number yet."""
        here, there = self._numbers[number % 2:][:1], self._numbers[1 - number % 2:][:1]
        batch = replace(batch, number=here)
        samples, last = batch.samples, len(self.parts) - 1
        values = [None if array is None else array[:samples] for array in self.values]
        grads = [None if array is None else array[:samples] for array in self.grads]
        for place, part in enumerate(self.parts[:-1]):
            part.forward(batch, values[place], values[place + 1])
        for place in range(last, self.first_trained - 1, -1):
            self.parts[place].backward(batch, values[place], grads[place + 1], grads[place],
                                       values[place + 1])
        self.update.launch(self.parameters, self.gradients, state, self.arrays.partials,
                           self.arrays.saved, self.arrays.block_totals, here, there, scalars,
                           loss, totals, samples)

    # -- how it is built -----------------------------------------------------------------------

    def _usable_precision(self, profile):
        wanted = self.program.precision
        if wanted == "tf32" and profile.compute_capability < (8, 0):
            self.remarks.append("tf32 needs tensor cores of compute capability 8.0, this device "
                                "has {}.{}: everything is float32".format(
                                    *profile.compute_capability))
            return "float32"
        return wanted

    def _build_parts(self, profile):
        program = self.program
        places = partition(program, profile)
        groups, self._sizes = with_places(
            [plan_group(chain_for(program, *place), program, profile) for place in places
             if isinstance(place, tuple)], profile)
        groups = iter(groups)
        parts = []
        for place in places:
            if isinstance(place, tuple):
                parts.append(GroupPart(self.backend, next(groups), program))
            elif program.layers[place].op != "flatten":
                parts.append(LayerPart(self.backend, program.layers[place], self.parameters,
                                       self.gradients, np.dtype(program.dtype), self.precision))
        return parts

    def _allocate(self, profile):
        """The arrays between parts, and what they leave behind for the update."""
        backend, dtype, most = self.backend, np.dtype(self.program.dtype), self.program.batch_size

        def empty(size, dtype=dtype):
            return backend.empty((size,), dtype) if size else None

        def between():
            inputs = [_input_shape(part) for part in self.parts[1:]]
            return [None, *(backend.empty((most, *shape), dtype) for shape in inputs), None]

        self.values, self.grads = between(), between()
        self.first_trained = 0
        if not self.parts[0].planned.chain.links and len(self.parts) > 1:
            self.first_trained = 1  # nothing of a group that only gathers
            self.grads[1] = None
        blocks = self.parts[-1].planned.blocks(profile)
        self.arrays = Arrays(self.parameters, self.gradients, *map(empty, self._sizes),
                              backend.empty((blocks, 3), np.float64))
        for part in self.groups:
            part.arrays = self.arrays
        self._numbers = backend.from_host(np.zeros(2, np.int32))

    # -- graphs --------------------------------------------------------------------------------

    def _owned(self, name, array):
        """A copy of `array` at an address that stays from one epoch to the next."""
        if array is None:
            return None
        own = self._own.get(name)
        if own is None or len(own) < len(array):
            own = self._own[name] = self.backend.empty(array.shape, array.dtype)
        self.backend.copy(array, own[:len(array)])
        return own

    def _replay(self, batch, scalars, state, loss, totals, times, progress):
        """Run a graph of `GRAPH_STEPS` whole batches so many times. Losses and errors are added to
        an array of the plan's own, whose address the graph knows."""
        if "totals" not in self._own:
            self._own["totals"] = self.backend.zeros((3,), np.float64)
            self._own["loss"] = self.backend.empty((1,), np.dtype(self.program.dtype))
        own, own_loss = self._own["totals"], self._own["loss"]
        self.backend.copy(totals, own)
        key = (batch.images, batch.labels, batch.order, batch.shifts, scalars,
               *state.values())
        if self._graph is None or len(key) != len(self._graph_key) or any(
                one is not other for one, other in zip(key, self._graph_key, strict=True)):
            self._graph_key = key
            self._graph = self.backend.runtime.capture(lambda: [
                self.launch(batch, number, scalars, state, own_loss, own)
                for number in range(GRAPH_STEPS)])
        for _ in range(times):
            self._graph.launch()
            if progress is not None:
                progress(GRAPH_STEPS * self.program.batch_size)
        self.backend.copy(own, totals)
        self.backend.copy(own_loss, loss)


def _input_shape(part):
    """The shape of one sample's input of a part."""
    if isinstance(part, LayerPart):
        return part.layer.input_shape
    return part.planned.chain.boundaries[0].shape

