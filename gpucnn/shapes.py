"""Sizes and pairs: what every layer and op needs to know about windows on maps."""

import operator

from gpucnn.errors import ArgumentError, ShapeError


def whole_number(value, name, *, least, most=None):
    """`value` as an int from `least` to `most`; raises `ArgumentError` otherwise."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ArgumentError(f"{name}: expected an int, got {value!r}") from None
    if isinstance(value, bool):
        raise ArgumentError(f"{name}: expected an int, got {value!r}")
    if number < least:
        raise ArgumentError(f"{name}: expected at least {least}, got {number}")
    if most is not None and number > most:
        raise ArgumentError(f"{name}: expected at most {most}, got {number}")
    return number


def pair(value, name, *, least):
    """An int or a pair of ints as a pair (vertical, horizontal), each at least `least`."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ArgumentError(f"{name}: expected an int or a pair, got {value!r}")
        return tuple(whole_number(part, name, least=least) for part in value)
    number = whole_number(value, name, least=least)
    return number, number


def window_positions(size, window, stride, padding=0):
    """How many positions a window has along one axis: (size + 2 padding - window) // stride + 1."""
    return (size + 2 * padding - window) // stride + 1


def windows_shape(size, window, stride, padding=(0, 0), *, where):
    """(out_height, out_width) of windows on maps of `size` = (height, width).

    Raises `ShapeError`, naming `where`, if the window does not fit into the padded map.
    """
    for extent, length, pad in zip(size, window, padding, strict=True):
        if length > extent + 2 * pad:
            padded = f" with padding {padding[0]}x{padding[1]}" if any(padding) else ""
            raise ShapeError(
                f"{where}: expected maps of at least {window[0]}x{window[1]} pixels{padded}, "
                f"got {size[0]}x{size[1]}"
            )
    return tuple(map(window_positions, size, window, stride, padding))
