"""Batch-last memory: how the NumPy ops lay out what they compute on.

The ops compute on arrays (maps, height, width, samples): a window's shift is then a run of
`width * samples` numbers, and a convolution one matrix product whose result is already in place.
Arrays keep their logical shape, samples first; only the order in memory differs. Arrays of any
other memory order are copied to this one and back.
"""

from contextlib import contextmanager
from math import prod

import numpy as np

from gpucnn.backends.cpu.memory import empty


def scratch(workspace, name, shape, dtype):
    """A contiguous array of unset values, the workspace's if there is one."""
    return empty(shape, dtype) if workspace is None else workspace.take(name, shape, dtype)


def given_or_new(gradients, shapes, dtype):
    """The arrays of `gradients` (None, or a tuple with Nones), new ones of `shapes` for Nones. A
    shape of None is an array that is not wanted."""
    return tuple(empty(shape, dtype) if array is None and shape is not None else array
                 for array, shape in zip(gradients or (None,) * len(shapes), shapes, strict=True))


def samples_last(array):
    """A view (..., samples) of an array (samples, ...)."""
    return array.transpose((*range(1, array.ndim), 0))


def empty_batch(shape, dtype):
    """An array (samples, ...) in batch-last memory."""
    return np.moveaxis(empty((*shape[1:], shape[0]), dtype), -1, 0)


def batch_last(array, name, workspace):
    """The values of `array` (samples, ...) as a contiguous array (..., samples)."""
    view = samples_last(array)
    if view.flags.c_contiguous:
        return view
    copy = scratch(workspace, name, view.shape, view.dtype)
    np.copyto(copy, view)
    return copy


@contextmanager
def batch_last_result(out, name, workspace):
    """Contiguous memory (..., samples) to compute `out` in: its own, or scratch copied to it."""
    view = samples_last(out)
    if view.flags.c_contiguous:
        yield view
    else:
        buffer = scratch(workspace, name, view.shape, view.dtype)
        yield buffer
        np.copyto(view, buffer)


def sum_rows(rows, out):
    """out[r] = the sum of rows[r, ...]; `rows` is contiguous, so that NumPy adds pairwise."""
    np.add.reduce(rows.reshape(len(rows), prod(rows.shape[1:])), axis=1, out=out)


def matmul(left, right, out):
    """left @ right. NumPy's own takes a slow path for an inner length of one, an outer product."""
    return (np.multiply if left.shape[-1] == 1 else np.matmul)(left, right, out=out)
