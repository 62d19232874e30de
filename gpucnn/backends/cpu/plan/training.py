"""Training steps: micro-batches over worker threads."""

import numpy as np

from gpucnn.backends.base import CompiledStep
from gpucnn.backends.cpu.plan.explain import explain
from gpucnn.backends.cpu.plan.lanes import Lanes, TrainingLane, micro_batch, shares
from gpucnn.backends.cpu.plan.lowering import lower
from gpucnn.backends.cpu.plan.step import parts
from gpucnn.backends.cpu.threads import can_limit_blas, one_blas_thread
from gpucnn.backends.cpu.workers import Workers, usable_threads

MOST_GROUPS = 8


class CpuStep(CompiledStep):
    """A training step of a `Program`, on the flat arrays of a network's parameters and gradients.

    A batch is divided into parts of at most `micro_batch` samples, a number that the network alone
    determines. Neighbouring parts form at most `MOST_GROUPS` groups; a worker adds up the gradients
    of one group, and the groups are added in order. So the result does not depend on the threads.
    """

    def __init__(self, program, parameters, gradients, backend, threads):
        self.program = program
        self.parameters = parameters
        self.backend = backend
        self.gradients = gradients
        self.lowering = lower(program.layers, program.input_shape, parameters.dtype)
        self.micro_batch = micro_batch(self.lowering.steps, parameters.itemsize)
        pieces = shares(program.batch_size, self.micro_batch)
        self.largest_part = max(piece.stop - piece.start for piece in pieces)
        most = len(pieces)
        groups = len(_groups(most))
        self._workers = Workers(min(groups, usable_threads(threads)))
        self.sums = np.zeros((groups, self.lowering.gradient_size), parameters.dtype)
        for step, place in zip(self.lowering.steps, self.lowering.places(), strict=True):
            step.bind_parameters(parameters)
            step.bind_gradients(self.sums[0, place], gradients)
        self._totals = np.zeros((most, 3))
        self._lanes = Lanes(self.new_lane)

    def new_lane(self, samples):
        """The memory and runs for parts of so many samples."""
        program = self.program
        return TrainingLane(self.lowering, samples, self.parameters.dtype, program.input_range,
                            program.loss, self.backend)

    @property
    def threads(self):
        """How many threads work on a step; None where BLAS could not be held to one."""
        return self._workers.threads if can_limit_blas() else None

    def explain(self, *, profile=False):
        with one_blas_thread(always=True):
            return explain(self, profile)

    def train(self, images, labels, order, shifts, scalars, state, loss, totals, progress=None):
        size = self.program.batch_size
        with one_blas_thread(always=True):
            for number, first in enumerate(range(0, len(order), size)):
                batch = slice(first, min(first + size, len(order)))
                self._add_up(images, labels, order[batch],
                             None if shifts is None else shifts[batch], loss, totals)
                self.program.optimizer.update(self.backend, self.parameters, self.gradients,
                                              state, scalars[number])
                if progress is not None:
                    progress(batch.stop - batch.start)

    def _add_up(self, images, labels, order, shifts, loss, totals):
        """The gradients of one batch."""
        samples = len(order)
        for step in self.lowering.steps:
            step.prepare()
        pieces = shares(samples, self.micro_batch)
        groups = _groups(len(pieces))
        self._totals[:len(pieces)] = 0

        def add_up(worker, group):
            for number in range(groups[group].start, groups[group].stop):
                piece = pieces[number]
                lane = self._lanes.get(worker, piece.stop - piece.start)
                lane.train(images, labels, order[piece],
                           None if shifts is None else shifts[piece], samples, self.sums[group],
                           number == groups[group].start, self._totals[number])

        self._workers.run(add_up, len(groups))
        sums = self.sums[0]
        for other in self.sums[1:len(groups)]:
            sums += other
        for step in self.lowering.steps:
            step.finish()
        batch_totals = self._totals[:len(pieces)].sum(axis=0)
        loss[0] = batch_totals[0] / samples
        totals += batch_totals


def _groups(pieces):
    """Slices of neighbouring parts, at most `MOST_GROUPS` of them."""
    return parts(pieces, -(-pieces // MOST_GROUPS))
