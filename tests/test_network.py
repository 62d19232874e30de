"""Networks: layers in a row, flat arrays with named views, errors at build time."""

import numpy as np
import pytest

from gpucnn import (
    ConnectionTable,
    Conv2d,
    Dense,
    Flatten,
    MaxPool2d,
    Network,
    Subsample2d,
    functional,
    lenet5,
    two_stage,
)
from gpucnn.backends.cuda import CudaBackend
from gpucnn.errors import (
    ArgumentError,
    DataError,
    DeviceError,
    DTypeError,
    ShapeError,
    TableError,
)
from tests.cuda_on_cpu.runtime import HostRuntime


def small_layers():
    return [Conv2d(1, 3, 3, name="c1"), Subsample2d(3, 2, name="s2"),
            Conv2d(3, 4, 3, name="c3"), Dense(4, 5, activation="identity", name="output")]


def small_network(**keywords):
    return Network(small_layers(), (1, 8, 8), **({"device": "cpu"} | keywords))


def digits(n, size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 1, size, size), dtype=np.uint8)


# -- arrays ----------------------------------------------------------------------------------------


def test_parameters_are_views_of_one_flat_array():
    network = small_network()
    assert list(network.parameters) == ["c1.weight", "c1.bias", "s2.coefficient", "s2.bias",
                                        "c3.weight", "c3.bias", "output.weight", "output.bias"]
    assert network.parameters.flat.shape == (network.n_parameters,) == (27 + 3 + 6 + 108 + 4 + 25,)
    network.parameters.flat[:] = np.arange(network.n_parameters)
    assert network["c1"].weight[0, 0, 1] == 1
    assert network["output"].bias[-1] == network.n_parameters - 1
    assert np.shares_memory(network["c3"].weight, network.parameters.flat)
    assert np.shares_memory(network["c3"].gradients["weight"], network.gradients.flat)


def test_an_unknown_parameter_names_the_known_ones():
    with pytest.raises(KeyError, match=r"c1\.weight.*got 'c9\.weight'"):
        small_network().parameters["c9.weight"]
    with pytest.raises(KeyError, match="c1, s2, c3, output"):
        small_network()["c9"]


def test_initial_weights_fill_the_range_of_each_output_maps_own_fan_in():
    table = ConnectionTable.from_matrix(np.array([[1, 1], [0, 1], [0, 1], [0, 1]]))
    network = Network([Conv2d(4, 2, 30, connections=table, name="c1")], (4, 30, 30), device="cpu")
    weight = network["c1"].weight
    narrow, wide = np.sqrt(3 / (4 * 900)), np.sqrt(3 / 900)
    to_first = table.pairs[1] == 0
    assert 0.95 * wide < np.abs(weight[to_first]).max() <= wide
    assert 0.95 * narrow < np.abs(weight[~to_first]).max() <= narrow
    assert not network["c1"].bias.any()


def test_the_seed_decides_the_initial_values_alike_on_every_device_and_type():
    host = CudaBackend(HostRuntime())
    first = small_network(seed=3).parameters.flat
    assert np.array_equal(first, small_network(seed=3).parameters.flat)
    assert not np.array_equal(first, small_network(seed=4).parameters.flat)
    on_cuda = small_network(seed=3, device=host)
    assert np.array_equal(first, host.to_host(on_cuda.parameters.flat))
    double = small_network(seed=3, dtype="float64").parameters.flat
    assert np.array_equal(first, double.astype(np.float32))


def test_values_that_a_layer_has_already_are_kept_by_the_network():
    layers = small_layers()
    layers[0].weight = np.full((3, 3, 3), 7.0)
    network = Network(layers, (1, 8, 8), device="cpu")
    assert (network.parameters["c1.weight"] == 7).all()
    network["c1"].bias = np.array([1.0, 2.0, 3.0])
    assert network.parameters["c1.bias"].tolist() == [1, 2, 3]


def test_a_network_moves_to_another_device_and_back():
    host = CudaBackend(HostRuntime())
    network = small_network()
    images = digits(3, 8)
    before, values = network.outputs(images), network.parameters.flat.copy()
    assert network.to(host) is network
    assert network.device == host.device
    assert np.allclose(network.outputs(images), before, atol=1e-6)
    assert np.array_equal(network.to("cpu").parameters.flat, values)


# -- computing -------------------------------------------------------------------------------------


