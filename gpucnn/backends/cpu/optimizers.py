"""Updates of the flat parameter array, in NumPy, in place."""

import numpy as np


def sgd_step(parameters, gradients, velocity, scalars, *, momentum, nesterov, weight_decay):
    """PyTorch's SGD; the gradients are left as they were."""
    step = gradients
    if weight_decay:
        step = gradients + parameters.dtype.type(weight_decay) * parameters
    if velocity is not None:
        velocity *= momentum
        velocity += step
        step = step + parameters.dtype.type(momentum) * velocity if nesterov else velocity
    parameters -= scalars[0] * step


def adam_step(parameters, gradients, mean, square, scalars, *, beta1, beta2, epsilon, weight_decay):
    """PyTorch's Adam, with the bias corrections folded into two scalars."""
    step = gradients
    if weight_decay:
        step = gradients + parameters.dtype.type(weight_decay) * parameters
    mean *= beta1
    mean += (1 - beta1) * step
    square *= beta2
    square += (1 - beta2) * np.square(step)
    denominator = np.sqrt(square)
    denominator *= scalars[1]
    denominator += epsilon
    parameters -= scalars[0] * mean / denominator
