"""Small images and datasets for the tests of gpucnn.data."""

import numpy as np

from gpucnn.data import Dataset


def small_images(n=6, height=5, width=4, dtype="uint8"):
    return (np.arange(n * height * width) % 251).reshape(n, height, width).astype(dtype)


def small_dataset(labels=(0, 1, 2, 0, 1, 2), **options):
    return Dataset(small_images(len(labels)), np.array(labels), **options)
