"""Pictures padded and shifted beforehand, so that a training step has only to pick them."""

from itertools import product

import numpy as np


def shifted_copies(images, size, shift=0):
    """Every picture in the middle of the background, moved by up to `shift` pixels either way.

    images: uint8 (samples, maps, height, width); 0 is the background. size: the (height, width)
    that a network wants. Returns uint8 (copies * samples, maps, *size), copy after copy, the copy
    that is moved by (down, right) being number (down + shift) * (2 * shift + 1) + right + shift.
    What is moved across the edge is cut off.
    """
    samples, maps, *own = images.shape
    margins = [((wide - narrow) // 2 + shift, wide - narrow - (wide - narrow) // 2 + shift)
               for wide, narrow in zip(size, own, strict=True)]
    padded = np.pad(images, [(0, 0), (0, 0), *margins])
    moves = range(-shift, shift + 1)
    copies = np.empty((len(moves) ** 2, samples, maps, *size), np.uint8)
    for copy, (down, right) in zip(copies, product(moves, moves), strict=True):
        copy[...] = padded[:, :, shift - down:, shift - right:][..., :size[0], :size[1]]
    return copies.reshape(-1, maps, *size)


def copies_order(order, shifts, samples, shift):
    """The numbers, int32, that pictures moved by `shifts` have among `shifted_copies` of `samples`
    pictures; order: (n,) numbers of pictures; shifts: (n, 2) as (down, right), or None."""
    if shifts is None:
        shifts = np.zeros((1, 2), np.int32)
    down, right = (np.asarray(shifts) + shift).T
    return ((down * (2 * shift + 1) + right) * samples + order).astype(np.int32)
