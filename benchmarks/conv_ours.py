"""This library's side of the convolutions: its backend's ops, with memory that is given."""

import contextlib

import numpy as np

from benchmarks.conv_cases import FORWARD, GRAD_INPUT, GRAD_WEIGHT
from benchmarks.conv_clocks import Calls, cupy_clock
from benchmarks.machine import blas_version
from benchmarks.precisions import FLOAT32, in_each_precision
from gpucnn import get_backend
from gpucnn.backends.base import Workspace
from gpucnn.backends.cpu.conv2d import conv2d_ways
from gpucnn.backends.cuda.conv2d_kernels.choice import conv2d_kernels

BACKWARD = "backward"


def settings(device, cores):
    """On a CPU one thread and all cores, samples first in memory, as NumPy's arrays are, and last,
    as layers keep them; on a GPU both precisions."""
    if device != "cpu":
        return in_each_precision({"ops": {}}, device)
    return {f"{threads} thread{'s' * (threads > 1)}, samples {order}":
            {"threads": threads, "samples_last": order == "last"}
            for threads in sorted({1, cores}) for order in ("first", "last")}


def seconds(measured):
    """Pass -> seconds, and their sum, from those of what is timed: one op gives both gradients, or
    that by the weights alone."""
    both, weight = measured[BACKWARD], measured[GRAD_WEIGHT]
    return {FORWARD: measured[FORWARD], GRAD_INPUT: max(0.0, both - weight), GRAD_WEIGHT: weight,
            "sum": measured[FORWARD] + both}


class Worker:
    """Computes cases; `load` one before anything else."""

    def __init__(self, device, threads=None, samples_last=False, precision=FLOAT32):
        self._backend = get_backend(device)
        self._threads = threads
        self._samples_last = samples_last
        self._precision = {} if precision == FLOAT32 else {"precision": precision}
        self._workspace = Workspace(self._backend)
        self._calls = Calls(cupy_clock(self._backend))

    def load(self, case):
        self._case = case
        values = case.arrays()
        table = case.table
        x, grad_output = (self._batch(values[name]) for name in ("x", "grad_output"))
        weight = self._backend.from_host(values["weight"])
        output, grad_input = self._batch(values["grad_output"]), self._batch(values["x"])
        grad_weight = self._backend.from_host(values["weight"])
        grad_bias = self._backend.zeros((table.out_maps,), x.dtype)
        options = {"stride": (1, 1), "padding": (0, 0), "activation": "identity",
                   "workspace": self._workspace} | self._precision

        def forward():
            self._backend.conv2d(x, weight, None, table, out=output, **options)

        def backward(needs_grad_input=True):
            self._backend.conv2d_backward(
                grad_output, output, x, weight, table, needs_grad_input=needs_grad_input,
                out=(grad_input if needs_grad_input else None, grad_weight, grad_bias), **options)

        self._work = {FORWARD: forward, GRAD_WEIGHT: lambda: backward(needs_grad_input=False),
                      BACKWARD: backward}
        self._results = {"output": output, GRAD_INPUT: grad_input, GRAD_WEIGHT: grad_weight}

    def results(self):
        """output, grad_input and grad_weight as NumPy arrays."""
        with self._limited():
            for work in self._work.values():
                work()
        return {name: self._backend.to_host(array) for name, array in self._results.items()}

    def count(self, seconds):
        """What is timed -> how many calls fill a window, and the seconds of one."""
        with self._limited():
            return {name: self._calls.count(work, seconds)
                    for name, work in self._work.items()}

    def measure(self, counts):
        """What is timed -> seconds of one of so many calls."""
        with self._limited():
            return {name: self._calls.seconds(work, counts[name])
                    for name, work in self._work.items()}

    def ways(self):
        """Pass -> the name of the kernel, or on a CPU of the way, that computes it."""
        shape = self._case.shape
        arguments = ((shape.samples, shape.in_maps, shape.size, shape.size),
                     (shape.kernel, shape.kernel), self._case.table)
        if self._backend.device == "cpu":
            return {name: found[0].name for name, found in conv2d_ways(*arguments).items()}
        return {choice.op: choice.name for choice in conv2d_kernels(
            self._backend.runtime.profile, *arguments, **self._precision)}

    def versions(self):
        from gpucnn import __version__
        return {"gpucnn": __version__, "NumPy": np.__version__, "BLAS": blas_version()}

    def _batch(self, values):
        if self._samples_last:
            array = self._backend.empty_batch(values.shape, values.dtype)
            self._backend.copy(self._backend.from_host(values), array)
            return array
        return self._backend.from_host(values)

    def _limited(self):
        """So many threads of NumPy's products, and so of the ops."""
        if self._threads is None:
            return contextlib.nullcontext()
        from threadpoolctl import threadpool_limits
        return threadpool_limits(self._threads, user_api="blas")
