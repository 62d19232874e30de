"""The max pooling layer."""

from gpucnn.layers.layer import Layer
from gpucnn.shapes import pair, windows_shape


class MaxPool2d(Layer):
    """The maximum of each pooling window; its first maximum, row by row, takes the whole gradient.

    Input (samples, maps, height, width), output (samples, maps, out_height, out_width) with
    out = (in - pool_size) // stride + 1; the stride is the pool size unless given. It has no
    parameters.
    """

    op = "max_pool2d"

    def __init__(self, pool_size, *, stride=None, name=None):
        super().__init__(name)
        self.pool_size = pair(pool_size, f"{self.where}: pool_size", least=1)
        self.stride = (self.pool_size if stride is None
                       else pair(stride, f"{self.where}: stride", least=1))

    def options(self):
        return {"pool_size": self.pool_size, "stride": self.stride}

    def output_shape(self, input_shape):
        self._expect_maps(input_shape)
        size = windows_shape(input_shape[1:], self.pool_size, self.stride, where=self.where)
        return (input_shape[0], *size)

    def apply(self, x, out=None, workspace=None):
        return self.backend.max_pool2d(x, pool_size=self.pool_size, stride=self.stride, out=out,
                                       workspace=workspace)

    def propagate(self, grad_output, output, x, needs_grad_input, out, workspace):
        if not needs_grad_input:
            return None
        return self.backend.max_pool2d_backward(
            grad_output, output, x, pool_size=self.pool_size, stride=self.stride, out=out,
            workspace=workspace)
