"""The first step: a micro-batch's images, scaled, padded and shifted, in the layout wanted."""

import numpy as np


class Images:
    """Gathers samples of a data set into one lane's input.

    Images are first placed, as they are, on a background of the input's size; then one strided
    copy brings the samples last.
    """

    def __init__(self, lane, layout, input_range):
        self.output = lane.empty(layout.shape(lane.samples))
        self._layout = layout
        self._low, high = input_range
        self._scale = (high - self._low) / 255
        self._placed = None
        self._holds = None

    def gather(self, images, order, shifts):
        """Fill the input with images[order], (count, maps, height, width) of uint8 or the lane's
        type, each shifted by its (down, right) if there are `shifts`."""
        height, width = images.shape[2:]
        (full_height, full_width) = self._layout.size
        top, left = (full_height - height) // 2, (full_width - width) // 2
        placed = self._background(images, shifted=shifts is not None)
        if shifts is None:
            placed[:, :, top:top + height, left:left + width] = images[order]
        else:
            for target, sample, (down, right) in zip(placed, order, shifts.tolist(), strict=True):
                rows, from_rows = _overlap(top + down, height, full_height)
                columns, from_columns = _overlap(left + right, width, full_width)
                target[:, rows, columns] = images[sample, :, from_rows, from_columns]
        np.copyto(self.output, self._layout.split(placed.transpose(1, 2, 3, 0)))
        if images.dtype == np.uint8:
            self.output *= self._scale
            self.output += self._low

    def _background(self, images, *, shifted):
        """An array (samples, maps, height, width) of the images' type, with the background's value
        wherever images of this size, unless shifted, do not come to lie."""
        value = 0 if images.dtype == np.uint8 else self._low
        if self._placed is None or self._placed.dtype != images.dtype:
            shape = self.output.shape[-1], self._layout.maps, *self._layout.size
            self._placed, self._holds = np.empty(shape, images.dtype), None
        if shifted or self._holds != images.shape[2:]:
            self._placed.fill(value)
        self._holds = None if shifted else images.shape[2:]
        return self._placed


def _overlap(start, length, limit):
    """Where `length` pixels placed at `start` fall within 0..limit, and which of them do."""
    first, last = max(start, 0), max(min(start + length, limit), max(start, 0))
    return slice(first, last), slice(first - start, last - start)
