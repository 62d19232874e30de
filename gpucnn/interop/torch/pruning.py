"""From a pruned `torch.nn.Conv2d` to a connection table and its weights, and back."""

from typing import NamedTuple

import torch

from gpucnn.connections import ConnectionTable
from gpucnn.errors import ArgumentError, DTypeError, ShapeError, TableError
from gpucnn.interop.torch.tensors import TYPES


class Planes(NamedTuple):
    """What is left of a convolution: weight (n_connections, kernel_height, kernel_width) in the
    table's order, bias (out_channels,) or None, and whether these require a gradient."""

    table: ConnectionTable
    weight: torch.Tensor
    bias: torch.Tensor | None
    padding: tuple
    trains_weight: bool
    trains_bias: bool


@torch.no_grad()
def surviving_planes(convolution, threshold, mask, keep_largest):
    """The `Planes` of a `torch.nn.Conv2d`; arguments and errors as in `Conv2d.from_masked`."""
    _check(convolution)
    if threshold is not None and mask is not None:
        raise ArgumentError("from_masked: expected a threshold or a mask, got both")
    weight, pruned = _parameter_and_mask(convolution, "weight")
    bias, bias_mask = _parameter_and_mask(convolution, "bias")
    values = weight if pruned is None else weight * pruned
    if mask is not None or (pruned is not None and threshold is None):
        kept = _planes_of_mask(pruned if mask is None else mask, weight)
    else:
        # a NaN is not small: it stays, to be noticed
        kept = ~(values.abs() <= _checked_threshold(threshold)).flatten(2).all(2)
    _keep_every_output(kept, weight, keep_largest)
    outputs, inputs = kept.nonzero(as_tuple=True)
    out_maps_of_group = convolution.out_channels // convolution.groups
    first_input = outputs // out_maps_of_group * kept.shape[1]
    pairs = torch.stack([first_input + inputs, outputs]).cpu().numpy()
    return Planes(
        ConnectionTable.from_pairs(pairs, convolution.in_channels, convolution.out_channels),
        values[outputs, inputs], bias if bias_mask is None else bias * bias_mask,
        _padding(convolution), weight.requires_grad, bias is not None and bias.requires_grad)


@torch.no_grad()
def dense_convolution(module):
    """The `torch.nn.Conv2d` that is equivalent to a table convolution."""
    if module.activation != "identity":
        raise ArgumentError(f"to_dense: expected a Conv2d with activation='identity', since "
                            f"torch.nn.Conv2d has no other, got {module.activation!r}")
    weight, bias = module.weight, module.bias
    dense = torch.nn.utils.skip_init(
        torch.nn.Conv2d, module.in_channels, module.out_channels, module.kernel_size,
        module.stride, module.padding, bias=bias is not None, device=weight.device,
        dtype=weight.dtype)
    inputs, outputs = torch.tensor(module.connections.pairs, device=weight.device).long()
    dense.weight.zero_()
    dense.weight[outputs, inputs] = weight
    dense.weight.requires_grad_(weight.requires_grad)
    if bias is not None:
        dense.bias.copy_(bias)
        dense.bias.requires_grad_(bias.requires_grad)
    return dense.train(module.training)


def _check(convolution):
    if not isinstance(convolution, torch.nn.Conv2d):
        raise ArgumentError(f"from_masked: expected a torch.nn.Conv2d, got "
                            f"{type(convolution).__name__}")
    if torch.nn.parameter.is_lazy(convolution.weight):
        raise ArgumentError("from_masked: expected a convolution with weights, got a LazyConv2d "
                            "that has seen no input")
    if convolution.dilation != (1, 1):
        raise ArgumentError(f"from_masked: expected a convolution with dilation (1, 1), got "
                            f"{convolution.dilation}")
    if convolution.padding_mode != "zeros":
        raise ArgumentError(f"from_masked: expected a convolution with padding_mode 'zeros', got "
                            f"{convolution.padding_mode!r}")
    if convolution.weight.dtype not in TYPES:
        raise DTypeError(f"from_masked: expected a convolution of torch.float32 or torch.float64, "
                         f"got {convolution.weight.dtype}")


def _padding(convolution):
    """The padding as a pair; torch's "same" is one only for windows with a middle."""
    if convolution.padding == "valid":
        return (0, 0)
    if convolution.padding == "same":
        if not all(size % 2 for size in convolution.kernel_size):
            raise ArgumentError(f"from_masked: expected an odd kernel_size with padding 'same', "
                                f"got {convolution.kernel_size}, which pads one side more")
        return tuple(size // 2 for size in convolution.kernel_size)
    return convolution.padding


def _parameter_and_mask(convolution, name):
    """A parameter and the mask that torch.nn.utils.prune has put on it, or None. The attribute that
    pruning leaves in place of the parameter is not up to date after an optimiser's step."""
    mask = getattr(convolution, f"{name}_mask", None)
    return getattr(convolution, name if mask is None else f"{name}_orig"), mask


def _checked_threshold(threshold):
    if threshold is None:
        return 0.0
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not threshold >= 0:
        raise ArgumentError(f"from_masked: expected a threshold of at least 0, got {threshold!r}")
    return threshold


def _planes_of_mask(mask, weight):
    """bool (out_channels, in_channels / groups): which planes have an element in `mask`."""
    mask = torch.as_tensor(mask, device=weight.device)
    if mask.shape == weight.shape:
        return (mask != 0).flatten(2).any(2)
    if mask.shape != weight.shape[:2]:
        raise ShapeError(f"from_masked: expected a mask of shape {tuple(weight.shape[:2])} or "
                         f"{tuple(weight.shape)}, got {tuple(mask.shape)}")
    return mask != 0


def _keep_every_output(kept, weight, keep_largest):
    """See to it that every output map, a row of `kept`, has a connection."""
    empty = (~kept.any(1)).nonzero().flatten()
    if not len(empty):
        return
    if not keep_largest:
        names = ", ".join(map(str, empty.tolist()))
        raise TableError(f"from_masked: expected a connection to every output map, got none to "
                         f"{names}; keep_largest=True keeps the largest plane of each")
    kept[empty, weight.flatten(2).norm(dim=2)[empty].argmax(1)] = True
