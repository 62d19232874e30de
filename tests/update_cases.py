"""Cases of the end of a planned training step: gpucnn/backends/cuda/plan/update.py."""

from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np

from gpucnn import SGD, Adam
from gpucnn.backends.cuda.plan.update import BlockTotals, Matrix, Ready, Rows, Update
from tests import oracle
from tests.cases import DOUBLE, FLOAT, Case

NUMBER = 2  # of the step within its epoch
TOTALS = BlockTotals(40, 2)

# Offsets and places are put in by `placed`.
SMALL = (Rows(0, 41, 0, parts=2, blocks=4, samples=2), Matrix(0, 18, 9, 0, 0), Ready(0, 20))
MIXED = (
    Rows(0, 45, 0, parts=3, blocks=5, samples=2),
    Matrix(0, 37, 70, 0, 0),
    Ready(0, 1100),
    Matrix(0, 20, 64, 0, 0),  # aligned, with a tile for the bias alone
    Matrix(0, 120, 12, 0, 0),
    Rows(0, 33, 0, parts=1, blocks=70, samples=3),
    Matrix(0, 4, 8, 0, 0, has_bias=False),
)
LENET5 = (
    Rows(0, 156, 0, parts=2, blocks=132, samples=1),
    Rows(0, 12, 0, parts=1, blocks=132, samples=1),
    Rows(0, 1516, 0, parts=1, blocks=132, samples=1),
    Rows(0, 32, 0, parts=1, blocks=132, samples=1),
    Matrix(0, 120, 400, 0, 0), Matrix(0, 84, 120, 0, 0), Matrix(0, 10, 84, 0, 0),
)


def placed(sections, batch_size):
    """The sections one after the other, and what they read too; rows lie at odd places."""
    offset, place, saved, result = 0, 1, 0, []
    for section in sections:
        values = vars(section) | {"offset": offset}
        if isinstance(section, Rows):
            values["place"] = place
            place += section.rows(10**9) * section.size
        elif isinstance(section, Matrix):
            values["saved_input"] = saved
            saved += -(-section.inputs * batch_size // 4) * 4
            values["saved_gradient"] = saved
            saved += -(-section.outputs * batch_size // 4) * 4
        result.append(type(section)(**values))
        offset += section.size
    return tuple(result), offset, place, saved


@dataclass(frozen=True)
class UpdateCase(Case):
    """Rows and samples beyond `samples` are NaN: they must not count."""

    sections: tuple = MIXED
    samples: int = 23
    batch_size: int = 30
    optimizer: object = SGD(lr=0.1, momentum=0.9)
    precision: str = "float32"
    shares: int | None = 0  # of large batches
    totals: BlockTotals | None = TOTALS
    dtype: np.dtype = FLOAT
    seed: int = 0

    updated = ("parameters", "gradients", "velocity", "mean", "square", "totals")
    dtypes = MappingProxyType({"totals": np.dtype(np.float64), "next_number": np.dtype(np.int32)})

    @cached_property
    def _placed(self):
        return placed(self.sections, self.batch_size)

    def update(self, backend):
        return Update(backend, self.dtype, self._placed[0], self.optimizer, self.batch_size,
                      self.precision, totals=self.totals, shares=self.shares)

    @property
    def state(self):
        """The names of the optimiser's arrays."""
        if isinstance(self.optimizer, Adam):
            return ("mean", "square")
        return ("velocity",) if self.optimizer.momentum else ()

    def arrays(self):
        sections, size, places, saved_size = self._placed
        gradients = np.full(size, np.nan, self.dtype)
        partials, saved = (np.full(count, np.nan, self.dtype) for count in (places, saved_size))
        for number, section in enumerate(sections):
            if isinstance(section, Ready):
                _stretch(gradients, section)[:] = self.random(section.size)
            elif isinstance(section, Rows):
                rows = self._rows_of(section, partials)
                rows[:] = self.random(number + 1, *rows.shape)[number]
            else:
                for values in self._saved_of(section, saved):
                    drawn = self.random(number + 1, *values.shape)[number]
                    # what TF32 can represent, so that only sums are rounded
                    values[:] = drawn.astype(np.float16) if self.precision == "tf32" else drawn
        block_totals = None
        if self.totals is not None:
            block_totals = np.full((self.totals.blocks, 3), np.nan)
            used = block_totals[:self._used(self.totals)]
            used[:] = np.abs(self.random(*used.shape))
        scalars = np.full((NUMBER + 2, len(self.optimizer.scalars(1, 0.1))), np.nan, self.dtype)
        scalars[NUMBER] = self.optimizer.scalars(NUMBER + 1, 0.1)
        state = {name: np.abs(self.random(2, size)[number % 2])
                 for number, name in enumerate(self.state)}
        return {"parameters": self.random(3, size)[2], "gradients": gradients, **state,
                "partials": partials, "saved": saved, "block_totals": block_totals,
                "number": np.array([NUMBER], np.int32), "scalars": scalars,
                "totals": None if self.totals is None else np.array([1.0, 2, 3])}

    def call(self, backend, arrays):
        a = arrays
        next_number = backend.from_host(np.array([-1], np.int32))
        loss = None if self.totals is None else backend.empty((1,), self.dtype)
        state = {name: a[name] for name in self.state}
        self.update(backend).launch(
            a["parameters"], a["gradients"], state, a["partials"], a["saved"], a["block_totals"],
            a["number"], next_number, a["scalars"], loss, a["totals"], self.samples)
        return {"parameters": a["parameters"], "gradients": a["gradients"], **state,
                "totals": a["totals"], "loss": loss, "next_number": next_number}

    def expected(self, results):
        a = self.arrays()
        gradients = np.array(a["gradients"], np.float64)
        for section in self._placed[0]:
            if isinstance(section, Rows):
                _stretch(gradients, section)[:] = _sum(self._rows_of(section, a["partials"]))
            elif isinstance(section, Matrix):
                _stretch(gradients, section)[:] = self._product(section, a["saved"])
        state = [a[name] for name in self.state]
        rate, optimizer = 0.1, self.optimizer
        if isinstance(optimizer, Adam):
            after = oracle.adam_step(a["parameters"], gradients, *state, step=NUMBER + 1, rate=rate,
                                     beta1=optimizer.beta1, beta2=optimizer.beta2,
                                     epsilon=optimizer.epsilon, weight_decay=optimizer.weight_decay)
        else:
            after = oracle.sgd_step(a["parameters"], gradients, state[0] if state else None,
                                    rate=rate, momentum=optimizer.momentum,
                                    nesterov=optimizer.nesterov,
                                    weight_decay=optimizer.weight_decay)
        sums = None if self.totals is None else _sum(a["block_totals"][:self._used(self.totals)])
        return {"parameters": after[0], "gradients": gradients,
                **dict(zip(self.state, after[1:], strict=False)),
                "totals": None if sums is None else a["totals"] + sums,
                "loss": None if sums is None else np.array([sums[0] / self.samples]),
                "next_number": np.array([NUMBER + 1])}

    def _used(self, rows):
        return min(rows.blocks, -(-self.samples // rows.samples))

    def _rows_of(self, section, partials):
        count = self._used(section) * section.parts
        return partials[section.place:][:count * section.size].reshape(count, section.size)

    def _saved_of(self, section, saved):
        """x and dz of the batch's samples."""
        return [saved[place:][:self.samples * width].reshape(self.samples, width)
                for place, width in ((section.saved_input, section.inputs),
                                     (section.saved_gradient, section.outputs))]

    def _product(self, section, saved):
        weight = np.zeros((section.outputs, section.inputs))
        bias = np.zeros(section.outputs)
        for x, dz in zip(*self._saved_of(section, saved), strict=True):
            for o in range(section.outputs):
                weight[o] += float(dz[o]) * x.astype(np.float64)
                bias[o] += float(dz[o])
        return np.concatenate([weight.ravel(), bias] if section.has_bias else [weight.ravel()])


def _stretch(flat, section):
    return flat[section.offset:section.offset + section.size]


def _sum(rows):
    total = np.zeros(rows.shape[1])
    for row in rows:
        total += row
    return total


# For tests/representative.py: together they launch both kernels, in several blocks.
SMALL_UPDATES = {
    "update": UpdateCase(SMALL, 5, 8),
    "update, shares": UpdateCase(SMALL, 21, 40, Adam(), shares=3, totals=None, dtype=DOUBLE),
    "update, tf32": UpdateCase(SMALL, 21, 40, shares=2, precision="tf32"),
}
