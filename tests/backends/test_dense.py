"""dense and its gradients: features, and maps with positions."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cases import DOUBLE, FLOAT, DenseCase
from tests.layouts import get, put
from tests.representative import DENSE


@st.composite
def cases(draw):
    """Sizes on both sides of a tile, with and without positions."""
    activation, dtype = draw(st.sampled_from(DENSE))
    features = st.one_of(st.integers(1, 7), st.sampled_from([15, 16, 17, 33, 50]))
    size = draw(st.none() | st.tuples(st.integers(1, 4), st.integers(1, 4)))
    return DenseCase(draw(st.sampled_from([0, 1, 2, 3, 16, 17, 60])), draw(features),
                     draw(features), size, activation, dtype, draw(st.booleans()),
                     draw(st.integers(0, 2**16)))


@given(case=cases())
def test_outputs_and_gradients_match_plain_loops_over_generated_shapes(backend, case):
    case.check(backend)


SPECIAL = {
    "LeNet-5's F6": DenseCase(4, 120, 84, (1, 1)),
    "one feature to one": DenseCase(1, 1, 1),
    "whole tiles": DenseCase(32, 16, 32),
    "one more than whole tiles": DenseCase(33, 17, 33),
    "more positions than a block has threads": DenseCase(2, 3, 4, (17, 16)),
    "a sample's positions across tiles": DenseCase(5, 4, 3, (3, 5)),
    "a batch of many grids": DenseCase(300, 20, 20),
}


@pytest.mark.parametrize("dtype", [FLOAT, DOUBLE], ids=str)
@pytest.mark.parametrize("case", SPECIAL.values(), ids=SPECIAL)
def test_outputs_and_gradients_match_plain_loops_for(case, dtype, backend):
    replace(case, dtype=dtype).check(backend)


def test_each_position_is_computed_as_if_it_were_alone(backend):
    maps = DenseCase(3, 5, 4, (2, 3), dtype=DOUBLE)
    values, whole = maps.arrays(), maps.run(backend)
    weight, bias = put(backend, values["weight"]), put(backend, values["bias"])
    for y, x in np.ndindex(2, 3):
        alone = backend.dense(put(backend, values["x"][:, :, y, x]), weight, bias,
                              activation="scaled_tanh")
        np.testing.assert_allclose(get(backend, alone), whole["output"][:, :, y, x], rtol=1e-12)


def test_relu_at_zero_has_no_slope(backend):
    case = DenseCase(3, 4, 5, activation="relu", bias=False)
    arrays = {name: put(backend, array) for name, array in case.arrays().items()}
    arrays["weight"] = backend.zeros((5, 4), np.float32)
    for name, array in case.call(backend, arrays).items():
        assert not get(backend, array).any(), name
