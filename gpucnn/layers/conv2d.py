"""The convolutional layer."""

import numpy as np

from gpucnn import activations
from gpucnn.connections import ConnectionTable
from gpucnn.errors import TableError
from gpucnn.layers.layer import Layer, Parameter, uniform
from gpucnn.shapes import pair, whole_number, windows_shape


class Conv2d(Layer):
    """Convolve maps through a connection table, add a bias for each output map, squash.

    Input (samples, in_maps, height, width), output (samples, out_maps, out_height, out_width) with
    out = (in + 2 * padding - kernel_size) // stride + 1. Without `connections` every output map
    sees every input map. Initial weights are uniform in +-sqrt(3 / fan_in), with the output map's
    own fan-in, biases 0. LeCun et al. 1998, section II.B.

    kernel_size, stride, padding: an int or a pair (vertical, horizontal). connections: a
    `ConnectionTable` of in_maps and out_maps, else `TableError`.
    """

    op = "conv2d"
    weight = Parameter("(n_connections, kernel_height, kernel_width), in the table's order.")
    bias = Parameter("(out_maps,), or None without bias.")

    def __init__(self, in_maps, out_maps, kernel_size, *, connections=None, stride=1, padding=0,
                 activation="scaled_tanh", bias=True, name=None):
        super().__init__(name)
        self.in_maps = whole_number(in_maps, f"{self.where}: in_maps", least=1)
        self.out_maps = whole_number(out_maps, f"{self.where}: out_maps", least=1)
        self.kernel_size = pair(kernel_size, f"{self.where}: kernel_size", least=1)
        self.stride = pair(stride, f"{self.where}: stride", least=1)
        self.padding = pair(padding, f"{self.where}: padding", least=0)
        self.activation = activations.checked(activation, where=self.where)
        self.has_bias = bool(bias)
        if connections is None:
            connections = ConnectionTable.full(in_maps, out_maps)
        if not isinstance(connections, ConnectionTable):
            raise TableError(f"{self.where}: expected connections to be a ConnectionTable, "
                             f"got {type(connections).__name__}")
        if (connections.in_maps, connections.out_maps) != (self.in_maps, self.out_maps):
            raise TableError(f"{self.where}: expected a table of {in_maps} to {out_maps} maps, got "
                             f"one of {connections.in_maps} to {connections.out_maps}")
        self.connections = connections

    def options(self):
        return {"in_maps": self.in_maps, "out_maps": self.out_maps,
                "kernel_size": self.kernel_size, "stride": self.stride, "padding": self.padding,
                "activation": self.activation, "bias": self.has_bias}

    def parameter_shapes(self):
        shapes = {"weight": (self.connections.n_connections, *self.kernel_size)}
        return shapes | ({"bias": (self.out_maps,)} if self.has_bias else {})

    def initial_values(self, generator):
        shapes = self.parameter_shapes()
        fan_in = self.connections.fan_in[self.connections.pairs[1]] * np.prod(self.kernel_size)
        values = {"weight": uniform(generator, shapes["weight"], fan_in[:, None, None])}
        return values | ({"bias": np.zeros(shapes["bias"])} if self.has_bias else {})

    def output_shape(self, input_shape):
        self._expect_maps(input_shape, self.in_maps)
        size = windows_shape(input_shape[1:], self.kernel_size, self.stride, self.padding,
                             where=self.where)
        return (self.out_maps, *size)

    def multiply_adds(self, input_shape):
        _, height, width = self.output_shape(input_shape)
        return self.connections.n_connections * int(np.prod(self.kernel_size)) * height * width

    def apply(self, x, out=None, workspace=None):
        return self.backend.conv2d(
            x, self.weight, self.bias, self.connections, stride=self.stride, padding=self.padding,
            activation=self.activation, out=out, workspace=workspace)

    def propagate(self, grad_output, output, x, needs_grad_input, out, workspace):
        grad_bias = self.gradients.get("bias")
        if grad_bias is None and workspace is not None:
            grad_bias = workspace.take("Conv2d.unused_bias", (self.out_maps,), x.dtype)
        return self.backend.conv2d_backward(
            grad_output, output, x, self.weight, self.connections, stride=self.stride,
            padding=self.padding, activation=self.activation, needs_grad_input=needs_grad_input,
            out=(out, self.gradients["weight"], grad_bias), workspace=workspace).grad_input
