"""What a `Network` asks of its arguments."""

import numpy as np

from gpucnn.errors import ArgumentError, ShapeError
from gpucnn.layers import Layer
from gpucnn.shapes import whole_number

DTYPES = ("float32", "float64")


def checked_layers(layers):
    """The layers of a network as a list, each a `Layer` of no network yet."""
    layers = list(layers)
    if not layers:
        raise ArgumentError("Network: expected at least one layer, got none")
    for number, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            raise ArgumentError(f"Network: expected layers, got {layer!r} at place {number}")
        if layer.network is not None:
            raise ArgumentError(f"Network: {layer.where} belongs to another network already")
        if any(layer is other for other in layers[:number]):
            raise ArgumentError(f"Network: {layer.where} stands in the list twice")
    return layers


def name_layers(layers):
    """Give each layer without a name one of its op and place; check that no two are the same."""
    for number, layer in enumerate(layers):
        if layer.name is None:
            layer.name = f"{layer.op}{number + 1}"
    names = [layer.name for layer in layers]
    for name in names:
        if names.count(name) > 1:
            raise ArgumentError(f"Network: expected distinct names of layers, got {name!r} twice")


def checked_dtype(dtype):
    """The NumPy type of a network's numbers."""
    try:
        name = np.dtype(dtype).name
    except TypeError:
        name = None
    if name not in DTYPES:
        raise ArgumentError(f"Network: expected a dtype of {', '.join(DTYPES)}, got {dtype!r}")
    return np.dtype(name)


def checked_input_shape(shape):
    """(maps, height, width) as ints."""
    if not isinstance(shape, (tuple, list)) or len(shape) != 3:
        raise ShapeError(f"Network: expected an input_shape (maps, height, width), got {shape!r}")
    return tuple(whole_number(size, "Network: input_shape", least=1) for size in shape)


def checked_range(input_range):
    """(low, high) as floats."""
    try:
        low, high = map(float, input_range)
    except (TypeError, ValueError):
        low = high = float("nan")
    if not (np.isfinite(low) and np.isfinite(high) and low != high):
        raise ArgumentError(f"Network: expected an input_range of two different numbers, "
                            f"got {input_range!r}")
    return low, high
