"""Pooling windows as strided slices of batch-last maps."""

from gpucnn.shapes import window_positions


def pooled_size(size, pool_size, stride):
    """(out_height, out_width) of pooling windows on maps of `size`."""
    return tuple(map(window_positions, size, pool_size, stride))


def window_pixels(pool_size, stride, out_size):
    """For each pixel of the window, in row-major order: the index that picks that pixel of all
    windows from batch-last maps, giving (maps, out_height, out_width, samples)."""
    def taps(pool, step, positions):
        return [slice(first, first + (positions - 1) * step + 1, step) for first in range(pool)]

    columns = taps(pool_size[1], stride[1], out_size[1])
    return [(slice(None), rows, pixels)
            for rows in taps(pool_size[0], stride[0], out_size[0]) for pixels in columns]
