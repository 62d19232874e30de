"""The CPU's plan in bands of rows and chunks of products, against the plain plan.

Both are for arrays that are large; here limits are made so small that small networks have several.
"""

from functools import partial

import numpy as np
import pytest

from gpucnn import ConnectionTable, Conv2d, lenet5
from gpucnn.backends.cpu.plan import conv2d, products
from tests.oracle import relative_error
from tests.plan_cases import EXACT, assert_same_step, batch, layer_by_layer, with_both_plans
from tests.way_cases import BUILDERS, Ways, chain_of


@pytest.fixture
def ways(monkeypatch):
    return Ways(monkeypatch)


def not_pooled(dtype="float64"):
    """Convolutions with nothing between them, whose rows may be made in bands."""
    return chain_of(
        Conv2d(1, 4, 3, padding=1),
        Conv2d(4, 8, 3, stride=(2, 1), bias=False, connections=ConnectionTable.grouped(4, 8, 2)),
        Conv2d(8, 5, (2, 3), connections=ConnectionTable.random(8, 5, density=0.4, seed=2)),
        input_shape=(1, 14, 11), dtype=dtype)


LARGE = {"not pooled": not_pooled, "lenet5": partial(lenet5, device="cpu"),
         "two_stage": BUILDERS["two_stage"],
         **{name: build for name, build in BUILDERS.items() if "of 2" in name}}


class Several:
    """Makes bands or chunks so small that there are several; `counts` of those that were made."""

    def __init__(self, monkeypatch):
        self.counts = {"bands": 0, "chunks": 0}
        self._monkeypatch = monkeypatch

    def bands(self):
        bands = conv2d.Conv2d.bands
        self._monkeypatch.setattr(conv2d, "BAND_BYTES", 20_000)
        self._monkeypatch.setattr(conv2d.Conv2d, "bands", lambda step, samples: self._noted(
            "bands", bands(step, samples)))

    def chunks(self):
        count = products._chunk_count
        self._monkeypatch.setattr(products, "SMALL_PRODUCT", 5_000)
        self._monkeypatch.setattr(products, "SHORTEST_CHUNK", 4)
        self._monkeypatch.setattr(products, "_chunk_count", lambda matrix, columns: self._noted(
            "chunks", range(count(matrix, columns))).stop)

    def _noted(self, kind, several):
        if len(several) > 1:
            self.counts[kind] += len(several)
        return several


@pytest.fixture
def several(monkeypatch):
    return Several(monkeypatch)


# Rows of windows that share lines are pieces already, and are not cut into chunks.
@pytest.mark.parametrize(("kinds", "lines"), [
    (("bands",), False), (("bands",), True), (("chunks",), False), (("bands", "chunks"), False)],
    ids=str)
@pytest.mark.parametrize("build", LARGE.values(), ids=LARGE)
def test_steps_in_bands_and_in_chunks_are_those_of_the_plain_plan(
        build, kinds, lines, several, ways):
    """64 samples are several micro-batches, whose gradients are added. By pixels that lie apart a
    convolution has bands in front of a pooling too, and the smallest matrices."""
    for kind in kinds:
        getattr(several, kind)()
    ways.pixels = "by pixel"
    ways.lines = lines
    planned, plain = with_both_plans(build, batch_size=64)
    for step, n in enumerate((64, 16)):
        assert_same_step(planned, plain, *batch(plain[0], n, seed=step))
    assert {kind for kind, count in several.counts.items() if count} == set(kinds)


def test_online_steps_in_chunks_are_those_of_the_plain_plan(several):
    several.chunks()
    planned, plain = with_both_plans(BUILDERS["strided, sums of 2"], batch_size=1)
    for step in range(2):
        assert_same_step(planned, plain, *batch(plain[0], 1, seed=step))
    assert several.counts["chunks"]


@pytest.mark.parametrize(("kind", "lines"), [
    ("bands", False), ("bands", True), ("chunks", False)])
@pytest.mark.parametrize("build", LARGE.values(), ids=LARGE)
def test_outputs_in_bands_and_in_chunks_are_those_of_the_layers(build, kind, lines, several, ways):
    getattr(several, kind)()
    ways.pixels = "by pixel"
    ways.lines = lines
    network = build(dtype="float64")
    images, _ = batch(network, 64)
    expected = layer_by_layer(network, images)
    assert relative_error(network.outputs(images), expected) <= EXACT
    answers = expected.reshape(64, -1).argmax(axis=1)
    assert np.array_equal(network.predict(images), answers)
    assert several.counts[kind]