def test_forward_and_backward_are_the_functions_in_a_row():
    network = small_network(dtype="float64")
    x = np.random.default_rng(0).standard_normal((2, 1, 8, 8))
    c1, s2, c3, out = network.layers
    y1 = functional.conv2d(x, c1.weight, c1.bias, c1.connections, activation="scaled_tanh")
    y2 = functional.subsample2d(y1, s2.coefficient, s2.bias, activation="scaled_tanh")
    y3 = functional.conv2d(y2, c3.weight, c3.bias, c3.connections, activation="scaled_tanh")
    expected = functional.dense(y3, out.weight, out.bias)
    output = network.forward(x)
    assert np.allclose(output, expected, rtol=1e-12)
    grad = np.random.default_rng(1).standard_normal(output.shape)
    g3 = functional.dense_backward(grad, expected, y3, out.weight)
    g2 = functional.conv2d_backward(g3.grad_input, y3, y2, c3.weight, c3.connections,
                                    activation="scaled_tanh")
    assert network.backward(grad) is None
    assert np.allclose(network.gradients["output.weight"], g3.grad_weight, rtol=1e-12)
    assert np.allclose(network.gradients["c3.weight"], g2.grad_weight, rtol=1e-12)
    assert network.backward(grad, needs_grad_input=True).shape == x.shape


def test_gradients_are_written_anew_by_each_backward():
    network = small_network()
    x = np.ones((2, 1, 8, 8), np.float32)
    grad = np.ones_like(network.forward(x))
    network.backward(grad)
    first = network.gradients.flat.copy()
    network.backward(grad)
    assert np.array_equal(first, network.gradients.flat)


def test_predict_takes_any_number_of_images_in_batches():
    network = small_network()
    images = digits(11, 8)
    outputs = network.outputs(images)
    assert outputs.shape == (11, 5, 1, 1)
    assert np.allclose(network.outputs(images, batch_size=4), outputs, atol=1e-6)
    assert np.array_equal(network.predict(images, batch_size=3), outputs[:, :, 0, 0].argmax(axis=1))
    assert network.predict(images[:0]).shape == (0,)
    assert np.array_equal(network.predict(images[:, 0]), network.predict(images))


def test_small_images_are_centred_on_the_background():
    network = small_network()
    image = digits(1, 6)
    padded = np.zeros((1, 1, 8, 8), np.uint8)
    padded[:, :, 1:7, 1:7] = image
    assert np.array_equal(network.outputs(image), network.outputs(padded))


def test_uint8_images_are_scaled_to_the_input_range_and_floats_are_not():
    network = small_network(input_range=(0, 1))
    image = digits(1, 8)
    assert np.allclose(network.outputs(image),
                       network.outputs((image / 255).astype(np.float32)), atol=1e-6)


def test_a_larger_image_gives_a_grid_of_answers():
    network = small_network()
    wide = digits(2, 12)[:, :, :8]
    answers = network.predict(wide)
    assert answers.shape == (2, 1, 3)
    assert answers[0, 0, 0] == network.predict(wide[:, :, :, :8])[0]
    assert answers[1, 0, 2] == network.predict(wide[:, :, :, 4:])[1]


def test_a_flatten_fixes_the_size():
    network = Network([MaxPool2d(2), Flatten(), Dense(16, 3)], (1, 8, 8), device="cpu")
    assert network.output_shape == (3,)
    assert network.predict(digits(2, 8)).shape == (2,)
    with pytest.raises(ShapeError, match="Dense 'dense3': expected 16 input features"):
        network.predict(digits(2, 12))


def test_a_layer_alone_makes_its_arrays_for_its_first_input():
    layer = Conv2d(1, 2, 3)
    x = np.random.default_rng(0).standard_normal((2, 1, 5, 5))
    assert layer.forward(x).dtype == np.float64
    assert layer.backward(np.ones((2, 2, 3, 3))).shape == x.shape
    assert np.allclose(layer.gradients["bias"].shape, (2,))
    with pytest.raises(DTypeError, match="expected an input of float64, got float32"):
        layer.forward(x.astype(np.float32))


def test_subsampling_that_is_not_trainable_is_a_squashed_mean():
    layer = Subsample2d(2, 2, activation="tanh", trainable=False)
    x = np.random.default_rng(0).standard_normal((3, 2, 4, 4)).astype(np.float32)
    means = x.reshape(3, 2, 2, 2, 2, 2).mean(axis=(3, 5))
    assert np.allclose(layer.forward(x), np.tanh(means), atol=1e-6)
    assert layer.n_parameters == 0 and layer.coefficient is None and layer.bias is None
    assert layer.backward(np.ones((3, 2, 2, 2), np.float32)).shape == x.shape


