"""The ops as stateless functions of NumPy or CuPy arrays.

The backend is that of the arrays; arrays of two devices, or lists, are an error. DLPack objects
(PyTorch tensors, JAX arrays) are taken and shared, and NumPy or CuPy arrays are given back; on a
GPU the work goes to CuPy's current stream, and the tensor must live until it is done. Every
function takes one sample (maps, height, width) or a batch (samples, maps, height, width), float32
or float64, of any strides; inputs are never changed. An empty batch gives an empty output and zero
gradients.

Sizes: out = (in + 2 * padding - kernel) // stride + 1. `stride`, `padding` and `pool_size` are an
int or a pair (vertical, horizontal). Backward functions take the forward's `output`, from which the
activation's derivative is computed (see `gpucnn.activations`).

Raises `ShapeError`, `DTypeError`, `DeviceError`, `TableError` or `ArgumentError` of
`gpucnn.errors`.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from gpucnn import activations
from gpucnn.backends.base import Conv2dGradients, DenseGradients, Subsample2dGradients
from gpucnn.connections import ConnectionTable
from gpucnn.devices import as_array, backend_of
from gpucnn.errors import DTypeError, ShapeError, TableError
from gpucnn.shapes import pair, windows_shape

__all__ = ["ClassifierGradients", "Conv2dGradients", "DenseGradients", "Subsample2dGradients",
           "classifier", "classifier_backward", "conv2d", "conv2d_backward", "dense",
           "dense_backward", "max_pool2d", "max_pool2d_backward", "subsample2d",
           "subsample2d_backward"]


class ClassifierGradients(NamedTuple):
    """Gradients of `classifier`, each of its array's shape; a bias that is None has None."""

    grad_input: Any
    grad_weight1: Any
    grad_bias1: Any
    grad_weight2: Any
    grad_bias2: Any


def conv2d(x, weight, bias, connections, *, stride=1, padding=0, activation="identity"):
    """Convolve maps through a connection table: act(bias[o] + sum of corr(x[in(c)], weight[c])).

    x: ([samples,] in_maps, height, width). weight: (n_connections, kernel_height, kernel_width),
    one for each connection, in the table's order. bias: (out_maps,) or None. connections: a
    `ConnectionTable`. corr is cross-correlation with zero padding; c runs over the connections into
    output map o. Returns ([samples,] out_maps, out_height, out_width).
    LeCun et al. 1998, section II.B; a table as in its Table I.
    """
    call = _Call("conv2d", x=x, weight=weight, bias=bias)
    options, _ = _conv2d_options(call, connections, stride, padding, activation)
    call.expect("bias", (connections.out_maps,))
    out = call.backend.conv2d(call.batch("x"), call["weight"], call["bias"], connections, **options)
    return call.unbatched(out)


def conv2d_backward(grad_output, output, x, weight, connections, *, stride=1, padding=0,
                    activation="identity", needs_grad_input=True):
    """Gradients of `conv2d`: `Conv2dGradients(grad_input, grad_weight, grad_bias)`.

    grad_output, output: ([samples,] out_maps, out_height, out_width); x, weight and the rest as in
    `conv2d`. grad_input is None unless `needs_grad_input`; gradients have their arrays' shapes.
    """
    call = _Call("conv2d_backward", grad_output=grad_output, output=output, x=x, weight=weight)
    options, out_shape = _conv2d_options(call, connections, stride, padding, activation)
    call.expect_batch("grad_output", out_shape)
    call.expect_batch("output", out_shape)
    gradients = call.backend.conv2d_backward(
        call.batch("grad_output"), call.batch("output"), call.batch("x"), call["weight"],
        connections, **options, needs_grad_input=needs_grad_input)
    return gradients._replace(grad_input=call.unbatched(gradients.grad_input))


def subsample2d(x, coefficient, bias, *, pool_size=2, stride=None, activation="identity"):
    """Trainable subsampling: act(coefficient[m] * (sum over the pooling window of x[m]) + bias[m]).

    x: ([samples,] maps, height, width). coefficient: (maps,). bias: (maps,) or None. The stride is
    the pool size unless given; windows may overlap or leave gaps. A sum, not a mean. Returns
    ([samples,] maps, out_height, out_width). LeCun et al. 1998, section II.B.
    """
    call = _Call("subsample2d", x=x, coefficient=coefficient, bias=bias)
    options, out_shape = _pooling_options(call, pool_size, stride)
    options["activation"] = activations.checked(activation, where=call.where)
    call.expect("coefficient", out_shape[:1])
    call.expect("bias", out_shape[:1])
    out = call.backend.subsample2d(call.batch("x"), call["coefficient"], call["bias"], **options)
    return call.unbatched(out)


def subsample2d_backward(grad_output, output, x, coefficient, *, pool_size=2, stride=None,
                         activation="identity"):
    """Gradients of `subsample2d`: `Subsample2dGradients(grad_input, grad_coefficient, grad_bias)`.

    grad_output, output: ([samples,] maps, out_height, out_width); the rest as in `subsample2d`. A
    pixel in several windows gets the sum of their gradients, one that no window covers gets zero.
    """
    call = _Call("subsample2d_backward", grad_output=grad_output, output=output, x=x,
                 coefficient=coefficient)
    options, out_shape = _pooling_options(call, pool_size, stride)
    options["activation"] = activations.checked(activation, where=call.where)
    call.expect("coefficient", out_shape[:1])
    call.expect_batch("grad_output", out_shape)
    call.expect_batch("output", out_shape)
    gradients = call.backend.subsample2d_backward(
        call.batch("grad_output"), call.batch("output"), call.batch("x"), call["coefficient"],
        **options)
    return gradients._replace(grad_input=call.unbatched(gradients.grad_input))


def max_pool2d(x, *, pool_size=2, stride=None):
    """The maximum of each pooling window; a NaN counts as larger than any number.

    x: ([samples,] maps, height, width). The stride is the pool size unless given. Returns
    ([samples,] maps, out_height, out_width).
    """
    call = _Call("max_pool2d", x=x)
    options, _ = _pooling_options(call, pool_size, stride)
    return call.unbatched(call.backend.max_pool2d(call.batch("x"), **options))


def max_pool2d_backward(grad_output, output, x, *, pool_size=2, stride=None):
    """The gradient of `max_pool2d` by x: each window's goes to its first maximum, row by row.

    grad_output, output: ([samples,] maps, out_height, out_width). Returns an array of x's shape.
    """
    call = _Call("max_pool2d_backward", grad_output=grad_output, output=output, x=x)
    options, out_shape = _pooling_options(call, pool_size, stride)
    call.expect_batch("grad_output", out_shape)
    call.expect_batch("output", out_shape)
    return call.unbatched(call.backend.max_pool2d_backward(
        call.batch("grad_output"), call.batch("output"), call.batch("x"), **options))


def dense(x, weight, bias, *, activation="identity"):
    """Matrix product over the map axis at every position: act(weight @ x + bias).

    x: (samples, in_features), or ([samples,] in_features, height, width). weight: (out_features,
    in_features). bias: (out_features,) or None. Returns x's shape with out_features in place of
    in_features.
    """
    call = _Call("dense", flat_batches=True, x=x, weight=weight, bias=bias)
    activations.checked(activation, where=call.where)
    call.expect("weight", (None, call.features))
    call.expect("bias", call["weight"].shape[:1])
    return call.unbatched(call.backend.dense(call.batch("x"), call["weight"], call["bias"],
                                             activation=activation))


def dense_backward(grad_output, output, x, weight, *, activation="identity"):
    """Gradients of `dense`: `DenseGradients(grad_input, grad_weight, grad_bias)`.

    grad_output, output: as `dense` returns them. Gradients have their arrays' shapes.
    """
    call = _Call("dense_backward", flat_batches=True, grad_output=grad_output, output=output, x=x,
                 weight=weight)
    activations.checked(activation, where=call.where)
    call.expect("weight", (None, call.features))
    out_shape = (call["weight"].shape[0], *call.batch("x").shape[2:])
    call.expect_batch("grad_output", out_shape)
    call.expect_batch("output", out_shape)
    gradients = call.backend.dense_backward(
        call.batch("grad_output"), call.batch("output"), call.batch("x"), call["weight"],
        activation=activation)
    return gradients._replace(grad_input=call.unbatched(gradients.grad_input))


def classifier(x, weight1, bias1, weight2, bias2, *, activation="scaled_tanh"):
    """The two-layer head on a stack of maps; returns (hidden, output).

    x: ([samples,] maps, height, width). weight1: (hidden, maps, kernel_height, kernel_width): each
    hidden unit sees a volume of all maps. Its kernel may be smaller than the maps; hidden and
    output then have positions. bias1: (hidden,) or None. weight2: (classes, hidden). bias2:
    (classes,) or None. hidden: ([samples,] hidden, out_height, out_width); output: ([samples,]
    classes, out_height, out_width); both after the activation.
    """
    call, table = _classifier_call("classifier", activation, weight1, weight2, x=x, bias1=bias1,
                                   bias2=bias2)
    hidden = conv2d(call["x"], _one_per_connection(call["weight1"]), call["bias1"], table,
                    activation=activation)
    return hidden, dense(hidden, call["weight2"], call["bias2"], activation=activation)


def classifier_backward(grad_output, hidden, output, x, weight1, bias1, weight2, bias2, *,
                        activation="scaled_tanh"):
    """Gradients of `classifier`: `ClassifierGradients(grad_input, grad_weight1, grad_bias1,
    grad_weight2, grad_bias2)`.

    grad_output, output: ([samples,] classes, out_height, out_width); hidden and the rest as in
    `classifier`.
    """
    call, table = _classifier_call("classifier_backward", activation, weight1, weight2, x=x,
                                   bias1=bias1, bias2=bias2, hidden=hidden, output=output,
                                   grad_output=grad_output)
    second = dense_backward(call["grad_output"], call["output"], call["hidden"], call["weight2"],
                            activation=activation)
    first = conv2d_backward(second.grad_input, call["hidden"], call["x"],
                            _one_per_connection(call["weight1"]), table, activation=activation)
    return ClassifierGradients(
        first.grad_input, first.grad_weight.reshape(call["weight1"].shape),
        None if bias1 is None else first.grad_bias,
        second.grad_weight, None if bias2 is None else second.grad_bias)


