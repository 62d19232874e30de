"""The data of the benchmarks, made of the digits that come with the package."""

import functools

import numpy as np

from gpucnn import Dataset, digits

DIGITS_REPEATED = 12    # 60,000 samples, as many as MNIST has
DIGITS_COLOURED = 2     # 10,000 samples
COLOURED_SIZE = 32
GROUND, INK = (32, 112), (144, 224)  # ranges of the colours' components
NOISE = 8.0                         # standard deviation
SEED = 1


@functools.cache
def repeated_digits():
    """60,000 uint8 digits of 28x28 pixels, the embedded 5,000 twelve times."""
    train, _ = digits()
    return Dataset(np.tile(train.images, (DIGITS_REPEATED, 1, 1, 1)),
                   np.tile(train.labels, DIGITS_REPEATED), classes=train.classes)


@functools.cache
def coloured_digits():
    """10,000 uint8 pictures of 3x32x32: the embedded digits twice, each in a random light colour on
    a random dark one, with noise on every pixel, so that hardly two windows of a map are equal."""
    train, _ = digits()
    generator = np.random.Generator(np.random.Philox(SEED))
    samples = len(train) * DIGITS_COLOURED
    margin = (COLOURED_SIZE - train.image_shape[1]) // 2
    shape = np.pad(train.images, [(0, 0), (0, 0), (margin, margin), (margin, margin)])
    shape = np.tile(shape.astype(np.float32) / 255, (DIGITS_COLOURED, 1, 1, 1))
    ground, ink = (generator.uniform(*bounds, (samples, 3, 1, 1)).astype(np.float32)
                   for bounds in (GROUND, INK))
    pictures = ground + (ink - ground) * shape
    pictures += NOISE * generator.standard_normal(pictures.shape, np.float32)
    return Dataset(np.clip(np.rint(pictures), 0, 255).astype(np.uint8),
                   np.tile(train.labels, DIGITS_COLOURED), classes=train.classes)
