"""Cases of the ops that training adds to the layers': gathering, losses, updates."""

from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from gpucnn.backends.cuda.kernels import Specialisation
from tests import oracle
from tests.cases import FLOAT, Case

BEFORE = np.array([1.0, 2.0, 3.0])  # totals of earlier batches, which a loss adds to


@dataclass(frozen=True)
class GatherCase(Case):
    samples: int
    shape: tuple  # of the images: (count, maps, height, width)
    out_size: tuple
    bytes: bool = True
    shifts: int | None = 2  # the largest shift, None for none
    labels: bool = True
    input_range: tuple = (-0.1, 1.175)
    dtype: np.dtype = FLOAT
    seed: int = 0

    dtypes = MappingProxyType({"labels": np.dtype(np.int32)})

    def arrays(self):
        generator = np.random.default_rng(self.seed)
        images = (generator.integers(0, 256, self.shape, np.uint8) if self.bytes
                  else self.random(*self.shape))
        labels = generator.integers(0, 10, self.shape[0], np.int32)
        order = generator.integers(0, self.shape[0], self.samples, np.int32)
        shifts = None
        if self.shifts is not None:
            shifts = generator.integers(-self.shifts, self.shifts + 1, (self.samples, 2), np.int32)
        return {"images": images, "labels": labels if self.labels else None, "order": order,
                "shifts": shifts}

    def call(self, backend, arrays, allocate=None):
        shape = (self.samples, self.shape[1], *self.out_size)
        out = (allocate or backend.empty)(shape, self.dtype)
        out_labels = backend.empty((self.samples,), np.int32) if self.labels else None
        assert backend.gather(**arrays, input_range=self.input_range, out=out,
                              out_labels=out_labels) is None
        return {"out": out, "labels": out_labels}

    def expected(self, results):
        batch, labels = oracle.gather(**self.arrays(), input_range=self.input_range,
                                      out_size=self.out_size)
        return {"out": batch, "labels": labels}


@dataclass(frozen=True)
class LossCase(Case):
    op: str
    samples: int
    classes: int = 10
    bad_labels: bool = False
    scale: float = 1.0
    dtype: np.dtype = FLOAT
    seed: int = 0

    dtypes = MappingProxyType({"totals": np.dtype(np.float64)})

    def arrays(self):
        generator = np.random.default_rng(self.seed)
        labels = generator.integers(0, self.classes, self.samples, np.int32)
        if self.bad_labels:
            labels[::2] = generator.choice([-1, self.classes, 2**31 - 1, -2**31],
                                           len(labels[::2]))
        return {"output": self.random(self.samples, self.classes, scale=self.scale),
                "labels": labels}

    @property
    def options(self):
        return {"target": 0.8} if self.op == "mse" else {}

    def call(self, backend, arrays, workspace=None):
        grad_output = backend.empty((self.samples, self.classes), self.dtype)
        loss = backend.empty((1,), self.dtype)
        totals = backend.from_host(BEFORE)
        getattr(backend, self.op)(
            arrays["output"], arrays["labels"], **self.options, grad_output=grad_output, loss=loss,
            totals=totals, workspace=workspace)
        return {"loss": loss, "grad_output": grad_output, "totals": totals}

    def expected(self, results):
        a = self.arrays()
        loss, grad_output, totals = getattr(oracle, self.op)(a["output"], a["labels"],
                                                             **self.options)
        return {"loss": np.array([loss]), "grad_output": grad_output,
                "totals": totals + BEFORE}


@dataclass(frozen=True)
class SgdCase(Case):
    count: int
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    steps: int = 3
    dtype: np.dtype = FLOAT
    seed: int = 0
    rate: float = 0.1

    updated = ("parameters", "velocity")

    def arrays(self):
        return {"parameters": self.random(self.count),
                "velocity": np.zeros(self.count, self.dtype) if self.momentum else None,
                **{f"gradients{n}": self._gradients(n) for n in range(self.steps)}}

    def _gradients(self, step):
        return replace(self, seed=self.seed + 1000 + step).random(self.count)

    @property
    def options(self):
        return {"momentum": self.momentum, "nesterov": self.nesterov,
                "weight_decay": self.weight_decay}

    def call(self, backend, arrays):
        scalars = backend.from_host(np.array([self.rate], self.dtype))
        for step in range(self.steps):
            backend.sgd_step(arrays["parameters"], arrays[f"gradients{step}"], arrays["velocity"],
                             scalars, **self.options)
        return {name: arrays[name] for name in self.updated}

    def expected(self, results):
        a = self.arrays()
        parameters, velocity = a["parameters"], a["velocity"]
        for step in range(self.steps):
            parameters, velocity = oracle.sgd_step(parameters, a[f"gradients{step}"], velocity,
                                                   rate=self.rate, **self.options)
        return {"parameters": parameters, "velocity": velocity}


@dataclass(frozen=True)
class AdamCase(SgdCase):
    momentum: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    updated = ("parameters", "mean", "square")

    def arrays(self):
        zeros = np.zeros(self.count, self.dtype)
        return {"parameters": self.random(self.count), "mean": zeros, "square": zeros,
                **{f"gradients{n}": self._gradients(n) for n in range(self.steps)}}

    @property
    def options(self):
        return {"beta1": self.momentum, "beta2": self.beta2, "epsilon": self.epsilon,
                "weight_decay": self.weight_decay}

    def call(self, backend, arrays):
        for step in range(1, self.steps + 1):
            scalars = backend.from_host(np.array(
                [self.rate / (1 - self.momentum ** step), (1 - self.beta2 ** step) ** -0.5],
                self.dtype))
            backend.adam_step(arrays["parameters"], arrays[f"gradients{step - 1}"], arrays["mean"],
                              arrays["square"], scalars, **self.options)
        return {name: arrays[name] for name in self.updated}

    def expected(self, results):
        a = self.arrays()
        state = a["parameters"], a["mean"], a["square"]
        for step in range(1, self.steps + 1):
            state = oracle.adam_step(state[0], a[f"gradients{step - 1}"], *state[1:], step=step,
                                     rate=self.rate, **self.options)
        return dict(zip(self.updated, state, strict=True))


@dataclass(frozen=True)
class WaitCase(Case):
    """What a device does while work is queued (cuda_kernels/wait.cu). It has no results."""

    cycles: int = 100_000
    dtype: np.dtype = FLOAT

    def arrays(self):
        return {}

    def call(self, backend, arrays, workspace=None):
        backend.kernels.launch(Specialisation("wait.cu", self.dtype), "wait", 1, 1, self.cycles)
        return {}

    def expected(self, results):
        return {}
