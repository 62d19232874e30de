"""Every way that the CPU's plan has to compute a network, against the plain plan.

The plan takes the way that it estimates to be the cheapest, and bands and chunks only where arrays
are large. Here it is made to take each of them on small networks. See also test_cpu_plan.py, which
has the chains, the batches and the tolerance.
"""

from functools import partial
from itertools import pairwise, product
from math import prod
from types import SimpleNamespace

import numpy as np
import pytest

from gpucnn import (
    SGD,
    ConnectionTable,
    Conv2d,
    Dataset,
    Dense,
    Flatten,
    MaxPool2d,
    Network,
    Subsample2d,
    lenet5,
    two_stage,
)
from gpucnn.backends.cpu.plan import conv2d, lanes, lowering, products, tables
from gpucnn.backends.cpu.plan.step import parts
from gpucnn.backends.cpu.plan.windows import Windows
from gpucnn.models import TWO_STAGE_C3
from tests.oracle import relative_error
from tests.test_cpu_plan import (
    CHAINS,
    EXACT,
    LOSSES,
    assert_alike,
    assert_same_step,
    batch,
    byte_batch,
    each_chain,
    layer_by_layer,
    with_both_plans,
    with_plain_plan,
    with_plan,
)

POOLS = (2, 3, (2, 1))
GROUPINGS = ("one dense product", "a product for each separate part",
             "a product for each set of inputs")
PIXELS = ("by pooling cell", "by pixel", "by pixel in slabs")


# -- one sample at a time --------------------------------------------------------------------------


@each_chain
def test_three_online_steps_are_those_of_the_plain_plan(chain):
    """One step, where a derivative jumps: the next would start from parameters whose last bits
    differ, and a unit at its corner could fall to another side."""
    planned, plain = with_both_plans(chain.network, loss=LOSSES[chain.seed % 2], batch_size=1)
    for step in range(1 if chain.has_corners else 3):
        assert_same_step(planned, plain, *batch(plain[0], 1, seed=step))


@pytest.mark.parametrize("images_of", [batch, byte_batch])
@pytest.mark.parametrize("chain", [chain for chain in CHAINS if not chain.has_corners][::5],
                         ids=str)
def test_an_online_epoch_longer_than_the_images_ahead_is_that_of_the_plain_plan(chain, images_of):
    planned, plain = with_both_plans(chain.network, batch_size=1, optimizer=SGD(lr=0.02))
    size = [max(1, side - 2) for side in plain[0].input_shape[1:]]
    generator = np.random.default_rng(4)
    data = Dataset(*images_of(plain[0], 30, size=size), classes=plain[0].output_shape[0])
    order = generator.integers(0, 30, 70)
    shifts = generator.integers(-2, 3, (70, 2))
    results = []
    for _, plan in (planned, plain):
        trained = []
        results.append(plan.epoch(plan.load(data), order, shifts, [0.02] * 70, trained.append))
        assert trained == [1] * 70 and plan.steps == 70
    assert results[0] == (pytest.approx(results[1][0], rel=EXACT), results[1][1])
    assert_alike(planned[0].parameters, plain[0].parameters)


@pytest.mark.parametrize("padding", [(0, 0), (1, 0), (0, 1), (1, 1), (2, 2)], ids=str)
@pytest.mark.parametrize("kernel_size", [(1, 1), (3, 3), (2, 5)], ids=str)
def test_an_online_step_of_convolutions_behind_one_another_with_and_without_padding(
        kernel_size, padding):
    """Behind a kernel of 3, padding of 1 gives rows as long as those of the image, but what lies
    between the rows' ends is the gradient by the padding."""
    def build(dtype):
        return chain_of(Conv2d(2, 4, (2, 3)), Conv2d(4, 3, kernel_size, padding=padding),
                        Conv2d(3, 4, (1, 3), padding=padding), input_shape=(2, 7, 9), dtype=dtype)

    planned, plain = with_both_plans(build, batch_size=1)
    for step in range(2):
        assert_same_step(planned, plain, *batch(plain[0], 1, seed=step))


# -- every way to compute a convolution ------------------------------------------------------------


