"""How many threads work on a network: those of a plan, and those within NumPy's matrix products."""

import contextlib
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from gpucnn import SGD, digits, evaluate, fit, two_stage
from gpucnn.backends.cpu import threads
from gpucnn.backends.cpu.plan.lanes import InferenceLane
from gpucnn.backends.cpu.workers import usable_threads
from gpucnn.errors import ArgumentError
from tests.oracle import relative_error


def blas_threads():
    """Those of NumPy's BLAS; SciPy, where another test has loaded it, has one of its own."""
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    of_numpy = [pool for pool in pools if "numpy" in pool["filepath"]]
    return {pool["num_threads"] for pool in of_numpy or pools}


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


# -- who sets the limit, and who lifts it ----------------------------------------------------------


def test_contexts_within_contexts_leave_the_setting_when_the_outermost_is_left(two_threads):
    with threads.one_blas_thread():
        with threads.one_blas_thread(), threads.one_blas_thread(always=True):
            assert blas_threads() == {1}
        assert blas_threads() == {1}
    assert blas_threads() == {2}


class Inside:
    """A context of `one_blas_thread` in a thread of its own, until `leave`."""

    def __init__(self):
        self._entered, self._leave = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._stay, daemon=True)
        self._thread.start()
        assert self._entered.wait(10)

    def _stay(self):
        with threads.one_blas_thread():
            self._entered.set()
            self._leave.wait(10)

    def leave(self):
        self._leave.set()
        self._thread.join(10)
        assert not self._thread.is_alive()


def test_the_limit_holds_in_any_thread_of_the_program(two_threads):
    with threads.one_blas_thread():
        assert blas_threads() == {1}
    inside = Inside()
    during = blas_threads()
    inside.leave()
    assert during == {1} and blas_threads() == {2}


@pytest.mark.parametrize("first_to_leave", ["first", "second"])
def test_of_contexts_in_two_threads_the_last_to_be_left_lifts_the_limit(two_threads,
                                                                        first_to_leave):
    first, second = Inside(), Inside()
    order = [first, second] if first_to_leave == "first" else [second, first]
    seen = [blas_threads()]
    for inside in order:
        inside.leave()
        seen.append(blas_threads())
    assert seen == [{1}, {1}, {2}]


def test_the_main_thread_may_leave_before_another_that_entered_later(two_threads):
    with threads.one_blas_thread():
        inside = Inside()
    seen = [blas_threads()]
    inside.leave()
    assert [*seen, blas_threads()] == [{1}, {2}]


def test_an_error_within_lifts_the_limit_too(two_threads):
    with pytest.raises(ZeroDivisionError), threads.one_blas_thread():
        raise ZeroDivisionError
    assert blas_threads() == {2}


@pytest.mark.parametrize("name", threads.THREAD_VARIABLES)
def test_where_it_must_the_limit_holds_in_spite_of_the_environment(two_threads, monkeypatch, name):
    monkeypatch.setenv(name, "2")
    with threads.one_blas_thread():
        assert blas_threads() == {2}
    with threads.one_blas_thread(always=True):
        assert blas_threads() == {1}
    assert blas_threads() == {2}


# -- plans -----------------------------------------------------------------------------------------


IMAGES, LABELS = np.zeros((40, 28, 28), np.uint8), np.arange(40) % 10


def plan_of(network, batch_size=40, **keywords):
    return network.compile_step(loss="cross_entropy", optimizer=SGD(lr=0.1), batch_size=batch_size,
                                **keywords)


@pytest.fixture
def seen_by_forward(monkeypatch):
    """How many BLAS threads there were whenever a lane computed."""
    seen, forward = [], InferenceLane.forward
    monkeypatch.setattr(InferenceLane, "forward", lambda lane, *given: (
        seen.append(blas_threads()), forward(lane, *given))[1])
    return seen


def test_a_plan_computes_with_one_blas_thread_in_spite_of_the_environment(
        two_threads, monkeypatch, seen_by_forward):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    network = two_stage(device="cpu")
    plan_of(network, threads=2).step(IMAGES, LABELS)
    network.predict(IMAGES, threads=2)
    assert len(seen_by_forward) >= 2 and all(seen == {1} for seen in seen_by_forward)
    assert blas_threads() == {2}


