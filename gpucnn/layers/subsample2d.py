"""The trainable subsampling layer."""

import numpy as np

from gpucnn import activations
from gpucnn.layers.layer import Layer, Parameter
from gpucnn.shapes import pair, whole_number, windows_shape


class Subsample2d(Layer):
    """Sum each pooling window, scale it by the map's coefficient, add its bias, squash.

    Input (samples, maps, height, width), output (samples, maps, out_height, out_width) with
    out = (in - pool_size) // stride + 1; the stride is the pool size unless given, and windows may
    overlap or leave gaps. The coefficients start at 1 / pool area, the biases at 0. With
    `trainable=False` the coefficient stays there and there is no bias: mean pooling, squashed.
    LeCun et al. 1998, section II.B.
    """

    op = "subsample2d"
    coefficient = Parameter("(maps,), or None if the layer is not trainable.")
    bias = Parameter("(maps,), or None if the layer is not trainable.")

    def __init__(self, maps, pool_size=2, *, stride=None, activation="scaled_tanh", trainable=True,
                 name=None):
        super().__init__(name)
        self.maps = whole_number(maps, f"{self.where}: maps", least=1)
        self.pool_size = pair(pool_size, f"{self.where}: pool_size", least=1)
        self.stride = (self.pool_size if stride is None
                       else pair(stride, f"{self.where}: stride", least=1))
        self.activation = activations.checked(activation, where=self.where)
        self.trainable = bool(trainable)
        self._untrained = {}

    def options(self):
        return {"maps": self.maps, "pool_size": self.pool_size, "stride": self.stride,
                "activation": self.activation, "trainable": self.trainable}

    def parameter_shapes(self):
        return {"coefficient": (self.maps,), "bias": (self.maps,)} if self.trainable else {}

    def initial_values(self, generator):
        if not self.trainable:
            return {}
        return {"coefficient": np.full(self.maps, 1 / np.prod(self.pool_size)),
                "bias": np.zeros(self.maps)}

    def output_shape(self, input_shape):
        self._expect_maps(input_shape, self.maps)
        size = windows_shape(input_shape[1:], self.pool_size, self.stride, where=self.where)
        return (self.maps, *size)

    def multiply_adds(self, input_shape):
        return int(np.prod(self.output_shape(input_shape)) * np.prod(self.pool_size))

    def apply(self, x, out=None, workspace=None):
        return self.backend.subsample2d(
            x, self._arrays(x.dtype)["coefficient"], self.bias, pool_size=self.pool_size,
            stride=self.stride, activation=self.activation, out=out, workspace=workspace)

    def propagate(self, grad_output, output, x, needs_grad_input, out, workspace):
        gradients = self.gradients if self.trainable else self._arrays(x.dtype)["unused"]
        return self.backend.subsample2d_backward(
            grad_output, output, x, self._arrays(x.dtype)["coefficient"],
            pool_size=self.pool_size, stride=self.stride, activation=self.activation,
            needs_grad_input=needs_grad_input,
            out=(out, gradients["coefficient"], gradients["bias"]),
            workspace=workspace).grad_input

    def _arrays(self, dtype):
        """The parameters, or what stands for them in a layer that is not trainable: the constant
        coefficient, and a place for gradients that nobody reads; made once."""
        if self.trainable:
            return self.parameters
        key = self.backend, dtype
        if key not in self._untrained:
            mean = np.full(self.maps, 1 / np.prod(self.pool_size), dtype)
            unused = {name: self.backend.zeros((self.maps,), dtype)
                      for name in ("coefficient", "bias")}
            self._untrained = {key: {"coefficient": self.backend.from_host(mean),
                                     "unused": unused}}
        return self._untrained[key]
