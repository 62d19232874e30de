"""How many threads work: those of a plan, and those within NumPy's matrix products."""

import contextlib
import functools
import os
import threading

THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS",
                    "VECLIB_MAXIMUM_THREADS", "OMP_NUM_THREADS")


def can_limit_blas():
    """Whether `one_blas_thread` can hold BLAS to one thread in every thread of the process: it
    takes threadpoolctl, and a BLAS that does not keep a number for each thread."""
    return _limit() is not None and _limit().holds_in_all_threads


def blas_threads():
    """How many threads NumPy's matrix products may use at the time, or None if it cannot be told
    (without threadpoolctl)."""
    return None if _limit() is None else _limit().threads


@contextlib.contextmanager
def one_blas_thread(*, always=False):
    """A context in which matrix products use one thread, if threadpoolctl is installed.

    The products of small networks are so short that a second thread brings little, and where other
    programs want the cores it costs many times what it brings. A number of threads that is set in
    the environment stands unless `always`: then it does not matter, for a plan that has threads of
    its own. The limit holds for the whole process while any of its threads is in such a context.
    """
    limit = _limit()
    stands = not always and any(name in os.environ for name in THREAD_VARIABLES)
    if limit is None or stands:
        yield
        return
    limit.enter()
    try:
        yield
    finally:
        limit.leave()


class _Limit:
    """The limit to one thread, set by the first that asks and lifted by the last that leaves. It
    sets threadpoolctl's libraries one by one: its contexts take ten times as long, as long as a
    small op."""

    def __init__(self, controller):
        self._libraries = [library for library in controller.lib_controllers
                           if library.user_api == "blas"]
        self.holds_in_all_threads = not any(
            library.internal_api == "openblas"
            and getattr(library, "threading_layer", None) == "openmp"
            for library in self._libraries)
        self._lock = threading.Lock()
        self._inside = 0
        self._before = []

    @property
    def threads(self):
        return max((library.num_threads or 1 for library in self._libraries), default=1)

    def enter(self):
        with self._lock:
            if self._inside == 0:
                self._before = [library.num_threads or 1 for library in self._libraries]
                self._set([1] * len(self._libraries))
            self._inside += 1

    def leave(self):
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._set(self._before)

    def _set(self, threads):
        """Set each library's number of threads. threadpoolctl 3.8 and newer heeds, for OpenBLAS,
        one thread alone, the first that has set a limit and lives, until it is told that another
        may."""
        _take_control()
        for library, count in zip(self._libraries, threads, strict=True):
            library.set_num_threads(count)
        _take_control()


def _take_control():
    import threadpoolctl

    openblas = getattr(threadpoolctl, "OpenBLASController", None)
    if hasattr(openblas, "clear_controlling_thread"):
        openblas.clear_controlling_thread(force=True)


@functools.cache
def _limit():
    """The process's limit on the BLAS libraries that are loaded at the first call, NumPy's among
    them, or None without threadpoolctl."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return None
    return _Limit(ThreadpoolController())
