"""The two-layer head: functional.classifier, which is conv2d with a full table and dense."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpucnn import ConnectionTable, classifier, classifier_backward, conv2d, dense
from tests import oracle
from tests.cases import DOUBLE, FLOAT
from tests.layouts import get, put


def random_arrays(x_shape, hidden, classes, kernel, dtype, bias=True, seed=0):
    """(x, weight1, bias1, weight2, bias2)."""
    generator = np.random.default_rng(seed)
    volume = x_shape[1] * kernel[0] * kernel[1]
    return tuple(None if shape is None else (scale * generator.standard_normal(shape)).astype(dtype)
                 for shape, scale in [
                     (x_shape, 1), ((hidden, x_shape[1], *kernel), volume ** -0.5),
                     ((hidden,) if bias else None, 0.5), ((classes, hidden), hidden ** -0.5),
                     ((classes,) if bias else None, 0.5)])


def check(backend, values, dtype, activation):
    arrays = [put(backend, array) for array in values]
    hidden, output = classifier(*arrays, activation=activation)
    expected = oracle.classifier(*values, activation=activation)
    got = {"hidden": get(backend, hidden), "output": get(backend, output)}
    oracle.assert_close(got, dict(zip(("hidden", "output"), expected, strict=True)), dtype)

    grad_output = np.random.default_rng(9).standard_normal(output.shape).astype(dtype)
    gradients = classifier_backward(put(backend, grad_output), hidden, output, *arrays,
                                    activation=activation)
    expected = oracle.classifier_backward(grad_output, got["hidden"], got["output"], *values,
                                          activation=activation)
    assert gradients._fields == ("grad_input", "grad_weight1", "grad_bias1", "grad_weight2",
                                 "grad_bias2")
    oracle.assert_close({name: get(backend, array)
                         for name, array in gradients._asdict().items()},
                        dict(zip(gradients._fields, expected, strict=True)), dtype)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(samples=st.sampled_from([0, 1, 3, 17]), maps=st.integers(1, 6), hidden=st.integers(1, 20),
       classes=st.integers(1, 11), larger=st.tuples(st.integers(0, 2), st.integers(0, 2)),
       form=st.sampled_from([((3, 3), "scaled_tanh", FLOAT), ((1, 2), "sigmoid", DOUBLE),
                             ((4, 2), "relu", DOUBLE)]),
       bias=st.booleans(), seed=st.integers(0, 2**16))
def test_outputs_and_gradients_match_plain_loops_over_generated_shapes(
        known_arrays, samples, maps, hidden, classes, larger, form, bias, seed):
    kernel, activation, dtype = form
    size = (kernel[0] + larger[0], kernel[1] + larger[1])
    values = random_arrays((samples, maps, *size), hidden, classes, kernel, dtype, bias, seed)
    check(known_arrays, values, dtype, activation)


@pytest.mark.parametrize("dtype", [FLOAT, DOUBLE], ids=str)
def test_the_originals_head_matches_plain_loops(known_arrays, dtype):
    """16 maps of 4x4, 20 hidden units that see all of them, 10 outputs."""
    check(known_arrays, random_arrays((3, 16, 4, 4), 20, 10, (4, 4), dtype), dtype, "scaled_tanh")


def test_one_sample_gives_the_first_of_a_batch_of_one(known_arrays):
    backend = known_arrays
    values = random_arrays((1, 4, 5, 5), 6, 3, (4, 5), DOUBLE)
    arrays = [put(backend, array) for array in values]
    batch = classifier(*arrays)
    single = classifier(arrays[0][0], *arrays[1:])
    for one, many in zip(single, batch, strict=True):
        np.testing.assert_array_equal(get(backend, one), get(backend, many)[0])
    grad_output = put(backend, np.ones(batch[1].shape))
    of_batch = classifier_backward(grad_output, *batch, *arrays)
    of_one = classifier_backward(grad_output[0], *single, arrays[0][0], *arrays[1:])
    np.testing.assert_array_equal(get(backend, of_one.grad_input),
                                  get(backend, of_batch.grad_input)[0])
    for name in ("grad_weight1", "grad_bias1", "grad_weight2", "grad_bias2"):
        np.testing.assert_array_equal(get(backend, getattr(of_one, name)),
                                      get(backend, getattr(of_batch, name)))


def test_it_is_a_full_convolution_and_a_dense_layer(known_arrays):
    backend = known_arrays
    values = random_arrays((3, 4, 4, 5), 6, 3, (4, 5), DOUBLE)
    x, weight1, bias1, weight2, bias2 = (put(backend, array) for array in values)
    hidden, output = classifier(x, weight1, bias1, weight2, bias2)
    of_table = put(backend, values[1].reshape(24, 4, 5))
    same_hidden = conv2d(x, of_table, bias1, ConnectionTable.full(4, 6),
                         activation="scaled_tanh")
    same_output = dense(same_hidden, weight2, bias2, activation="scaled_tanh")
    assert oracle.relative_error(get(backend, hidden), get(backend, same_hidden)) < 1e-14
    assert oracle.relative_error(get(backend, output), get(backend, same_output)) < 1e-14
