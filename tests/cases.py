"""Op cases: calls of an op and its gradients on generated arrays, and what the oracle says.

`case.run(backend)` gives NumPy arrays by name; `case.expected(results)` the oracle's, where
backward oracles take the op's own output out of `results`.
"""

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from gpucnn import ConnectionTable
from gpucnn.shapes import window_positions
from tests import oracle
from tests.cuda_on_cpu.runtime import PROFILE
from tests.layouts import get, put

FLOAT, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)


class Case:
    """Common to all: `dtype`, `seed`, and running on arrays of any layout.

    Subclasses have `arrays()`, NumPy arrays by name, and `call(backend, arrays, **memory)`, results
    by name from arrays of the backend. `memory` is what ops with `workspace` and `out` get:
    workspace, and allocate(shape, dtype) for each result (None: the op makes it).
    """

    def run(self, backend, layout="contiguous", **memory):
        """Results by name, as NumPy arrays; checks that no input was changed."""
        values = self.arrays()
        arrays = {name: put(backend, array, layout) for name, array in values.items()}
        results = self.call(backend, arrays, **memory)
        for name in set(values) - set(self.updated):
            if values[name] is not None:
                assert get(backend, arrays[name]).tobytes() == values[name].tobytes(), (
                    f"{name} was changed")
        return {name: get(backend, array) for name, array in results.items()}

    def run_blind(self, backend):
        """Run on a backend that computes nothing, for what it would launch."""
        self.call(backend, {name: put(backend, array) for name, array in self.arrays().items()})

    def check(self, backend, **options):
        """Run, and compare with the oracle; returns the results."""
        results = self.run(backend, **options)
        for name, array in results.items():
            assert array is None or array.dtype == self.dtypes.get(name, self.dtype), name
        oracle.assert_close(results, self.expected(results), self.dtype)
        return results

    updated = ()  # the inputs that the op updates in place
    profile = PROFILE  # of the device that the case needs
    sums_by_block = False  # whether results depend, in their last bits, on the size of the grid
    dtypes = MappingProxyType({})  # of the results that are not of the case's type

    def random(self, *shape, scale=1.0):
        """The same numbers each time for the same shape and seed."""
        generator = np.random.default_rng([self.seed, *shape])
        return (scale * generator.standard_normal(shape)).astype(self.dtype)


def _given(allocate, shape, dtype):
    return None if allocate is None else allocate(shape, dtype)


def _same(result, given):
    assert given is None or result is given, "the result is not in the array given for it"
    return result


def _forward(op, *arguments, shape, dtype, workspace, allocate, **options):
    out = _given(allocate, shape, dtype)
    result = op(*arguments, **options, out=out, workspace=workspace)
    assert result.shape == shape
    assert out is not None or result.flags.c_contiguous
    return _same(result, out)


def _backward(op, *arguments, shapes, dtype, workspace, allocate, **options):
    out = None if allocate is None else tuple(allocate(shape, dtype) for shape in shapes)
    results = op(*arguments, **options, out=out, workspace=workspace)
    for result, shape, given in zip(results, shapes, out or (None,) * len(shapes), strict=True):
        if result is not None:
            assert result.shape == shape
            _same(result, given)
    return results


@dataclass(frozen=True)
class Conv2dCase(Case):
    table: ConnectionTable
    samples: int
    size: tuple
    kernel: tuple
    stride: tuple = (1, 1)
    padding: tuple = (0, 0)
    activation: str = "scaled_tanh"
    dtype: np.dtype = FLOAT
    bias: bool = True
    seed: int = 0
    needs_grad_input: bool = True

    @property
    def out_shape(self):
        out_size = map(window_positions, self.size, self.kernel, self.stride, self.padding)
        return (self.samples, self.table.out_maps, *out_size)

    @property
    def options(self):
        return {"stride": self.stride, "padding": self.padding, "activation": self.activation}

    def arrays(self):
        fan_in = self.table.fan_in.mean() * self.kernel[0] * self.kernel[1]
        return {"x": self.random(self.samples, self.table.in_maps, *self.size),
                "weight": self.random(self.table.n_connections, *self.kernel,
                                      scale=fan_in ** -0.5),
                "bias": self.random(self.table.out_maps, scale=0.5) if self.bias else None,
                "grad_output": self.random(*self.out_shape)}

    def call(self, backend, arrays, workspace=None, allocate=None):
        memory = {"dtype": self.dtype, "workspace": workspace, "allocate": allocate}
        x, weight = arrays["x"], arrays["weight"]
        output = _forward(backend.conv2d, x, weight, arrays["bias"], self.table,
                          shape=self.out_shape, **self.options, **memory)
        gradients = _backward(
            backend.conv2d_backward, arrays["grad_output"], output, x, weight, self.table,
            shapes=(x.shape, weight.shape, (self.table.out_maps,)), **self.options, **memory,
            needs_grad_input=self.needs_grad_input)
        return {"output": output, **gradients._asdict()}

    def expected(self, results):
        a = self.arrays()
        output = oracle.conv2d(a["x"], a["weight"], a["bias"], self.table, **self.options)
        grad_input, grad_weight, grad_bias = oracle.conv2d_backward(
            a["grad_output"], results["output"], a["x"], a["weight"], self.table, **self.options)
        return {"output": output, "grad_input": grad_input if self.needs_grad_input else None,
                "grad_weight": grad_weight, "grad_bias": grad_bias}


