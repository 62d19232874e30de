"""Outputs of any number of images: the forward steps, micro-batches over worker threads."""

import threading
from functools import partial

import numpy as np

from gpucnn.backends.base import CompiledOutputs
from gpucnn.backends.cpu.plan.lanes import InferenceLane, Lanes, micro_batch, shares
from gpucnn.backends.cpu.plan.lowering import lower
from gpucnn.backends.cpu.threads import one_blas_thread
from gpucnn.backends.cpu.workers import Workers, usable_threads


class CpuOutputs(CompiledOutputs):
    """The forward pass of a chain of layers. Threads that ask for outputs at the same time wait for
    one another."""

    def __init__(self, layers, input_shape, input_range, parameters, threads):
        dtype = parameters.dtype
        self._lowering = lower(layers, input_shape, dtype)
        for step in self._lowering.steps:
            step.bind_parameters(parameters)
        self._micro_batch = micro_batch(self._lowering.steps, dtype.itemsize)
        self._workers = Workers(usable_threads(threads))
        self._lanes = Lanes(partial(InferenceLane, self._lowering, dtype=dtype,
                                    input_range=input_range))
        self._lock = threading.Lock()

    def outputs(self, images, out):
        pieces = shares(len(images), self._micro_batch)

        def compute(worker, number):
            piece = pieces[number]
            lane = self._lanes.get(worker, piece.stop - piece.start)
            maps = lane.forward(images, piece)[:, 0, 0, 0, 0]
            out[piece] = np.moveaxis(maps, -1, 0).reshape(out[piece].shape)

        with self._lock, one_blas_thread(always=True):
            for step in self._lowering.steps:
                step.prepare()
            self._workers.run(compute, len(pieces))
