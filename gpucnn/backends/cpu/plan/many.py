"""Several networks of one program: each is trained by one thread, in as many processes as there are
cores."""

import threading

import numpy as np

from gpucnn.backends.base import CompiledMany
from gpucnn.backends.cpu.plan.crews.choice import seconds_to_train
from gpucnn.backends.cpu.plan.online.training import OnlineStep
from gpucnn.backends.cpu.plan.remote import RemoteStep, is_clean
from gpucnn.backends.cpu.plan.training import CpuStep
from gpucnn.backends.cpu.process import can_start
from gpucnn.backends.cpu.workers import Workers, usable_threads

# Other processes are started when this much work has come: each needs half as long to start.
SECONDS_ALONE = 1.0


def compile_many(program, parameters, backend, threads):
    """A `CpuMany`, or None where more threads find work within the batches of one network."""
    at_once = min(len(parameters), usable_threads(threads)) if can_start() else 1
    alone = compile_step(program, *_own_arrays(parameters[0]), backend, threads).threads or 1
    return CpuMany(program, parameters, backend, at_once) if at_once >= alone else None


def compile_step(program, parameters, gradients, backend, threads):
    """The `CpuStep` of a program: one sample at a time if its batches are that small."""
    if program.batch_size == 1:
        return OnlineStep(program, parameters, gradients, backend)
    return CpuStep(program, parameters, gradients, backend, threads)


class CpuMany(CompiledMany):
    """Workers take the next network that is left, and train it as alone.

    A worker is this process, one network after the other, as long as that takes but a moment by an
    estimate, and then `at_once` others. It has one step, with arrays of its own: a network's
    parameters are copied there and back, so that memory grows with the workers and not with the
    networks.
    """

    def __init__(self, program, parameters, backend, at_once):
        self._program = program
        self._parameters = parameters
        self._backend = backend
        self._at_once = at_once
        self._seconds = 0.0  # of all calls, if one network were trained after the other
        self._here = None
        self._remote = [None] * at_once
        self._workers = Workers(at_once)

    def explain(self, *, profile=False):
        how = "one after the other"
        if self._at_once > 1:
            how += f" for about {SECONDS_ALONE:g} s, then {self._at_once} at a time in processes"
        return (f"{len(self._parameters)} networks on cpu, {how}; each by this plan:\n"
                f"{self._own_step().explain(profile=profile)}")

    def train(self, images, labels, orders, shifts, scalars, states, losses, totals,
              progress=None):
        def train(step, number, progress):
            np.copyto(step.parameters, self._parameters[number])
            try:
                step.train(images, labels, orders[number],
                           None if shifts is None else shifts[number], scalars[number],
                           states[number], losses[number:number + 1], totals[number], progress)
            finally:
                np.copyto(self._parameters[number], step.parameters)
                if step is self._here and not is_clean(step, losses[number]):
                    self._here = None

        self._seconds += len(self._parameters) * seconds_to_train(self._program, orders.shape[1])
        if self._at_once > 1 and self._seconds > SECONDS_ALONE:
            self._train_remotely(train, progress)
            return
        for number in range(len(self._parameters)):
            train(self._own_step(), number, progress)

    def _train_remotely(self, train, progress):
        """Call train(step, number, progress) for every network, each process the next."""
        lock, errors = threading.Lock(), []

        def advance(samples):
            with lock:
                if errors:
                    raise _Stopped
                if progress is not None:
                    progress(samples)

        def train_next(worker, number):
            try:
                if self._remote[worker] is None:
                    self._remote[worker] = RemoteStep(compile_step, self._program,
                                                      self._parameters[0], self._backend)
                train(self._remote[worker], number, advance)
            except BaseException as error:  # an interrupt too: the others end at their next report
                self._remote[worker] = None
                errors.append(error)
                raise

        try:
            self._workers.run(train_next, len(self._parameters),
                              on_interrupt=lambda: errors.append(KeyboardInterrupt()))
        except _Stopped:
            raise errors[0] from None

    def _own_step(self):
        if self._here is None:
            self._here = compile_step(self._program, *_own_arrays(self._parameters[0]),
                                      self._backend, threads=1)
        return self._here


class _Stopped(Exception):
    """Another worker has ended with an error, which is the one that is raised."""


def _own_arrays(parameters):
    return np.empty_like(parameters), np.zeros_like(parameters)
