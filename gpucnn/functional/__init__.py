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

`out` is where the result goes: a C-contiguous array of its shape and type that shares no memory
with an input, or a DLPack object; for several results a tuple, in which None stands for a new
array. `workspace`, a `Workspace`, keeps scratch memory from one call to the next. On a GPU a call
with both, all of `out` given, allocates nothing once such a call has been made before: it is then
nothing but launches on the current stream, which a CUDA graph can capture. No function waits for
the device, apart from what a first call compiles and uploads.

Raises `ShapeError`, `DTypeError`, `DeviceError`, `TableError` or `ArgumentError` of
`gpucnn.errors`.
"""

from functools import lru_cache
from typing import Any, NamedTuple

from gpucnn import activations
from gpucnn.backends.base import Conv2dGradients, DenseGradients, Subsample2dGradients
from gpucnn.backends.cuda import CudaBackend
from gpucnn.connections import ConnectionTable
from gpucnn.errors import ArgumentError, TableError
from gpucnn.functional.call import Call, Workspace
from gpucnn.shapes import pair, windows_shape

__all__ = ["ClassifierGradients", "Conv2dGradients", "DenseGradients", "Subsample2dGradients",
           "Workspace", "classifier", "classifier_backward", "conv2d", "conv2d_backward", "dense",
           "dense_backward", "max_pool2d", "max_pool2d_backward", "subsample2d",
           "subsample2d_backward"]


class ClassifierGradients(NamedTuple):
    """Gradients of `classifier`, each of its array's shape; a bias that is None has None."""

    grad_input: Any
    grad_weight1: Any
    grad_bias1: Any
    grad_weight2: Any
    grad_bias2: Any


def conv2d(x, weight, bias, connections, *, stride=1, padding=0, activation="identity",
           kernel=None, autotune=False, precision="float32", out=None, workspace=None):
    """Convolve maps through a connection table: act(bias[o] + sum of corr(x[in(c)], weight[c])).

    x: ([samples,] in_maps, height, width). weight: (n_connections, kernel_height, kernel_width),
    one for each connection, in the table's order. bias: (out_maps,) or None. connections: a
    `ConnectionTable`. corr is cross-correlation with zero padding; c runs over the connections into
    output map o. Returns ([samples,] out_maps, out_height, out_width).
    LeCun et al. 1998, section II.B; a table as in its Table I.

    `kernel`, `autotune` and `precision` choose among the CUDA kernels; elsewhere anything but their
    defaults is an `ArgumentError`.
    """
    call = Call("conv2d", x=x, weight=weight, bias=bias)
    options, out_shape = _conv2d_options(call, connections, stride, padding, activation)
    call.expect("bias", (connections.out_maps,))
    return call.result(
        call.backend.conv2d, call.batch("x"), call["weight"], call["bias"], connections, **options,
        **_choice_of_kernel(call, kernel, autotune, precision),
        out=out, workspace=workspace, shape=call.of_batch(out_shape))


def conv2d_backward(grad_output, output, x, weight, connections, *, stride=1, padding=0,
                    activation="identity", needs_grad_input=True, kernel=None, autotune=False,
                    precision="float32", out=None, workspace=None):
    """Gradients of `conv2d`: `Conv2dGradients(grad_input, grad_weight, grad_bias)`.

    grad_output, output: ([samples,] out_maps, out_height, out_width); x, weight and the rest as in
    `conv2d`. grad_input is None unless `needs_grad_input`; gradients have their arrays' shapes.
    """
    call = Call("conv2d_backward", grad_output=grad_output, output=output, x=x, weight=weight)
    options, out_shape = _conv2d_options(call, connections, stride, padding, activation)
    call.expect_batch("grad_output", out_shape)
    call.expect_batch("output", out_shape)
    return call.gradients(
        call.backend.conv2d_backward, call.batch("grad_output"), call.batch("output"),
        call.batch("x"), call["weight"], connections, **options,
        **_choice_of_kernel(call, kernel, autotune, precision),
        needs_grad_input=needs_grad_input, out=out, workspace=workspace,
        shapes=Conv2dGradients(call["x"].shape, call["weight"].shape, out_shape[:1]))


def subsample2d(x, coefficient, bias, *, pool_size=2, stride=None, activation="identity",
                out=None, workspace=None):
    """Trainable subsampling: act(coefficient[m] * (sum over the pooling window of x[m]) + bias[m]).

    x: ([samples,] maps, height, width). coefficient: (maps,). bias: (maps,) or None. The stride is
    the pool size unless given; windows may overlap or leave gaps. A sum, not a mean. Returns
    ([samples,] maps, out_height, out_width). LeCun et al. 1998, section II.B.
    """
    call = Call("subsample2d", x=x, coefficient=coefficient, bias=bias)
    options, out_shape = _pooling_options(call, pool_size, stride)
    options["activation"] = activations.checked(activation, where=call.where)
    call.expect("coefficient", out_shape[:1])
    call.expect("bias", out_shape[:1])
    return call.result(
        call.backend.subsample2d, call.batch("x"), call["coefficient"], call["bias"], **options,
        out=out, workspace=workspace, shape=call.of_batch(out_shape))


