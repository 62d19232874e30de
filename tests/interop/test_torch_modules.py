"""Conv2d and Subsample2d as PyTorch modules: values, gradients, and torch's ways of running."""

import numpy as np
import pytest

from gpucnn import ConnectionTable, functional
from gpucnn.activations import NAMES as ACTIVATIONS
from gpucnn.errors import (
    ArgumentError,
    DeviceError,
    DTypeError,
    GpucnnError,
    ShapeError,
    TableError,
)

torch = pytest.importorskip("torch")

from gpucnn.interop.torch import Conv2d, Subsample2d  # noqa: E402
from tests.interop.models import TABLES, UNEVEN, check, filled, gradients, normal  # noqa: E402


def conv2d(table=UNEVEN, kernel_size=(3, 2), dtype=torch.float64, **options):
    return filled(Conv2d(table.in_maps, table.out_maps, kernel_size, connections=table,
                         dtype=dtype, **options))


def subsample2d(channels=5, dtype=torch.float64, **options):
    return filled(Subsample2d(channels, dtype=dtype, **options))


MODULES = {"conv2d": conv2d, "subsample2d": subsample2d}
each_module = pytest.mark.parametrize("build", MODULES.values(), ids=MODULES)


# -- values and gradients --------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 1), ((1, 2), (2, 0))])
def test_conv2d_is_torch_s_with_a_masked_weight(table, stride, padding):
    check(conv2d(table, stride=stride, padding=padding), normal(2, table.in_maps, 7, 6))


@pytest.mark.parametrize(("pool_size", "stride"), [(2, None), ((3, 2), (1, 2)), (2, 3)])
def test_subsample2d_is_torch_s_average_pooling_scaled_and_shifted(pool_size, stride):
    check(subsample2d(pool_size=pool_size, stride=stride), normal(2, 5, 8, 7))


@each_module
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_activation_is_fused(build, activation):
    check(build(activation=activation), normal(2, 5, 6, 6))


@each_module
def test_float32_is_computed_in_float32(build):
    module = build(dtype=torch.float32)
    assert module(normal(2, 5, 6, 6).float()).dtype == torch.float32
    check(module, normal(2, 5, 6, 6).float(), tolerance=1e-4)


@each_module
@pytest.mark.parametrize("bias", [True, False])
def test_gradcheck_passes_for_input_and_parameters(build, bias):
    module = build(bias=bias, activation="scaled_tanh")
    names = [name for name, _ in module.named_parameters()]

    def call(x, *parameters):
        return torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(
        call, (normal(2, 5, 5, 4, requires_grad=True), *module.parameters()))


@each_module
def test_one_sample_needs_no_batch(build):
    module, x = build(), normal(2, 5, 6, 6, requires_grad=True)
    assert module(x[0]).shape == module(x).shape[1:]
    torch.testing.assert_close(module(x[0]), module(x)[0])
    check(module, x[0])


@each_module
def test_an_empty_batch_gives_an_empty_output_and_zero_gradients(build):
    module, x = build(), torch.zeros(0, 5, 6, 6, dtype=torch.float64, requires_grad=True)
    output = module(x)
    assert output.shape == (0, *module(torch.zeros(1, 5, 6, 6).double()).shape[1:])
    grad_x, *others = gradients(output, x, *module.parameters())
    assert grad_x.shape == x.shape
    assert all(not gradient.any() for gradient in others)


@each_module
@pytest.mark.parametrize("view", [
    lambda x: x.to(memory_format=torch.channels_last), lambda x: x.transpose(2, 3),
    lambda x: x[:, :, ::2], lambda x: x[:1].expand(3, -1, -1, -1), lambda x: x.flip(0)[1:],
], ids=["channels last", "transposed", "every second row", "expanded", "a slice"])
def test_tensors_of_any_strides_are_taken(build, view):
    check(build(activation="tanh"), view(normal(3, 5, 8, 8)))


@each_module
def test_a_gradient_of_any_strides_is_taken(build):
    module, x = build(), normal(2, 5, 6, 6, requires_grad=True)
    expanded, = torch.autograd.grad(module(x).sum(), x)
    output = module(x)
    full, = torch.autograd.grad(output, x, torch.ones_like(output))
    assert torch.equal(expanded, full)


