"""The first step: images of a data set, placed on the background, scaled, in the layout wanted."""

import numpy as np

from gpucnn.backends.cpu.memory import empty


class Placing:
    """Images as they are, each at its place on a background of the network's input size."""

    def __init__(self, samples, maps, size, low):
        self._shape = samples, maps, *size
        self._low = low
        self._placed = None
        self._holds = None

    def place(self, images, order, shifts):
        """images[order] in an array (samples, maps, *size) of their type, each shifted by its
        (down, right) if there are `shifts`. The next call overwrites it."""
        placed = self._background(images, shifted=shifts is not None)
        height, width = images.shape[2:]
        full_height, full_width = self._shape[2:]
        top, left = (full_height - height) // 2, (full_width - width) // 2
        if shifts is None:
            chosen = images[order]
            placed = placed[:len(chosen)]
            placed[:, :, top:top + height, left:left + width] = chosen
            return placed
        for target, sample, (down, right) in zip(placed, order.tolist(), shifts.tolist(),
                                                 strict=False):
            rows, from_rows = _overlap(top + down, height, full_height)
            columns, from_columns = _overlap(left + right, width, full_width)
            target[:, rows, columns] = images[sample, :, from_rows, from_columns]
        return placed[:len(order)]

    def _background(self, images, *, shifted):
        """The array, with the background's value wherever images of this size, unless shifted, do
        not come to lie."""
        if self._placed is None or self._placed.dtype != images.dtype:
            self._placed, self._holds = np.empty(self._shape, images.dtype), None
        if shifted or self._holds != images.shape[2:]:
            self._placed.fill(0 if images.dtype == np.uint8 else self._low)
        self._holds = None if shifted else images.shape[2:]
        return self._placed


class Images:
    """Gathers samples of a data set into one lane's input, in its layout."""

    def __init__(self, lane, layout, input_range):
        self.output = lane.empty(layout.shape(lane.samples))
        self._layout = layout
        self._placing = Placing(lane.samples, layout.maps, layout.size, input_range[0])
        self._range = input_range

    def gather(self, images, order, shifts):
        """Fill the input with images[order], (count, maps, height, width) of uint8 or the lane's
        type."""
        placed = self._placing.place(images, order, shifts)
        np.copyto(self.output, self._layout.split(placed.transpose(1, 2, 3, 0)))
        if images.dtype == np.uint8:
            _scale(self.output, self._range)


class ImagesAhead:
    """Gathers many samples at once, of which one after the other is then wanted. They are divided
    by the layout's scale."""

    def __init__(self, samples, layout, input_range, dtype):
        self._placing = Placing(samples, layout.maps, layout.size, input_range[0])
        self.inputs = empty((samples, layout.maps, *layout.size), dtype)
        self._range = input_range
        self._scale = layout.scale

    def gather(self, images, order, shifts):
        """Fill the first of `inputs`, (samples, maps, height, width), with images[order]."""
        placed = self._placing.place(images, order, shifts)
        inputs = self.inputs[:len(placed)]
        np.copyto(inputs, placed)
        if images.dtype == np.uint8:
            _scale(inputs, self._range, self._scale)
        elif self._scale != 1:
            inputs /= self._scale


def _scale(values, input_range, scale=1.0):
    """Bring 0..255 to the input range divided by `scale`, in place."""
    low, high = input_range
    values *= (high - low) / 255 / scale
    values += low / scale


def _overlap(start, length, limit):
    """Where `length` pixels placed at `start` fall within 0..limit, and which of them do."""
    first, last = max(start, 0), max(min(start + length, limit), max(start, 0))
    return slice(first, last), slice(first - start, last - start)
