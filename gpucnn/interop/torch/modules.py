"""`torch.nn.Module`s of the table convolution and of trainable subsampling."""

from functools import partial

import numpy as np
import torch

from gpucnn import functional, layers
from gpucnn.interop.torch.autograd import Operation, apply
from gpucnn.interop.torch.pruning import dense_convolution, surviving_planes
from gpucnn.interop.torch.tensors import HostMemory


class _MapModule(torch.nn.Module):
    """What the two modules share: a layer of this library says which arguments are right and which
    parameters there are."""

    def _adopt(self, layer, device, dtype):
        self.stride, self.activation = layer.stride, layer.activation
        self._memory = HostMemory()
        for name, shape in layer.parameter_shapes().items():
            self.register_parameter(name, torch.nn.Parameter(
                torch.empty(shape, device=device, dtype=dtype)))

    def _described(self, *words):
        if self.bias is None:
            words = (*words, "bias=False")
        if self.activation != "identity":
            words = (*words, f"activation={self.activation!r}")
        return ", ".join(words)


class Conv2d(_MapModule):
    """Convolve maps through a connection table: `torch.nn.Conv2d` with weights for real connections
    only, and with a cost that falls with them.

    Input ([samples,] in_channels, height, width), output ([samples,] out_channels, out_height,
    out_width) with out = (in + 2 * padding - kernel_size) // stride + 1, float32 or float64, on
    any device that torch and this library share; under autocast it computes in float32.

    kernel_size, stride, padding: an int or a pair (vertical, horizontal). connections: a
    `gpucnn.ConnectionTable`, all of them unless given. activation: one of `gpucnn.activations`,
    fused into the convolution. kernel, autotune, precision: the choice of CUDA kernels, as in
    `gpucnn.functional.conv2d`. generator: a `torch.Generator` for the initial weights, uniform in
    +-sqrt(3 / fan_in) with the output map's own fan-in; biases start at 0.

    weight: (n_connections, kernel_height, kernel_width), in the table's order. bias:
    (out_channels,) or None. The buffer `connection_pairs` (2, n_connections) puts the table into
    the state_dict; loading one of another table is torch's RuntimeError that says so, and
    `ConnectionTable.from_pairs(state["connection_pairs"], in_channels, out_channels)` is the table
    to build a module for it with.

    The backward pass is not differentiable itself: a second derivative is torch's RuntimeError.
    Raises `ArgumentError` and `TableError`; a call `ShapeError`, `DTypeError`, `DeviceError`.
    """

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, *,
                 connections=None, bias=True, activation="identity", kernel=None, autotune=False,
                 precision="float32", generator=None, device=None, dtype=None):
        super().__init__()
        layer = layers.Conv2d(in_channels, out_channels, kernel_size, connections=connections,
                              stride=stride, padding=padding, activation=activation, bias=bias)
        self._adopt(layer, device, dtype)
        self.in_channels, self.out_channels = layer.in_maps, layer.out_maps
        self.kernel_size, self.padding = layer.kernel_size, layer.padding
        self.connections = layer.connections
        self.kernel, self.autotune, self.precision = kernel, autotune, precision
        if not bias:
            self.register_parameter("bias", None)
        self.register_buffer("connection_pairs", torch.empty(
            layer.connections.pairs.shape, dtype=torch.int32, device=device))
        self.reset_parameters(generator)

    def reset_parameters(self, generator=None):
        """New initial values, drawn with `generator`, one of torch on the weight's device."""
        pairs = torch.tensor(self.connections.pairs)
        fan_in = (torch.tensor(self.connections.fan_in)[pairs[1].long()].double()
                  * np.prod(self.kernel_size))
        bound = (3 / fan_in).sqrt()[:, None, None]
        with torch.no_grad():
            self.weight.uniform_(-1, 1, generator=generator).mul_(bound.to(self.weight))
            if self.bias is not None:
                self.bias.zero_()
            self.connection_pairs.copy_(pairs)

    @torch.compiler.disable  # torch.compile cannot look into it: a compiled model calls it as it is
    def forward(self, x):
        options = {"stride": self.stride, "padding": self.padding, "activation": self.activation,
                   "kernel": self.kernel, "autotune": self.autotune, "precision": self.precision}
        table = self.connections
        return apply(Operation(
            "Conv2d", self._memory, partial(functional.conv2d, connections=table, **options),
            partial(functional.conv2d_backward, connections=table, **options), self.activation,
            self.in_channels, self.out_channels, self.kernel_size, self.stride, self.padding),
            x, self.weight, self.bias)

    @classmethod
    def from_masked(cls, convolution, threshold=None, *, mask=None, keep_largest=False,
                    activation="identity", **options):
        """The table convolution of a `torch.nn.Conv2d` without the planes that are pruned.

        A plane, the (kernel_height, kernel_width) weights of one pair of maps, is kept if any of
        its weights is larger than `threshold` in magnitude; or, given a `mask` of shape
        (out_channels, in_channels / groups) or of the weight's, if any of its elements is not zero.
        Without either, the mask of `torch.nn.utils.prune` counts if the convolution has one, and
        the threshold is 0 if not. The result gives what `convolution` gives with the other planes
        at zero; what such masks hide within a plane that is kept becomes a trainable zero.

        Every output map needs a connection: one without is an error that names it, or, with
        `keep_largest`, keeps the plane that has the largest norm before a mask of
        `torch.nn.utils.prune` (the values that count stay those under the mask, zeros).

        The module has the convolution's device, type, mode and requires_grad; options are those of
        the constructor. Connections are ordered by output map, then by input map. Raises
        `TableError` for output maps without connection, `ShapeError` for another mask,
        `ArgumentError` for a dilation, a padding_mode or anything else that has no equivalent here.
        """
        planes = surviving_planes(convolution, threshold, mask, keep_largest)
        weight = planes.weight
        module = cls(convolution.in_channels, convolution.out_channels, convolution.kernel_size,
                     convolution.stride, planes.padding, connections=planes.table,
                     bias=planes.bias is not None, activation=activation,
                     generator=torch.Generator(weight.device),  # leaves torch's own as it is
                     device=weight.device, dtype=weight.dtype, **options)
        with torch.no_grad():
            module.weight.copy_(weight)
            module.weight.requires_grad_(planes.trains_weight)
            if planes.bias is not None:
                module.bias.copy_(planes.bias)
                module.bias.requires_grad_(planes.trains_bias)
        return module.train(convolution.training)

    def to_dense(self):
        """The equivalent `torch.nn.Conv2d`, with zeros where there is no connection.

        Raises `ArgumentError` for an activation other than identity, which that cannot have.
        """
        return dense_convolution(self)

    def extra_repr(self):
        table = self.connections
        return self._described(
            f"{self.in_channels}, {self.out_channels}", f"kernel_size={self.kernel_size}",
            f"stride={self.stride}", f"padding={self.padding}",
            f"{table.n_connections} of {table.in_maps * table.out_maps} connections")

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys,
                              unexpected_keys, error_msgs):
        saved = state_dict.get(f"{prefix}connection_pairs")
        if saved is not None and not np.array_equal(saved.cpu().numpy(), self.connections.pairs):
            error_msgs.append(
                f"Conv2d {prefix.rstrip('.')!r}: expected the connections of this module, "
                f"{self.connections!r}, got {saved.shape[-1]} connections that are not the same; "
                f"build it with connections=ConnectionTable.from_pairs("
                f"state['{prefix}connection_pairs'], {self.in_channels}, {self.out_channels})")
            return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys,
                                      unexpected_keys, error_msgs)