@each_module
@pytest.mark.parametrize("wanted", [("x",), ("weight",), ("bias",), ("x", "bias"),
                                    ("weight", "bias")], ids="+".join)
def test_only_the_gradients_that_are_wanted_are_given(build, wanted):
    module, x = build(), normal(2, 5, 6, 6)
    weight, bias = module.parameters()
    tensors = {"x": x, "weight": weight, "bias": bias}
    for name, tensor in tensors.items():
        tensor.requires_grad_(name in wanted)
    gradient = gradients(module(x), *(tensors[name] for name in wanted))
    for tensor in tensors.values():
        tensor.requires_grad_()
    everything = dict(zip(tensors, gradients(module(x), *tensors.values()), strict=True))
    for name, ours in zip(wanted, gradient, strict=True):
        assert torch.equal(ours, everything[name])


@each_module
def test_the_gradient_by_an_input_that_needs_none_is_not_computed(build, monkeypatch):
    module, name = build(), f"{build.__name__}_backward"
    function, asked = getattr(functional, name), []

    def recorded(*arrays, needs_grad_input, **options):
        asked.append(needs_grad_input)
        return function(*arrays, needs_grad_input=needs_grad_input, **options)

    monkeypatch.setattr(functional, name, recorded)
    module(normal(2, 5, 6, 6)).sum().backward()
    module(normal(2, 5, 6, 6, requires_grad=True)).sum().backward()
    assert asked == [False, True]


def test_gradients_add_up_over_calls():
    module, x = conv2d(), normal(2, 5, 6, 6)
    module(x).sum().backward()
    once = module.weight.grad.clone()
    module(x).sum().backward()
    assert torch.equal(module.weight.grad, 2 * once)


# -- torch's ways of running -----------------------------------------------------------------------


@each_module
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_nothing_is_recorded(build, mode):
    module, x = build(), normal(2, 5, 6, 6)
    expected = module(x).detach()
    with mode():
        output = module(x)
    assert not output.requires_grad and output.grad_fn is None
    assert torch.equal(output, expected)


@each_module
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_it_computes_in_float32(build, dtype):
    module = build(dtype=torch.float32)
    before = torch.nn.Conv2d(2, 5, 1)
    x = normal(3, 2, 6, 6).float().requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        half = before(x)
        output = module(half)
    assert half.dtype == dtype and output.dtype == torch.float32
    assert torch.equal(output, module(half.float()))
    output.sum().backward()
    assert x.grad.dtype == before.weight.grad.dtype == torch.float32


def test_under_autocast_the_gradient_has_its_tensor_s_type():
    x = normal(1, 5, 4, 4).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        conv2d(dtype=torch.float32)(x).sum().backward()
    assert x.grad.dtype == torch.bfloat16


@each_module
def test_a_second_derivative_is_refused(build):
    module, x = build(activation="tanh"), normal(1, 5, 4, 4, requires_grad=True)
    gradient, = torch.autograd.grad(module(x).sum(), x, create_graph=True)
    with pytest.raises(GpucnnError, match=f"{type(module).__name__}: expected to be "
                                          f"differentiated once, got a second derivative"):
        gradient.square().sum().backward()


@each_module
def test_torch_func_takes_its_gradient(build):
    module, x = build(), normal(2, 5, 6, 6)
    parameters = {name: value.detach() for name, value in module.named_parameters()}
    by_torch_func = torch.func.grad(
        lambda values: torch.func.functional_call(module, values, (x,)).square().sum())(parameters)
    module(x).square().sum().backward()
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(by_torch_func[name], parameter.grad)


def test_an_output_without_activation_may_be_changed_in_place():
    x = normal(2, 5, 6, 6, requires_grad=True)
    ours = torch.nn.Sequential(conv2d(), torch.nn.ReLU(inplace=True))
    fused = conv2d(activation="relu")
    assert torch.equal(*(gradients(module(x), x)[0] for module in (ours, fused)))


def test_an_output_with_activation_that_was_changed_in_place_is_torch_s_error():
    output = conv2d(activation="tanh")(normal(2, 5, 6, 6, requires_grad=True))
    output.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@pytest.mark.filterwarnings("ignore:.*Dynamo:UserWarning")