def chain_of(*layers, input_shape, dtype="float64"):
    """A network of `layers`, with a dense head of four classes."""
    shape = input_shape
    for layer in layers:
        shape = layer.output_shape(shape)
    return Network([*layers, Flatten(), Dense(prod(shape), 4, activation="identity")], input_shape,
                   dtype=dtype, device="cpu", seed=3)


def two_convolutions(pool_size, *, first=(), second=(), maximum=False, dtype="float64"):
    """Convolutions of 2 to 6 maps and of 6 to some, each before a pooling; `first` and `second`:
    their options."""
    second = {"out_maps": 6, "kernel_size": 3} | dict(second)

    def pooling(maps):
        return MaxPool2d(pool_size) if maximum else Subsample2d(maps, pool_size)

    return chain_of(
        Conv2d(2, 6, **{"kernel_size": 3} | dict(first)), pooling(6),
        Conv2d(6, **second), pooling(second["out_maps"]), input_shape=(2, 27, 32), dtype=dtype)


CONVOLUTIONS = {
    "like LeNet-5": {"second": {"out_maps": 16, "connections": ConnectionTable.lenet5_c3()}},
    "padded": {"first": {"padding": (2, 1)}, "second": {"padding": 1}},
    "strided": {"first": {"stride": (1, 2), "kernel_size": (4, 3), "bias": False},
                "second": {"stride": (2, 1)}},
    "random": {"second": {"out_maps": 7, "bias": False,
                          "connections": ConnectionTable.random(6, 7, density=0.3, seed=5)}},
    "one to one": {"second": {"connections": ConnectionTable.one_to_one(6)}},
    "grouped": {"second": {"out_maps": 8, "connections": ConnectionTable.grouped(6, 8, 2)}},
}
BUILDERS = {"two_stage": partial(two_stage, device="cpu")} | {
    f"{name}, {'maxima' if maximum else 'sums'} of {pool_size}":
        partial(two_convolutions, pool_size, maximum=maximum, **options)
    for number, (name, options) in enumerate(CONVOLUTIONS.items())
    for place, pool_size in enumerate(POOLS) for maximum in [(number + place) % 2 == 1]}

each_builder = pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)


class Ways:
    """Stands for `lowering._ways`: gives only the chosen way of each convolution, the n-th by its
    estimate, and notes how many there are (`counts`) and what those taken are called (`seen`).
    `pixels`: if not None, the name of the only ways to choose from, where there are any."""

    def __init__(self, monkeypatch):
        self.chosen, self.counts, self.seen, self.pixels = {}, {}, set(), None
        self._all = lowering._ways
        monkeypatch.setattr(lowering, "_ways", self)

    def __call__(self, layer, *arguments, **keywords):
        ways = sorted(self._all(layer, *arguments, **keywords), key=lambda way: way[1].seconds)
        if self.pixels is not None:
            ways = [way for way in ways if lowering._named(*way).endswith(self.pixels)] or ways
        self.counts[layer.name] = len(ways)
        way = ways[self.chosen.get(layer.name, 0)]
        self.seen.add(lowering._named(*way))
        return [way]

    def take_each(self, build):
        """Choose every combination of ways for the convolutions that `build` has, in turn."""
        self.chosen, self.counts = {}, {}
        with_plan(build)
        counts = dict(self.counts)
        for numbers in product(*map(range, counts.values())):
            self.chosen = dict(zip(counts, numbers, strict=True))
            yield self.chosen


@pytest.fixture
def ways(monkeypatch):
    return Ways(monkeypatch)


@each_builder
def test_every_way_of_each_convolution_gives_the_step_of_the_plain_plan(build, ways):
    reference, plain_plan = with_plain_plan(build)
    images, labels = batch(reference, 5)
    expected = float(plain_plan.step(images, labels))
    combinations = 0
    for chosen in ways.take_each(build):
        network, plan = with_plan(build)
        assert float(plan.step(images, labels)) == pytest.approx(expected, rel=EXACT), chosen
        assert_alike(network.gradients, reference.gradients)
        assert_alike(network.parameters, reference.parameters)
        combinations += 1
    assert combinations >= 9, "two convolutions behind which there is pooling have three ways each"


