"""Training steps as plans: what a step takes, what it gives back, what it refuses."""

import numpy as np
import pytest

from gpucnn import SGD, Adam, Conv2d, Dataset, Dense, Mse, Network, functional
from gpucnn.backends.cuda import CudaBackend
from gpucnn.errors import ArgumentError, DataError, DeviceError, DTypeError, ShapeError
from tests.cuda_on_cpu.runtime import HostRuntime


def network(device="cpu", **keywords):
    return Network([Conv2d(1, 3, 5, name="c1"), Dense(3, 4, activation="identity", name="output")],
                   (1, 5, 5), device=device, **keywords)


def plan(net=None, *, loss="cross_entropy", optimizer=None, batch_size=6):
    return (net or network()).compile_step(loss=loss, optimizer=optimizer or SGD(lr=0.1),
                                           batch_size=batch_size)


def batch(n, seed=0):
    generator = np.random.default_rng(seed)
    return (generator.integers(0, 256, (n, 1, 5, 5), dtype=np.uint8),
            generator.integers(0, 4, n))


def on_both(test):
    return pytest.mark.parametrize("device", ["cpu", "cuda on cpu"])(test)


def backend_for(device):
    return "cpu" if device == "cpu" else CudaBackend(HostRuntime())


@on_both
def test_a_step_is_forward_loss_backward_and_update(device):
    net = network(backend_for(device), dtype="float64", input_range=(0, 255))
    images, labels = batch(6)
    x = images.astype(float)
    values = net.parameter_values()
    weight, bias = values["c1.weight"], values["c1.bias"]
    hidden = functional.conv2d(x, weight, bias, net["c1"].connections, activation="scaled_tanh")
    scores = functional.dense(hidden, values["output.weight"], values["output.bias"])[:, :, 0, 0]
    softmax = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    grad = (softmax - np.eye(4)[labels]) / 6
    gradients = functional.dense_backward(grad[:, :, None, None], scores[:, :, None, None], hidden,
                                          values["output.weight"])
    loss = plan(net).step(images, labels)
    assert float(loss) == pytest.approx(-np.log(softmax[np.arange(6), labels]).mean(), rel=1e-12)
    assert np.allclose(net.parameter_values()["output.weight"],
                       values["output.weight"] - 0.1 * gradients.grad_weight, rtol=1e-10)


@on_both
def test_smaller_batches_than_planned_are_trained_as_they_are(device):
    images, labels = batch(6)
    results = []
    for batch_size in (2, 6):
        net = network(backend_for(device))
        plan(net, batch_size=batch_size).step(images[:2], labels[:2])
        results.append(net.backend.to_host(net.parameters.flat))
    assert np.allclose(*results, atol=1e-6)


def test_the_learning_rate_may_be_set_between_steps():
    net = network()
    step = plan(net)
    step.learning_rate = 0.0
    before = net.parameters.flat.copy()
    step.step(*batch(3))
    assert np.array_equal(before, net.parameters.flat)


def test_losses_of_many_steps_stay_readable():
    step = plan(optimizer=Adam(lr=0.01))
    losses = [step.step(*batch(4)) for _ in range(300)]
    values = [float(loss) for loss in losses]
    assert values[0] > values[-1] and len(set(values)) > 250
    assert repr(losses[0]) == f"<Loss: {values[0]:.6g}>"
    assert f"{losses[0]:.3f}" == f"{values[0]:.3f}" and losses[0].item() == values[0]