@pytest.mark.parametrize("model", [lenet5, two_stage])
def test_the_plans_layers_leave_no_trace_in_the_outputs(model):
    network = model(device="cpu")
    images = digits(4, 28)
    assert np.array_equal(network.outputs(images), network.outputs(images))


# -- summary ---------------------------------------------------------------------------------------


def test_the_summary_counts_what_the_papers_count():
    text = lenet5(device="cpu").summary()
    rows = {line.split()[0]: line for line in text.splitlines()}
    assert "6 x 28 x 28" in rows["c1"] and "156" in rows["c1"] and "117,600" in rows["c1"]
    assert rows["c3"].split()[-3:] == ["1,516", "60", "150,000"]
    assert rows["c5"].split()[-3:] == ["48,120", "1,920", "48,000"]
    assert rows["total"].split() == ["total", "60,850", "332,824"]


# -- mistakes --------------------------------------------------------------------------------------


def test_a_layer_that_does_not_fit_is_named_when_the_network_is_built():
    with pytest.raises(ShapeError, match=r"Conv2d 'c3': expected 6 input maps, got 4 \(input of "
                                         r"shape \(4, 14, 14\)\)"):
        Network([Conv2d(1, 4, 5, name="c1"), Subsample2d(4, 2, name="s2"),
                 Conv2d(6, 16, 5, name="c3")], (1, 32, 32), device="cpu")
    with pytest.raises(ShapeError, match=r"Conv2d 'c1': expected maps of at least 5x5 .* 4x9"):
        Network([Conv2d(1, 4, 5, name="c1")], (1, 4, 9), device="cpu")
    with pytest.raises(ShapeError, match=r"Dense 'd': expected 7 input features"):
        Network([Flatten(), Dense(7, 2, name="d")], (1, 4, 9), device="cpu")


