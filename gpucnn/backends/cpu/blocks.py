"""Where a convolution reads the samples of a block, and where it writes them.

Products that take any strides work in batch-last arrays themselves; others, and all with arrays of
another memory order, in scratch memory that holds one block.
"""

import numpy as np

from gpucnn.backends.cpu.arrays import samples_last, scratch

ALL = slice(None)


class Source:
    """`maps` (maps, height, width, samples) that `products` read, with their padding: those of x
    (samples, maps, height, width) or of a block of so many samples."""

    def __init__(self, x, convolution, samples, products, memory):
        self._x = samples_last(x)
        self._block = None
        self._is_padded = convolution.padding != (0, 0)
        if self._is_padded:  # no other block size writes to this memory while a call uses it
            self.maps = scratch(memory, f"conv2d.x of {samples}", (
                x.shape[1], *convolution.padded_size, samples), x.dtype)
            self._block = convolution.unpadded(self.maps)
        elif _is_taken(self._x, samples, products.reads_any_strides):
            self.maps = self._x
        else:
            self.maps = self._block = scratch(memory, "conv2d.x", (
                *self._x.shape[:-1], samples), x.dtype)

    def begin(self):
        """Clear the padding, at the beginning of a call: others may have used this memory."""
        if self._is_padded:
            self.maps.fill(0)

    def load(self, block):
        """Make a block's samples ready; returns where in `maps` they are."""
        if self._block is None:
            return block
        np.copyto(self._block, self._x[..., block])
        return ALL


class Target:
    """`maps` (maps, height, width, samples) that `products` compute, those of out (samples, maps,
    height, width) or of a block of so many samples, in scratch memory of that name."""

    def __init__(self, out, samples, products, name, memory):
        self._out = self.maps = samples_last(out)
        if not _is_taken(self._out, samples, products.writes_any_strides):
            self.maps = scratch(memory, name, (*self._out.shape[:-1], samples), out.dtype)

    def place(self, block):
        """Where in `maps` a block's samples are to be written."""
        return block if self.maps is self._out else ALL

    def store(self, block):
        """Bring them to their place, if they are not there."""
        if self.maps is not self._out:
            np.copyto(self._out[..., block], self.maps)


def _is_taken(maps, samples, of_any_strides):
    """Whether an array samples last is taken as it is, for blocks of so many samples."""
    if of_any_strides:
        return maps.strides[-1] == maps.itemsize
    return maps.shape[-1] == samples and maps.flags.c_contiguous
