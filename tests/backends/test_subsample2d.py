"""subsample2d and its gradients: windows that meet, overlap, or leave gaps."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucnn.activations import NAMES
from tests.cases import DOUBLE, FLOAT, Subsample2dCase
from tests.layouts import get, put
from tests.representative import SUBSAMPLE2D


@st.composite
def cases(draw, specialisations=None):
    """Any case, or one of a few `specialisations` with everything else free."""
    if specialisations:
        pool_size, stride, activation, dtype = draw(st.sampled_from(specialisations))
    else:
        pool_size = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
        stride = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
        activation, dtype = draw(st.sampled_from(NAMES)), draw(st.sampled_from([FLOAT, DOUBLE]))
    size = tuple((draw(st.integers(1, 7)) - 1) * step + pool + draw(st.integers(0, step - 1))
                 for pool, step in zip(pool_size, stride, strict=True))
    shape = (draw(st.sampled_from([0, 1, 2, 3, 70])), draw(st.integers(1, 9)), *size)
    return Subsample2dCase(shape, pool_size, stride, activation, dtype, draw(st.booleans()),
                           draw(st.integers(0, 2**16)))


@given(data=st.data())
def test_outputs_and_gradients_match_plain_loops_over_generated_shapes(backend, data):
    data.draw(cases(None if backend.device == "cpu" else SUBSAMPLE2D)).check(backend)


SPECIAL = {
    "LeNet-5's S2": Subsample2dCase((2, 6, 28, 28)),
    "a window as large as the map": Subsample2dCase((5, 3, 4, 3), (4, 3), (4, 3)),
    "one pixel": Subsample2dCase((1, 1, 1, 1), (1, 1), (1, 1)),
    "windows that overlap": Subsample2dCase((3, 2, 9, 8), (3, 2), (2, 1)),
    "windows that leave gaps": Subsample2dCase((3, 2, 9, 8), (2, 1), (3, 2)),
    "windows that overlap one way and leave gaps the other": Subsample2dCase((3, 2, 9, 9), (3, 1),
                                                                             (1, 3)),
    "a border that no window reaches": Subsample2dCase((2, 3, 9, 11), (4, 4), (4, 4)),
    "a batch of many grids": Subsample2dCase((50, 5, 8, 8)),
    "more positions than threads": Subsample2dCase((3, 1, 27, 26)),
}


@pytest.mark.parametrize("dtype", [FLOAT, DOUBLE], ids=str)
@pytest.mark.parametrize("case", SPECIAL.values(), ids=SPECIAL)
def test_outputs_and_gradients_match_plain_loops_for(case, dtype, backend):
    replace(case, dtype=dtype).check(backend)


def test_a_pixel_in_no_window_gets_no_gradient(backend):
    grad_input = Subsample2dCase((2, 2, 9, 10), (2, 1), (3, 3)).run(backend)["grad_input"]
    in_window = np.zeros((9, 10), bool)
    for top in (0, 3, 6):
        in_window[top:top + 2, ::3] = True
    assert (grad_input[:, :, ~in_window] == 0).all()
    assert (grad_input[:, :, in_window] != 0).all()


def test_a_coefficient_of_one_sums_the_window_and_does_not_average_it(backend):
    x = put(backend, np.full((1, 1, 4, 4), 3, np.float32))
    one = put(backend, np.ones(1, np.float32))
    output = backend.subsample2d(x, one, None, pool_size=(2, 2), stride=(2, 2),
                                 activation="identity")
    assert (get(backend, output) == 12).all()


def test_relu_at_zero_has_no_slope(backend):
    case = Subsample2dCase((3, 2, 6, 6), activation="relu", bias=False)
    arrays = {name: put(backend, array) for name, array in case.arrays().items()}
    arrays["coefficient"] = backend.zeros((2,), np.float32)
    for name, array in case.call(backend, arrays).items():
        assert not get(backend, array).any(), name
