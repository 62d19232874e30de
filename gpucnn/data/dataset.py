"""Labelled images as one value that cannot change."""

import numpy as np

from gpucnn.devices import host_array
from gpucnn.errors import ArgumentError, DataError, DTypeError, ShapeError
from gpucnn.shapes import whole_number

IMAGE_TYPES = (np.dtype("uint8"), np.dtype("float32"), np.dtype("float64"))
LABEL_TYPE = np.dtype("int32")
MOST_CLASSES = np.iinfo(LABEL_TYPE).max


class Dataset:
    """Images with a class label each; checked once, then read-only.

    images: array (samples, height, width), taken as one map each, or (samples, maps, height,
        width); uint8, float32 or float64. Float images hold no NaN and no infinity.
    labels: integer array (samples,) of any width; values 0 to classes - 1.
    name: what error messages and `repr` call the data.
    classes: how many classes there are; the largest label + 1 if not given.

    Arrays are NumPy's, or any on the CPU that speak DLPack; they are copied, so that a later
    change of the original does not reach the dataset. Slices of a dataset share its memory.

    Raises `ShapeError`, `DTypeError`, `DeviceError` (an array on a GPU), `DataError` (counts
    that differ, labels out of range, NaN or infinity) and `ArgumentError` (name, classes).
    """

    __slots__ = ("_classes", "_images", "_labels", "_name")
    __iter__ = None

    def __init__(self, images, labels, *, name="", classes=None):
        if not isinstance(name, str):
            raise ArgumentError(f"Dataset: expected a str as name, got {name!r}")
        where = f"Dataset {name!r}" if name else "Dataset"
        images = _checked_images(host_array(images, f"{where}: images"), where)
        labels = host_array(labels, f"{where}: labels")
        _check_label_array(labels, len(images), where)
        classes = _class_count(labels, classes, where)
        _check_label_values(labels, classes, where)
        self._set(
            np.array(images, images.dtype.newbyteorder("="), order="C"),
            np.array(labels, LABEL_TYPE, order="C"),
            name,
            classes,
        )

    def _set(self, images, labels, name, classes):
        images.flags.writeable = False
        labels.flags.writeable = False
        self._images, self._labels, self._name, self._classes = images, labels, name, classes

    @property
    def images(self):
        """Read-only array (samples, maps, height, width); uint8, float32 or float64."""
        return self._images

    @property
    def labels(self):
        """Read-only int32 array (samples,)."""
        return self._labels

    @property
    def name(self):
        """What error messages and `repr` call the data."""
        return self._name

    @property
    def classes(self):
        """How many classes there are; labels run from 0 to classes - 1."""
        return self._classes

    @property
    def image_shape(self):
        """(maps, height, width) of one image."""
        return self._images.shape[1:]

    def __len__(self):
        return len(self._images)

    def __getitem__(self, index):
        """A dataset of the chosen samples: `index` is a slice, an integer array or a boolean mask.

        A slice of step 1 shares this dataset's memory; anything else copies.
        """
        if not isinstance(index, slice):
            index = self._checked_index(index)
        chosen = object.__new__(Dataset)
        chosen._set(
            np.ascontiguousarray(self._images[index]),
            np.ascontiguousarray(self._labels[index]),
            self._name,
            self._classes,
        )
        return chosen

    def balanced(self, per_class):
        """The first `per_class` samples of every class, in the order they have here.

        Raises `ArgumentError` if a class has fewer.
        """
        per_class = whole_number(per_class, f"{self._where()}.balanced: per_class", least=1)
        members = [np.flatnonzero(self._labels == label) for label in range(self._classes)]
        for label, places in enumerate(members):
            if len(places) < per_class:
                raise ArgumentError(
                    f"{self._where()}.balanced: expected at least {per_class} samples of every "
                    f"class, got {len(places)} of class {label}"
                )
        return self[np.sort(np.concatenate([places[:per_class] for places in members]))]

    def split(self, count):
        """Two datasets: all but the last `count` samples, and the last `count`, for validation.

        Raises `ArgumentError` unless both have at least one sample.
        """
        count = whole_number(count, f"{self._where()}.split: count", least=1)
        if count >= len(self):
            raise ArgumentError(
                f"{self._where()}.split: expected a count below the {len(self)} samples, "
                f"got {count}"
            )
        return self[:-count], self[-count:]

    def __repr__(self):
        maps, height, width = self.image_shape
        name = f"{self._name!r}, " if self._name else ""
        return (
            f"Dataset({name}{len(self)} images of {maps}x{height}x{width} "
            f"{self._images.dtype}, {self._classes} classes)"
        )

    def _where(self):
        return f"Dataset {self._name!r}" if self._name else "Dataset"

    def _checked_index(self, index):
        where = f"{self._where()}[...]"
        if not isinstance(index, np.ndarray):
            raise DTypeError(
                f"{where}: expected a slice, an integer array or a boolean mask, got {index!r}"
            )
        if index.dtype != bool and not np.issubdtype(index.dtype, np.integer):
            raise DTypeError(f"{where}: expected an integer or bool array, got {index.dtype}")
        if index.ndim != 1:
            raise ShapeError(f"{where}: expected an array (chosen,), got shape {index.shape}")
        if index.dtype == bool:
            if len(index) != len(self):
                raise ShapeError(
                    f"{where}: expected a mask of shape ({len(self)},), got {index.shape}"
                )
        elif len(index) and not -len(self) <= int(index.min()) <= int(index.max()) < len(self):
            raise ArgumentError(
                f"{where}: expected indices from {-len(self)} to {len(self) - 1}, "
                f"got {index.min()} to {index.max()}"
            )
        return index


