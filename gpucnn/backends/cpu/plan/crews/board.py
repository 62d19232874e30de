"""Arrays in memory that several processes share."""

import mmap
import os
import tempfile
from math import prod

import numpy as np

from gpucnn.backends.cpu.memory import padded


class Board:
    """Arrays by name, for this process and those that are given `descriptor`.

    shapes: name -> (shape, dtype). descriptor: that of a board of the same shapes in another
    process; without one the memory is new and holds zeros.
    """

    def __init__(self, shapes, descriptor=None):
        places, size = {}, 0
        for name, (shape, dtype) in shapes.items():
            places[name] = size
            size += padded(prod(shape) * np.dtype(dtype).itemsize)
        self.descriptor = _memory(size) if descriptor is None else descriptor
        shared = mmap.mmap(self.descriptor, size)
        self._arrays = {name: np.ndarray(shape, dtype, shared, places[name])
                        for name, (shape, dtype) in shapes.items()}

    def __getitem__(self, name):
        return self._arrays[name]

    def close(self):
        """Give up the descriptor; the arrays stay."""
        os.close(self.descriptor)


def _memory(size):
    """The descriptor of so many bytes that no file system keeps, or only a temporary one."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("gpucnn")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor
