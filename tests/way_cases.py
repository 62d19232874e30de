"""Networks whose convolutions have every way that the CPU's plan knows, and a choice among them.

The plan takes the way that it estimates to be the cheapest; `Ways` makes it take another.
"""

from functools import partial
from itertools import product
from math import prod

import pytest

from gpucnn import (
    ConnectionTable,
    Conv2d,
    Dense,
    Flatten,
    MaxPool2d,
    Network,
    Subsample2d,
    two_stage,
)
from gpucnn.backends.cpu.plan import lowering
from tests.plan_cases import with_plan

POOLS = (2, 3, (2, 1))


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
    `pixels`: if not None, the name of the only ways to choose from, where there are any. `lines`:
    if not None, whether windows share lines, where they can."""

    def __init__(self, monkeypatch):
        self.chosen, self.counts, self.seen, self.pixels, self.lines = {}, {}, set(), None, None
        self._all, forms = lowering._ways, lowering._forms
        monkeypatch.setattr(lowering, "_ways", self)
        monkeypatch.setattr(lowering, "_forms", lambda windows: forms(windows)[
            slice(None) if self.lines is None else slice(-1, None) if self.lines else slice(1)])

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
