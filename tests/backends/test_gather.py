"""gather: a batch from its images, scaled, centred on the background, shifted."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cases import DOUBLE, FLOAT
from tests.layouts import get, put
from tests.training_cases import GatherCase

both_types = pytest.mark.parametrize("dtype", [FLOAT, DOUBLE], ids=str)


@st.composite
def cases(draw):
    shape = tuple(draw(st.integers(1, most)) for most in (6, 3, 7, 7))
    out_size = (shape[2] + draw(st.integers(0, 5)), shape[3] + draw(st.integers(0, 5)))
    low = draw(st.sampled_from([-0.1, 0.0, 0.5]))
    return GatherCase(draw(st.sampled_from([0, 1, 3, 20])), shape, out_size, draw(st.booleans()),
                      draw(st.sampled_from([None, 0, 1, 3, 12])), draw(st.booleans()),
                      (low, draw(st.sampled_from([1.175, 2.0]))),
                      draw(st.sampled_from([FLOAT, DOUBLE])), draw(st.integers(0, 2**16)))


@given(case=cases())
def test_batches_match_plain_loops_over_generated_shapes(backend, case):
    case.check(backend)


@both_types
@pytest.mark.parametrize("bytes", [True, False], ids=["uint8", "real"])
def test_mnist_images_are_centred_in_lenet5s_input(bytes, dtype, backend):
    GatherCase(7, (5, 1, 28, 28), (32, 32), bytes, dtype=dtype).check(backend)


@both_types
def test_bytes_map_linearly_to_the_input_range(dtype, backend):
    images = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    out = backend.empty((1, 1, 18, 16), dtype)
    backend.gather(put(backend, images), None, put(backend, np.zeros(1, np.int32)), None,
                   input_range=(-0.1, 1.175), out=out, out_labels=None)
    got = get(backend, out)[0, 0]
    np.testing.assert_allclose(got[1:17].ravel(), np.linspace(-0.1, 1.175, 256), rtol=1e-6,
                               atol=1e-7)
    assert (got[0] == dtype.type(-0.1)).all() and (got[17] == dtype.type(-0.1)).all()


def test_an_image_that_is_shifted_out_leaves_background(backend):
    case = GatherCase(4, (2, 2, 5, 5), (7, 7), shifts=0)
    arrays = {name: put(backend, array) for name, array in case.arrays().items()}
    for down, right in [(7, 0), (-7, 0), (0, 100), (-2**30, 2**30)]:
        arrays["shifts"] = put(backend, np.full((4, 2), (down, right), np.int32))
        out = get(backend, case.call(backend, arrays)["out"])
        assert (out == np.float32(-0.1)).all()


def test_an_image_may_be_gathered_more_than_once_and_in_any_order(backend):
    case = GatherCase(6, (3, 1, 4, 4), (4, 4), bytes=False, shifts=None)
    arrays = {name: put(backend, array) for name, array in case.arrays().items()}
    order = np.array([2, 2, 0, 1, 0, 2], np.int32)
    arrays["order"] = put(backend, order)
    results = case.call(backend, arrays)
    np.testing.assert_array_equal(get(backend, results["out"]), case.arrays()["images"][order])
    np.testing.assert_array_equal(get(backend, results["labels"]), case.arrays()["labels"][order])


def test_a_part_of_a_longer_order_gathers_that_batch(backend):
    """As training takes each batch from an epoch's order."""
    case = GatherCase(20, (30, 1, 5, 5), (6, 6))
    arrays = {name: put(backend, array) for name, array in case.arrays().items()}
    whole = case.run(backend)
    batch = replace(case, samples=7)
    part = arrays | {"order": arrays["order"][5:12], "shifts": arrays["shifts"][5:12]}
    for name, array in batch.call(backend, part).items():
        np.testing.assert_array_equal(get(backend, array), whole[name][5:12])