@on_both
def test_an_epoch_is_its_steps_in_the_order_given(device):
    images, labels = batch(7)
    order = np.array([6, 1, 0, 3, 2, 5, 4])
    rates = [0.1, 0.05, 0.02]
    by_epoch = network(backend_for(device))
    whole = plan(by_epoch, optimizer=Adam(lr=0.1), batch_size=3)
    trained = []
    loss, error = whole.epoch(whole.load(Dataset(images, labels, classes=4)), order, None, rates,
                              progress=trained.append)
    by_steps = network(backend_for(device))
    single = plan(by_steps, optimizer=Adam(lr=0.1), batch_size=3)
    losses = []
    for number, rate in enumerate(rates):
        places = order[3 * number:3 * number + 3]
        single.learning_rate = rate
        losses += [float(single.step(images[places], labels[places]))] * len(places)
    assert trained == [3, 3, 1]
    assert np.array_equal(by_epoch.backend.to_host(by_epoch.parameters.flat),
                          by_steps.backend.to_host(by_steps.parameters.flat))
    assert loss == pytest.approx(np.mean(losses), rel=1e-6)
    assert error * 7 / 100 == pytest.approx(round(error * 7 / 100))


@on_both
def test_shifts_move_the_image_and_fill_with_background(device):
    image = np.zeros((1, 1, 3, 3), np.uint8)
    image[0, 0, 1, 1] = 255
    moved = np.zeros((1, 1, 5, 5), np.uint8)
    moved[0, 0, 1, 3] = 255
    results = []
    for images, shifts in ((image, [[-1, 1]]), (moved, None)):
        net = network(backend_for(device))
        step = plan(net)
        step.epoch(step.load(Dataset(images, np.array([1]), classes=4)), [0], shifts, [0.1])
        results.append(net.backend.to_host(net.parameters.flat))
    assert np.array_equal(*results)


def test_floats_of_the_networks_type_are_taken_as_they_are():
    images, labels = batch(4)
    low, high = -0.1, 1.175
    scaled = (low + images * ((high - low) / 255)).astype(np.float32)
    assert float(plan().step(images, labels)) == pytest.approx(float(plan().step(scaled, labels)),
                                                              rel=1e-6)


def test_device_arrays_are_taken_by_a_network_on_that_device():
    backend = CudaBackend(HostRuntime())
    images, labels = batch(4)
    on_device = plan(network(backend)).step(backend.from_host(images),
                                            backend.from_host(labels.astype(np.int32)))
    assert float(on_device) == pytest.approx(float(plan(network(backend)).step(images, labels)))


@on_both
def test_a_bad_label_on_the_device_is_raised_when_the_loss_is_read(device):
    net = network(backend_for(device))
    step = plan(net)
    data = step.load(Dataset(*batch(3), classes=4))
    data.labels = net.backend.from_host(np.array([0, 7, -1], np.int32))
    with pytest.raises(DataError, match=r"2 label\(s\) out of range"):
        step.epoch(data, [0, 1, 2], None, [0.1])


def test_a_bad_label_given_on_the_device_is_raised_by_its_loss():
    backend = CudaBackend(HostRuntime())
    step = plan(network(backend))
    loss = step.step(batch(2)[0], backend.from_host(np.array([1, 4], np.int32)))
    with pytest.raises(DataError, match=r"1 label\(s\) out of range"):
        float(loss)
    assert np.isfinite(float(step.step(*batch(2))))


@pytest.mark.parametrize(("images", "labels", "error", "message"), [
    (np.zeros((2, 1, 5, 5), np.float64), [0, 1], DTypeError, "uint8 or float32, got float64"),
    (np.zeros((2, 1, 6, 5), np.uint8), [0, 1], ShapeError, "at most 5x5 pixels.*6, 5"),
    (np.zeros((2, 2, 5, 5), np.uint8), [0, 1], ShapeError, "1 maps"),
    (np.zeros((2, 5), np.uint8), [0, 1], ShapeError, "got an array of shape"),
    (np.zeros((2, 5, 5), np.uint8), [0], ShapeError, r"labels of shape \(2,\)"),
    (np.zeros((7, 5, 5), np.uint8), [0] * 7, ShapeError, "1 to 6 samples, got 7"),
    (np.zeros((0, 5, 5), np.uint8), [], ShapeError, "1 to 6 samples, got 0"),
    (np.zeros((2, 5, 5), np.uint8), [0, 4], DataError, "labels of 0 to 3, got 4 for sample 1"),
    (np.zeros((2, 5, 5), np.uint8), [-1, 0], DataError, "got -1 for sample 0"),
    (np.zeros((2, 5, 5), np.uint8), [0.0, 1.0], DTypeError, "integer type, got float64"),
])
def test_a_batch_that_does_not_fit_is_refused(images, labels, error, message):
    step = plan()
    dtype = None if labels else np.int64
    with pytest.raises(error, match=message):
        step.step(images, np.array(labels, dtype))


