"""How many threads NumPy's matrix products use while a network computes."""

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from gpucnn import two_stage
from gpucnn.backends.cpu import threads


def blas_threads():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.fixture
def two_threads(monkeypatch):
    for name in threads.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with threadpool_limits(2, user_api="blas"):
        yield


def watched_network():
    network, seen = two_stage(device="cpu"), []
    apply = network["c1"].apply
    network["c1"].apply = lambda *given: (seen.append(blas_threads()), apply(*given))[1]
    return network, seen


def test_a_network_computes_with_one_blas_thread_and_leaves_the_setting_as_it_was(two_threads):
    network, seen = watched_network()
    network.forward(np.zeros((1, 1, 28, 28), np.float32))
    assert seen == [{1}] and blas_threads() == {2}


def test_a_number_of_threads_set_in_the_environment_stands(two_threads, monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    network, seen = watched_network()
    network.forward(np.zeros((1, 1, 28, 28), np.float32))
    assert seen == [{2}]


def test_without_threadpoolctl_nothing_is_changed(two_threads, monkeypatch):
    monkeypatch.setattr(threads, "_limit", lambda: None)
    network, seen = watched_network()
    network.forward(np.zeros((1, 1, 28, 28), np.float32))
    assert seen == [{2}]
