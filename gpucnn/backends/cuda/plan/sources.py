"""The source text of a plan's kernels: a file of `cuda_kernels/` with headers generated for one
network."""

from dataclasses import dataclass

import numpy as np

from gpucnn.backends.cuda.kernels import pasted_source


@dataclass(frozen=True)
class PlanSource:
    """A kernel file specialised for one network, as `Kernels` takes it.

    `dtype` is what `real` stands for; `headers` are pairs (name, text) of the generated headers,
    such as ("network.h", "using real = float; ..."); `name` is for people.
    """

    file: str
    dtype: np.dtype
    headers: tuple[tuple[str, str], ...]
    name: str

    def source(self):
        """The whole text, every header pasted in."""
        return pasted_source(self.file, dict(self.headers))

    def __str__(self):
        return self.name