@dataclass(frozen=True)
class Subsample2dCase(Case):
    shape: tuple
    pool_size: tuple = (2, 2)
    stride: tuple = (2, 2)
    activation: str = "scaled_tanh"
    dtype: np.dtype = FLOAT
    bias: bool = True
    seed: int = 0
    needs_grad_input: bool = True

    @property
    def out_shape(self):
        return (*self.shape[:2],
                *map(window_positions, self.shape[2:], self.pool_size, self.stride))

    @property
    def options(self):
        return {"pool_size": self.pool_size, "stride": self.stride, "activation": self.activation}

    def arrays(self):
        maps = self.shape[1]
        return {"x": self.random(*self.shape), "coefficient": self.random(maps, scale=0.5),
                "bias": self.random(maps, scale=0.4) if self.bias else None,
                "grad_output": self.random(*self.out_shape)}

    def call(self, backend, arrays, workspace=None, allocate=None):
        memory = {"dtype": self.dtype, "workspace": workspace, "allocate": allocate}
        x, coefficient = arrays["x"], arrays["coefficient"]
        output = _forward(backend.subsample2d, x, coefficient, arrays["bias"],
                          shape=self.out_shape, **self.options, **memory)
        gradients = _backward(
            backend.subsample2d_backward, arrays["grad_output"], output, x, coefficient,
            shapes=(x.shape, coefficient.shape, coefficient.shape), **self.options, **memory,
            needs_grad_input=self.needs_grad_input)
        return {"output": output, **gradients._asdict()}

    def expected(self, results):
        a = self.arrays()
        output = oracle.subsample2d(a["x"], a["coefficient"], a["bias"], **self.options)
        grad_input, grad_coefficient, grad_bias = oracle.subsample2d_backward(
            a["grad_output"], results["output"], a["x"], a["coefficient"], **self.options)
        return {"output": output, "grad_input": grad_input if self.needs_grad_input else None,
                "grad_coefficient": grad_coefficient, "grad_bias": grad_bias}


@dataclass(frozen=True)
class MaxPool2dCase(Case):
    shape: tuple
    pool_size: tuple = (2, 2)
    stride: tuple = (2, 2)
    dtype: np.dtype = FLOAT
    ties: bool = True
    nans: bool = False
    seed: int = 0

    out_shape = Subsample2dCase.out_shape

    @property
    def options(self):
        return {"pool_size": self.pool_size, "stride": self.stride}

    def arrays(self):
        x = self.random(*self.shape)
        if self.ties:
            x = np.round(x)
        if self.nans:
            x[self.random(*self.shape, 1)[..., 0] > 0.8] = np.nan
        return {"x": x, "grad_output": self.random(*self.out_shape)}

    def call(self, backend, arrays, workspace=None, allocate=None):
        x = arrays["x"]
        memory = {"dtype": self.dtype, "workspace": workspace, "allocate": allocate}
        output = _forward(backend.max_pool2d, x, shape=self.out_shape, **self.options, **memory)
        grad_input = _forward(backend.max_pool2d_backward, arrays["grad_output"], output, x,
                              shape=self.shape, **self.options, **memory)
        return {"output": output, "grad_input": grad_input}

    def expected(self, results):
        a = self.arrays()
        return {"output": oracle.max_pool2d(a["x"], **self.options),
                "grad_input": oracle.max_pool2d_backward(a["grad_output"], a["x"],
                                                         **self.options)}


@dataclass(frozen=True)
class DenseCase(Case):
    samples: int
    in_features: int
    out_features: int
    size: tuple | None = None
    activation: str = "scaled_tanh"
    dtype: np.dtype = FLOAT
    bias: bool = True
    seed: int = 0
    needs_grad_input: bool = True

    @property
    def out_shape(self):
        return (self.samples, self.out_features, *(self.size or ()))

    def arrays(self):
        return {"x": self.random(self.samples, self.in_features, *(self.size or ())),
                "weight": self.random(self.out_features, self.in_features,
                                      scale=self.in_features ** -0.5),
                "bias": self.random(self.out_features, scale=0.5) if self.bias else None,
                "grad_output": self.random(*self.out_shape)}

    def call(self, backend, arrays, workspace=None, allocate=None):
        memory = {"dtype": self.dtype, "workspace": workspace, "allocate": allocate}
        x, weight = arrays["x"], arrays["weight"]
        output = _forward(backend.dense, x, weight, arrays["bias"], shape=self.out_shape,
                          activation=self.activation, **memory)
        gradients = _backward(
            backend.dense_backward, arrays["grad_output"], output, x, weight,
            shapes=(x.shape, weight.shape, (self.out_features,)), activation=self.activation,
            needs_grad_input=self.needs_grad_input, **memory)
        return {"output": output, **gradients._asdict()}

    def expected(self, results):
        a = self.arrays()
        output = oracle.dense(a["x"], a["weight"], a["bias"], activation=self.activation)
        grad_input, grad_weight, grad_bias = oracle.dense_backward(
            a["grad_output"], results["output"], a["x"], a["weight"], activation=self.activation)
        return {"output": output, "grad_input": grad_input if self.needs_grad_input else None,
                "grad_weight": grad_weight, "grad_bias": grad_bias}
