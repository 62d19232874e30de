"""The optimisers: how a step changes the flat parameter array.

They are defined as PyTorch defines them: weight decay is added to the gradient, for every
parameter. What changes from step to step is computed here on the host as a few numbers, `scalars`,
which the backend reads from an array of the device.
"""

from dataclasses import dataclass
from math import inf, sqrt
from numbers import Real

import numpy as np

from gpucnn.errors import ArgumentError


def _check(name, value, low, high=inf, *, low_included=True):
    fits = isinstance(value, Real) and not isinstance(value, bool) and (
        low <= value < high if low_included else low < value < high)
    if not fits:
        bounds = f"{'of at least' if low_included else 'above'} {low}"
        bounds += f" and below {high}" if high < inf else ""
        raise ArgumentError(f"{name}: expected a number {bounds}, got {value!r}")


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum.

    g = gradient + weight_decay * p; v = momentum * v + g; p -= lr * v, or with nesterov
    p -= lr * (g + momentum * v). `lr` is the learning rate.
    """

    lr: float
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    is_linear = True  # a step, in parameters, velocity and gradient together

    def __post_init__(self):
        _check("SGD: lr", self.lr, 0, low_included=False)
        _check("SGD: momentum", self.momentum, 0, 1)
        _check("SGD: weight_decay", self.weight_decay, 0)
        if self.nesterov and not self.momentum:
            raise ArgumentError("SGD: expected a momentum above 0 with nesterov, got 0")

    def state(self, backend, size, dtype):
        """The arrays kept between steps, zeros at first."""
        return {"velocity": backend.zeros((size,), dtype)} if self.momentum else {}

    def scalars(self, step, rate):
        """The numbers of step 1, 2, ... at learning rate `rate`."""
        return (rate,)

    def scalar_rows(self, before, rates):
        """An array (steps, k) of the `scalars` of the steps after step `before`, at these rates."""
        return np.asarray(rates, np.float64)[:, np.newaxis]

    def update(self, backend, parameters, gradients, state, scalars):
        """See `Backend.sgd_step`."""
        backend.sgd_step(parameters, gradients, state.get("velocity"), scalars,
                         momentum=self.momentum, nesterov=self.nesterov,
                         weight_decay=self.weight_decay)


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba 2015, algorithm 1), with weight decay added to the gradient."""

    lr: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    is_linear = False

    def __post_init__(self):
        _check("Adam: lr", self.lr, 0, low_included=False)
        _check("Adam: beta1", self.beta1, 0, 1)
        _check("Adam: beta2", self.beta2, 0, 1)
        _check("Adam: epsilon", self.epsilon, 0, low_included=False)
        _check("Adam: weight_decay", self.weight_decay, 0)

    def state(self, backend, size, dtype):
        """The arrays kept between steps, zeros at first."""
        return {name: backend.zeros((size,), dtype) for name in ("mean", "square")}

    def scalars(self, step, rate):
        """The numbers of step 1, 2, ... at learning rate `rate`: both bias corrections."""
        return rate / (1 - self.beta1**step), 1 / sqrt(1 - self.beta2**step)

    def scalar_rows(self, before, rates):
        """An array (steps, k) of the `scalars` of the steps after step `before`, at these rates."""
        return np.array([self.scalars(step, float(rate))
                         for step, rate in enumerate(rates, start=before + 1)])

    def update(self, backend, parameters, gradients, state, scalars):
        """See `Backend.adam_step`."""
        backend.adam_step(parameters, gradients, state["mean"], state["square"], scalars,
                          beta1=self.beta1, beta2=self.beta2, epsilon=self.epsilon,
                          weight_decay=self.weight_decay)
