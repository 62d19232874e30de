"""Random chains of the library's layers, for tests of whole networks.

`random_chain(seed)` is the same chain each time; it ends in one output position, as training needs.
`chain.network()` builds it; chain_traits.py says which cases it is an example of.
"""

from dataclasses import dataclass

import numpy as np

from gpucnn import (
    ConnectionTable,
    Conv2d,
    Dense,
    Flatten,
    MaxPool2d,
    Network,
    Subsample2d,
    activations,
)

PARAMETER_SEEDS = 1100  # from here on: none of the first 50 chains is dead or ill-conditioned
MOST_LAYERS = 8
MOST_OF_HEAD = 3  # layers that a head adds
LARGEST_KERNEL, LARGEST_POOL = 5, 3
LARGEST_MAPS_AT_THE_END = 40  # classes, where a Flatten is the last layer
SMOOTH = tuple(name for name in activations.NAMES if name != "relu")

TABLES = ("full", "one-to-one", "grouped", "random", "shared", "lenet-like")
STRIDES = ("equal", "smaller", "larger")


@dataclass(frozen=True)
class LayerSketch:
    """A layer to be built any number of times; `table` says how its connections were drawn."""

    kind: type
    options: dict
    table: str | None = None

    def build(self):
        return self.kind(**self.options)


@dataclass(frozen=True)
class Chain:
    """A drawn chain: input_shape (maps, height, width), and a sketch of each layer."""

    seed: int
    input_shape: tuple
    sketches: tuple

    def network(self, dtype="float64", **keywords):
        """A new network of this chain on the CPU, with the chain's own parameters: biases are not
        at zero, where a layer that forgets them would pass."""
        network = Network([sketch.build() for sketch in self.sketches], self.input_shape,
                          dtype=dtype, device="cpu", seed=PARAMETER_SEEDS + self.seed, **keywords)
        generator = np.random.Generator(np.random.Philox(key=[PARAMETER_SEEDS + self.seed, 1]))
        network.set_parameters({
            name: values if name.endswith("weight")
            else values + 0.3 * generator.standard_normal(values.shape)
            for name, values in network.parameter_values().items()})
        return network

    @property
    def has_flatten(self):
        """Whether the size of the image is fixed."""
        return any(sketch.kind is Flatten for sketch in self.sketches)

    @property
    def has_corners(self):
        """Whether a derivative jumps somewhere: ReLU or max pooling."""
        return any(sketch.kind is MaxPool2d or sketch.options.get("activation") == "relu"
                   for sketch in self.sketches)

    def __str__(self):
        return f"{self.seed}: {_size(self.input_shape)}, " + ", ".join(
            map(_described, self.sketches))


def random_chain(seed, smooth=False):
    """The `Chain` of a seed. smooth: without the layers that make `has_corners` true."""
    return _Drawing(seed, smooth).chain()


