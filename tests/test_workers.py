"""The threads that share the parts of a batch."""

import gc
import os
import signal
import threading
import time

import numpy as np
import pytest

from gpucnn.backends.cpu.workers import Workers

COUNTS = (0, 1, 5, 100)
PATIENCE = 10  # seconds until a thread that has not ended never will

each_number_of_threads = pytest.mark.parametrize("threads", [1, 2, 3, 4])


def calls_of(workers, count):
    """The (worker, number) of each call that `workers.run` makes, numbers in order."""
    calls = []
    workers.run(lambda worker, number: calls.append((worker, number)), count)
    return sorted(calls, key=lambda call: call[1])


def living():
    """The threads of all `Workers`."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("gpucnn worker")}


def is_true_soon(condition):
    limit = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < limit:
        time.sleep(0.005)
    return condition()


@each_number_of_threads
@pytest.mark.parametrize("count", COUNTS)
def test_each_number_is_called_once_by_a_worker_that_there_is(threads, count):
    workers = Workers(threads)
    for _ in range(3):
        calls = calls_of(workers, count)
        assert [number for _, number in calls] == list(range(count))
        assert {worker for worker, _ in calls} <= set(range(threads))


@each_number_of_threads
def test_numpys_errstate_of_the_caller_holds_in_all_workers(threads):
    barrier, seen = threading.Barrier(threads, timeout=PATIENCE), []

    def note(worker, number):
        barrier.wait()
        seen.append(np.geterr()["invalid"])

    workers = Workers(threads)
    for wanted in ("raise", "ignore"):
        with np.errstate(invalid=wanted):
            workers.run(note, threads)
    assert seen == ["raise"] * threads + ["ignore"] * threads


@each_number_of_threads
def test_all_workers_work_where_each_waits_for_the_others(threads):
    barrier, seen = threading.Barrier(threads, timeout=PATIENCE), set()

    def meet(worker, number):
        barrier.wait()
        seen.add((worker, threading.current_thread()))

    Workers(threads).run(meet, threads)
    assert {worker for worker, _ in seen} == set(range(threads))
    assert len({thread for _, thread in seen}) == threads
    assert (0, threading.main_thread()) in seen


@each_number_of_threads
@pytest.mark.parametrize("count", [1, 5, 100])
def test_an_error_is_raised_in_the_caller_and_the_workers_stay_usable(threads, count):
    def fail_in_the_middle(worker, number):
        if number == count // 2:
            raise ArithmeticError("one of the parts")

    workers = Workers(threads)
    for _ in range(2):
        with pytest.raises(ArithmeticError, match="one of the parts"):
            workers.run(fail_in_the_middle, count)
        assert [number for _, number in calls_of(workers, count)] == list(range(count))


@pytest.mark.parametrize("failing", [0, 1, 2], ids=["the calling thread", "worker 1", "worker 2"])
def test_an_error_of_any_thread_is_raised_when_all_have_ended(failing):
    barrier, ended = threading.Barrier(3, timeout=PATIENCE), []

    def fail_in_one(worker, number):
        barrier.wait()
        if worker == failing:
            raise LookupError(f"worker {worker}")
        time.sleep(0.05)
        ended.append(worker)

    workers = Workers(3)
    with pytest.raises(LookupError, match=f"worker {failing}"):
        workers.run(fail_in_one, 3)
    assert sorted(ended) == sorted({0, 1, 2} - {failing})
    assert len(calls_of(workers, 20)) == 20


@each_number_of_threads
def test_an_interrupt_in_the_calling_thread_is_raised_there(threads):
    def interrupted(worker, number):
        if threading.current_thread() is threading.main_thread():
            signal.raise_signal(signal.SIGINT)
            time.sleep(PATIENCE)

    workers = Workers(threads)
    with pytest.raises(KeyboardInterrupt):
        workers.run(interrupted, 1)
    assert len(calls_of(workers, 20)) == 20


def test_an_interrupt_in_another_thread_is_raised_in_the_caller():
    barrier = threading.Barrier(2, timeout=PATIENCE)

    def interrupted(worker, number):
        barrier.wait()
        if worker == 1:
            raise KeyboardInterrupt

    workers = Workers(2)
    with pytest.raises(KeyboardInterrupt):
        workers.run(interrupted, 2)
    assert len(calls_of(workers, 20)) == 20


def test_an_interrupt_leaves_the_workers_usable_while_the_caller_has_work():
    """As Ctrl-C does in the middle of training."""
    begun = threading.Event()

    def interrupt_the_caller(worker, number):
        if worker == 0:
            begun.wait(PATIENCE)
            signal.raise_signal(signal.SIGINT)
        begun.set()
        time.sleep(0.02)

    workers = Workers(2)
    with pytest.raises(KeyboardInterrupt):
        workers.run(interrupt_the_caller, 2)
    assert len(calls_of(workers, 20)) == 20


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="this platform has no such signals")
def test_an_interrupt_while_the_caller_waits_is_raised_when_all_have_ended():
    """Else a worker would go on writing to memory that the next step already uses."""
    barrier, ended = threading.Barrier(2, timeout=PATIENCE), []

    def interrupt_the_waiting_caller(worker, number):
        barrier.wait()
        if worker == 1:
            time.sleep(0.05)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            time.sleep(0.2)
            ended.append(worker)

    workers = Workers(2)
    with pytest.raises(KeyboardInterrupt):
        workers.run(interrupt_the_waiting_caller, 2)
    assert ended == [1]
    assert len(calls_of(workers, 20)) == 20


def test_threads_are_started_when_they_are_first_needed_and_kept():
    before = living()
    workers = Workers(3)
    assert living() == before
    calls_of(workers, 1)
    assert living() == before
    calls_of(workers, 5)
    started = living() - before
    assert len(started) == 2 and all(thread.daemon for thread in started)
    calls_of(workers, 5)
    assert living() - before == started


def test_threads_end_when_nobody_has_the_workers_any_more():
    before = living()
    workers = Workers(4)
    calls_of(workers, 20)
    started = living() - before
    assert len(started) == 3
    del workers
    gc.collect()
    assert is_true_soon(lambda: not any(thread.is_alive() for thread in started))


def test_waiting_threads_hold_nothing_of_the_task_that_they_did():
    class Plan:
        def task(self, worker, number):
            pass

    workers, plan = Workers(3), Plan()
    workers.run(plan.task, 20)
    ended = threading.Event()
    plan.__class__.__del__ = lambda plan: ended.set()
    del plan
    gc.collect()
    assert ended.wait(PATIENCE)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("used_before", [True, False], ids=["after the parent", "first"])
def test_workers_work_in_a_forked_child_and_still_in_the_parent(used_before):
    workers = Workers(3)
    if used_before:
        calls_of(workers, 20)
    child = os.fork()
    if child == 0:
        signal.alarm(PATIENCE)  # ends a child that waits for threads that it does not have
        status = 1
        try:
            calls = calls_of(workers, 100)
            right = [number for _, number in calls] == list(range(100))
            status = 0 if right and len(living()) == 2 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [number for _, number in calls_of(workers, 100)] == list(range(100))
