"""PyTorch as a witness: the same outputs, gradients, losses and updates as this library's.

A convolution through a table is PyTorch's dense one with a masked weight.
"""

import itertools

import numpy as np
import pytest

from gpucnn import SGD, Adam, ConnectionTable, CrossEntropy, Mse, functional, get_backend
from gpucnn.activations import NAMES as ACTIVATIONS
from gpucnn.errors import DTypeError
from gpucnn.shapes import window_positions
from tests.oracle import assert_close

torch = pytest.importorskip("torch")

DTYPES = ("float64", "float32")
TABLES = {
    "full": ConnectionTable.full(3, 4),
    "Table I of LeCun 1998": ConnectionTable.lenet5_c3(),
    "uneven fan-in": ConnectionTable.random(5, 7, density=0.4, seed=3),
    "unsorted pairs": ConnectionTable.from_pairs([[2, 0, 1, 2], [1, 2, 0, 0]], 4, 3),
    "one to one": ConnectionTable.one_to_one(4),
    "grouped": ConnectionTable.grouped(4, 6, 2),
}
POOLINGS = [((2, 2), (2, 2)), ((3, 2), (1, 2)), ((2, 2), (3, 3)), ((3, 3), (2, 1))]


@pytest.fixture(autouse=True)
def _one_thread():
    """The arrays are small, and threads of PyTorch beside NumPy's cost more than they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random(generator, dtype, *shape):
    return generator.standard_normal(shape).astype(dtype)


def leaf(array):
    """A tensor of the same values whose gradient is wanted."""
    return torch.tensor(array, requires_grad=True)


def values(tensor):
    return tensor.detach().numpy()


def squash(activation, z):
    return {"identity": lambda: z, "scaled_tanh": lambda: 1.7159 * torch.tanh(2 / 3 * z),
            "tanh": lambda: torch.tanh(z), "sigmoid": lambda: torch.sigmoid(z),
            "relu": lambda: torch.relu(z)}[activation]()


def masked_conv2d(x, weight, bias, table, stride, padding):
    """PyTorch's convolution, its weight scattered into a dense one and masked by the table.

    What the mask hides is not zero before, so that a mask of the wrong cells is noticed.
    """
    inputs, outputs = torch.tensor(table.pairs).long()
    dense = torch.ones(table.out_maps, table.in_maps, *weight.shape[1:], dtype=weight.dtype)
    dense = dense.index_put((outputs, inputs), weight)
    mask = torch.tensor(table.matrix.T != 0).to(weight.dtype)[:, :, None, None]
    return torch.nn.functional.conv2d(x, dense * mask, bias, stride, padding)


def check_conv2d(dtype, table, size, kernel, stride, padding, activation, *, samples=3):
    generator = np.random.default_rng(0)
    x = random(generator, dtype, samples, table.in_maps, *size)
    weight = random(generator, dtype, table.n_connections, *kernel)
    bias = random(generator, dtype, table.out_maps)
    options = {"stride": stride, "padding": padding, "activation": activation}
    output = functional.conv2d(x, weight, bias, table, **options)
    grad_output = random(generator, dtype, *output.shape)
    gradients = functional.conv2d_backward(grad_output, output, x, weight, table, **options)

    leaves = leaf(x), leaf(weight), leaf(bias)
    theirs = squash(activation, masked_conv2d(*leaves, table, stride, padding))
    expected = torch.autograd.grad(theirs, leaves, torch.tensor(grad_output))
    names = ("output", *gradients._fields)
    assert_close(dict(zip(names, (output, *gradients), strict=True)),
                 dict(zip(names, map(values, (theirs, *expected)), strict=True)), dtype)


# -- ops ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_conv2d_is_a_convolution_with_a_masked_weight_at_every_stride_and_padding(table, dtype):
    for stride, padding in itertools.product((1, 2, 3), (0, 1, 2)):
        check_conv2d(dtype, table, (9, 8), (3, 2), stride, padding, "scaled_tanh")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", [(1, 1), (5, 5), (2, 7), (9, 8)])
def test_conv2d_is_a_convolution_with_a_masked_weight_at_every_kernel_size(kernel, dtype):
    for table in (TABLES["full"], TABLES["Table I of LeCun 1998"]):
        check_conv2d(dtype, table, (9, 8), kernel, 1, 0, "tanh")
        check_conv2d(dtype, table, (9, 8), kernel, (2, 1), (0, 2), "tanh")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_conv2d_is_a_convolution_with_a_masked_weight_under_every_activation(activation, dtype):
    check_conv2d(dtype, TABLES["uneven fan-in"], (7, 6), (3, 3), 1, 1, activation)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("pool_size", "stride"), POOLINGS)
@pytest.mark.parametrize("activation", ["identity", "scaled_tanh"])
def test_subsample2d_is_sum_pooling_scaled_and_shifted_by_map(activation, pool_size, stride, dtype):
    generator = np.random.default_rng(1)
    x = random(generator, dtype, 3, 4, 8, 7)
    coefficient, bias = random(generator, dtype, 4), random(generator, dtype, 4)
    options = {"pool_size": pool_size, "stride": stride, "activation": activation}
    output = functional.subsample2d(x, coefficient, bias, **options)
    grad_output = random(generator, dtype, *output.shape)
    gradients = functional.subsample2d_backward(grad_output, output, x, coefficient, **options)

    leaves = leaf(x), leaf(coefficient), leaf(bias)
    sums = torch.nn.functional.avg_pool2d(leaves[0], pool_size, stride) * np.prod(pool_size)
    theirs = squash(activation, sums * leaves[1][:, None, None] + leaves[2][:, None, None])
    expected = torch.autograd.grad(theirs, leaves, torch.tensor(grad_output))
    names = ("output", *gradients._fields)
    assert_close(dict(zip(names, (output, *gradients), strict=True)),
                 dict(zip(names, map(values, (theirs, *expected)), strict=True)), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("positions", [(), (2, 3)], ids=["flat", "maps"])
def test_dense_is_a_linear_layer_at_every_position(positions, activation, dtype):
    generator = np.random.default_rng(2)
    x = random(generator, dtype, 5, 6, *positions)
    weight, bias = random(generator, dtype, 4, 6), random(generator, dtype, 4)
    output = functional.dense(x, weight, bias, activation=activation)
    grad_output = random(generator, dtype, *output.shape)
    gradients = functional.dense_backward(grad_output, output, x, weight, activation=activation)

    leaves = leaf(x), leaf(weight), leaf(bias)
    z = torch.nn.functional.linear(leaves[0].movedim(1, -1), *leaves[1:]).movedim(-1, 1)
    theirs = squash(activation, z)
    expected = torch.autograd.grad(theirs, leaves, torch.tensor(grad_output))
    names = ("output", *gradients._fields)
    assert_close(dict(zip(names, (output, *gradients), strict=True)),
                 dict(zip(names, map(values, (theirs, *expected)), strict=True)), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("pool_size", "stride"), POOLINGS)
def test_max_pool2d_gives_the_gradient_to_the_first_maximum_as_pytorch_does(pool_size, stride,
                                                                            dtype):
    generator = np.random.default_rng(3)
    x = generator.integers(0, 3, (3, 4, 8, 7)).astype(dtype)  # three values: ties in most windows
    options = {"pool_size": pool_size, "stride": stride}
    output = functional.max_pool2d(x, **options)
    grad_output = random(generator, dtype, *output.shape)
    grad_input = functional.max_pool2d_backward(grad_output, output, x, **options)

    leaf_x = leaf(x)
    theirs = torch.nn.functional.max_pool2d(leaf_x, pool_size, stride)
    expected, = torch.autograd.grad(theirs, leaf_x, torch.tensor(grad_output))
    assert output.shape[2:] == tuple(map(window_positions, (8, 7), pool_size, stride))
    np.testing.assert_array_equal(output, values(theirs))
    assert_close({"grad_input": grad_input}, {"grad_input": values(expected)}, dtype)


# -- losses ------------------------------------------------------------------------------------


def evaluate(loss, output, labels):
    """Our loss of a batch, its gradient and the number of errors."""
    backend = get_backend("cpu")
    grad_output = np.empty_like(output)
    value, totals = np.empty(1, output.dtype), np.zeros(3)
    loss.evaluate(backend, output, labels, grad_output=grad_output, loss=value, totals=totals)
    return {"loss": value, "grad_output": grad_output, "sum": totals[:1], "errors": totals[1:2]}


def theirs_evaluated(loss, output, labels):
    tensor = leaf(output)
    value = loss(tensor, torch.tensor(labels).long())
    grad_output, = torch.autograd.grad(value, tensor)
    errors = (output.argmax(axis=1) != labels).sum()
    return {"loss": values(value).reshape(1), "grad_output": values(grad_output),
            "sum": values(value).reshape(1) * len(labels), "errors": np.array([float(errors)])}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1, 100])
def test_cross_entropy_is_that_of_pytorch(scale, dtype):
    generator = np.random.default_rng(4)
    output = scale * random(generator, dtype, 17, 10)
    labels = generator.integers(0, 10, 17).astype(np.int32)
    assert_close(evaluate(CrossEntropy(), output, labels),
                 theirs_evaluated(torch.nn.functional.cross_entropy, output, labels), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_mse_is_half_of_pytorch_s_summed_one_over_the_samples(dtype):
    def half_of_sum(output, labels):
        targets = 1.6 * torch.nn.functional.one_hot(labels, 10).to(output.dtype) - 0.8
        return torch.nn.functional.mse_loss(output, targets, reduction="sum") / (2 * len(labels))

    generator = np.random.default_rng(5)
    output = random(generator, dtype, 17, 10)
    labels = generator.integers(0, 10, 17).astype(np.int32)
    assert_close(evaluate(Mse(0.8), output, labels),
                 theirs_evaluated(half_of_sum, output, labels), dtype)


# -- optimisers --------------------------------------------------------------------------------


def check_updates(dtype, ours, theirs, steps=7):
    """Some updates by an optimiser of ours and one of PyTorch's, at a rate that changes."""
    generator = np.random.default_rng(6)
    backend = get_backend("cpu")
    parameters = random(generator, dtype, 50)
    tensor = torch.tensor(parameters)
    reference = theirs([tensor], lr=ours.lr)
    state = ours.state(backend, len(parameters), np.dtype(dtype))
    for step in range(1, steps + 1):
        gradients = random(generator, dtype, 50)
        rate = ours.lr / step
        scalars = np.array(ours.scalars(step, rate), dtype)
        ours.update(backend, parameters, gradients, state, scalars)
        tensor.grad = torch.tensor(gradients)
        reference.param_groups[0]["lr"] = rate
        reference.step()
        assert_close({"parameters": parameters}, {"parameters": values(tensor)}, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [
    {}, {"momentum": 0.9}, {"weight_decay": 0.1}, {"momentum": 0.9, "weight_decay": 0.1},
    {"momentum": 0.9, "nesterov": True}, {"momentum": 0.5, "nesterov": True, "weight_decay": 0.1},
], ids=str)
def test_sgd_updates_as_pytorch_s_does(options, dtype):
    check_updates(dtype, SGD(lr=0.1, **options),
                  lambda tensors, lr: torch.optim.SGD(tensors, lr, **options))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adam_updates_as_pytorch_s_does(weight_decay, dtype):
    check_updates(dtype, Adam(0.01, 0.8, 0.99, 1e-6, weight_decay),
                  lambda tensors, lr: torch.optim.Adam(tensors, lr, (0.8, 0.99), 1e-6,
                                                       weight_decay))