class Subsample2d(_MapModule):
    """Sum each pooling window, scale it by the map's coefficient, add its bias, squash.

    Input ([samples,] channels, height, width), output ([samples,] channels, out_height, out_width)
    with out = (in - pool_size) // stride + 1, float32 or float64. The stride is the pool size
    unless given; windows may overlap or leave gaps. Coefficients start at 1 / pool area, which is
    mean pooling, biases at 0. LeCun et al. 1998, section II.B.

    coefficient: (channels,). bias: (channels,) or None. The rest is as in `Conv2d`.
    """

    def __init__(self, channels, pool_size=2, stride=None, *, bias=True, activation="identity",
                 device=None, dtype=None):
        super().__init__()
        layer = layers.Subsample2d(channels, pool_size, stride=stride, activation=activation)
        self._adopt(layer, device, dtype)
        self.channels, self.pool_size = layer.maps, layer.pool_size
        if not bias:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self):
        """The initial values again."""
        with torch.no_grad():
            self.coefficient.fill_(1 / np.prod(self.pool_size))
            if self.bias is not None:
                self.bias.zero_()

    @torch.compiler.disable  # torch.compile cannot look into it: a compiled model calls it as it is
    def forward(self, x):
        options = {"pool_size": self.pool_size, "stride": self.stride,
                   "activation": self.activation}
        return apply(Operation(
            "Subsample2d", self._memory, partial(functional.subsample2d, **options),
            partial(functional.subsample2d_backward, **options), self.activation,
            self.channels, self.channels, self.pool_size, self.stride),
            x, self.coefficient, self.bias)

    def extra_repr(self):
        return self._described(f"{self.channels}", f"pool_size={self.pool_size}",
                               f"stride={self.stride}")
