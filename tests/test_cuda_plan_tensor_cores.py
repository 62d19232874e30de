"""Layers of the CUDA plan on tensor cores: the same numbers, whatever the geometry and the table.

Networks are made to use tensor cores wherever they can: with three products for each, which come as
near to float64 as float32 does, and with one.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from gpucnn import SGD, ConnectionTable, Conv2d, Dense, Flatten, Network, Subsample2d, lenet5
from gpucnn.backends.cuda.plan import tensor_cores
from gpucnn.backends.cuda.plan.chain import chain_of
from gpucnn.backends.cuda.plan.group import RESERVED_BYTES, plan_group
from gpucnn.backends.cuda.plan.parts import with_places
from gpucnn.backends.cuda.plan.tensor_tiles import columns_of
from gpucnn.models import TWO_STAGE_C3
from tests.cuda_on_cpu.profiles import PROFILES
from tests.cuda_on_cpu.sanitized import run_sanitized
from tests.oracle import relative_error
from tests.plan_cases import FEW_BLOCKS, batch, cuda_backend, gradients_of, with_plain_plan
from tests.test_kernels_compile import CACHE, compiled_once

ERROR = {"float32": 2e-5, "tf32": 2e-3}  # of gradients, relative to float64
OPTIMIZER = SGD(lr=0.1)
LINEAR = {"activation": "identity"}


def mixed(**keywords):
    """Padding, strides, and kernels and maps that fill no tile; a table in any order."""
    pairs = ConnectionTable.random(3, 10, density=0.4, seed=1).pairs
    shuffled = np.random.default_rng(2).permutation(pairs, axis=1)
    return Network([
        Conv2d(1, 3, (4, 3), padding=(2, 1)),
        Conv2d(3, 10, (3, 5), padding=(0, 2), bias=False,
               connections=ConnectionTable.from_pairs(shuffled, 3, 10)),
        Conv2d(10, 4, (2, 3), stride=(2, 3), connections=ConnectionTable.random(
            10, 4, density=0.5, seed=3)),
        Dense(4, 9), Flatten(), Dense(9 * 5 * 4, 21), Dense(21, 10, **LINEAR),
    ], (1, 11, 13), device="cpu", **keywords)


def small(**keywords):
    """Linear, so that gradients scale with the images; small enough for every sanitizer."""
    return Network([
        Conv2d(1, 4, 3, padding=1, **LINEAR),
        Conv2d(4, 16, (3, 2), connections=TWO_STAGE_C3, **LINEAR),
        Subsample2d(16, 2, **LINEAR), Flatten(), Dense(16 * 2 * 2, 10, **LINEAR),
    ], (1, 6, 5), device="cpu", **keywords)


NETWORKS = {"lenet5": partial(lenet5, device="cpu"), "mixed": mixed}


def force(monkeypatch):
    """Every phase that can use tensor cores does."""
    monkeypatch.setattr(tensor_cores, "is_quicker", lambda *_: True)


@pytest.fixture
def forced(monkeypatch):
    force(monkeypatch)


def step(build, precision, *, n=3, loss="cross_entropy", scale=1.0, backend=None):
    """(the plan, its gradients, those in float64) of a step on images that are `scale` times as
    large, with first weights that are as much smaller."""
    network = build(dtype="float32")
    first = next(iter(network.parameters))
    network.set_parameters(network.parameter_values()
                           | {first: network.parameter_values()[first] / scale})
    reference, plain = with_plain_plan(build, optimizer=OPTIMIZER, loss=loss)
    reference.set_parameters(network.parameter_values())
    images, labels = batch(network, n)
    images = (scale * images).astype(np.float32)
    network.to(backend or cuda_backend())
    plan = network.compile_step(loss=loss, optimizer=OPTIMIZER, batch_size=n, precision=precision)
    plan.step(images, labels)
    plain.step(images.astype(np.float64), labels)
    return plan, gradients_of(network), gradients_of(reference)


def largest_error(gradients, expected):
    return max(relative_error(gradients[name], values) for name, values in expected.items())


# -- numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "tf32"])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_agree_with_float64(name, precision, forced):
    _, gradients, expected = step(NETWORKS[name], precision)
    assert largest_error(gradients, expected) < ERROR[precision]


@pytest.mark.parametrize("pixels", [2, 3, 5])
def test_gradients_agree_with_strips_of_any_length(pixels, forced, monkeypatch):
    monkeypatch.setattr(tensor_cores, "PIXELS", (pixels,))
    _, gradients, expected = step(small, "float32", n=5)
    assert largest_error(gradients, expected) < ERROR["float32"]


@pytest.mark.parametrize("scale", [1e4, 1e-4])
@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_gradients_agree_at_every_scale(precision, scale, forced):
    _, gradients, expected = step(small, precision, scale=scale, loss="mse")
    assert largest_error(gradients, expected) < ERROR[precision]


def test_gradients_agree_in_groups_that_are_neither_first_nor_last(forced):
    room = RESERVED_BYTES + 4 * 420
    backend = cuda_backend(replace(FEW_BLOCKS, dynamic_shared_bytes=room))
    _, gradients, expected = step(small, "float32", n=5, backend=backend)
    assert "group_forward" in {name for name, _, _ in backend.runtime.launches}
    assert largest_error(gradients, expected) < ERROR["float32"]


# -- faults ----------------------------------------------------------------------------------------


def test_gradients_have_the_same_bits_in_every_order_of_threads(forced):
    expected = None
    for order in ("forward", "reverse", 1):
        _, gradients, _ = step(small, "float32", n=5, backend=cuda_backend(order=order))
        bits = {name: values.tobytes() for name, values in gradients.items()}
        expected = expected or bits
        assert bits == expected


def test_no_two_threads_race(forced):
    step(small, "float32", n=1, backend=cuda_backend(sanitizer="thread"))


def test_no_kernel_leaves_its_arrays_or_does_what_is_undefined():
    result = run_sanitized("address", ["-m", "tests.test_cuda_plan_tensor_cores"])
    assert result.returncode == 0, result.stdout
    assert result.stdout == "right"


# -- what is chosen --------------------------------------------------------------------------------


def planned(architecture, precision, batch_size=4096, dtype="float32"):
    """LeNet-5 as one group."""
    network = lenet5(device="cpu", dtype=dtype)
    program = replace(network.program(loss="cross_entropy", optimizer=OPTIMIZER,
                                      batch_size=batch_size), precision=precision)
    chain = chain_of(program.layers, program.input_shape, first=True, last=True)
    profile = PROFILES[architecture]
    return with_places([plan_group(chain, program, profile)], profile)[0][0]


def passes(group):
    """What tensor cores do of each layer's backward kernel."""
    return {layer.tensor.passes("backward") for layer in group.layers if layer.tensor}