# -- tensors as arguments ----------------------------------------------------------------------


def test_functions_take_tensors_and_give_numpy_arrays():
    generator = np.random.default_rng(7)
    table = TABLES["uneven fan-in"]
    x, weight = random(generator, "float32", 2, 5, 6, 6), random(generator, "float32", 14, 3, 3)
    bias = random(generator, "float32", 7)
    expected = functional.conv2d(x, weight, bias, table)
    output = functional.conv2d(*map(torch.tensor, (x, weight, bias)), table)
    assert isinstance(output, np.ndarray)
    np.testing.assert_array_equal(output, expected)
    gradients = functional.conv2d_backward(torch.tensor(output), output, torch.tensor(x), weight,
                                           table)
    for array, reference in zip(
            gradients, functional.conv2d_backward(output, output, x, weight, table), strict=True):
        np.testing.assert_array_equal(array, reference)


def test_functions_take_tensors_of_any_strides():
    tensor = torch.arange(2 * 6 * 5 * 3, dtype=torch.float64).reshape(2, 6, 5, 3).movedim(3, 1)
    coefficient = torch.ones(6, dtype=torch.float64)[::2]
    np.testing.assert_array_equal(
        functional.subsample2d(tensor, coefficient, None),
        functional.subsample2d(np.ascontiguousarray(tensor.numpy()), np.ones(3), None))


def test_a_tensor_that_requires_a_gradient_is_an_error_that_says_so():
    with pytest.raises(DTypeError, match=r"dense: x: Tensor cannot be shared by DLPack: .*grad"):
        functional.dense(torch.ones(2, 3, requires_grad=True), torch.ones(4, 3), None)


def test_a_tensor_of_a_type_that_numpy_lacks_is_an_error_that_says_so():
    with pytest.raises(DTypeError, match="dense: x"):
        functional.dense(torch.ones(2, 3, dtype=torch.bfloat16), torch.ones(4, 3), None)