def _classifier_call(name, activation, weight1, weight2, **arrays):
    call = _Call(name, weight1=weight1, weight2=weight2, **arrays)
    call.expect("weight1", (None, call.features, None, None))
    hidden = call["weight1"].shape[0]
    call.expect("bias1", (hidden,))
    call.expect("weight2", (None, hidden))
    classes = call["weight2"].shape[0]
    call.expect("bias2", (classes,))
    activations.checked(activation, where=name)
    out_size = windows_shape(call.size, call["weight1"].shape[2:], (1, 1), where=name)
    for array, features in (("hidden", hidden), ("output", classes), ("grad_output", classes)):
        if array in arrays:
            call.expect_batch(array, (features, *out_size))
    return call, _full(call.features, hidden)


_full = lru_cache(maxsize=64)(ConnectionTable.full)


def _one_per_connection(weight):
    return weight.reshape(-1, *weight.shape[2:])


def _conv2d_options(call, connections, stride, padding, activation):
    """The checked options of a convolution, and (out_maps, out_height, out_width)."""
    if not isinstance(connections, ConnectionTable):
        raise TableError(f"{call.where}: expected connections to be a ConnectionTable, "
                         f"got {type(connections).__name__}")
    if connections.in_maps != call.features:
        raise TableError(f"{call.where}: expected a table of {call.features} input maps (x has "
                         f"shape {call['x'].shape}), got one of {connections.in_maps}")
    call.expect("weight", (connections.n_connections, None, None))
    options = {"stride": pair(stride, f"{call.where}: stride", least=1),
               "padding": pair(padding, f"{call.where}: padding", least=0),
               "activation": activations.checked(activation, where=call.where)}
    out_size = windows_shape(call.size, call["weight"].shape[1:], options["stride"],
                             options["padding"], where=call.where)
    return options, (connections.out_maps, *out_size)


def _pooling_options(call, pool_size, stride):
    """The checked options of a pooling op, and (maps, out_height, out_width)."""
    pool_size = pair(pool_size, f"{call.where}: pool_size", least=1)
    stride = pool_size if stride is None else pair(stride, f"{call.where}: stride", least=1)
    out_size = windows_shape(call.size, pool_size, stride, where=call.where)
    return {"pool_size": pool_size, "stride": stride}, (call.features, *out_size)


class _Call:
    """The array arguments of one call: on one device, of one type, x checked to be maps."""

    def __init__(self, where, *, flat_batches=False, **arrays):
        self.where = where
        self._arrays = {name: None if value is None else as_array(value, f"{where}: {name}")
                        for name, value in arrays.items()}
        for name, value in arrays.items():
            if value is None and not name.startswith("bias"):
                raise DTypeError(f"{where}: expected {name} to be an array, got None")
        self.backend = backend_of(*self._arrays.values(), where=where)
        x = self._arrays["x"]
        self.dtype = self._checked_dtype(x)
        ranks = (2, 3, 4) if flat_batches else (3, 4)
        if x.ndim not in ranks:
            flat = "(samples, features), " if flat_batches else ""
            raise ShapeError(f"{where}: expected x of shape {flat}(maps, height, width) or "
                             f"(samples, maps, height, width), got {x.shape}")
        self._single = x.ndim == 3
        self.samples = 1 if self._single else x.shape[0]
        self.features = x.shape[0 if self._single else 1]
        self.size = tuple(x.shape[-2:])
        if 0 in x.shape[0 if self._single else 1:]:
            raise ShapeError(f"{where}: expected x with at least one map and pixel, got {x.shape}")

    def _checked_dtype(self, x):
        if x.dtype not in (np.float32, np.float64):
            raise DTypeError(f"{self.where}: expected x of float32 or float64, got {x.dtype}")
        for name, array in self._arrays.items():
            if array is not None and array.dtype != x.dtype:
                raise DTypeError(f"{self.where}: expected {name} of {x.dtype} like x, "
                                 f"got {array.dtype}")
        return x.dtype

    def __getitem__(self, name):
        return self._arrays[name]

    def expect(self, name, shape):
        """Check an array's shape; None in `shape` stands for any size of at least one."""
        array = self._arrays[name]
        if array is None:
            return
        fits = array.ndim == len(shape) and all(
            size == wanted or (wanted is None and size > 0)
            for size, wanted in zip(array.shape, shape, strict=True))
        if not fits:
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise ShapeError(f"{self.where}: expected {name} of shape ({wanted}), got "
                             f"{array.shape} (x has shape {self._arrays['x'].shape})")

    def expect_batch(self, name, shape):
        """Check an array that has the samples of x in front of `shape`."""
        self.expect(name, shape if self._single else (self.samples, *shape))

    def batch(self, name):
        """An array with its sample axis, added if x is one sample."""
        array = self._arrays[name]
        return array[None] if self._single else array

    def unbatched(self, array):
        """A result without the sample axis if x had none."""
        return array[0] if self._single and array is not None else array
