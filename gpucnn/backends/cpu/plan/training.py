"""Training steps: micro-batches over worker threads, or over processes."""

from functools import partial

import numpy as np

from gpucnn.backends.base import CompiledStep
from gpucnn.backends.cpu.plan.crews.choice import Crews
from gpucnn.backends.cpu.plan.crews.crew import Threads
from gpucnn.backends.cpu.plan.crews.team import TeamEnded
from gpucnn.backends.cpu.plan.crews.work import Work
from gpucnn.backends.cpu.plan.explain import explain
from gpucnn.backends.cpu.plan.lanes import Lanes, TrainingLane, micro_batch, shares
from gpucnn.backends.cpu.plan.lowering import lower
from gpucnn.backends.cpu.plan.step import parts
from gpucnn.backends.cpu.threads import can_limit_blas, one_blas_thread
from gpucnn.backends.cpu.workers import usable_threads

MOST_GROUPS = 8


class CpuStep(CompiledStep):
    """A training step of a `Program`, on the flat arrays of a network's parameters and gradients.

    A batch is divided into parts of at most `micro_batch` samples, a number that the network alone
    determines. Neighbouring parts form at most `MOST_GROUPS` groups; a worker adds up the gradients
    of one group, and the groups are added in order. So the result does not depend on the workers,
    threads or processes.
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
        self.groups = len(_groups(len(pieces)))
        crew = Threads(usable_threads(threads), self.groups, len(pieces),
                       self.lowering.gradient_size, parameters.dtype)
        self._crews = Crews(CpuStep, program, parameters, backend, crew)
        self._sums = crew.sums[0]
        for step, place in zip(self.lowering.steps, self.lowering.places(), strict=True):
            step.bind_parameters(parameters)
            step.bind_gradients(self._sums[place], gradients)
        self.new_lane = partial(TrainingLane, self.lowering, dtype=parameters.dtype,
                                input_range=program.input_range, loss=program.loss,
                                backend=backend)  # for parts of a number of samples
        self._lanes = Lanes(self.new_lane)

    @property
    def threads(self):
        """How many threads work on a step; None where BLAS could not be held to one."""
        return self._crews.threads.threads if can_limit_blas() else None

    @property
    def processes(self):
        """How many processes take the threads' place in training that lasts; 1 if none do."""
        return self._crews.processes

    def explain(self, *, profile=False):
        with one_blas_thread(always=True):
            return explain(self, profile)

    def train(self, images, labels, order, shifts, scalars, state, loss, totals, progress=None):
        work = Work(images, labels, order, shifts, scalars, self.program.batch_size)
        with one_blas_thread(always=True), self._crews.at_work():
            for number in range(work.batches):
                crew = self._crews.next(work, number, state)
                try:
                    of_batch, samples = self._train_batch(crew, work, number, state)
                except TeamEnded as error:
                    self._crews.lose_team(error)
                    of_batch, samples = self._train_batch(self._crews.threads, work, number, state)
                loss[0] = of_batch[0] / samples
                totals += of_batch
                if progress is not None:
                    progress(samples)

    def follow(self, crew, work, state):
        """Train as one of a team on what all of it train on."""
        for number in range(work.batches):
            self._train_batch(crew, work, number, state)

    def _train_batch(self, crew, work, number, state):
        """(totals, samples) of one batch."""
        order, shifts, scalars = work.batch(number)
        totals = self._add_up(crew, work, order, shifts)
        self.program.optimizer.update(self.backend, self.parameters, self.gradients, state, scalars)
        return totals, len(order)

    def _add_up(self, crew, work, order, shifts):
        """Compute the gradients of one batch; returns its totals."""
        for step in self.lowering.steps:
            step.prepare()
        pieces = shares(len(order), self.micro_batch)
        groups = _groups(len(pieces))
        sums, totals = crew.sums, crew.totals

        def add_up(worker, group):
            for number in range(groups[group].start, groups[group].stop):
                piece = pieces[number]
                lane = self._lanes.get(worker, piece.stop - piece.start)
                totals[number] = 0
                lane.train(work.images, work.labels, order[piece],
                           None if shifts is None else shifts[piece], len(order), sums[group],
                           number == groups[group].start, totals[number])

        crew.run(add_up, len(groups))
        if len(groups) > 1 or crew is not self._crews.threads:  # whose first sums are ours
            _add_in_order(sums[:len(groups)], self._sums)
        for step in self.lowering.steps:
            step.finish()
        return totals[:len(pieces)].sum(axis=0)


def _add_in_order(sums, out):
    """Add up the sums of all groups, one after the other; `out` may be the first of them."""
    if len(sums) == 1:
        np.copyto(out, sums[0])
        return
    np.add(sums[0], sums[1], out=out)
    for other in sums[2:]:
        out += other


def _groups(pieces):
    """Slices of neighbouring parts, at most `MOST_GROUPS` of them."""
    return parts(pieces, -(-pieces // MOST_GROUPS))