@each_builder
def test_every_way_of_each_convolution_gives_the_outputs_of_the_layers(build, ways):
    network = build(dtype="float64")
    images, _ = batch(network, 3)
    expected = layer_by_layer(network, images)
    for chosen in list(ways.take_each(build))[::2]:
        outputs = build(dtype="float64").outputs(images)
        assert relative_error(outputs, expected) <= EXACT, chosen


def test_the_networks_here_have_every_way_there_is(ways):
    for build in BUILDERS.values():
        for _ in ways.take_each(build):
            with_plan(build)
    for words in (*GROUPINGS, *PIXELS):
        assert any(words in name for name in ways.seen), words
    assert {name.removeprefix(grouping + " ") for name in ways.seen for grouping in GROUPINGS
            if name.startswith(grouping)} == set(PIXELS)


# -- ties ------------------------------------------------------------------------------------------


def with_ties(pool_size, dtype="float64"):
    """Two convolutions by whole numbers, before a max pooling each: windows full of ties."""
    network = chain_of(
        Conv2d(1, 4, 3, activation="identity"), MaxPool2d(pool_size),
        Conv2d(4, 4, 2, activation="identity", connections=ConnectionTable.grouped(4, 4, 2)),
        MaxPool2d(pool_size), input_shape=(1, 17, 16), dtype=dtype)
    generator = np.random.default_rng(8)
    network.set_parameters({
        name: values if name.startswith("dense") else generator.integers(-1, 2, values.shape)
        for name, values in network.parameter_values().items()})
    return network


def images_of_whole_numbers(n):
    generator = np.random.default_rng(9)
    return generator.integers(0, 2, (n, 1, 17, 16)).astype(np.float64), generator.integers(0, 4, n)


@pytest.mark.parametrize("pool_size", POOLS, ids=str)
def test_windows_of_the_tied_network_hold_their_maximum_more_than_once(pool_size):
    network = with_ties(pool_size)
    x, _ = images_of_whole_numbers(6)
    for layer in network.layers:
        y = layer.forward(x)
        if layer.op == "max_pool2d":
            height, width = layer.pool_size
            rows, columns = y.shape[2:]
            windows = x[:, :, :rows * height, :columns * width].reshape(
                6, -1, rows, height, columns, width)
            ties = (windows == y[:, :, :, None, :, None]).sum(axis=(3, 5)) > 1
            assert ties.mean() > 0.1, layer.name
        x = y


@pytest.mark.parametrize("pool_size", POOLS, ids=str)
def test_of_equal_pixels_the_first_takes_the_gradient_in_slabs_and_apart(pool_size, ways):
    build = partial(with_ties, pool_size)
    reference, plain_plan = with_plain_plan(build, batch_size=6)
    images, labels = images_of_whole_numbers(6)
    plain_plan.step(images, labels)
    for _ in ways.take_each(build):
        network, plan = with_plan(build, batch_size=6)
        plan.step(images, labels)
        assert_alike(network.gradients, reference.gradients)
    assert any("by pixel in slabs" in name for name in ways.seen)
    assert any(name.endswith("by pixel") for name in ways.seen)


# -- bands and chunks ------------------------------------------------------------------------------


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


@pytest.mark.parametrize("kinds", [("bands",), ("chunks",), ("bands", "chunks")], ids=str)
@pytest.mark.parametrize("build", LARGE.values(), ids=LARGE)
def test_steps_in_bands_and_in_chunks_are_those_of_the_plain_plan(build, kinds, several, ways):
    """64 samples are several micro-batches, whose gradients are added. By pixels that lie apart a
    convolution has bands in front of a pooling too, and the smallest matrices."""
    for kind in kinds:
        getattr(several, kind)()
    ways.pixels = "by pixel"
    planned, plain = with_both_plans(build, batch_size=64)
    for step, n in enumerate((64, 16)):
        assert_same_step(planned, plain, *batch(plain[0], n, seed=step))
    assert {kind for kind, count in several.counts.items() if count} == set(kinds)