def test_a_plan_says_how_many_threads_work(two_threads):
    network = two_stage(device="cpu")
    assert "2 threads with one BLAS thread each" in plan_of(network, threads=2).explain()
    assert "1 thread with one BLAS thread each" in plan_of(network, threads=1).explain()


def workers_of_the_process():
    return {thread for thread in threading.enumerate() if thread.name.startswith("gpucnn worker")}


@pytest.mark.parametrize("options", [{}, {"threads": 2}], ids=str)
@pytest.mark.parametrize("batch_size", [40, 1])
def test_without_threadpoolctl_a_plan_has_one_worker_and_says_why(
        two_threads, monkeypatch, options, batch_size):
    before = workers_of_the_process()
    monkeypatch.setattr(threads, "_limit", lambda: None)
    network = two_stage(device="cpu")
    plan = plan_of(network, batch_size, **options)
    text = plan.explain()
    assert "1 thread;" in text and "pip install threadpoolctl" in text
    assert "pip install threadpoolctl" in text
    plan.step(IMAGES[:batch_size], LABELS[:batch_size])
    network.predict(IMAGES, **options)
    assert not workers_of_the_process() - before and blas_threads() == {2}


def test_without_threadpoolctl_a_step_is_the_same_to_rounding(two_threads, monkeypatch):
    trained = []
    for without in (False, True):
        if without:
            monkeypatch.setattr(threads, "_limit", lambda: None)
        network = two_stage(device="cpu", dtype="float64")
        plan_of(network, threads=2).step(IMAGES, LABELS)
        trained.append(network.parameters.flat)
    assert relative_error(*trained) <= 1e-10


# -- training and measuring ------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [100, 1])
def test_fit_gives_the_same_bits_with_any_number_of_threads(batch_size):
    train, test = (part[:250] for part in digits())
    results = []
    for number in (1, 2, None):
        network = two_stage(device="cpu")
        history = fit(network, train, test, epochs=2, batch_size=batch_size, shift=1,
                      progress=False, threads=number)
        results.append((network.parameters.flat.tobytes(),
                        [(record.train_loss, record.test_error) for record in history]))
    assert results[0] == results[1] == results[2]


def test_a_checkpoint_is_resumed_with_another_number_of_threads(tmp_path):
    """To the same result: the number is none of a run's settings."""
    train, _ = (part[:150] for part in digits())
    bits = []
    for numbers in ((1, 1), (1, 2), (2, None)):
        path = tmp_path / f"{numbers}.safetensors"
        for number, stop in zip(numbers, (True, False), strict=True):
            network = two_stage(device="cpu")

            def interrupt(record, stop=stop):
                if stop:
                    raise KeyboardInterrupt

            with contextlib.suppress(KeyboardInterrupt):
                fit(network, train, epochs=2, batch_size=50, checkpoint=path, resume=True,
                    progress=False, threads=number, on_epoch=interrupt)
        bits.append(network.parameters.flat.tobytes())
    assert bits[0] == bits[1] == bits[2]


def test_evaluate_gives_the_same_error_with_any_number_of_threads(seen_by_forward):
    _, test = digits()
    network = two_stage(device="cpu")
    errors = {evaluate(network, test, threads=number) for number in (None, 1, 2, 3)}
    assert len(errors) == 1 and seen_by_forward


@pytest.mark.parametrize("number", [0, -2, "2", 1.5])
def test_a_wrong_number_of_threads_is_refused_by_fit_and_evaluate(number):
    _, test = digits()
    network = two_stage(device="cpu")
    with pytest.raises(ArgumentError, match="threads: expected"):
        fit(network, test, epochs=1, threads=number)
    with pytest.raises(ArgumentError, match="threads: expected"):
        evaluate(network, test, threads=number)


def test_a_blas_that_keeps_a_number_for_each_thread_gets_one_worker(monkeypatch):
    """OpenBLAS built on OpenMP: a limit set by one thread does not hold in another."""
    def limit_of(layer):
        library = SimpleNamespace(user_api="blas", internal_api="openblas",
                                  threading_layer=layer)
        return threads._Limit(SimpleNamespace(lib_controllers=[library]))

    for layer, workers in (("pthreads", 2), ("openmp", 1)):
        monkeypatch.setattr(threads, "_limit", lambda layer=layer: limit_of(layer))
        assert usable_threads(2) == workers
