"""Modules and references that the tests of gpucnn.interop.torch share; needs torch."""

import pytest

from gpucnn import ConnectionTable

torch = pytest.importorskip("torch")

TABLES = {
    "full": ConnectionTable.full(3, 4),
    "uneven": ConnectionTable.random(5, 7, density=0.4, seed=3),
    "unsorted": ConnectionTable.from_pairs([[2, 0, 1, 2], [1, 2, 0, 0]], 4, 3),
    "one to one": ConnectionTable.one_to_one(4),
}
UNEVEN = TABLES["uneven"]


def normal(*shape, seed=0, requires_grad=False):
    """A float64 tensor of normal numbers, the same each time."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64,
                       requires_grad=requires_grad)


def filled(module):
    """The module with every parameter, biases too, at some number."""
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=number + 1))
    return module


def dense_weight(weight, table):
    """A table's weights (n_connections, kernel_height, kernel_width) as those of a dense one."""
    inputs, outputs = torch.tensor(table.pairs).long()
    dense = torch.zeros(table.out_maps, table.in_maps, *weight.shape[1:], dtype=weight.dtype)
    return dense.index_put((outputs, inputs), weight)


def squash(activation, z):
    return {"identity": lambda: z, "scaled_tanh": lambda: 1.7159 * torch.tanh(2 / 3 * z),
            "tanh": lambda: torch.tanh(z), "sigmoid": lambda: torch.sigmoid(z),
            "relu": lambda: torch.relu(z)}[activation]()


def reference(module, x):
    """What torch's own functions give for a Conv2d or a Subsample2d of ours."""
    if hasattr(module, "connections"):
        z = torch.nn.functional.conv2d(x, dense_weight(module.weight, module.connections),
                                       module.bias, module.stride, module.padding)
        return squash(module.activation, z)
    area = module.pool_size[0] * module.pool_size[1]
    sums = area * torch.nn.functional.avg_pool2d(x, module.pool_size, module.stride)
    z = sums * module.coefficient[:, None, None]
    if module.bias is not None:
        z = z + module.bias[:, None, None]
    return squash(module.activation, z)


def gradients(output, *tensors):
    """Gradients of a loss that weighs every element of the output differently."""
    weights = normal(*output.shape, seed=9).to(output)
    return torch.autograd.grad((output * weights).sum(), tensors)


def check(module, x, tolerance=1e-10):
    """Compare output and all gradients with torch's own functions'."""
    x = x.detach().requires_grad_()
    tensors = (x, *module.parameters())
    output, expected = module(x), reference(module, x)
    torch.testing.assert_close(output, expected, rtol=tolerance, atol=tolerance)
    for ours, theirs in zip(gradients(output, *tensors), gradients(expected, *tensors),
                            strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
