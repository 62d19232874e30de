"""A batch from its images, one fancy assignment for each distinct shift."""

import numpy as np


def gather(images, labels, order, shifts, *, input_range, out, out_labels):
    """uint8 values go through a table of 256 floats; samples of one shift are placed at once."""
    low, high = input_range
    values = None
    if images.dtype == np.uint8:
        values = (low + np.arange(256) * ((high - low) / 255)).astype(out.dtype)
    height, width = images.shape[2:]
    top, left = (out.shape[2] - height) // 2, (out.shape[3] - width) // 2
    out[...] = low
    groups = [(0, 0, slice(None))] if shifts is None else _by_shift(shifts)
    for down, right, members in groups:
        picked = images[order[members]]
        rows, from_rows = _overlap(top + down, height, out.shape[2])
        columns, from_columns = _overlap(left + right, width, out.shape[3])
        visible = picked[:, :, from_rows, from_columns]
        out[members, :, rows, columns] = visible if values is None else values[visible]
    if labels is not None:
        np.take(labels, order, out=out_labels)


def _by_shift(shifts):
    """(down, right, sample numbers) of each distinct shift."""
    distinct, members = np.unique(shifts, axis=0, return_inverse=True)
    members = members.reshape(-1)
    return [(int(down), int(right), np.flatnonzero(members == number))
            for number, (down, right) in enumerate(distinct)]


def _overlap(start, length, limit):
    """Where `length` pixels placed at `start` fall within 0..limit, and which of them do."""
    first, last = max(start, 0), max(min(start + length, limit), max(start, 0))
    return slice(first, last), slice(first - start, last - start)
