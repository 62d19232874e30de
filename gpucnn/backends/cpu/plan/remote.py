"""Training steps in processes of their own: one network each."""

import pickle
import time

import numpy as np

from gpucnn.backends.cpu.process import Process, serving, write
from gpucnn.errors import DeviceError

SECONDS_BETWEEN_REPORTS = 0.1


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
        self._process = Process(__name__)
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
            self._process.end()
            raise
        np.copyto(self.parameters, reply["parameters"])
        for name, array in state.items():
            np.copyto(array, reply["state"][name])
        loss[0] = reply["loss"]
        totals += reply["totals"]

    def _send(self, message):
        try:
            self._process.send(message)
        except OSError:
            self._complain()

    def _receive(self):
        try:
            return self._process.receive()
        except (EOFError, pickle.UnpicklingError):
            self._complain()

    def _complain(self):
        self._process.end()
        raise DeviceError(f"cpu: expected a process that trains networks to go on, got its end "
                          f"(exit code {self._process.exit_code})")


def serve():
    """What a process runs: train what comes until there is no more."""
    with serving() as (incoming, outgoing), np.errstate(all="ignore"):  # the caller looks at losses
        make, program, parameters, backend = pickle.load(incoming)
        report = _Report(outgoing)
        images = labels = step = None
        while True:
            data, values, order, shifts, scalars, state = pickle.load(incoming)
            images, labels = data or (images, labels)
            if step is None:
                step = make(program, parameters, np.zeros_like(parameters), backend, threads=1)
            np.copyto(parameters, values)
            loss, totals = np.zeros(1, parameters.dtype), np.zeros(3)
            step.train(images, labels, order, shifts, scalars, state, loss, totals, report.advance)
            report.flush()
            write(outgoing, {"parameters": parameters, "state": state, "loss": loss[0],
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
        write(self._pipe, self._waiting)
        self._waiting = 0
        self._next = time.monotonic() + SECONDS_BETWEEN_REPORTS