def test_a_compiled_model_calls_it_as_it_is():
    model = torch.nn.Sequential(conv2d(activation="tanh"), torch.nn.ReLU(), subsample2d(7))
    x = normal(2, 5, 7, 6, requires_grad=True)
    compiled = torch.compile(model, backend="eager")
    assert torch.equal(compiled(x), model(x))
    assert torch.equal(gradients(compiled(x), x)[0], gradients(model(x), x)[0])


def test_a_network_learns():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        Conv2d(1, 6, 3, activation="tanh"), Subsample2d(6, activation="tanh"), torch.nn.Flatten(),
        torch.nn.Linear(54, 2))
    x = normal(64, 1, 8, 8).float()
    labels = (x.mean((1, 2, 3)) > 0).long()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 5


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(("x", "error", "message"), [
    (torch.zeros(2, 4, 6, 6).double(), ShapeError,
     r"Conv2d: expected x of shape \(\[samples,\] 5, height, width\), got \(2, 4, 6, 6\)"),
    (torch.zeros(5, 6).double(), ShapeError, r"got \(5, 6\)"),
    (torch.zeros(2, 5, 2, 6).double(), ShapeError,
     "Conv2d: expected maps of at least 3x2 pixels, got 2x6"),
    (torch.zeros(2, 5, 6, 6), DTypeError,
     r"Conv2d: expected weight of torch\.float32 like x, got torch\.float64"),
    (torch.zeros(2, 5, 6, 6).half(), DTypeError,
     r"expected x to be a dense tensor of torch\.float32 or torch\.float64, got torch\.float16"),
    (torch.zeros(2, 5, 6, 6).double().to_sparse(), DTypeError, "dense tensor.*torch.sparse_coo"),
    (np.zeros((2, 5, 6, 6)), DTypeError, "Conv2d: expected x to be a tensor, got ndarray"),
    (torch.zeros(2, 5, 6, 6, device="meta").double(), DeviceError,
     "Conv2d: expected weight on meta like x, got it on cpu"),
], ids=["maps", "rank", "size", "type", "half", "sparse", "array", "device"])
def test_an_input_that_does_not_fit_is_refused(x, error, message):
    with pytest.raises(error, match=message):
        conv2d()(x)


def test_tensors_of_another_kind_of_device_are_refused():
    with pytest.raises(DeviceError, match="Subsample2d: expected a tensor on the CPU or a CUDA "
                                          "device, got one on meta"):
        subsample2d().to("meta")(torch.zeros(2, 5, 6, 6, device="meta").double())


@pytest.mark.parametrize("options", [{"kernel": "tiled"}, {"autotune": True},
                                     {"precision": "tf32"}], ids=str)
def test_there_is_no_choice_of_kernel_on_the_cpu(options):
    module = conv2d(**options)
    with pytest.raises(ArgumentError, match=r"conv2d: expected .* on cpu, which has no CUDA"):
        module(normal(2, 5, 6, 6))


@pytest.mark.parametrize(("build", "error", "message"), [
    (lambda: Conv2d(3, 4, 0), ArgumentError, "Conv2d: kernel_size: expected at least 1, got 0"),
    (lambda: Conv2d(3, 4, 3, padding="same"), ArgumentError,
     "Conv2d: padding: expected an int, got 'same'"),
    (lambda: Conv2d(3, 4, 3, activation="swish"), ArgumentError, "Conv2d: expected an activation"),
    (lambda: Conv2d(3, 4, 3, connections=ConnectionTable.full(3, 5)), TableError,
     "Conv2d: expected a table of 3 to 4 maps, got one of 3 to 5"),
    (lambda: Conv2d(3, 4, 3, connections=[[0], [0]]), TableError, "to be a ConnectionTable"),
    (lambda: Subsample2d(0), ArgumentError, "Subsample2d: maps: expected at least 1, got 0"),
    (lambda: Subsample2d(3, stride=0), ArgumentError, "Subsample2d: stride"),
], ids=range(7))
def test_a_module_of_wrong_arguments_is_refused(build, error, message):
    with pytest.raises(error, match=message):
        build()
