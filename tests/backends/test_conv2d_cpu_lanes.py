"""conv2d on NumPy, called in a row on the same arrays: what is bound to them is used again."""

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from gpucnn import ConnectionTable, get_backend
from gpucnn.backends import base
from gpucnn.backends.base import Workspace
from gpucnn.backends.cpu.lanes import Lanes
from tests import oracle
from tests.cases import Conv2dCase
from tests.layouts import get, put

CASES = {
    "Table I": Conv2dCase(ConnectionTable.lenet5_c3(), 80, (8, 8), (5, 5)),
    "padded": Conv2dCase(ConnectionTable.grouped(6, 9, 3), 11, (9, 8), (3, 3), padding=(1, 2)),
    "one to one": Conv2dCase(ConnectionTable.one_to_one(6), 11, (5, 5), (3, 3), padding=(1, 1)),
    "random": Conv2dCase(ConnectionTable.random(8, 6, density=0.4, seed=2), 11, (7, 8), (3, 3)),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))


class Calls:
    """Calls of both ops of a case in the same arrays."""

    def __init__(self, case, workspace, layout="contiguous"):
        self.case = case
        self._workspace = workspace
        self._cpu = get_backend("cpu")
        values = case.arrays()
        self.arrays = {name: put(self._cpu, array, layout) for name, array in values.items()}
        shapes = case.out_shape, values["x"].shape, values["weight"].shape, values["bias"].shape
        self._output, *self._gradients = (np.full(shape, np.nan, case.dtype) for shape in shapes)

    def check(self):
        """Call both, and compare with the oracle for what the arrays hold at the time."""
        case, arrays = self.case, self.arrays
        for result in (self._output, *self._gradients):
            result.fill(np.nan)
        self._cpu.conv2d(arrays["x"], arrays["weight"], arrays["bias"], case.table,
                         **case.options, out=self._output, workspace=self._workspace)
        self._cpu.conv2d_backward(
            arrays["grad_output"], self._output, arrays["x"], arrays["weight"], case.table,
            **case.options, out=tuple(self._gradients), workspace=self._workspace)
        host = {name: get(self._cpu, array) for name, array in arrays.items()}
        expected = oracle.conv2d(host["x"], host["weight"], host["bias"], case.table,
                                 **case.options)
        gradients = oracle.conv2d_backward(host["grad_output"], self._output, host["x"],
                                           host["weight"], case.table, **case.options)
        names = "output", "grad_input", "grad_weight", "grad_bias"
        oracle.assert_close(dict(zip(names, (self._output, *self._gradients), strict=True)),
                            dict(zip(names, (expected, *gradients), strict=True)), case.dtype)


@pytest.fixture
def workspace():
    return Workspace(get_backend("cpu"))


@pytest.fixture
def bindings(monkeypatch):
    """The numbers of samples of blocks that were bound, in order."""
    found, run = [], Lanes.run

    def watched(self, bind, *arguments):
        def noted(samples, memory):
            found.append(samples)
            return bind(samples, memory)
        run(self, noted, *arguments)

    monkeypatch.setattr(Lanes, "run", watched)
    return found


@each_case
@pytest.mark.parametrize("layout", ["contiguous", "batch-last"])
@pytest.mark.parametrize("threads", [1, 2])
def test_calls_on_arrays_that_come_again_bind_nothing_and_see_what_they_hold_then(
        case, layout, threads, workspace, bindings):
    calls = Calls(case, workspace, layout)
    with threadpool_limits(threads, user_api="blas"):
        for number in range(5):
            calls.check()
            if number == 2:  # the first has made the memory, the second noted the arrays
                bindings.clear()
            for array in calls.arrays.values():
                array *= -1.25
    assert threads > 1 or not bindings  # which thread has which lane, and so binds, may change


@each_case
def test_other_arrays_are_bound_anew(case, workspace):
    one, other = Calls(case, workspace), Calls(replace(case, seed=3), workspace)
    for calls in (one, one, one, other, one, one, other, other, other, one):
        calls.check()


def test_convolutions_that_share_a_workspace_do_not_write_where_others_have_zeros(workspace):
    table = ConnectionTable.one_to_one(6)
    cases = [Conv2dCase(table, 8, size, (3, 3), padding=padding)
             for size, padding in (((6, 6), (2, 2)), ((8, 8), (1, 1)), ((6, 8), (2, 1)),
                                   ((8, 6), (1, 2)))]
    cases.append(Conv2dCase(table, 8, (9, 9), (3, 3), stride=(2, 2)))
    cases.append(Conv2dCase(table, 8, (4, 4), (3, 3), padding=(2, 2)))
    calls = [Calls(case, workspace) for case in cases]
    for _ in range(4):
        for one in calls:
            one.check()


def test_what_was_bound_before_memory_has_grown_is_given_up(workspace):
    small = Calls(CASES["random"], workspace)
    for _ in range(3):
        small.check()
    Calls(replace(CASES["random"], samples=64), workspace).check()
    for _ in range(3):
        small.check()


def test_an_activation_of_its_own_is_bound_to_each_call(workspace):
    calls = [Calls(replace(CASES["random"], activation=name), workspace)
             for name in ("tanh", "identity")]
    calls[1].arrays = calls[0].arrays
    for _ in range(3):
        for one in calls:
            one.check()


def test_a_workspace_that_is_dropped_lets_go_of_the_arrays_that_it_has_bound():
    gc.collect()
    gc.disable()
    try:
        workspace = Workspace(get_backend("cpu"))
        calls = Calls(CASES["padded"], workspace)
        for _ in range(3):
            calls.check()
        alive = [weakref.ref(array) for array in calls.arrays.values()]
        del calls, workspace
        assert not any(reference() is not None for reference in alive)
    finally:
        gc.enable()


def test_a_workspace_gives_up_what_nobody_has_asked_for_the_longest(workspace, monkeypatch):
    monkeypatch.setattr(base, "MOST_KEPT", 3)
    made = []
    for key in "abacadaba":
        workspace.keep(key, lambda key=key: made.append(key) or key)
    assert made == ["a", "b", "c", "d", "b"]


def test_calls_of_ever_other_shapes_keep_no_more_than_so_much(workspace, monkeypatch):
    monkeypatch.setattr(base, "MOST_KEPT", 8)
    for samples in (3, 5, 7, 9, 3, 11, 5):
        Calls(replace(CASES["padded"], samples=samples), workspace).check()
        assert len(workspace._kept) <= 8
