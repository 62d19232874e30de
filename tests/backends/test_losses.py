"""mse and cross_entropy: values, gradients, errors, labels out of range, extreme outputs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucnn.backends.base import Workspace
from tests import oracle
from tests.cases import DOUBLE, FLOAT
from tests.layouts import get, put
from tests.training_cases import LossCase

LOSSES = ("mse", "cross_entropy")
each_loss = pytest.mark.parametrize("op", LOSSES)
both_types = pytest.mark.parametrize("dtype", [FLOAT, DOUBLE], ids=str)


@given(case=st.builds(
    LossCase, op=st.sampled_from(LOSSES), samples=st.sampled_from([1, 2, 3, 50, 129, 500]),
    classes=st.integers(1, 12), bad_labels=st.booleans(), scale=st.sampled_from([0.1, 1.0]),
    dtype=st.sampled_from([FLOAT, DOUBLE]), seed=st.integers(0, 2**16)))
def test_losses_gradients_and_errors_match_plain_loops(backend, case):
    case.check(backend)


def evaluate(backend, op, output, labels, dtype=DOUBLE):
    """Results by name, as NumPy arrays; `totals` start at zero."""
    output = np.array(output, dtype)
    grad_output = backend.empty(output.shape, dtype)
    loss, totals = backend.empty((1,), dtype), backend.zeros((3,), np.float64)
    options = {"target": 0.8} if op == "mse" else {}
    getattr(backend, op)(put(backend, output), put(backend, np.array(labels, np.int32)), **options,
                         grad_output=grad_output, loss=loss, totals=totals)
    return get(backend, loss)[0], get(backend, grad_output), get(backend, totals)


@each_loss
def test_the_gradient_is_the_derivative_of_the_loss(op, backend):
    case = LossCase(op, 4, 5, dtype=DOUBLE)
    output, labels = case.arrays()["output"], case.arrays()["labels"]
    gradient = evaluate(backend, op, output, labels)[1]
    for place in np.ndindex(output.shape):
        step = np.zeros_like(output)
        step[place] = 1e-5
        ends = [evaluate(backend, op, output + sign * step, labels)[0] for sign in (1, -1)]
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(gradient[place], rel=1e-6, abs=1e-9)


@each_loss
def test_totals_add_up_over_batches(op, backend):
    workspace, totals = Workspace(backend), backend.zeros((3,), np.float64)
    expected = np.zeros(3)
    for seed, samples in enumerate((300, 7, 130)):
        case = LossCase(op, samples, bad_labels=seed == 1, seed=seed)
        arrays = {name: put(backend, array) for name, array in case.arrays().items()}
        grad_output = backend.empty((samples, 10), np.float32)
        getattr(backend, op)(**arrays, **case.options, grad_output=grad_output,
                             loss=backend.empty((1,), np.float32), totals=totals,
                             workspace=workspace)
        expected += case.expected({})["totals"] - [1, 2, 3]
    assert get(backend, totals)[1:].tolist() == expected[1:].tolist()
    assert get(backend, totals)[0] == pytest.approx(expected[0], rel=1e-6)


@each_loss
@pytest.mark.parametrize("label", [-1, 3, 2**31 - 1, -2**31])
def test_a_label_out_of_range_is_counted_and_adds_nothing_else(op, label, backend):
    output = [[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]]
    loss, gradient, totals = evaluate(backend, op, output, [label, 0])
    alone, gradient_alone, _ = evaluate(backend, op, output[1:], [0])
    assert loss == pytest.approx(alone / 2)
    assert not gradient[0].any()
    np.testing.assert_allclose(gradient[1], gradient_alone[0] / 2)
    assert totals[1:].tolist() == [1, 1]


@each_loss
def test_of_equal_largest_outputs_the_first_is_the_answer(op, backend):
    output = [[1.0, 2.0, 2.0], [1.0, 2.0, 2.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert evaluate(backend, op, output, [1, 2, 0, 1])[2][1] == 2


@each_loss
def test_a_nan_output_is_an_error_and_shows_in_the_loss(op, backend):
    loss, _, totals = evaluate(backend, op, [[np.nan, 1.0], [5.0, 1.0]], [0, 0])
    assert np.isnan(loss) and np.isnan(totals[0])
    assert totals[1:].tolist() == [1, 0]


@both_types
@pytest.mark.parametrize("offset", [-1e4, 0, 1e4])
def test_cross_entropy_does_not_overflow(dtype, offset, backend):
    output = np.array([[offset, offset + 1, offset - 50]], dtype)
    loss, gradient, _ = evaluate(backend, "cross_entropy", output, [1], dtype)
    expected = oracle.cross_entropy(output, [1])
    assert loss == pytest.approx(expected[0], rel=1e-4)
    np.testing.assert_allclose(gradient, expected[1], rtol=1e-4, atol=1e-7)


@both_types
def test_cross_entropy_of_an_impossible_answer_is_the_distance_of_the_outputs(dtype, backend):
    loss, gradient, _ = evaluate(backend, "cross_entropy", [[0.0, 1000.0]], [0], dtype)
    assert loss == 1000
    assert gradient.tolist() == [[-1, 1]]


def test_mse_pushes_towards_targets_of_the_given_size(backend):
    loss, gradient, totals = evaluate(backend, "mse", [[0.8, -0.8, -0.8], [0.0, 0.0, 0.0]], [0, 2])
    assert loss == pytest.approx(0.5 * 3 * 0.64 / 2)
    np.testing.assert_allclose(gradient, [[0, 0, 0], [0.4, 0.4, -0.4]], atol=1e-15)
    assert totals[1:].tolist() == [1, 0]