@pytest.mark.parametrize("build", LARGE.values(), ids=LARGE)
def test_online_steps_in_chunks_are_those_of_the_plain_plan(build, several):
    several.chunks()
    planned, plain = with_both_plans(build, batch_size=1)
    for step in range(2):
        assert_same_step(planned, plain, *batch(plain[0], 1, seed=step))
    assert several.counts["chunks"]


@pytest.mark.parametrize("kind", ["bands", "chunks"])
@pytest.mark.parametrize("build", LARGE.values(), ids=LARGE)
def test_outputs_in_bands_and_in_chunks_are_those_of_the_layers(build, kind, several, ways):
    getattr(several, kind)()
    ways.pixels = "by pixel"
    network = build(dtype="float64")
    images, _ = batch(network, 64)
    expected = layer_by_layer(network, images)
    assert relative_error(network.outputs(images), expected) <= EXACT
    answers = expected.reshape(64, -1).argmax(axis=1)
    assert np.array_equal(network.predict(images), answers)
    assert several.counts[kind]


# -- tables as products ----------------------------------------------------------------------------


def windows(kernel=5, cells=10):
    """Windows by pixel of a convolution without pooling."""
    return Windows((kernel, kernel), (1, 1), (cells, cells), (1, 1), (1, 1), (1, 1), aligned=True)


def grouped_by(connections, name):
    """The `Grouping` of a table that has this name."""
    found = tables.groupings(connections, windows(), 32, first=False)
    return next(way for way in found if way.name == name)


TABLES = {
    "full": ConnectionTable.full(5, 7), "one to one": ConnectionTable.one_to_one(6),
    "grouped": ConnectionTable.grouped(6, 9, 3), "LeNet-5's": ConnectionTable.lenet5_c3(),
    "two_stage's": TWO_STAGE_C3,
    **{f"random {seed}": ConnectionTable.random(7, 12, density=0.3, seed=seed)
       for seed in range(5)},
}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_grouping_joins_each_connection_once_and_the_cheapest_is_first(table):
    found = tables.groupings(table, windows(), 32, first=False)
    assert [way.seconds for way in found] == sorted(way.seconds for way in found)
    assert len({way.name for way in found}) == len(found)
    for way in found:
        joined = np.zeros((table.in_maps, table.out_maps), int)
        for stack in way.stacks:
            for inputs, outputs in zip(stack.inputs, stack.outputs, strict=True):
                joined[np.ix_(inputs, outputs)] += 1
        assert joined.max() == 1 and (joined[table.matrix != 0] == 1).all(), way.name


def test_a_full_table_is_one_dense_product_and_nothing_else():
    found = tables.groupings(ConnectionTable.full(6, 16), windows(), 32, first=False)
    assert [way.name for way in found] == ["one dense product"]


def test_two_stages_c3_falls_into_two_parts_of_two_maps_and_eight():
    """Each by a call of its own, since maps 0 and 3 lie further apart than 1 and 2."""
    stacks = grouped_by(TWO_STAGE_C3, "a product for each separate part").stacks
    assert sorted(stack.inputs.tolist() for stack in stacks) == [[[0, 3]], [[1, 2]]]
    assert [stack.outputs.shape for stack in stacks] == [(1, 8), (1, 8)]


def test_groups_of_neighbours_are_one_stack():
    stack, = grouped_by(ConnectionTable.grouped(6, 9, 3), "a product for each separate part").stacks
    assert stack.inputs.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert stack.outputs.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_one_to_one_is_a_single_stack_of_products_of_one_map_by_one():
    stack, = grouped_by(ConnectionTable.one_to_one(6), "a product for each separate part").stacks
    assert stack.inputs.tolist() == stack.outputs.tolist() == [[number] for number in range(6)]


def test_lenet5s_c3_is_one_part_and_a_set_of_inputs_for_each_output_map():
    table = ConnectionTable.lenet5_c3()
    names = {way.name for way in tables.groupings(table, windows(), 32, first=False)}
    assert names == {"one dense product", "a product for each set of inputs"}
    stacks = grouped_by(table, "a product for each set of inputs").stacks
    assert sum(len(stack.outputs) for stack in stacks) == 16


