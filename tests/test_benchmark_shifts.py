"""benchmarks.shifts: pictures shifted beforehand are those that this library shifts as it goes."""

import numpy as np
import pytest

from benchmarks.shifts import copies_order, shifted_copies
from gpucnn import get_backend


@pytest.mark.parametrize(("own", "size", "shift"), [
    ((4, 5), (7, 8), 1), ((4, 4), (4, 4), 2), ((5, 3), (6, 3), 3), ((3, 3), (8, 8), 0)])
def test_shifted_copies_are_the_pictures_that_the_library_gathers(own, size, shift):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (6, 2, *own), np.uint8)
    labels = np.zeros(6, np.int32)
    order = generator.integers(0, 6, 100).astype(np.int32)
    shifts = generator.integers(-shift, shift + 1, (100, 2)).astype(np.int32)
    wanted = np.empty((100, 2, *size), np.float32)
    get_backend("cpu").gather(images, labels, order, shifts, input_range=(0.0, 255.0), out=wanted,
                              out_labels=np.empty(100, np.int32))
    copies = shifted_copies(images, size, shift)
    assert copies.dtype == np.uint8 and len(copies) == 6 * (2 * shift + 1) ** 2
    places = copies_order(order, shifts, 6, shift)
    assert places.dtype == np.int32
    np.testing.assert_array_equal(copies[places], wanted)


def test_without_shifts_an_order_is_that_of_the_copy_in_the_middle():
    images = np.arange(3 * 9, dtype=np.uint8).reshape(3, 1, 3, 3)
    places = copies_order(np.array([2, 0], np.int32), None, 3, 1)
    np.testing.assert_array_equal(shifted_copies(images, (3, 3), 1)[places], images[[2, 0]])
