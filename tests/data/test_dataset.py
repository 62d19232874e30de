"""Datasets: what they take, keep and refuse."""

import numpy as np
import pytest

from gpucnn.data import (
    Dataset,
)
from gpucnn.errors import (
    ArgumentError,
    DataError,
    DeviceError,
    DTypeError,
    ShapeError,
)
from tests.data.small import small_dataset, small_images


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", ">f4"])
@pytest.mark.parametrize("maps", [None, 1, 3])
def test_dataset_stores_images_by_sample_map_row_and_column(dtype, maps):
    images = small_images().astype(dtype)
    if maps:
        images = np.repeat(images[:, None], maps, axis=1)
    dataset = Dataset(images, np.arange(6), name="small")
    assert dataset.images.shape == (6, maps or 1, 5, 4)
    assert dataset.image_shape == (maps or 1, 5, 4)
    assert dataset.images.dtype == np.dtype(dtype).newbyteorder("=")
    assert dataset.images.dtype.isnative and dataset.images.flags.c_contiguous
    np.testing.assert_array_equal(dataset.images.reshape(images.shape), images)
    assert (len(dataset), dataset.classes, dataset.name) == (6, 6, "small")


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", ">i4", "uint32", "int64", "uint64"])
def test_dataset_stores_labels_of_any_integer_type_as_int32(dtype):
    dataset = Dataset(small_images(3), np.array([4, 0, 2], dtype))
    assert dataset.labels.dtype == np.int32 and dataset.labels.dtype.isnative
    assert dataset.labels.tolist() == [4, 0, 2]
    assert dataset.classes == 5


def test_dataset_stores_strided_images_contiguously():
    images = np.asfortranarray(small_images())[::-1, :, ::2]
    dataset = Dataset(images, np.zeros(6, int))
    assert dataset.images.flags.c_contiguous
    np.testing.assert_array_equal(dataset.images[:, 0], images)


def test_dataset_does_not_change_with_the_arrays_it_was_made_from():
    images, labels = small_images(), np.zeros(6, "int32")
    dataset = Dataset(images, labels)
    images[:], labels[:] = 9, 5
    assert dataset.images[0, 0, 0, 0] == 0 and not dataset.labels.any()


def test_dataset_and_its_parts_are_read_only():
    dataset = small_dataset()
    for part in (dataset, dataset[1:3], dataset[np.array([1, 3])]):
        with pytest.raises(ValueError, match="read-only"):
            part.images[0] = 1
        with pytest.raises(ValueError, match="read-only"):
            part.labels[0] = 1
        with pytest.raises(AttributeError):
            part.images = small_images()


class DLPackArray:
    """An array of some other library: DLPack's two methods and nothing more."""

    def __init__(self, array, device_type=1):
        self.array, self.device_type = array, device_type

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device_type, 0


def test_dataset_takes_dlpack_arrays_on_the_cpu():
    dataset = Dataset(DLPackArray(small_images()), DLPackArray(np.arange(6)))
    np.testing.assert_array_equal(dataset.images[:, 0], small_images())
    assert dataset.labels.tolist() == [0, 1, 2, 3, 4, 5]


def test_dataset_refuses_an_array_on_a_gpu():
    with pytest.raises(DeviceError, match="images: expected an array on the CPU"):
        Dataset(DLPackArray(small_images(), device_type=2), np.arange(6))


def test_dataset_explains_a_dlpack_array_that_numpy_cannot_take():
    class Refusing(DLPackArray):
        def __dlpack__(self, **options):
            raise BufferError("needs a gradient")

    with pytest.raises(DTypeError, match=r"labels: .*needs a gradient"):
        Dataset(small_images(), Refusing(np.arange(6)))


@pytest.mark.parametrize(
    ("images", "labels", "error", "message"),
    [
        ([[[1]]], np.zeros(1, int), DTypeError, "images: expected a NumPy or .* got list"),
        (small_images(), [0] * 6, DTypeError, "labels: expected a NumPy or .* got list"),
        (small_images(dtype="int64"), np.zeros(6, int), DTypeError, "uint8, .* got int64"),
        (small_images(dtype="float16"), np.zeros(6, int), DTypeError, "got float16"),
        (small_images(), np.zeros(6), DTypeError, "labels of an integer type, got float64"),
        (small_images(), np.zeros(6, bool), DTypeError, "labels of an integer type, got bool"),
        (small_images()[0], np.zeros(5, int), ShapeError, r"height, width\), got \(5, 4\)"),
        (small_images()[None, None], np.zeros(1, int), ShapeError, "expected images of shape"),
        (small_images()[:, :0], np.zeros(6, int), ShapeError, r"got \(6, 0, 4\)"),
        (small_images(), np.zeros((6, 1), int), ShapeError, r"\(samples,\), got \(6, 1\)"),
        (small_images(), np.zeros(5, int), DataError, "got 5 labels and 6 images"),
        (small_images(2), np.array([0, -1]), DataError, "got -1 at sample 1"),
        (small_images(2), np.array([-1, -1]), DataError, "from 0 to 0, got -1 at sample 0"),
        (small_images(1), np.array([2**32]), DataError, "got 4294967296 at sample 0"),
    ],
)
def test_dataset_says_what_it_expected_and_got(images, labels, error, message):
    with pytest.raises(error, match=f"Dataset 'bad': .*{message}|Dataset 'bad': {message}"):
        Dataset(images, labels, name="bad")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dataset_refuses_nan_and_infinity_and_names_the_image(dtype, value):
    images = small_images(dtype=dtype)
    images[4, 2, 1] = value
    with pytest.raises(DataError, match=f"finite pixels, got {value} in image 4"):
        Dataset(images, np.zeros(6, int))


