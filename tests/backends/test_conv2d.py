"""conv2d and its gradients: tables, windows, tiles."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucnn import ConnectionTable
from gpucnn.activations import NAMES
from gpucnn.errors import KernelError
from tests import oracle
from tests.cases import DOUBLE, FLOAT, Conv2dCase
from tests.conv2d_cases import with_kernel
from tests.layouts import get, of_nan, put
from tests.representative import CONV2D, UNEVEN_TABLE, recorded_sources

both_types = pytest.mark.parametrize("dtype", [FLOAT, DOUBLE], ids=str)


@st.composite
def tables(draw):
    """Tables of any fan-in, in any order; input maps may be without outputs."""
    in_maps, out_maps = draw(st.integers(1, 10)), draw(st.integers(1, 10))
    inputs = [draw(st.sets(st.integers(0, in_maps - 1), min_size=1, max_size=5))
              for _ in range(out_maps)]
    pairs = draw(st.permutations([(i, o) for o, chosen in enumerate(inputs) for i in chosen]))
    return ConnectionTable.from_pairs(np.array(pairs).T, in_maps, out_maps)


def sizes(draw, window, stride, padding=(0, 0)):
    """A map that the window fits into, with or without a border that it does not reach."""
    return tuple(max(1, (draw(st.integers(1, 6)) - 1) * step + length - 2 * pad
                     + draw(st.integers(0, step - 1)))
                 for length, step, pad in zip(window, stride, padding, strict=True))


@st.composite
def cases(draw, specialisations=None):
    """Any case, or one of a few `specialisations` with everything else free."""
    if specialisations:
        kernel, stride, activation, dtype = draw(st.sampled_from(specialisations))
    else:
        kernel = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
        stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
        activation, dtype = draw(st.sampled_from(NAMES)), draw(st.sampled_from([FLOAT, DOUBLE]))
    padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    return Conv2dCase(draw(tables()), draw(st.sampled_from([0, 1, 2, 3, 9, 40])),
                      sizes(draw, kernel, stride, padding), kernel, stride, padding, activation,
                      dtype, draw(st.booleans()), draw(st.integers(0, 2**16)))


@given(data=st.data())
def test_outputs_and_gradients_match_plain_loops_over_generated_shapes(backend, data):
    data.draw(cases(None if backend.device == "cpu" else CONV2D)).check(backend)


SPECIAL = {
    "LeNet-5's C3": Conv2dCase(ConnectionTable.lenet5_c3(), 2, (14, 14), (5, 5)),
    "groups": Conv2dCase(ConnectionTable.grouped(6, 9, 3), 3, (7, 5), (3, 3), padding=(1, 1)),
    "one to one": Conv2dCase(ConnectionTable.one_to_one(11), 3, (6, 7), (3, 3), (2, 2), (1, 1)),
    "one map": Conv2dCase(ConnectionTable.full(1, 1), 1, (9, 9), (3, 3)),
    "one pixel": Conv2dCase(ConnectionTable.full(1, 1), 1, (1, 1), (1, 1)),
    "only padding around a pixel": Conv2dCase(ConnectionTable.full(2, 2), 3, (1, 1), (3, 3),
                                              padding=(1, 1)),
    "windows of padding alone": Conv2dCase(ConnectionTable.full(1, 2), 2, (2, 3), (2, 2), (2, 1),
                                           (2, 2)),
    "an input map without outputs": Conv2dCase(UNEVEN_TABLE, 3, (5, 5), (3, 3)),
    "the last input maps without outputs": Conv2dCase(
        ConnectionTable.from_pairs([[0, 1], [1, 0]], in_maps=19, out_maps=2), 2, (5, 5), (3, 3)),
    "more maps than are staged at a time": Conv2dCase(
        ConnectionTable.random(20, 17, density=0.4, seed=3), 2, (6, 6), (3, 3)),
    "full, in order": Conv2dCase(ConnectionTable.full(9, 17), 2, (5, 6), (2, 2)),
    "a kernel as large as the map": Conv2dCase(ConnectionTable.full(3, 10), 40, (4, 6), (4, 6)),
    "a wide kernel": Conv2dCase(ConnectionTable.full(1, 2), 2, (3, 70), (1, 65)),
    "a tall kernel": Conv2dCase(ConnectionTable.full(2, 1), 2, (70, 3), (65, 1)),
    "128 taps": Conv2dCase(ConnectionTable.full(1, 2), 2, (9, 17), (8, 16)),
    "130 taps": Conv2dCase(ConnectionTable.full(2, 1), 2, (11, 14), (10, 13)),
    "a map of many tiles": Conv2dCase(ConnectionTable.full(2, 3), 1, (37, 35), (3, 3), (1, 1),
                                      (1, 1)),
    "windows that leave gaps": Conv2dCase(ConnectionTable.full(2, 2), 3, (11, 10), (2, 1), (3, 3)),
    "a border that no window reaches": Conv2dCase(ConnectionTable.full(1, 2), 2, (9, 10), (3, 3),
                                                  (3, 4)),
}


@both_types
@pytest.mark.parametrize("case", SPECIAL.values(), ids=SPECIAL)
def test_outputs_and_gradients_match_plain_loops_for(case, dtype, backend):
    replace(case, dtype=dtype).check(backend)


# -- kernels too large for shared memory, which are computed a strip of rows at a time

LARGE = Conv2dCase(ConnectionTable.from_pairs([[1, 0, 1], [0, 1, 1]]), 3, (41, 42), (40, 40),
                   dtype=DOUBLE)
AS_LARGE_AS_THE_MAP = replace(LARGE, samples=33, size=(40, 40), padding=(0, 0))
PADDED = replace(LARGE, size=(38, 40), padding=(2, 1), stride=(2, 1), dtype=FLOAT)


@pytest.mark.parametrize("case", [LARGE, AS_LARGE_AS_THE_MAP, PADDED],
                         ids=["large", "as large as the map", "padded"])
def test_kernels_that_take_several_strips_match_plain_loops(case, backend):
    case.check(backend)


@pytest.mark.parametrize("file", ["conv2d_general.cu", "conv2d_general_grad_input.cu",
                                  "conv2d_general_grad_weight.cu"])
def test_large_kernels_do_take_several_strips(file):
    strips = [int(name.split("STRIP_HEIGHT=")[1].split(",")[0].rstrip(")"))
              for case in (LARGE, AS_LARGE_AS_THE_MAP)
              for name in recorded_sources(
                  lambda backend, case=case: case.run_blind(with_kernel(backend, "general")))
              if name.startswith(f"{file} ")]
    assert min(strips) < 40


def test_a_kernel_whose_rows_exceed_shared_memory_is_left_to_others(cuda_on_cpu):
    case = Conv2dCase(ConnectionTable.full(1, 1), 1, (1, 1100), (1, 1025))
    with pytest.raises(KernelError, match=r"'general' does not compute forward of a 1x1025 kernel"):
        case.run(with_kernel(cuda_on_cpu, "general"))
    case.check(cuda_on_cpu)


# -- single facts that the definition implies


@both_types
def test_relu_at_zero_has_no_slope(dtype, backend):
    """Every z is exactly 0: the output is 0, and no gradient passes."""
    case = Conv2dCase(ConnectionTable.full(2, 3), 2, (5, 6), (3, 3), activation="relu",
                      dtype=dtype, bias=False)
    arrays = {name: put(backend, array) for name, array in case.arrays().items()}
    arrays["weight"] = backend.zeros((6, 3, 3), dtype)
    for name, array in case.call(backend, arrays).items():
        assert not get(backend, array).any(), name


@pytest.mark.parametrize("activation", NAMES)
@both_types
def test_every_activation_matches_its_formula_at_its_ends(activation, dtype, backend):
    """A 1x1 kernel of weight 1 gives the activation itself, and its gradient the slope."""
    z = np.array([-700, -20, -1, -1e-3, -0.0, 0.0, 1e-3, 1, 20, 700], dtype).reshape(1, 1, 1, -1)
    table = ConnectionTable.full(1, 1)
    x, weight = put(backend, z), put(backend, np.ones((1, 1, 1), dtype))
    options = {"stride": (1, 1), "padding": (0, 0), "activation": activation}
    output = backend.conv2d(x, weight, None, table, **options)
    gradients = backend.conv2d_backward(put(backend, np.ones_like(z)), output, x, weight, table,
                                        **options)
    got = get(backend, output)
    with np.errstate(over="ignore"):
        expected = oracle.squash(activation, z.astype(np.float64))
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(get(backend, gradients.grad_input),
                               oracle.slope(activation, got.astype(np.float64)),
                               rtol=1e-6, atol=1e-6)


def test_one_sample_of_a_batch_is_computed_as_if_it_were_alone(backend):
    batch = Conv2dCase(UNEVEN_TABLE, 40, (6, 5), (3, 3), padding=(1, 0), dtype=DOUBLE)
    whole = batch.run(backend)
    values = batch.arrays()
    for sample in (0, 17, 39):
        arrays = {name: put(backend, array[sample:sample + 1]
                            if name in ("x", "grad_output") else array)
                  for name, array in values.items()}
        alone = replace(batch, samples=1).call(backend, arrays)
        for name in ("output", "grad_input"):
            assert oracle.relative_error(get(backend, alone[name])[0], whole[name][sample]) < 1e-12


def test_gradients_by_the_parameters_go_into_parts_of_a_larger_array(backend):
    """As into a network's flat array of gradients."""
    case = Conv2dCase(UNEVEN_TABLE, 3, (5, 5), (2, 3))
    flat = of_nan(backend, (100,), np.float32)
    weight = flat[7:7 + 5 * 6].reshape(5, 2, 3)
    bias = flat[37:40]

    def allocate(shape, dtype):
        return {weight.shape: weight, bias.shape: bias}.get(shape)

    expected = case.run(backend)
    arrays = {name: put(backend, array) for name, array in case.arrays().items()}
    case.call(backend, arrays, allocate=allocate)
    got = get(backend, flat)
    np.testing.assert_array_equal(got[7:37], expected["grad_weight"].ravel())
    np.testing.assert_array_equal(got[37:40], expected["grad_bias"])
    assert np.isnan(got[:7]).all() and np.isnan(got[40:]).all()
