"""max_pool2d and its gradient: first maxima, ties, NaN. Both are exact: no sum is rounded twice."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cases import DOUBLE, FLOAT, MaxPool2dCase
from tests.layouts import get, put
from tests.representative import MAX_POOL2D


@st.composite
def cases(draw, specialisations=None):
    """Any case, or one of a few `specialisations` with everything else free."""
    if specialisations:
        pool_size, stride, dtype = draw(st.sampled_from(specialisations))
    else:
        pool_size = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
        stride = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
        dtype = draw(st.sampled_from([FLOAT, DOUBLE]))
    size = tuple((draw(st.integers(1, 5)) - 1) * step + pool + draw(st.integers(0, step - 1))
                 for pool, step in zip(pool_size, stride, strict=True))
    shape = (draw(st.sampled_from([0, 1, 2, 3, 20])), draw(st.integers(1, 5)), *size)
    return MaxPool2dCase(shape, pool_size, stride, dtype, draw(st.booleans()), draw(st.booleans()),
                         draw(st.integers(0, 2**16)))


def check(case, backend):
    """Maxima are copies of pixels, so they are equal and not merely close; so are NaNs."""
    results = case.run(backend)
    expected = case.expected(results)
    np.testing.assert_array_equal(results["output"], expected["output"])
    np.testing.assert_allclose(results["grad_input"], expected["grad_input"], rtol=1e-5, atol=1e-6)


@given(data=st.data())
def test_maxima_and_gradients_match_plain_loops_over_generated_shapes(backend, data):
    check(data.draw(cases(None if backend.device == "cpu" else MAX_POOL2D)), backend)


SPECIAL = {
    "the usual windows": MaxPool2dCase((3, 5, 12, 12)),
    "windows that overlap": MaxPool2dCase((3, 2, 9, 9), (3, 3), (2, 2)),
    "windows that leave gaps": MaxPool2dCase((2, 2, 10, 9), (2, 2), (3, 4)),
    "a border that no window reaches": MaxPool2dCase((2, 2, 7, 5)),
    "a window as large as the map": MaxPool2dCase((5, 3, 4, 3), (4, 3), (4, 3)),
    "a batch of many grids": MaxPool2dCase((40, 4, 6, 6)),
}


@pytest.mark.parametrize("nans", [False, True], ids=["finite", "with NaN"])
@pytest.mark.parametrize("dtype", [FLOAT, DOUBLE], ids=str)
@pytest.mark.parametrize("case", SPECIAL.values(), ids=SPECIAL)
def test_maxima_and_gradients_match_plain_loops_for(case, dtype, nans, backend):
    check(replace(case, dtype=dtype, nans=nans), backend)


def pooled(backend, window):
    """(maximum, gradient by the window's pixels) of one window of any size."""
    x = put(backend, np.array(window, np.float32)[None, None])
    size = x.shape[2:]
    output = backend.max_pool2d(x, pool_size=size, stride=size)
    one = put(backend, np.ones((1, 1, 1, 1), np.float32))
    gradient = backend.max_pool2d_backward(one, output, x, pool_size=size, stride=size)
    return get(backend, output)[0, 0, 0, 0], get(backend, gradient)[0, 0]


NAN = float("nan")
INF = float("inf")


@pytest.mark.parametrize(("window", "place"), [
    ([[1, 2], [2, 2]], (0, 1)),
    ([[0, 0], [0, 0]], (0, 0)),
    ([[-0.0, 0.0], [0.0, -0.0]], (0, 0)),
    ([[-INF, -INF], [-INF, -INF]], (0, 0)),
    ([[1, INF], [INF, 0]], (0, 1)),
    ([[5, NAN], [7, 1]], (0, 1)),
    ([[INF, 2], [NAN, NAN]], (1, 0)),
    ([[NAN, NAN], [NAN, NAN]], (0, 0)),
    ([[-3, -2], [-1, -1]], (1, 0)),
], ids=str)
def test_the_first_maximum_in_row_major_order_takes_the_whole_gradient(window, place, backend):
    highest, gradient = pooled(backend, window)
    expected = np.zeros((2, 2))
    expected[place] = 1
    np.testing.assert_array_equal(gradient, expected)
    np.testing.assert_array_equal(highest, np.float32(window[place[0]][place[1]]))


def test_a_pixel_that_is_the_maximum_of_several_windows_gets_all_their_gradients(backend):
    x = np.zeros((1, 1, 3, 3), np.float32)
    x[0, 0, 1, 1] = 1
    x = put(backend, x)
    options = {"pool_size": (2, 2), "stride": (1, 1)}
    output = backend.max_pool2d(x, **options)
    grad_output = put(backend, np.array([[[[1, 2], [4, 8]]]], np.float32))
    gradient = get(backend, backend.max_pool2d_backward(grad_output, output, x, **options))
    assert gradient[0, 0].tolist() == [[0, 0, 0], [0, 15, 0], [0, 0, 0]]
