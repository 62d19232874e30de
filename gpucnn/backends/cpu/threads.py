"""How many threads NumPy's matrix products use."""

import contextlib
import functools
import os

THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS",
                    "VECLIB_MAXIMUM_THREADS", "OMP_NUM_THREADS")


def one_blas_thread():
    """A context in which matrix products use one thread, if threadpoolctl is installed.

    The products of small networks are so short that a second thread brings little, and where other
    programs want the cores it costs many times what it brings. A number of threads that is set in
    the environment stands.
    """
    if any(name in os.environ for name in THREAD_VARIABLES):
        return contextlib.nullcontext()
    controller = _controller()
    if controller is None:
        return contextlib.nullcontext()
    return controller.limit(limits=1, user_api="blas")


@functools.cache
def _controller():
    """threadpoolctl's view of the libraries that are loaded, or None without threadpoolctl."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return None
    return ThreadpoolController()
