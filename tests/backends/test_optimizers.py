"""sgd_step and adam_step: PyTorch's updates, in place, of a flat array."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cases import DOUBLE, FLOAT
from tests.layouts import get, put
from tests.training_cases import AdamCase, SgdCase

counts = st.sampled_from([1, 31, 128, 129, 1000])
types = st.sampled_from([FLOAT, DOUBLE])
decays = st.sampled_from([0.0, 0.01, 0.5])


@given(case=st.builds(SgdCase, count=counts, momentum=st.sampled_from([0.0, 0.5, 0.9]),
                      weight_decay=decays, dtype=types, steps=st.integers(1, 4),
                      seed=st.integers(0, 2**16)), nesterov=st.booleans())
def test_sgd_matches_its_formula(backend, case, nesterov):
    if nesterov and case.momentum:
        case = SgdCase(**(vars(case) | {"nesterov": True}))
    case.check(backend)


@given(case=st.builds(AdamCase, count=counts, momentum=st.sampled_from([0.0, 0.5, 0.9]),
                      beta2=st.sampled_from([0.9, 0.99, 0.999]), weight_decay=decays, dtype=types,
                      epsilon=st.sampled_from([1e-8, 0.1]), steps=st.integers(1, 4),
                      seed=st.integers(0, 2**16)))
def test_adam_matches_its_formula(backend, case):
    case.check(backend)


@pytest.mark.parametrize("case", [SgdCase(200, momentum=0.0), SgdCase(200), AdamCase(200)],
                         ids=["sgd", "sgd with momentum", "adam"])
def test_the_same_updates_twice_give_the_same_bits(case, backend):
    first, second = case.run(backend), case.run(backend)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_sgd_without_momentum_and_decay_is_a_step_against_the_gradient(backend):
    parameters = put(backend, np.array([1, 2, 3], np.float32))
    gradients = put(backend, np.array([10, 0, -10], np.float32))
    backend.sgd_step(parameters, gradients, None, put(backend, np.array([0.1], np.float32)),
                     momentum=0.0, nesterov=False, weight_decay=0.0)
    np.testing.assert_allclose(get(backend, parameters), [0, 2, 4])
    np.testing.assert_array_equal(get(backend, gradients), [10, 0, -10])


def test_a_row_of_a_table_of_rates_may_be_the_scalars(backend):
    """As training takes each step's scalars from those of an epoch."""
    case = AdamCase(50, steps=1)
    arrays = {name: put(backend, array) for name, array in case.arrays().items()}
    rates = put(backend, np.array([[9, 9], [case.rate / (1 - case.momentum),
                                            (1 - case.beta2) ** -0.5], [9, 9]], np.float32))
    backend.adam_step(arrays["parameters"], arrays["gradients0"], arrays["mean"], arrays["square"],
                      rates[1], **case.options)
    for name, expected in case.run(backend).items():
        np.testing.assert_array_equal(get(backend, arrays[name]), expected)
