"""The losses that training minimises; each is computed by the backend's op of its name."""

from dataclasses import dataclass
from math import inf
from numbers import Real

from gpucnn.errors import ArgumentError


@dataclass(frozen=True)
class Mse:
    """0.5 * the squared distance from targets, summed over outputs, mean over samples.

    The target is +`target` for the class and -`target` elsewhere. With `scaled_tanh` outputs, 0.8
    stays clear of where they saturate.
    """

    target: float = 0.8
    op = "mse"

    def __post_init__(self):
        if not isinstance(self.target, Real) or not 0 < self.target < inf:
            raise ArgumentError(f"Mse: expected a target above 0, got {self.target!r}")

    def evaluate(self, backend, output, labels, **buffers):
        """See `Backend.mse`."""
        backend.mse(output, labels, target=self.target, **buffers)


@dataclass(frozen=True)
class CrossEntropy:
    """-log of the softmax of linear outputs at the label, mean over samples."""

    op = "cross_entropy"

    def evaluate(self, backend, output, labels, **buffers):
        """See `Backend.cross_entropy`."""
        backend.cross_entropy(output, labels, **buffers)


_BY_NAME = {"mse": Mse, "cross_entropy": CrossEntropy}


def get_loss(loss):
    """The loss of a name, "mse" or "cross_entropy", or `loss` itself if it is one."""
    if isinstance(loss, (Mse, CrossEntropy)):
        return loss
    if not isinstance(loss, str) or loss not in _BY_NAME:
        raise ArgumentError(f"loss: expected one of {', '.join(_BY_NAME)}, got {loss!r}")
    return _BY_NAME[loss]()