def subsample2d_backward(grad_output, output, x, coefficient, *, pool_size=2, stride=None,
                         activation="identity", needs_grad_input=True, out=None, workspace=None):
    """Gradients of `subsample2d`: `Subsample2dGradients(grad_input, grad_coefficient, grad_bias)`.

    grad_output, output: ([samples,] maps, out_height, out_width); the rest as in `subsample2d`. A
    pixel in several windows gets the sum of their gradients, one that no window covers gets zero.
    grad_input is None unless `needs_grad_input`.
    """
    call = Call("subsample2d_backward", grad_output=grad_output, output=output, x=x,
                coefficient=coefficient)
    options, out_shape = _pooling_options(call, pool_size, stride)
    options["activation"] = activations.checked(activation, where=call.where)
    call.expect("coefficient", out_shape[:1])
    call.expect_batch("grad_output", out_shape)
    call.expect_batch("output", out_shape)
    return call.gradients(
        call.backend.subsample2d_backward, call.batch("grad_output"), call.batch("output"),
        call.batch("x"), call["coefficient"], **options,
        needs_grad_input=needs_grad_input, out=out, workspace=workspace,
        shapes=Subsample2dGradients(call["x"].shape, out_shape[:1], out_shape[:1]))


def max_pool2d(x, *, pool_size=2, stride=None, out=None, workspace=None):
    """The maximum of each pooling window; a NaN counts as larger than any number.

    x: ([samples,] maps, height, width). The stride is the pool size unless given. Returns
    ([samples,] maps, out_height, out_width).
    """
    call = Call("max_pool2d", x=x)
    options, out_shape = _pooling_options(call, pool_size, stride)
    return call.result(call.backend.max_pool2d, call.batch("x"), **options, out=out,
                       workspace=workspace, shape=call.of_batch(out_shape))


def max_pool2d_backward(grad_output, output, x, *, pool_size=2, stride=None, out=None,
                        workspace=None):
    """The gradient of `max_pool2d` by x: each window's goes to its first maximum, row by row.

    grad_output, output: ([samples,] maps, out_height, out_width). Returns an array of x's shape.
    """
    call = Call("max_pool2d_backward", grad_output=grad_output, output=output, x=x)
    options, out_shape = _pooling_options(call, pool_size, stride)
    call.expect_batch("grad_output", out_shape)
    call.expect_batch("output", out_shape)
    return call.result(
        call.backend.max_pool2d_backward, call.batch("grad_output"), call.batch("output"),
        call.batch("x"), **options, out=out, workspace=workspace, shape=call["x"].shape)


def dense(x, weight, bias, *, activation="identity", out=None, workspace=None):
    """Matrix product over the map axis at every position: act(weight @ x + bias).

    x: (samples, in_features), or ([samples,] in_features, height, width). weight: (out_features,
    in_features). bias: (out_features,) or None. Returns x's shape with out_features in place of
    in_features.
    """
    call = Call("dense", flat_batches=True, x=x, weight=weight, bias=bias)
    activations.checked(activation, where=call.where)
    call.expect("weight", (None, call.features))
    call.expect("bias", call["weight"].shape[:1])
    return call.result(
        call.backend.dense, call.batch("x"), call["weight"], call["bias"], activation=activation,
        out=out, workspace=workspace, shape=call.of_batch(_dense_shape(call)))


def dense_backward(grad_output, output, x, weight, *, activation="identity", needs_grad_input=True,
                   out=None, workspace=None):
    """Gradients of `dense`: `DenseGradients(grad_input, grad_weight, grad_bias)`.

    grad_output, output: as `dense` returns them. Gradients have their arrays' shapes; grad_input is
    None unless `needs_grad_input`.
    """
    call = Call("dense_backward", flat_batches=True, grad_output=grad_output, output=output, x=x,
                weight=weight)
    activations.checked(activation, where=call.where)
    call.expect("weight", (None, call.features))
    out_shape = _dense_shape(call)
    call.expect_batch("grad_output", out_shape)
    call.expect_batch("output", out_shape)
    return call.gradients(
        call.backend.dense_backward, call.batch("grad_output"), call.batch("output"),
        call.batch("x"), call["weight"], activation=activation,
        needs_grad_input=needs_grad_input, out=out, workspace=workspace,
        shapes=DenseGradients(call["x"].shape, call["weight"].shape, out_shape[:1]))


