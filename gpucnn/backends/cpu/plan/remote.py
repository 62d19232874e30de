"""Training steps in processes of their own: Python's interpreter runs one thread at a time, and the
NumPy calls of a small network are too short for threads to overlap.

A process is a fresh interpreter, not a fork, and runs nothing of the caller's program. It takes
messages by a pipe: a program, then data and epochs to train. It ends when its pipe is closed.
"""

import os
import pickle
import subprocess
import sys
import time
import weakref
from contextlib import suppress

import numpy as np

from gpucnn.errors import DeviceError

COMMAND = "from gpucnn.backends.cpu.plan.remote import serve; serve()"
SECONDS_BETWEEN_REPORTS = 0.1


def can_start():
    """Whether this process can start others: an application frozen into one file cannot."""
    return bool(sys.executable) and not getattr(sys, "frozen", False)


def is_clean(step, loss):
    """Whether a step may train another network: NaN and infinity stay in its memory, where zeros
    are multiplied with them."""
    return np.isfinite(loss) and np.isfinite(step.parameters).all()


class RemoteStep:
    """A `CpuStep` with one thread in a process of its own; here are the arrays that it trains.

    make: what makes it there, from `program`, two flat arrays like `parameters` and `backend`.
    """

    def __init__(self, make, program, parameters, backend):
        self.parameters = np.empty_like(parameters)
        self._images = None
        # Interpreters import what this one can, and nothing from the working directory.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen([sys.executable, "-P", "-c", COMMAND], env=environment,
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         start_new_session=True)  # Ctrl-C is for the caller alone
        self._end = weakref.finalize(self, _end, self._process)
        self._send((make, program, self.parameters, backend))

    def train(self, images, labels, order, shifts, scalars, state, loss, totals, progress=None):
        """See `CompiledStep.train`."""
        try:
            data = None if images is self._images else (images, labels)
            self._images = images
            self._send((data, self.parameters, order, shifts, scalars, state))
            while isinstance(reply := self._receive(), int):
                if progress is not None:
                    progress(reply)
        except BaseException:  # its next reply would be to what has been given up
            self._end()
            raise
        np.copyto(self.parameters, reply["parameters"])
        for name, array in state.items():
            np.copyto(array, reply["state"][name])
        loss[0] = reply["loss"]
        totals += reply["totals"]

    def _send(self, message):
        try:
            _write(self._process.stdin, message)
        except OSError:
            self._complain()

    def _receive(self):
        try:
            return pickle.load(self._process.stdout)
        except (EOFError, pickle.UnpicklingError):
            self._complain()

    def _complain(self):
        self._process.kill()
        raise DeviceError(f"cpu: expected a process that trains networks to go on, got its end "
                          f"(exit code {self._process.wait()})")


def _end(process):
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def _write(pipe, message):
    pickle.dump(message, pipe, protocol=5)
    pipe.flush()


def serve():
    """What a process runs: train what comes by standard input until that is closed."""
    with suppress(EOFError, BrokenPipeError):  # the caller has ended
        _serve()


def _serve():
    incoming, outgoing, sys.stdout = sys.stdin.buffer, sys.stdout.buffer, sys.stderr
    make, program, parameters, backend = pickle.load(incoming)
    report = _Report(outgoing)
    images = labels = step = None
    with np.errstate(all="ignore"):  # the caller looks at the loss
        while True:
            data, values, order, shifts, scalars, state = pickle.load(incoming)
            images, labels = data or (images, labels)
            if step is None:
                step = make(program, parameters, np.zeros_like(parameters), backend, threads=1)
            np.copyto(parameters, values)
            loss, totals = np.zeros(1, parameters.dtype), np.zeros(3)
            step.train(images, labels, order, shifts, scalars, state, loss, totals, report.advance)
            report.flush()
            _write(outgoing, {"parameters": parameters, "state": state, "loss": loss[0],
                              "totals": totals})
            if not is_clean(step, loss[0]):
                step = None


class _Report:
    """Numbers of samples on their way to the caller, not more often than it can draw them."""

    def __init__(self, pipe):
        self._pipe = pipe
        self._waiting = 0
        self._next = 0.0

    def advance(self, samples):
        self._waiting += samples
        if time.monotonic() >= self._next:
            self.flush()

    def flush(self):
        _write(self._pipe, self._waiting)
        self._waiting = 0
        self._next = time.monotonic() + SECONDS_BETWEEN_REPORTS