def _checked_images(images, where):
    """The images as (samples, maps, height, width), in any layout; checks type, shape, values."""
    if images.dtype.newbyteorder("=") not in IMAGE_TYPES:
        raise DTypeError(
            f"{where}: expected images of uint8, float32 or float64, got {images.dtype}"
        )
    if images.ndim not in (3, 4) or 0 in images.shape[1:]:
        raise ShapeError(
            f"{where}: expected images of shape (samples, height, width) or (samples, maps, "
            f"height, width), got {images.shape}"
        )
    if images.ndim == 3:
        images = images[:, np.newaxis]
    if images.dtype.kind == "f":
        _check_finite(images, where)
    return images


def _check_finite(images, where):
    """The smallest and largest value show any NaN or infinity without a mask as big as the data."""
    if not images.size or (np.isfinite(images.min()) and np.isfinite(images.max())):
        return
    place = next(i for i, image in enumerate(images) if not np.isfinite(image).all())
    bad = images[place][~np.isfinite(images[place])]
    raise DataError(f"{where}: expected finite pixels, got {bad[0]} in image {place}")


def _check_label_array(labels, samples, where):
    if not np.issubdtype(labels.dtype, np.integer):
        raise DTypeError(f"{where}: expected labels of an integer type, got {labels.dtype}")
    if labels.ndim != 1:
        raise ShapeError(f"{where}: expected labels of shape (samples,), got {labels.shape}")
    if len(labels) != samples:
        raise DataError(
            f"{where}: expected as many labels as images, got {len(labels)} labels "
            f"and {samples} images"
        )


def _class_count(labels, classes, where):
    if classes is not None:
        classes = whole_number(classes, f"{where}: classes", least=1)
        if classes > MOST_CLASSES:
            raise ArgumentError(
                f"{where}: classes: expected at most {MOST_CLASSES}, got {classes}"
            )
        return classes
    if not len(labels):
        raise ArgumentError(f"{where}: expected classes=, since there are no labels to count")
    return min(max(int(labels.max()), 0) + 1, MOST_CLASSES)


def _check_label_values(labels, classes, where):
    """Compares before the cast to int32, which would wrap a large label into the range."""
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise DataError(
            f"{where}: expected labels from 0 to {classes - 1}, got {labels[wrong[0]]} "
            f"at sample {wrong[0]}"
        )
