"""Ordinary pictures as a network's input: light ink on a dark ground, as in MNIST."""

from pathlib import Path

import numpy as np

from gpucnn.errors import (
    ArgumentError,
    DataError,
    DTypeError,
    FileFormatError,
    MissingDependencyError,
    ShapeError,
)
from gpucnn.shapes import pair

# MNIST's makers scaled each digit into a 20x20 box of the 28x28 image.
BOX_SHARE = 20 / 28
LEAST_CONTRAST = 16
TRANSPARENT_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")


def read_picture(path, *, invert=None):
    """The picture file `path` (PNG, JPEG, ...) in grey: uint8 (height, width), 0 black.

    Networks trained on MNIST expect light ink on a dark ground. invert=None inverts a picture
    whose border is light (the median of its outermost pixels is above 127), as paper is; True
    and False settle it. Transparent parts become white before that, colours become grey by
    ITU-R 601 luma, 16-bit greys are scaled by 255/65535, and a camera's orientation is applied.

    Raises `FileFormatError` if the file cannot be read as a picture, `FileNotFoundError`,
    `MissingDependencyError` without the package Pillow, `ArgumentError` for another `invert`.
    """
    if invert not in (None, True, False):
        raise ArgumentError(f"read_picture: expected invert of None, True or False, got {invert!r}")
    grey = _read_grey(Path(path))
    if invert is None:
        border = np.concatenate([grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]])
        invert = np.median(border) > 127
    return 255 - grey if invert else grey


def fit_digit(picture, size=(28, 28)):
    """One digit in a picture of any size, brought into the form of MNIST's digits.

    picture: uint8 (height, width), one digit in light ink on a dark ground, as `read_picture`
        gives it. Returns uint8 of shape `size`.

    The ground is brought to 0 and the ink to 255; the ink is cropped, scaled so that its longer
    side fills 20 of 28 pixels, the proportions kept, each pixel the mean of the area it covers;
    its centre of mass is put at the centre (LeCun et al. 1998, section III.A).

    Raises `DTypeError`, `ShapeError`, `ArgumentError`, and `DataError` for a picture without
    ink: even, nearly even, or nothing but noise.
    """
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8:
        got = getattr(picture, "dtype", type(picture).__name__)
        raise DTypeError(f"fit_digit: expected a uint8 array, got {got}")
    if picture.ndim != 2:
        raise ShapeError(f"fit_digit: expected a picture (height, width), got {picture.shape}")
    size = pair(size, "fit_digit: size", least=2)
    ink = _crop(_ink(picture))
    box = [max(1, round(BOX_SHARE * extent)) for extent in size]
    scale = min(room / extent for room, extent in zip(box, ink.shape, strict=True))
    rows, columns = (max(1, round(scale * extent)) for extent in ink.shape)
    small = _area_means(ink.shape[0], rows) @ ink @ _area_means(ink.shape[1], columns).T
    # A thin pen's strokes cover a part of each pixel; MNIST's brightest pixel is 255 all the same.
    return _centred(np.rint(255 / small.max() * small).astype(np.uint8), size)


def _read_grey(path):
    image_module, image_ops = _import_pillow()
    if path.is_dir():
        raise FileFormatError(f"{path}: expected a picture file, got a directory")
    with open(path, "rb") as file:
        # Pillow's decoders raise nearly any class on a corrupt file.
        try:
            with image_module.open(file) as image:
                return _grey_pixels(image_ops.exif_transpose(image), image_module)
        except MemoryError:
            raise
        except image_module.UnidentifiedImageError:
            raise FileFormatError(
                f"{path}: expected a picture that Pillow can read, got another kind of file"
            ) from None
        except Exception as error:
            raise FileFormatError(
                f"{path}: expected a picture that Pillow can read, got: {error}"
            ) from error


def _import_pillow():
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise MissingDependencyError(
            "read_picture: expected the package Pillow, which is not installed: "
            "pip install gpucnn[cli]"
        ) from error
    return Image, ImageOps


def _grey_pixels(image, image_module):
    """A Pillow image of any mode as uint8 (height, width)."""
    if image.mode in SIXTEEN_BIT_MODES:
        return _eight_bits(np.asarray(image), image.info.get("transparency"))
    if image.mode == "F":
        raise ValueError("a picture of floats, whose white is not defined")
    if image.mode in TRANSPARENT_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        white = image_module.new("RGBA", image.size, "white")
        image = image_module.alpha_composite(white, image)
    if image.mode != "L":
        image = image.convert("RGB").convert("L")
    return np.array(image)


def _eight_bits(pixels, transparent):
    """16-bit greys scaled to 8 bits; the value `transparent`, if there is one, becomes white."""
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError(f"greys from {pixels.min()} to {pixels.max()}, more than 16 bits")
    grey = ((pixels.astype(np.int32) * 255 + 32767) // 65535).astype(np.uint8)
    if transparent is not None:
        grey[pixels == transparent] = 255
    return grey


def _ink(picture):
    """How much ink each pixel holds, 0 to 1, float64 (height, width).

    The ground's level is the median of the darker half of the range of greys. A threshold midway
    from there to the lightest pixel parts ground from ink, however small the ink's share is.
    What exceeds the ground's level by less than eight median deviations (in normal noise five
    standard deviations) is noise or uneven light, and holds no ink.
    """
    if not picture.size:
        raise DataError(_no_ink(picture))
    darkest, lightest = int(picture.min()), int(picture.max())
    level = np.median(picture[picture <= (darkest + lightest) / 2])
    threshold = (level + lightest) / 2
    noise = 8 * np.median(np.abs(picture[picture <= threshold] - level))
    if lightest - level < LEAST_CONTRAST or noise >= lightest - level:
        raise DataError(_no_ink(picture))
    full = np.percentile(picture[picture > threshold], 90)
    foot = min(level + max(noise, (full - level) / 16), threshold)
    return np.clip((picture - foot) / (full - foot), 0, 1)


def _no_ink(picture):
    values = f"values {picture.min()} to {picture.max()}" if picture.size else "no pixels"
    return f"fit_digit: expected light ink on a dark ground, got an empty picture ({values})"


def _crop(ink):
    rows = np.flatnonzero(ink.any(axis=1))
    columns = np.flatnonzero(ink.any(axis=0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _area_means(extent, new_extent):
    """The matrix (new_extent, extent) that takes means over equal shares of an axis."""
    edges = np.arange(new_extent + 1) * (extent / new_extent)
    first, last = edges[:-1, np.newaxis], edges[1:, np.newaxis]
    pixels = np.arange(extent)
    overlap = np.minimum(last, pixels + 1) - np.maximum(first, pixels)
    return np.maximum(overlap, 0) * (new_extent / extent)


def _centred(small, size):
    """`small` on an empty image of `size`, its centre of mass on the pixel at half the size."""
    image = np.zeros(size, np.uint8)
    corner = []
    for axis, (extent, room) in enumerate(zip(small.shape, size, strict=True)):
        mass = small.sum(axis=1 - axis, dtype=np.float64)
        centre = mass @ np.arange(extent) / mass.sum()
        corner.append(min(max(round(room // 2 - centre), 0), room - extent))
    top, left = corner
    image[top : top + small.shape[0], left : left + small.shape[1]] = small
    return image