def test_tf32_uses_tensor_cores_where_they_are_quicker_than_other_units():
    for architecture in ("sm_80", "sm_90", "sm_100"):
        assert passes(planned(architecture, "tf32")) == {2}  # of the forward pass
    for architecture in ("sm_75", "sm_86", "sm_89", "sm_120"):
        assert passes(planned(architecture, "tf32")) <= {1, 2}
    assert not passes(planned("sm_75", "tf32"))


def test_doubles_use_no_tensor_cores(forced):
    assert not passes(planned("sm_90", "float32", dtype="float64"))


def test_explain_says_which_layers_use_tensor_cores_and_how(forced):
    plan, _, _ = step(small, "tf32")
    assert "(tensor cores, up to 2 passes: conv2d1 conv2d2 dense5)" in plan.explain()
    plan, _, _ = step(small, "float32")
    assert "(tensor cores, up to 3 passes: conv2d1" in plan.explain()


def test_maps_with_the_same_connections_come_together():
    joined = tuple(map(tuple, TWO_STAGE_C3.matrix.T.tolist()))
    columns = columns_of(joined, size=8, pixels=1)
    assert sorted(columns.joined) == [(0, 3), (1, 2)]
    assert sorted(columns.order) == list(range(16))
    full = columns_of(((True, True),) * 9, size=8, pixels=2)
    assert full.order == tuple(range(9))
    assert full.joined == ((0, 1),) * 3


@pytest.mark.thorough
def test_no_kernel_spills_registers():
    CACHE.mkdir(parents=True, exist_ok=True)

    def spilled(architecture):
        source = planned(architecture, "tf32").source("group_backward")
        return compiled_once(source.source(), str(source), architecture)[
            "group_backward"].spill_bytes

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(spilled, ("sm_80", "sm_90"))) == [0, 0]


if __name__ == "__main__":
    force(pytest.MonkeyPatch())
    _, found, right = step(mixed, "float32")
    assert largest_error(found, right) < ERROR["float32"]
    sys.stdout.write("right")
