"""Threads that share the parts of a batch, or networks that are trained at once."""

import contextvars
import itertools
import os
import queue
import threading
import weakref

from gpucnn.backends.cpu.cores import cores
from gpucnn.backends.cpu.threads import can_limit_blas


def usable_threads(threads):
    """How many workers a plan has that was given `threads`, or None: as many as the process has
    cores. BLAS must be held to one thread meanwhile; where it cannot be, there is one worker."""
    if not can_limit_blas():
        return 1
    return threads or cores()


class Workers:
    """The calling thread and `threads` - 1 others, which sleep between calls."""

    def __init__(self, threads):
        self.threads = threads
        self._process = None
        self._jobs = []

    def run(self, task, count, *, on_interrupt=lambda: None):
        """Call task(worker, number) for every number below `count`, each worker the next one that
        is left. Returns when all have ended; raises the first error. NumPy's errstate, like all of
        the caller's context, holds in the others too. An interrupt while it waits for the others
        calls `on_interrupt`, and it waits on."""
        if min(self.threads, count) == 1:
            for number in range(count):
                task(0, number)
            return
        self._start()
        numbers, ended = itertools.count(), queue.SimpleQueue()
        others = self._jobs[:count - 1]
        for jobs in others:
            jobs.put((contextvars.copy_context(), task, numbers, count, ended))
        errors = [_work(task, 0, numbers, count)]
        while len(errors) <= len(others):  # also if interrupted: nobody works on behind our back
            try:
                errors.append(ended.get())
            except KeyboardInterrupt as interrupt:
                errors[0] = errors[0] or interrupt
                on_interrupt()
        for error in errors:
            if error is not None:
                raise error

    def _start(self):
        """Start the threads, again in a process that was forked since."""
        if self._process == os.getpid():
            return
        self._process = os.getpid()
        self._jobs = [queue.SimpleQueue() for _ in range(self.threads - 1)]
        for worker, jobs in enumerate(self._jobs, start=1):
            threading.Thread(target=_serve, args=(worker, jobs), daemon=True,
                             name=f"gpucnn worker {worker}").start()
            weakref.finalize(self, jobs.put, None)


def _serve(worker, jobs):
    """A thread: take jobs until there is None."""
    while (job := jobs.get()) is not None:
        context, task, numbers, count, ended = job
        ended.put(context.run(_work, task, worker, numbers, count))
        del job, context, task, numbers, ended  # a waiting thread holds nothing of its plan


def _work(task, worker, numbers, count):
    """Take numbers while some are left; the error that ended it, or None."""
    try:
        while (number := next(numbers)) < count:
            task(worker, number)
    except BaseException as error:
        return error
    return None