def test_a_device_array_given_to_a_cpu_network_is_refused():
    backend = CudaBackend(HostRuntime())
    images, labels = batch(2)
    with pytest.raises((DeviceError, DTypeError), match="step: images"):
        plan().step(backend.from_host(images), labels)


def test_a_step_leaves_nothing_to_go_back_from():
    net = network()
    x = np.zeros((2, 1, 5, 5), np.float32)
    net.forward(x)
    plan(net).step(*batch(2))
    with pytest.raises(ArgumentError, match="expected a forward pass before backward"):
        net.backward(np.zeros((2, 4, 1, 1), np.float32))


def test_strided_images_and_labels_on_the_device_are_taken():
    backend = CudaBackend(HostRuntime())
    images, labels = batch(4)
    wide = np.repeat(images, 2, axis=3)
    on_device = backend.from_host(wide)[:, :, :, ::2]
    twice = backend.from_host(np.repeat(labels.astype(np.int32), 2))[::2]
    assert float(plan(network(backend)).step(on_device, twice)) == pytest.approx(
        float(plan(network(backend)).step(images, labels)))


def test_a_plan_is_void_when_the_network_has_moved():
    net = network()
    step = plan(net)
    net.to(CudaBackend(HostRuntime()))
    with pytest.raises(DeviceError, match="where the plan was compiled, on cpu; it has moved"):
        step.step(*batch(2))
    net.to("cpu")
    with pytest.raises(DeviceError, match="it has moved"):
        step.step(*batch(2))


@pytest.mark.parametrize(("keywords", "message"), [
    ({"loss": "hinge"}, "mse, cross_entropy, got 'hinge'"),
    ({"loss": ["mse"]}, r"got \['mse'\]"),
    ({"optimizer": "sgd"}, r"SGD\(...\) or Adam\(...\), got 'sgd'"),
    ({"optimizer": SGD}, r"SGD\(...\) or Adam\(...\), got <class"),
    ({"batch_size": 0}, "batch_size: expected at least 1"),
])
def test_a_plan_needs_a_loss_an_optimiser_and_a_batch_size(keywords, message):
    with pytest.raises(ArgumentError, match=message):
        plan(**keywords)


def test_a_network_with_several_output_positions_cannot_be_trained():
    net = Network([Conv2d(1, 4, 5)], (1, 6, 8), device="cpu")
    with pytest.raises(ShapeError, match="one output position, got 2x4"):
        plan(net)


@pytest.mark.parametrize(("build", "message"), [
    (lambda: SGD(lr=0), "lr: expected a number above 0, got 0"),
    (lambda: SGD(lr=0.1, momentum=1.0), "momentum: expected a number of at least 0 and below 1"),
    (lambda: SGD(lr=0.1, nesterov=True), "a momentum above 0 with nesterov"),
    (lambda: SGD(lr="fast"), "got 'fast'"),
    (lambda: SGD(lr=float("nan")), "got nan"),
    (lambda: SGD(lr=float("inf")), "got inf"),
    (lambda: Adam(beta2=1.5), "beta2"),
    (lambda: Mse(target=float("nan")), "a target above 0, got nan"),
])
def test_an_optimiser_refuses_numbers_out_of_range(build, message):
    with pytest.raises(ArgumentError, match=message):
        build()
