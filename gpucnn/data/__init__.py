"""Labelled images: datasets, their files, MNIST and its kin, and pictures of single digits."""

from gpucnn.data.dataset import Dataset
from gpucnn.data.digits import digits
from gpucnn.data.idx import read_idx, write_idx
from gpucnn.data.mnist import download_mnist, load_mnist
from gpucnn.data.pictures import fit_digit, read_picture

__all__ = [
    "Dataset",
    "digits",
    "download_mnist",
    "fit_digit",
    "load_mnist",
    "read_idx",
    "read_picture",
    "write_idx",
]
