"""An op of this library as one of torch.autograd's, with the op's own backward pass."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from gpucnn.errors import GpucnnError, ShapeError
from gpucnn.interop.torch.tensors import (
    HostMemory,
    check_tensors,
    in_full_precision,
    sharing,
)
from gpucnn.shapes import windows_shape


class Operation(NamedTuple):
    """A pair of `gpucnn.functional`'s functions with their options, and the sizes they lead to.

    forward(x, weight, bias, out=, workspace=) and backward(grad_output, output, x, weight,
    needs_grad_input=, out=, workspace=), where `weight` stands for subsampling's coefficient too;
    `memory` is their module's on the CPU.
    """

    where: str
    memory: HostMemory
    forward: Callable
    backward: Callable
    activation: str
    in_maps: int
    out_maps: int
    window: tuple
    stride: tuple
    padding: tuple = (0, 0)

    def output_shape(self, x):
        """([samples,] maps, height, width) of the output for an input x ([samples,] ...)."""
        if x.ndim not in (3, 4) or x.shape[-3] != self.in_maps:
            raise ShapeError(f"{self.where}: expected x of shape ([samples,] {self.in_maps}, "
                             f"height, width), got {tuple(x.shape)}")
        size = windows_shape(x.shape[-2:], self.window, self.stride, self.padding, where=self.where)
        return (*x.shape[:-3], self.out_maps, *size)


def apply(operation, x, weight, bias):
    """The operation's output, differentiable once by the three tensors; bias may be None.

    Under autocast tensors of half precision are taken as float32, in which it computes.
    Raises `DTypeError`, `DeviceError` or `ShapeError`.
    """
    tensors = tuple(map(in_full_precision, (x, weight, bias)))
    check_tensors(operation.where, **dict(zip(("x", "weight", "bias"), tensors, strict=True)))
    return _Forward.apply(*tensors, operation)


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(x, weight, bias, operation):
        output = x.new_empty(operation.output_shape(x))
        with sharing(x.device, operation.where, operation.memory) as shared:
            operation.forward(*map(shared.array, (x, weight, bias)), out=shared.array(output),
                              workspace=shared.workspace)
        return output

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, _, ctx.operation = inputs
        # the slope of the identity is 1 for any output, so that it may be changed in place
        kept = None if ctx.operation.activation == "identity" else output
        ctx.save_for_backward(x, weight, kept)

    @staticmethod
    def backward(ctx, grad_output):
        return *_Backward.apply(grad_output, *ctx.saved_tensors, ctx.operation,
                                ctx.needs_input_grad[:3]), None


class _Backward(torch.autograd.Function):
    """The gradients: a function of its own, so that whoever differentiates them is told."""

    @staticmethod
    def forward(grad_output, x, weight, output, operation, needed):
        gradients = (x.new_empty(x.shape) if needed[0] else None, x.new_empty(weight.shape),
                     x.new_empty(operation.out_maps))
        with sharing(x.device, operation.where, operation.memory) as shared:
            grad_output = shared.array(grad_output)
            operation.backward(
                grad_output, grad_output if output is None else shared.array(output),
                shared.array(x), shared.array(weight), needs_grad_input=needed[0],
                out=tuple(map(shared.array, gradients)), workspace=shared.workspace)
        return tuple(gradient if wanted else None
                     for gradient, wanted in zip(gradients, needed, strict=True))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.where = inputs[4].where

    @staticmethod
    def backward(ctx, *_):
        raise GpucnnError(f"{ctx.where}: expected to be differentiated once, got a second "
                          f"derivative, which its backward pass does not have")
