"""The fully connected layer."""

import numpy as np

from gpucnn import activations
from gpucnn.errors import ShapeError
from gpucnn.layers.layer import Layer, Parameter, uniform
from gpucnn.shapes import whole_number


class Dense(Layer):
    """Matrix product over the map axis at every position, a bias for each output, squash.

    Input (samples, in_features) or (samples, in_features, height, width), output the same with
    out_features. Maps of one pixel make it the fully connected layer of a classifier; on larger
    maps it is that classifier at every position. Initial weights are uniform in
    +-sqrt(3 / in_features), biases 0.
    """

    op = "dense"
    weight = Parameter("(out_features, in_features).")
    bias = Parameter("(out_features,).")

    def __init__(self, in_features, out_features, *, activation="scaled_tanh", name=None):
        super().__init__(name)
        self.in_features = whole_number(in_features, f"{self.where}: in_features", least=1)
        self.out_features = whole_number(out_features, f"{self.where}: out_features", least=1)
        self.activation = activations.checked(activation, where=self.where)

    def options(self):
        return {"in_features": self.in_features, "out_features": self.out_features,
                "activation": self.activation}

    def parameter_shapes(self):
        return {"weight": (self.out_features, self.in_features), "bias": (self.out_features,)}

    def initial_values(self, generator):
        shapes = self.parameter_shapes()
        return {"weight": uniform(generator, shapes["weight"], self.in_features),
                "bias": np.zeros(shapes["bias"])}

    def output_shape(self, input_shape):
        if len(input_shape) not in (1, 3) or input_shape[0] != self.in_features:
            raise ShapeError(f"{self.where}: expected {self.in_features} input features, got an "
                             f"input of shape {tuple(input_shape)}")
        return (self.out_features, *input_shape[1:])

    def multiply_adds(self, input_shape):
        return self.in_features * self.out_features * int(np.prod(input_shape[1:]))

    def apply(self, x, out=None, workspace=None):
        return self.backend.dense(x, self.weight, self.bias, activation=self.activation, out=out,
                                  workspace=workspace)

    def propagate(self, grad_output, output, x, needs_grad_input, out, workspace):
        return self.backend.dense_backward(
            grad_output, output, x, self.weight, activation=self.activation,
            needs_grad_input=needs_grad_input,
            out=(out, self.gradients["weight"], self.gradients["bias"]),
            workspace=workspace).grad_input
