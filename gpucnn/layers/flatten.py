"""The layer from maps to features."""

from math import prod

from gpucnn.layers.layer import Layer


class Flatten(Layer):
    """Maps (samples, maps, height, width) as features (samples, maps * height * width), in order.

    It fixes the size of the image: a network with a Flatten takes no larger ones.
    """

    op = "flatten"
    is_view = True

    def __init__(self, *, name=None):
        super().__init__(name)

    def options(self):
        return {}

    def output_shape(self, input_shape):
        self._expect_maps(input_shape)
        return (prod(input_shape),)

    def apply(self, x, out=None, workspace=None):
        return x.reshape(len(x), prod(x.shape[1:]))

    def propagate(self, grad_output, output, x, needs_grad_input, out, workspace):
        return grad_output.reshape(x.shape) if needs_grad_input else None
