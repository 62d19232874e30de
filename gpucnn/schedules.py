"""Learning-rate schedules: a factor on the optimiser's rate for every step."""

from dataclasses import dataclass

import numpy as np

from gpucnn.errors import ArgumentError
from gpucnn.shapes import whole_number


@dataclass(frozen=True)
class Constant:
    """The optimiser's own rate at every step."""

    def factors(self, steps, steps_per_epoch, total_steps):
        """The factor at each of `steps` (an array, counted from 0 over all epochs)."""
        return np.ones(len(steps))


@dataclass(frozen=True)
class StepDecay:
    """Multiply the rate by `factor` every `epochs` epochs."""

    factor: float = 0.8
    epochs: int = 2

    def __post_init__(self):
        if not 0 < self.factor <= 1:
            raise ArgumentError(f"StepDecay: expected a factor in (0, 1], got {self.factor!r}")
        whole_number(self.epochs, "StepDecay: epochs", least=1)

    def factors(self, steps, steps_per_epoch, total_steps):
        """The factor at each of `steps`."""
        return self.factor ** (np.asarray(steps) // (self.epochs * steps_per_epoch)).astype(float)


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from the optimiser's rate to `final` times it, reached after the last step."""

    final: float = 0.0

    def __post_init__(self):
        if not 0 <= self.final <= 1:
            raise ArgumentError(f"Cosine: expected a final factor in [0, 1], got {self.final!r}")

    def factors(self, steps, steps_per_epoch, total_steps):
        """The factor at each of `steps`."""
        progress = np.asarray(steps) / max(1, total_steps)
        return self.final + (1 - self.final) * 0.5 * (1 + np.cos(np.pi * progress))