def test_dataset_takes_floats_whose_sum_would_overflow():
    images = np.full((9, 2, 2), np.finfo("float32").max, "float32")
    assert len(Dataset(images, np.zeros(9, int))) == 9


def test_dataset_refuses_labels_beyond_the_given_classes():
    assert small_dataset(classes=7).classes == 7
    with pytest.raises(DataError, match="labels from 0 to 1, got 2 at sample 2"):
        small_dataset(classes=2)


@pytest.mark.parametrize("classes", [0, -3, 2.0, True, "3", 2**31])
def test_dataset_refuses_an_impossible_number_of_classes(classes):
    with pytest.raises(ArgumentError, match="classes"):
        small_dataset(classes=classes)


def test_dataset_refuses_a_name_that_is_no_str():
    with pytest.raises(ArgumentError, match="expected a str as name, got 3"):
        small_dataset(name=3)


def test_dataset_without_samples_needs_the_number_of_classes():
    assert len(Dataset(small_images(0), np.zeros(0, int), classes=3)) == 0
    assert len(Dataset(small_images(0, dtype="float32"), np.zeros(0, int), classes=3)) == 0
    with pytest.raises(ArgumentError, match="expected classes="):
        Dataset(small_images(0), np.zeros(0, int))


@pytest.mark.parametrize(
    "index",
    [
        slice(1, 4),
        slice(None, None, -2),
        slice(9, None),
        np.array([5, 0, 0, -1]),
        np.array([], int),
        np.arange(6) % 2 == 0,
    ],
    ids=["slice", "backwards", "empty slice", "indices", "no indices", "mask"],
)
def test_dataset_is_cut_by_slices_indices_and_masks(index):
    dataset = small_dataset(name="small")
    part = dataset[index]
    np.testing.assert_array_equal(part.images, dataset.images[index])
    np.testing.assert_array_equal(part.labels, dataset.labels[index])
    assert part.images.flags.c_contiguous and part.labels.flags.c_contiguous
    assert (part.name, part.classes) == ("small", 3)


def test_dataset_slice_shares_memory():
    dataset = small_dataset()
    assert np.shares_memory(dataset[2:5].images, dataset.images)


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (3, DTypeError, "expected a slice, an integer array or a boolean mask, got 3"),
        ([0, 1], DTypeError, "got \\[0, 1\\]"),
        (np.array([0.0]), DTypeError, "got float64"),
        (np.array([[0]]), ShapeError, r"got shape \(1, 1\)"),
        (np.ones(5, bool), ShapeError, r"mask of shape \(6,\), got \(5,\)"),
        (np.array([0, 6]), ArgumentError, "from -6 to 5, got 0 to 6"),
        (np.array([-7]), ArgumentError, "from -6 to 5, got -7 to -7"),
    ],
)
def test_dataset_refuses_other_indices(index, error, message):
    with pytest.raises(error, match=message):
        small_dataset()[index]


def test_dataset_is_not_iterable():
    with pytest.raises(TypeError, match="not iterable"):
        iter(small_dataset())


def test_balanced_takes_the_first_of_every_class_in_the_original_order():
    dataset = small_dataset(labels=(2, 0, 0, 1, 2, 0, 1, 2, 1))
    chosen = dataset.balanced(2)
    kept = np.array([0, 1, 2, 3, 4, 6])
    np.testing.assert_array_equal(chosen.labels, dataset.labels[kept])
    np.testing.assert_array_equal(chosen.images, dataset.images[kept])


def test_balanced_names_a_class_that_has_too_few():
    with pytest.raises(ArgumentError, match="at least 2 samples of every class, got 1 of class 1"):
        small_dataset(labels=(0, 1, 0)).balanced(2)
    with pytest.raises(ArgumentError, match="got 0 of class 3"):
        small_dataset(classes=4).balanced(1)
    with pytest.raises(ArgumentError, match="per_class: expected at least 1, got 0"):
        small_dataset().balanced(0)


def test_split_holds_back_the_last_samples():
    first, last = small_dataset(labels=(0, 1, 2, 2, 1, 0)).split(2)
    assert first.labels.tolist() == [0, 1, 2, 2] and last.labels.tolist() == [1, 0]
    assert first.classes == last.classes == 3


@pytest.mark.parametrize("count", [0, 6, 7, 1.5])
def test_split_leaves_no_part_empty(count):
    with pytest.raises(ArgumentError, match="split: "):
        small_dataset().split(count)


def test_dataset_tells_what_it_is():
    assert repr(small_dataset(name="small")) == (
        "Dataset('small', 6 images of 1x5x4 uint8, 3 classes)"
    )
    assert repr(small_dataset()) == "Dataset(6 images of 1x5x4 uint8, 3 classes)"