class _Drawing:
    """Draws one layer after the other, keeping the shape that the next one gets."""

    def __init__(self, seed, smooth):
        self.seed = seed
        self.smooth = smooth
        self.generator = np.random.Generator(np.random.Philox(key=[seed, 0]))
        self.input_shape = (self.number(1, 3), self.number(6, 20), self.number(6, 20))
        self.shape = self.input_shape
        self.sketches = []

    def chain(self):
        body = self.choice([self.stages] * 4 + [self.mixture] * 3 + [
            self.convolutions, self.pooling_first, self.dense_first, self.dense_only])
        body()
        self.head()
        return Chain(self.seed, self.input_shape, tuple(self.sketches))

    # -- dice ----------------------------------------------------------------------------------

    def number(self, least, most):
        return int(self.generator.integers(least, most + 1))

    def chance(self, probability):
        return self.generator.random() < probability

    def choice(self, things):
        return things[self.number(0, len(things) - 1)]

    def two(self, least, most):
        """A pair, each from `least` to its own largest of `most`, every other time a square one."""
        if self.chance(0.5):
            return (self.number(least, min(most)),) * 2
        return tuple(self.number(least, largest) for largest in most)

    def activation(self):
        return self.choice(SMOOTH if self.smooth else activations.NAMES)

    # -- bodies --------------------------------------------------------------------------------

    @property
    def room(self):
        """How many layers the body may still have."""
        return MOST_LAYERS - MOST_OF_HEAD - len(self.sketches)

    def stages(self):
        for _ in range(self.number(1, 2)):
            self.stage()

    def mixture(self):
        for _ in range(self.number(1, self.room)):
            if self.room >= 2 and self.chance(0.2):
                self.stage()
            elif self.room:
                self.choice([self.conv, self.conv, self.pool, self.pool, self.dense])()

    def convolutions(self):
        for _ in range(self.number(2, 3)):
            self.conv()

    def pooling_first(self):
        for _ in range(self.number(1, 2)):
            self.pool()
        if self.chance(0.6):
            self.mixture()

    def dense_first(self):
        self.dense()
        if self.chance(0.7):
            self.mixture()

    def dense_only(self):
        self.add(Flatten)
        for _ in range(self.number(0, 2)):
            self.dense()

    # -- layers --------------------------------------------------------------------------------

    def add(self, kind, table=None, **options):
        sketch = LayerSketch(kind, options, table)
        self.shape = sketch.build().output_shape(self.shape)
        self.sketches.append(sketch)

    def stage(self):
        """A convolution and a pooling that tiles its output, or all but a last row or column."""
        self.conv(stride=(1, 1) if self.chance(0.8) else None)
        most = [min(LARGEST_POOL, size) for size in self.shape[1:]]
        pool_size = (2, 2) if min(most) >= 2 and self.chance(0.7) else self.two(1, most)
        self.pool(pool_size, "equal")

    def conv(self, *, stride=None, kernel_size=None, least_maps=1):
        padding = (0, 0)
        if kernel_size is None:
            padding = (0, 0) if self.chance(0.5) else self.two(0, (2, 2))
            kernel_size = self.two(1, [min(LARGEST_KERNEL, size + 2 * pad) for size, pad in
                                       zip(self.shape[1:], padding, strict=True)])
        if stride is None:
            stride = (1, 1) if self.chance(0.6) else self.two(1, (2, 2))
        in_maps = self.shape[0]
        kind, out_maps = self.choice(TABLES), self.number(least_maps, 8)
        if kind == "one-to-one":
            if in_maps < least_maps:
                kind = "full"
            else:
                out_maps = in_maps
        groups = [n for n in range(2, in_maps + 1) if in_maps % n == 0]
        if kind == "grouped" and not groups:
            kind = "shared"
        if kind == "grouped":
            groups = self.choice(groups)
            out_maps = groups * self.number(1, max(1, 8 // groups))
            connections = ConnectionTable.grouped(in_maps, out_maps, groups)
        else:
            connections = self.table(kind, in_maps, out_maps)
        self.add(Conv2d, kind, in_maps=in_maps, out_maps=out_maps, kernel_size=kernel_size,
                 stride=stride, padding=padding, connections=connections,
                 activation=self.activation(), bias=self.chance(0.7))

    def table(self, kind, in_maps, out_maps):
        if kind == "full":
            return None
        if kind == "one-to-one":
            return ConnectionTable.one_to_one(in_maps)
        if kind == "random":  # the weights in any order
            table = ConnectionTable.random(in_maps, out_maps, density=self.choice([0.2, 0.4, 0.6]),
                                           seed=self.seed)
            return ConnectionTable.from_pairs(self.generator.permutation(table.pairs, axis=1),
                                              in_maps, out_maps)
        if kind == "shared":  # two sets of input maps, which the output maps take in turn
            sets = self.generator.random((in_maps, 2)) < 0.5
            sets[self.number(0, in_maps - 1), :] = True
            return ConnectionTable.from_matrix(sets[:, np.arange(out_maps) % 2])
        # Runs of neighbours that begin one map further each time, longer after each round: the
        # first six of 6 maps are those of LeNet-5's C3.
        matrix = np.zeros((in_maps, out_maps), bool)
        for out_map in range(out_maps):
            length = min(in_maps, 3 + out_map // in_maps)
            matrix[np.arange(out_map, out_map + length) % in_maps, out_map] = True
        return ConnectionTable.from_matrix(matrix)

    def pool(self, pool_size=None, stride=None):
        if pool_size is None:
            most = [min(LARGEST_POOL, size) for size in self.shape[1:]]
            stride = self.choice(STRIDES)
            pool_size = self.two(2 if stride == "smaller" and min(most) >= 2 else 1, most)
        step = {"equal": 0, "smaller": -1, "larger": 1}[stride]
        options = {"pool_size": pool_size,
                   "stride": tuple(max(1, size + step) for size in pool_size)}
        if not self.smooth and self.chance(0.4):
            self.add(MaxPool2d, **options)
        else:
            self.add(Subsample2d, maps=self.shape[0], **options, activation=self.activation(),
                     trainable=self.chance(0.7))

    def dense(self, least_features=1):
        self.add(Dense, in_features=self.shape[0],
                 out_features=self.number(least_features, 8), activation=self.activation())

    # -- heads ---------------------------------------------------------------------------------

    def head(self):
        """One to three layers that leave one position and at least two classes."""
        if len(self.shape) == 1:
            self.denses(1, 2)
            return
        maps, height, width = self.shape
        heads = [self.flatten_and_denses, self.dense_and_flatten]
        if max(height, width) <= LARGEST_KERNEL:
            heads += [self.whole_convolution] * 4
        if max(height, width) <= LARGEST_POOL and maps > 1:
            heads += [self.whole_pooling] * 4
        self.choice(heads)()

    def denses(self, least, most):
        for _ in range(self.number(least, most) - 1):
            self.dense()
        self.dense(least_features=2)

    def flatten_and_denses(self, most=2):
        self.add(Flatten)
        if not 1 < self.shape[0] <= LARGEST_MAPS_AT_THE_END or self.chance(0.8):
            self.denses(1, most)

    def dense_and_flatten(self):
        self.dense(least_features=2)
        self.flatten_and_denses(most=1)

    def whole_convolution(self):
        self.conv(kernel_size=self.shape[1:], stride=(1, 1), least_maps=2)
        if self.chance(0.6):
            self.denses(1, 2)

    def whole_pooling(self):
        self.pool(self.shape[1:], "equal")
        if self.chance(0.4):
            self.denses(1, 2)


# -- words for test ids ----------------------------------------------------------------------------


def _size(sizes):
    return "x".join(map(str, sizes))


def _described(sketch):
    options = sketch.options
    words = [sketch.build().op]
    if sketch.kind is Conv2d:
        words += [f"{options['in_maps']}-{options['out_maps']} {sketch.table}",
                  _size(options["kernel_size"])]
        words += [f"/{_size(options['stride'])}"] if options["stride"] != (1, 1) else []
        words += [f"+{_size(options['padding'])}"] if any(options["padding"]) else []
        words += [] if options["bias"] else ["unbiased"]
    if "pool_size" in options:
        words += [_size(options["pool_size"]), f"/{_size(options['stride'])}"]
        words += ["untrained"] if not options.get("trainable", True) else []
    if sketch.kind is Dense:
        words.append(f"{options['in_features']}-{options['out_features']}")
    words += [options["activation"]] if "activation" in options else []
    return " ".join(words)
