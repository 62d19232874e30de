"""Checking a network's gradients by finite differences of its loss along random directions."""

from dataclasses import dataclass

import numpy as np

from gpucnn.data import Dataset
from gpucnn.errors import DTypeError, ShapeError
from gpucnn.losses import get_loss

STEP = 1e-5  # the central difference's error is of order STEP^2, its rounding of order 1e-16 / STEP


@dataclass(frozen=True)
class GradientCheck:
    """One array's directional derivative, by the backward pass and by finite differences."""

    name: str
    derivative: float
    difference: float
    typical: float

    @property
    def error(self):
        """|derivative - difference| relative to the largest of them and of `typical`, the root mean
        square of the derivative over all directions: by chance a direction may have nearly none."""
        scale = max(abs(self.derivative), abs(self.difference), self.typical, 1e-300)
        return abs(self.derivative - self.difference) / scale


def gradcheck(network, x, labels, *, loss, seed=0):
    """Compare each parameter's gradient, and the input's, with central finite differences.

    network: float64 (`DTypeError` otherwise), of one output position. x: NumPy float64 (samples,
    maps, height, width) within the network's input range. labels: integers (samples,). loss: as in
    `fit`. For each array one random direction of unit length: the derivative of the loss along it.
    Returns a list of `GradientCheck`; the parameters are as before afterwards. ReLU and max pooling
    have corners, near which finite differences mean nothing.
    """
    if network.dtype != np.float64:
        raise DTypeError(f"gradcheck: expected a network of float64, got {network.dtype}")
    loss = get_loss(loss)
    data = Dataset(x, labels, name="gradcheck", classes=network.output_shape[0])
    if data.image_shape != network.input_shape or any(n != 1 for n in network.output_shape[1:]):
        raise ShapeError(f"gradcheck: expected images of shape {network.input_shape} and one "
                         f"output position, got {data.image_shape} and outputs of shape "
                         f"{network.output_shape}")
    x, labels = data.images, data.labels
    _, grad_output = _loss(network, x, labels, loss)
    grad_x = network.backend.to_host(network.backward(grad_output, needs_grad_input=True))
    gradients = {name: network.backend.to_host(array) for name, array in network.gradients.items()}
    generator = np.random.Generator(np.random.Philox(seed))
    checks = []
    for name, gradient in gradients.items():
        direction = _unit(generator, gradient.shape)
        values = network.backend.to_host(network.parameters[name])
        around = []
        for sign in (1, -1):
            network.backend.from_host(values + sign * STEP * direction, network.parameters[name])
            around.append(_loss(network, x, labels, loss)[0])
        network.backend.from_host(values, network.parameters[name])
        checks.append(_check(name, gradient, direction, around))
    direction = _unit(generator, x.shape)
    around = [_loss(network, x + sign * STEP * direction, labels, loss)[0] for sign in (1, -1)]
    checks.append(_check("input", grad_x, direction, around))
    return checks


def _loss(network, x, labels, loss):
    """(the loss as a float, its derivative by the output) after a forward pass."""
    backend = network.backend
    output = network.forward(backend.from_host(x))
    flat = output.reshape(len(x), output.shape[1])
    grad_output = backend.empty(flat.shape, network.dtype)
    value, totals = backend.empty((1,), network.dtype), backend.zeros((3,), np.float64)
    loss.evaluate(backend, flat, backend.from_host(labels), grad_output=grad_output, loss=value,
                  totals=totals)
    return float(backend.to_host(value)[0]), grad_output.reshape(output.shape)


def _unit(generator, shape):
    direction = generator.standard_normal(shape)
    return direction / np.linalg.norm(direction)


def _check(name, gradient, direction, around):
    return GradientCheck(name, float(np.vdot(gradient, direction)),
                         (around[0] - around[1]) / (2 * STEP),
                         float(np.linalg.norm(gradient) / np.sqrt(gradient.size)))