def classifier(x, weight1, bias1, weight2, bias2, *, activation="scaled_tanh", out=None,
               workspace=None):
    """The two-layer head on a stack of maps; returns (hidden, output).

    x: ([samples,] maps, height, width). weight1: (hidden, maps, kernel_height, kernel_width): each
    hidden unit sees a volume of all maps. Its kernel may be smaller than the maps; hidden and
    output then have positions. bias1: (hidden,) or None. weight2: (classes, hidden). bias2:
    (classes,) or None. hidden: ([samples,] hidden, out_height, out_width); output: ([samples,]
    classes, out_height, out_width); both after the activation.
    """
    call, table, shapes = _classifier_call("classifier", activation, weight1, weight2, x=x,
                                           bias1=bias1, bias2=bias2)
    out_hidden, out = call.checked_outs(out, shapes)
    memory = call.checked(workspace)
    weight1 = _one_per_connection(call.contiguous("weight1", memory))
    hidden = conv2d(call["x"], weight1, call["bias1"], table, activation=activation,
                    out=out_hidden, workspace=memory)
    return hidden, dense(hidden, call["weight2"], call["bias2"], activation=activation, out=out,
                         workspace=memory)


def classifier_backward(grad_output, hidden, output, x, weight1, bias1, weight2, bias2, *,
                        activation="scaled_tanh", out=None, workspace=None):
    """Gradients of `classifier`: `ClassifierGradients(grad_input, grad_weight1, grad_bias1,
    grad_weight2, grad_bias2)`.

    grad_output, output: ([samples,] classes, out_height, out_width); hidden and the rest as in
    `classifier`.
    """
    call, table, shapes = _classifier_call(
        "classifier_backward", activation, weight1, weight2, x=x, bias1=bias1, bias2=bias2,
        hidden=hidden, output=output, grad_output=grad_output)
    wanted = ClassifierGradients(*(None if call[name] is None else call[name].shape
                                   for name in ("x", "weight1", "bias1", "weight2", "bias2")))
    given = ClassifierGradients(*call.checked_outs(out, wanted._asdict()))
    memory = call.checked(workspace)

    def gradient_of_bias(name, array, grad_bias):
        return grad_bias if array is not None else call.scratch(memory, f"classifier.{name}",
                                                                shapes[name][-3:-2])

    second = dense_backward(
        call["grad_output"], call["output"], call["hidden"], call["weight2"], activation=activation,
        workspace=memory, out=(call.scratch(memory, "classifier.grad_hidden", shapes["hidden"]),
                               given.grad_weight2,
                               gradient_of_bias("output", bias2, given.grad_bias2)))
    one_per_connection = (None if given.grad_weight1 is None
                          else _one_per_connection(given.grad_weight1))
    first = conv2d_backward(
        second.grad_input, call["hidden"], call["x"],
        _one_per_connection(call.contiguous("weight1", memory)), table,
        activation=activation, workspace=memory,
        out=(given.grad_input, one_per_connection,
             gradient_of_bias("hidden", bias1, given.grad_bias1)))
    grad_weight1 = given.grad_weight1
    if grad_weight1 is None:
        grad_weight1 = first.grad_weight.reshape(call["weight1"].shape)
    return ClassifierGradients(
        first.grad_input, grad_weight1, None if bias1 is None else first.grad_bias,
        second.grad_weight, None if bias2 is None else second.grad_bias)


def _classifier_call(name, activation, weight1, weight2, **arrays):
    """(the call, the first layer's table, the shapes of hidden and output)."""
    call = Call(name, weight1=weight1, weight2=weight2, **arrays)
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
    return call, _full(call.features, hidden), {
        "hidden": call.of_batch((hidden, *out_size)), "output": call.of_batch((classes, *out_size))}


_full = lru_cache(maxsize=64)(ConnectionTable.full)


def _one_per_connection(weight):
    return weight.reshape(-1, *weight.shape[2:])


def _dense_shape(call):
    """(out_features[, height, width])."""
    return (call["weight"].shape[0], *call.batch("x").shape[2:])


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


def _choice_of_kernel(call, kernel, autotune, precision):
    """Those of a convolution's arguments for the CUDA backend that differ from their defaults."""
    given = {"kernel": kernel, "autotune": autotune, "precision": precision}
    defaults = {"kernel": None, "autotune": False, "precision": "float32"}
    chosen = {name: value for name, value in given.items() if value != defaults[name]}
    if chosen and not isinstance(call.backend, CudaBackend):
        names = ", ".join(f"{name}={defaults[name]!r}" for name in chosen)
        got = ", ".join(f"{name}={value!r}" for name, value in chosen.items())
        raise ArgumentError(f"{call.where}: expected {names} on {call.backend.device}, which has "
                            f"no CUDA kernels to choose from, got {got}")
    return chosen


def _pooling_options(call, pool_size, stride):
    """The checked options of a pooling op, and (maps, out_height, out_width)."""
    pool_size = pair(pool_size, f"{call.where}: pool_size", least=1)
    stride = pool_size if stride is None else pair(stride, f"{call.where}: stride", least=1)
    out_size = windows_shape(call.size, pool_size, stride, where=call.where)
    return {"pool_size": pool_size, "stride": stride}, (call.features, *out_size)
