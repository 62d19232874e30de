"""A side's worker in a process of its own: it answers questions, and times itself."""

import multiprocessing
import time
import traceback
from contextlib import suppress

from benchmarks.precisions import precision_of
from benchmarks.sides import BenchmarkError, side
from gpucnn.errors import GpucnnError


class Process:
    """A side's trainer or predictor in a process of its own, idle until it is asked."""

    def __init__(self, name, setting, keywords, task):
        self.name = name
        self.setting = setting
        self.precision = precision_of(keywords)
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, name, keywords, task),
                                        daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, command, *arguments):
        """The answer to a command: a method of the worker, or "warm_up" or "window", which are
        `_Clock`'s."""
        try:
            # A process that has failed says why before it closes its end.
            with suppress(BrokenPipeError):
                self._connection.send((command, arguments))
            worked, answer = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            raise BenchmarkError(f"{self.name}, {self.setting}: the process ended with exit code "
                                 f"{self._process.exitcode}") from None
        if not worked:
            raise BenchmarkError(answer)
        return answer

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._connection.close()
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()


def _serve(connection, name, keywords, task):
    """A side's process: build the worker, answer commands until the connection closes."""
    try:
        worker = task.worker(side(name), keywords)
        clock = _Clock(worker, getattr(worker, "unit", task.unit))
        while True:
            command, arguments = connection.recv()
            answerer = clock if command in ("warm_up", "window") else worker
            connection.send((True, getattr(answerer, command)(*arguments)))
    except (EOFError, KeyboardInterrupt):
        pass
    except (BenchmarkError, GpucnnError) as error:
        _tell(connection, str(error))
    except Exception:
        _tell(connection, f"{name} failed:\n{traceback.format_exc()}")


def _tell(connection, problem):
    """Report a problem, unless the comparison has ended with another side's."""
    with suppress(BrokenPipeError):
        connection.send((False, problem))


class _Clock:
    """Times a worker's windows, each of a multiple of `unit` samples."""

    def __init__(self, worker, unit):
        self._worker = worker
        self._unit = unit

    def window(self, samples):
        """Seconds for working on `samples`."""
        start = time.perf_counter()
        self._worker.run(samples)
        return time.perf_counter() - start

    def warm_up(self, seconds):
        """Work in growing windows up to about half of `seconds`; the samples that fill one."""
        self.window(self._unit)  # whatever is compiled or allocated at first is not to be counted
        units = 1
        while (elapsed := self.window(units * self._unit)) < seconds / 2:
            units *= 2
        return self._unit * max(1, round(units * seconds / elapsed))
