"""The layers of a network in JAX, as pure functions of their parameters."""

from dataclasses import dataclass
from math import prod

import numpy as np

from gpucnn.activations import SCALED_TANH_AMPLITUDE, SCALED_TANH_SLOPE


@dataclass(frozen=True)
class Form:
    """How a network is written in JAX.

    columns: convolutions are matrix products over the windows' pixels, copied out one slice for
    each weight of the window, in place of `lax.conv_general_dilated`. maps_last: arrays are
    (samples, height, width, maps).
    """

    columns: bool = False
    maps_last: bool = False


def jax_layers(network, form):
    """Name -> layer of each layer of `network`."""
    return {layer.name: _LAYERS[layer.op](layer, shape, form)
            for layer, shape in zip(network.layers, (network.input_shape, *network.shapes),
                                    strict=False)}


class _Layer:
    """A layer: a function of its parameters and input, and its initial values as it stores them."""

    masks = None  # name -> array by which a parameter's gradient is multiplied

    def __init__(self, layer, input_shape, form):
        self._form = form
        self._options = layer.options()
        self._squash = _activation(self._options.get("activation", "identity"))
        self.initial = self.stored(layer.parameters)

    def stored(self, values):
        """Name -> NumPy array as it is stored here, from the arrays of this library."""
        return {name: np.ascontiguousarray(self._stored(name, array), np.float32)
                for name, array in values.items()}

    def values(self, stored):
        """Name -> NumPy array as this library has it, from the arrays stored here."""
        return {name: np.asarray(array) for name, array in stored.items()}

    def _stored(self, name, values):
        """A parameter of this library as it is stored here."""
        return values

    def _by_map(self, vector):
        """A value for each map, to be broadcast over samples and positions."""
        return vector if self._form.maps_last else vector[:, None, None]

    def _windows(self, pair):
        """A pair for height and width as the four numbers of `lax.reduce_window`."""
        return (1, *pair, 1) if self._form.maps_last else (1, 1, *pair)


class _Conv2d(_Layer):
    """The weight is dense, (out, in, height, width) or, with maps last, (height, width, in, out);
    the mask of its gradient keeps the absent connections at zero."""

    def __init__(self, layer, input_shape, form):
        self._table = table = layer.connections
        self._size = layer.weight.shape[1:]
        self._axes = (2, 3, 1, 0) if form.maps_last else (0, 1, 2, 3)
        super().__init__(layer, input_shape, form)
        self._covers_input = (self._options["padding"] == (0, 0)
                              and input_shape[1:] == self._size)
        if table.n_connections < table.in_maps * table.out_maps:
            self.masks = {"weight": self._stored("weight", np.ones_like(layer.weight))}

    def __call__(self, parameters, x):
        weight, bias = parameters["weight"], parameters.get("bias")
        if self._covers_input:
            z = self._product_with_input(x, weight)
        elif self._form.columns:
            z = self._product_with_columns(x, weight)
        else:
            z = self._convolution(x, weight)
        return self._squash(z if bias is None else z + self._by_map(bias))

    def values(self, stored):
        inputs, outputs = self._table.pairs
        dense = np.transpose(np.asarray(stored["weight"]), np.argsort(self._axes))
        return super().values(stored) | {"weight": dense[outputs, inputs]}

    def _stored(self, name, values):
        if name != "weight":
            return values
        inputs, outputs = self._table.pairs
        dense = np.zeros((self._table.out_maps, self._table.in_maps, *self._size), np.float32)
        dense[outputs, inputs] = values
        return np.transpose(dense, self._axes)

    def _convolution(self, x, weight):
        from jax import lax

        names = ("NHWC", "HWIO", "NHWC") if self._form.maps_last else ("NCHW", "OIHW", "NCHW")
        return lax.conv_general_dilated(
            x, weight, self._options["stride"], [(pad, pad) for pad in self._options["padding"]],
            dimension_numbers=names)

    def _product_with_input(self, x, weight):
        out_maps, flat = self._table.out_maps, x.reshape(len(x), -1)
        if self._form.maps_last:
            return (flat @ weight.reshape(-1, out_maps)).reshape(-1, 1, 1, out_maps)
        return (flat @ weight.reshape(out_maps, -1).T).reshape(-1, out_maps, 1, 1)

    def _product_with_columns(self, x, weight):
        import jax.numpy as jnp

        last, out_maps = self._form.maps_last, self._table.out_maps
        rows_axis = 1 if last else 2
        down, right = self._options["padding"]
        if down or right:
            spatial = [(down, down), (right, right)]
            x = jnp.pad(x, [(0, 0), *spatial, (0, 0)] if last else [(0, 0), (0, 0), *spatial])
        (step_down, step_right), (height, width) = self._options["stride"], self._size
        rows = (x.shape[rows_axis] - height) // step_down + 1
        columns = (x.shape[rows_axis + 1] - width) // step_right + 1
        pixels = [(slice(i, i + (rows - 1) * step_down + 1, step_down),
                   slice(j, j + (columns - 1) * step_right + 1, step_right))
                  for i in range(height) for j in range(width)]
        if last:
            windows = jnp.concatenate([x[:, i, j] for i, j in pixels], axis=-1)
            return windows @ weight.reshape(-1, out_maps)
        windows = jnp.stack([x[:, :, i, j] for i, j in pixels], axis=2)
        product = weight.reshape(out_maps, -1) @ windows.reshape(len(x), -1, rows * columns)
        return product.reshape(len(x), out_maps, rows, columns)


