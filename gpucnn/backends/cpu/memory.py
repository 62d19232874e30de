"""Arrays that begin where a cache line does, and blocks of memory for many of them.

NumPy's own begin at any multiple of 16 bytes, and then every load of a 64-byte vector takes two
cache lines: training was 2 to 5 per cent slower for it.
"""

from math import prod
from numbers import Integral

import numpy as np

LINE = 64
LARGE_PAGE = 2 * 1024 * 1024
BLOCK = 4 * LARGE_PAGE


def empty(shape, dtype):
    """A C-contiguous array of unset values; `shape` as NumPy takes it."""
    dtype = np.dtype(dtype)
    size = prod((shape,) if isinstance(shape, Integral) else shape) * dtype.itemsize
    return _aligned(size, LINE).view(dtype).reshape(shape)


def zeros(shape, dtype):
    """A C-contiguous array of zeros."""
    array = empty(shape, dtype)
    array.fill(0)
    return array


class LineMemory:
    """What a `Workspace` that no caller has given takes its arrays from."""

    empty = staticmethod(empty)


def padded(count):
    """The next larger count of numbers after which a cache line begins, whatever their type."""
    return -(-count // LINE) * LINE


class Arena:
    """Arrays in blocks of memory that the system may give in large pages: NumPy asks for these from
    4 MB on, and a core need not look up as many pages' places. They live as long as the last of
    them; none is given back before."""

    def __init__(self):
        self._left = np.empty(0, np.uint8)

    def empty(self, shape, dtype):
        """A C-contiguous array of unset values."""
        dtype = np.dtype(dtype)
        size = prod(shape) * dtype.itemsize
        if size > len(self._left):
            self._left = _aligned(max(size, BLOCK), LARGE_PAGE)
        array = self._left[:size].view(dtype).reshape(shape)
        self._left = self._left[padded(size):]
        return array


def _aligned(size, alignment):
    """So many bytes, the first at a multiple of `alignment`."""
    memory = np.empty(size + alignment, np.uint8)
    first = -memory.ctypes.data % alignment
    return memory[first:first + size]