def test_estimates_fall_with_the_number_of_groups():
    seconds = [grouped_by(ConnectionTable.grouped(16, 16, groups),
                          "a product for each separate part" if groups > 1
                          else "one dense product").seconds for groups in (1, 2, 4)]
    assert seconds == sorted(seconds, reverse=True) and len(set(seconds)) == 3


def test_a_one_to_one_table_of_16_maps_is_estimated_to_be_cheaper_than_a_full_one():
    sparse, full = (tables.groupings(table, windows(), 32, first=False)[0] for table in (
        ConnectionTable.one_to_one(16), ConnectionTable.full(16, 16)))
    assert sparse.seconds < full.seconds


def test_the_first_layer_costs_less_as_nobody_needs_the_gradient_by_its_input():
    table = ConnectionTable.lenet5_c3()
    first, later = (tables.groupings(table, windows(), 32, first=first)[0].seconds
                    for first in (True, False))
    assert first < later


@pytest.mark.parametrize(("maps", "slices"), [
    ([], []), ([4], [slice(4, 5, 1)]), ([0, 1, 2], [slice(0, 3, 1)]),
    ([0, 2, 4, 5], [slice(0, 5, 2), slice(5, 6, 1)]),
    ([1, 2, 5, 8], [slice(1, 3, 1), slice(5, 9, 3)])], ids=str)
def test_runs_are_slices_of_evenly_spaced_maps(maps, slices):
    assert tables.runs(np.array(maps, int)) == slices
    everything = np.arange(10)
    assert np.concatenate([everything[one] for one in slices] + [[]]).tolist() == maps


@pytest.mark.parametrize(("maps", "even"), [
    ([[3]], True), ([[0, 1, 2]], True), ([[0, 3], [1, 4], [2, 5]], True), ([[0], [5], [10]], True),
    ([[0, 1, 3]], False), ([[0], [1], [3]], False), ([[0, 1], [2, 4]], False),
    ([[0, 1], [4, 5], [6, 7]], False)], ids=str)
def test_maps_are_evenly_spaced_if_base_group_and_number_tell_them(maps, even):
    assert tables.evenly_spaced(np.array(maps)) is even


# -- parts of a batch ------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 2, 7, 32])
def test_parts_are_nearly_equal_and_never_empty_or_above_the_limit(most):
    for samples in (1, 2, 3, 7, 31, 32, 33, 63, 64, 65, 100, 1000):
        pieces = parts(samples, most)
        sizes = [piece.stop - piece.start for piece in pieces]
        assert sum(sizes) == samples and max(sizes) - min(sizes) <= 1
        assert min(sizes) >= 1 and max(sizes) <= most and len(pieces) == -(-samples // most)
        assert pieces[0].start == 0 and all(
            one.stop == other.start for one, other in pairwise(pieces))


def test_nothing_has_no_parts():
    assert parts(0, 32) == lanes.shares(0, 32) == []


@pytest.mark.parametrize("most", [1, 2, 7, 32])
def test_shares_are_nearly_equal_parts_and_two_or_more_of_what_fills_half_a_micro_batch(most):
    for samples in (1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 64, 65, 1000):
        sizes = [piece.stop - piece.start for piece in lanes.shares(samples, most)]
        assert sum(sizes) == samples and max(sizes) - min(sizes) <= 1
        assert min(sizes) >= 1 and max(sizes) <= most
        assert len(sizes) >= 2 or samples <= max(1, most // 2)


@pytest.mark.parametrize("share", [2, 1.01, 1, 0.99, 0.3, 0.1, 0.01, 0.0001])
def test_a_micro_batch_is_the_largest_that_stays_within_the_limit(share):
    """`share`: how much of the memory that there is one sample takes."""
    step = SimpleNamespace(numbers=int(share * lanes.LANE_BYTES / 4))
    fitting = [size for size in lanes.MICRO_BATCHES if size * step.numbers * 4 <= lanes.LANE_BYTES]
    assert lanes.micro_batch([step], 4) == max(fitting, default=1)