class _Subsample2d(_Layer):
    """`reduce_window`, which on a CPU is quicker than a reshaped sum, its gradient above all."""

    def __call__(self, parameters, x):
        from jax import lax

        sums = lax.reduce_window(x, 0.0, lax.add, self._windows(self._options["pool_size"]),
                                 self._windows(self._options["stride"]), "VALID")
        if not self._options["trainable"]:
            return self._squash(sums / prod(self._options["pool_size"]))
        return self._squash(sums * self._by_map(parameters["coefficient"])
                            + self._by_map(parameters["bias"]))


class _Dense(_Layer):
    def __init__(self, layer, input_shape, form):
        super().__init__(layer, input_shape, form)
        self._positions = prod(input_shape[1:])

    def __call__(self, parameters, x):
        weight, bias = parameters["weight"], parameters["bias"]
        if x.ndim == 4 and self._positions == 1:
            x = x.reshape(len(x), -1)
        if x.ndim == 2:
            return self._squash(x @ weight.T + bias)
        if self._form.maps_last:
            z = x @ weight.T
        else:
            z = (weight @ x.reshape(*x.shape[:2], -1)).reshape(len(x), -1, *x.shape[2:])
        return self._squash(z + self._by_map(bias))


class _MaxPool2d(_Layer):
    """The maximum over axes of a reshaped array where windows tile the maps, which on a CPU is
    quicker than `reduce_window`. Its gradient is shared by equal maxima, which behind a ReLU makes
    no difference to equal zeros."""

    def __init__(self, layer, input_shape, form):
        super().__init__(layer, input_shape, form)
        size = self._options["pool_size"]
        self._tiled = self._options["stride"] == size and not any(
            extent % length for extent, length in zip(input_shape[1:], size, strict=True))

    def __call__(self, parameters, x):
        from jax import lax

        (height, width), stride = self._options["pool_size"], self._options["stride"]
        if not self._tiled:
            return lax.reduce_window(x, -np.inf, lax.max, self._windows((height, width)),
                                     self._windows(stride), "VALID")
        rows = 1 if self._form.maps_last else 2
        before, after = x.shape[:rows], x.shape[rows + 2:]
        tiles = x.reshape(*before, x.shape[rows] // height, height, x.shape[rows + 1] // width,
                          width, *after)
        return tiles.max(axis=(rows + 1, rows + 3))


class _Flatten(_Layer):
    """In this library's order of features, map by map."""

    def __call__(self, parameters, x):
        if x.ndim == 4 and self._form.maps_last:
            x = x.transpose(0, 3, 1, 2)
        return x.reshape(len(x), -1)


_LAYERS = {"conv2d": _Conv2d, "subsample2d": _Subsample2d, "dense": _Dense,
           "max_pool2d": _MaxPool2d, "flatten": _Flatten}


def _activation(name):
    """z -> y(z)."""
    import jax
    import jax.numpy as jnp

    return {
        "identity": lambda z: z,
        "scaled_tanh": lambda z: SCALED_TANH_AMPLITUDE * jnp.tanh(SCALED_TANH_SLOPE * z),
        "tanh": jnp.tanh,
        "sigmoid": jax.nn.sigmoid,
        "relu": jax.nn.relu,
    }[name]