@pytest.mark.parametrize(("build", "error", "message"), [
    (lambda: Network([], (1, 8, 8)), ArgumentError, "at least one layer"),
    (lambda: Network(["c1"], (1, 8, 8)), ArgumentError, "expected layers, got 'c1' at place 0"),
    (lambda: Network(small_layers(), (8, 8)), ShapeError, r"\(maps, height, width\)"),
    (lambda: Network(small_layers(), (1, 8, 0)), ArgumentError, "at least 1, got 0"),
    (lambda: small_network(dtype="float16"), ArgumentError, "float32, float64, got 'float16'"),
    (lambda: small_network(input_range=(1, 1)), ArgumentError, "two different numbers"),
    (lambda: small_network(seed=-1), ArgumentError, "seed: expected at least 0"),
    (lambda: small_network(seed=2**64), ArgumentError, "seed: expected at most"),
    (lambda: Network(small_layers(), 32), ShapeError, "got 32"),
    (lambda: small_network(device="gpu"), DeviceError, "'cpu', 'cuda', 'cuda:N' or 'auto'"),
    (lambda: Network([Conv2d(1, 1, 1, name="a"), Conv2d(1, 1, 1, name="a")], (1, 2, 2)),
     ArgumentError, "'a' twice"),
    (lambda: Conv2d(1, 2, 3, name="a.b"), ArgumentError, "without dots"),
    (lambda: Conv2d(0, 2, 3), ArgumentError, "in_maps: expected at least 1"),
    (lambda: Conv2d(1, 2, 3.5), ArgumentError, r"kernel_size: expected an int, got 3\.5"),
    (lambda: Conv2d(1, 2, (3, 3, 3)), ArgumentError, "an int or a pair"),
    (lambda: Conv2d(1, 2, 3, padding=-1), ArgumentError, "padding: expected at least 0"),
    (lambda: Conv2d(1, 2, 3, activation="swish"), ArgumentError, "scaled_tanh.*got 'swish'"),
    (lambda: Conv2d(3, 4, 3, connections=ConnectionTable.full(4, 3)), TableError,
     "a table of 3 to 4 maps, got one of 4 to 3"),
    (lambda: Conv2d(3, 4, 3, connections=[[1]]), TableError, "to be a ConnectionTable, got list"),
    (lambda: MaxPool2d(2, stride=0), ArgumentError, "stride: expected at least 1"),
    (lambda: Dense(4, True), ArgumentError, "out_features: expected an int, got True"),
])
def test_what_cannot_be_built_says_why(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_a_layer_belongs_to_one_network_only():
    layers = small_layers()
    Network(layers, (1, 8, 8), device="cpu")
    with pytest.raises(ArgumentError, match="Conv2d 'c1' belongs to another network"):
        Network(layers, (1, 8, 8), device="cpu")
    twice = Conv2d(1, 1, 1)
    with pytest.raises(ArgumentError, match="stands in the list twice"):
        Network([twice, twice], (1, 8, 8), device="cpu")


def test_inputs_of_the_wrong_kind_are_refused():
    network = small_network()
    host = CudaBackend(HostRuntime())
    with pytest.raises(DTypeError, match="got list"):
        network.forward([[1.0]])
    with pytest.raises(DTypeError, match="float32, got float64"):
        network.forward(np.zeros((1, 1, 8, 8)))
    with pytest.raises(ShapeError, match="Conv2d 'c1': expected 1 input maps, got 2"):
        network.forward(np.zeros((1, 2, 8, 8), np.float32))
    with pytest.raises(DTypeError, match="uint8 or float32, got int64"):
        network.predict(np.zeros((1, 8, 8), np.int64))
    with pytest.raises(ShapeError, match=r"\(samples, 1, height, width\)"):
        network.predict(np.zeros((1, 3, 8, 8), np.uint8))
    with pytest.raises(DeviceError, match="on cuda-on-cpu, got one on cpu"):
        small_network(device=host).forward(np.zeros((1, 1, 8, 8), np.float32))


def test_a_refused_input_does_not_spoil_a_layer_alone():
    layer = Conv2d(1, 2, 3)
    for x in (np.zeros((1, 1, 5, 5), np.int64), np.zeros((1, 2, 5, 5))):
        with pytest.raises((DTypeError, ShapeError)):
            layer.forward(x)
    assert layer.forward(np.zeros((1, 1, 5, 5), np.float32)).dtype == np.float32


def test_a_network_that_cannot_be_built_leaves_its_layers_as_they_were():
    layer = Conv2d(1, 1, 3)
    with pytest.raises(ShapeError):
        Network([layer], (1, 2, 2), device="cpu")
    assert layer.name is None
    assert Network([Conv2d(1, 1, 1), layer], (1, 3, 3), device="cpu")["conv2d2"] is layer


def test_a_gradient_on_another_device_is_refused():
    backend = CudaBackend(HostRuntime())
    net = small_network(device=backend)
    net.forward(backend.from_host(np.zeros((1, 1, 8, 8), np.float32)))
    with pytest.raises(DeviceError, match="a grad_output on cuda-on-cpu, got one on cpu"):
        net.backward(np.zeros((1, 5, 1, 1), np.float32))


def test_images_that_are_not_finite_are_refused():
    with pytest.raises(DataError, match="finite values, got NaN"):
        small_network().predict(np.full((1, 8, 8), np.nan, np.float32))


def test_a_type_may_be_given_as_numpys():
    assert small_network(dtype=np.float64).dtype == np.float64


def test_backward_needs_a_forward_and_a_gradient_of_its_shape():
    network = small_network()
    with pytest.raises(ArgumentError, match="Dense 'output': expected a forward pass"):
        network.backward(np.zeros((1, 5, 1, 1), np.float32))
    network.forward(np.zeros((2, 1, 8, 8), np.float32))
    with pytest.raises(ShapeError, match=r"grad_output of shape \(2, 5, 1, 1\)"):
        network.backward(np.zeros((2, 5), np.float32))
    with pytest.raises(DTypeError, match="grad_output of float32 like the output, got float64"):
        network.backward(np.zeros((2, 5, 1, 1)))


def test_parameters_that_do_not_fit_change_nothing():
    network = small_network()
    before = network.parameters.flat.copy()
    values = network.parameter_values()
    with pytest.raises(ShapeError, match=r"missing: c1\.bias, unknown: c1\.bases"):
        network.set_parameters({("c1.bases" if name == "c1.bias" else name): value
                                for name, value in values.items()})
    with pytest.raises(ShapeError, match=r"c3\.weight: expected shape \(12, 3, 3\)"):
        network.set_parameters(values | {"c3.weight": np.zeros(3), "c1.bias": np.ones(3)})
    with pytest.raises(ShapeError, match=r"expected bias of shape \(3,\)"):
        network["c1"].bias = np.zeros(4)
    assert np.array_equal(before, network.parameters.flat)
