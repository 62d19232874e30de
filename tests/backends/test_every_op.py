"""What holds for every op: any memory layout, results where they are wanted, the same bits."""

from dataclasses import replace

import numpy as np
import pytest

from gpucnn.backends.base import Workspace
from tests import layouts
from tests.cases import DOUBLE, Conv2dCase, DenseCase, MaxPool2dCase, Subsample2dCase
from tests.layouts import get, put, repeated
from tests.representative import SMALL_OPS
from tests.training_cases import GatherCase

every_op = pytest.mark.parametrize("case", SMALL_OPS.values(), ids=SMALL_OPS)
LAYERS = {name: case for name, case in SMALL_OPS.items()
          if isinstance(case, (Conv2dCase, Subsample2dCase, MaxPool2dCase, DenseCase))}
every_layer = pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS)
TRAINED = {name: case for name, case in LAYERS.items() if not isinstance(case, MaxPool2dCase)}
every_trained_layer = pytest.mark.parametrize("case", TRAINED.values(), ids=TRAINED)


def with_samples(case, samples):
    """The same case for another batch."""
    if hasattr(case, "samples"):
        return replace(case, samples=samples)
    return replace(case, shape=(samples, *case.shape[1:]))


def same_bits(results, others):
    """Whether two runs gave the same bits; NaNs too."""
    return all(results[name] is others[name] is None
               or results[name].tobytes() == others[name].tobytes() for name in results)


@every_op
def test_every_op_matches_plain_loops(case, backend):
    case.check(backend)


@every_op
def test_the_same_call_twice_gives_the_same_bits(case, backend):
    assert same_bits(case.run(backend), case.run(backend))


@every_layer
@pytest.mark.parametrize("layout", [name for name in layouts.LAYOUTS if name != "contiguous"])
def test_inputs_may_have_any_layout(case, layout, backend):
    case.check(backend, layout=layout)


@every_layer
def test_one_sample_may_be_seen_as_many(case, backend):
    one, many = with_samples(case, 1), with_samples(case, 4)
    values = many.arrays() | one.arrays()
    arrays = {name: put(backend, array) for name, array in values.items()}
    for name in ("x", "grad_output"):
        arrays[name] = repeated(backend, values[name], 4)
    got = many.call(backend, arrays)
    output, grad_input = get(backend, got["output"]), get(backend, got["grad_input"])
    expected = one.check(backend)
    for sample in range(4):
        np.testing.assert_allclose(output[sample], expected["output"][0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(grad_input[sample], expected["grad_input"][0], rtol=1e-5,
                                   atol=1e-6)


@every_layer
@pytest.mark.parametrize("samples", [0, 1, 2, 33, 150])
def test_batches_of_any_size_match_plain_loops(case, samples, backend):
    results = with_samples(case, samples).check(backend)
    if samples == 0:
        for name in set(results) - {"output", "grad_input"}:
            assert not results[name].any(), f"{name} is not zero"


@every_layer
@pytest.mark.parametrize("place", [layouts.of_nan, layouts.slice_of_batch])
@pytest.mark.parametrize("samples", [0, 1, 5])
def test_results_go_where_the_caller_wants_them(case, place, samples, backend):
    def allocate(shape, dtype):
        is_batch = len(shape) > 2 or shape == getattr(case, "out_shape", None)
        return (place if is_batch else layouts.of_nan)(backend, shape, dtype)

    with_samples(case, samples).check(backend, allocate=allocate)


@every_layer
def test_a_workspace_serves_batches_of_different_sizes(case, backend):
    workspace = Workspace(backend)
    for samples in (2, 5, 1, 0, 5):
        given = with_samples(case, samples)
        for layout in ("contiguous", "transposed"):
            assert same_bits(given.check(backend, layout=layout, workspace=workspace),
                             given.run(backend, layout=layout))


def test_one_workspace_serves_all_ops(backend):
    workspace = Workspace(backend)
    for layout in ("transposed", "contiguous", "batch-last"):
        for case in LAYERS.values():
            case.check(backend, layout=layout, workspace=workspace)


@every_trained_layer
def test_the_gradient_by_the_input_is_left_out_where_it_is_not_needed(case, backend):
    results = replace(case, needs_grad_input=False).check(backend)
    assert results["grad_input"] is None


@every_trained_layer
def test_the_bias_may_be_none(case, backend):
    replace(case, bias=False).check(backend)


@every_layer
def test_the_oracles_gradients_are_the_derivatives_of_its_outputs(case):
    case = replace(with_samples(case, 2), dtype=DOUBLE, seed=5)
    if isinstance(case, MaxPool2dCase):
        case = replace(case, ties=False)  # where two are the maximum there is no derivative
    values, step = case.arrays(), 1e-6
    got = {"output": case.expected({"output": np.zeros(case.out_shape)})["output"]}
    gradients = case.expected(got)
    for name, gradient in gradients.items():
        if not name.startswith("grad_"):
            continue
        by = {"grad_input": "x"}.get(name, name.removeprefix("grad_"))
        direction = np.random.default_rng(1).choice([-1.0, 1.0], gradient.shape)
        ends = []
        for sign in (1, -1):
            moved = _Moved(case, by, sign * step * direction)
            ends.append((moved.expected(got)["output"] * values["grad_output"]).sum())
        slope = (ends[0] - ends[1]) / (2 * step)
        assert slope == pytest.approx((gradient * direction).sum(), rel=1e-5, abs=1e-6), name


class _Moved:
    """A case with one of its inputs moved by a little."""

    def __init__(self, case, name, move):
        self._case, self._values = case, case.arrays()
        self._values[name] = self._values[name] + move

    def expected(self, results):
        return type(self._case).expected(self, results)

    def __getattr__(self, name):
        return getattr(self._case, name)

    def arrays(self):
        return self._values


def test_gather_writes_into_the_backends_favourite_memory_order(backend):
    for case in SMALL_OPS.values():
        if isinstance(case, GatherCase):
            case.check(backend, allocate=lambda shape, dtype: layouts.slice_of_batch(
                backend, shape, dtype))
