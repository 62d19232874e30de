"""What a group of layers asks of the kernels: links between boundaries.

A *link* is a layer as the fused kernels compute it, a *boundary* the maps between two links. A
Flatten is no link: it gives the maps before it another shape, and boundaries have no shape but in
the eyes of a link.
"""

from dataclasses import dataclass
from math import prod

from gpucnn.connections import ConnectionTable
from gpucnn.program import LayerProgram


@dataclass(frozen=True)
class Link:
    """One layer of a group.

    `kind` names the struct that computes it: "conv2d", "subsample2d", "max_pool2d" or "matrix" (a
    matrix product for each sample). Shapes are (maps, height, width). `before` is the activation
    that made its input, whose slope the gradient by that input is multiplied by.
    """

    kind: str
    spec: LayerProgram
    input_shape: tuple[int, int, int]
    output_shape: tuple[int, int, int]
    before: str
    needs_grad_input: bool

    @property
    def activation(self):
        return self.spec.options.get("activation", "identity")

    @property
    def kernel_size(self):
        """(height, width); a Dense has one of a single pixel."""
        return self._option("kernel_size", (1, 1))

    @property
    def stride(self):
        return self._option("stride", (1, 1))

    @property
    def padding(self):
        return self._option("padding", (0, 0))

    @property
    def features(self):
        """(inputs, outputs) of a sample, as a matrix link has them."""
        return prod(self.input_shape), prod(self.output_shape)

    @property
    def pool_size(self):
        return self.spec.options["pool_size"]

    @property
    def connections(self):
        """The connection table of a conv2d link; that of a Dense is full."""
        return (self.spec.connections
                or ConnectionTable.full(self.input_shape[0], self.output_shape[0]))

    @property
    def weight(self):
        """The `ParameterSlot` of weights or coefficients, or None."""
        return self._slot("weight") or self._slot("coefficient")

    @property
    def bias(self):
        return self._slot("bias")

    @property
    def overlaps(self):
        """Whether a pixel may lie in several pooling windows."""
        return any(pool > step for pool, step in zip(self.pool_size, self.stride, strict=True))

    def _option(self, name, default):
        return self.spec.options.get(name, default)

    def _slot(self, name):
        return next((slot for slot in self.spec.parameters if slot.name == name), None)


@dataclass(frozen=True)
class Boundary:
    """The maps between two links: (maps, height, width), with a border of zeros (vertical,
    horizontal) for a padded convolution; `compact` ones are contiguous for each sample."""

    shape: tuple[int, int, int]
    border: tuple[int, int]
    compact: bool


@dataclass(frozen=True)
class Chain:
    """The links of a group and the boundaries around them, one more than links. `first` groups
    begin with the images, `last` ones end with the loss."""

    links: tuple[Link, ...]
    boundaries: tuple[Boundary, ...]
    first: bool
    last: bool

    @property
    def last_activation(self):
        return self.links[-1].activation if self.links else "identity"


def chain_of(layers, input_shape, *, first, last):
    """The `Chain` of neighbouring `LayerProgram`s, whose input has `input_shape`."""
    links, shape = [], _maps(input_shape)
    for spec in layers:
        if spec.op == "flatten":
            shape = _maps(spec.output_shape)
            continue
        output_shape = _maps(spec.output_shape)
        links.append(Link(_kind(spec), spec, shape, output_shape,
                          links[-1].activation if links else "identity",
                          needs_grad_input=bool(links) or not first))
        shape = output_shape
    flattened = tuple(number for number, spec in enumerate(layers) if spec.op == "flatten")
    return Chain(tuple(links), tuple(_boundaries(layers, links, _maps(input_shape), flattened,
                                                 last)), first, last)


def _boundaries(layers, links, input_shape, flattened, last):
    shapes = [input_shape, *(link.output_shape for link in links)]
    compact = [False] * len(shapes)
    compact[-1] = last  # the loss reads its outputs side by side
    for place in flattened:
        compact[sum(spec.op != "flatten" for spec in layers[:place])] = True
    for number, link in enumerate(links):
        if link.kind == "matrix":
            compact[number] = True
    for number, shape in enumerate(shapes):
        padding = links[number].padding if number < len(links) else (0, 0)
        yield Boundary(shape, padding, compact[number])


def _kind(spec):
    if spec.op == "dense":
        return "matrix" if prod(spec.input_shape[1:]) == 1 else "conv2d"
    if spec.op == "conv2d" and _covers_input(spec):
        return "matrix"
    return spec.op


def _covers_input(spec):
    """Whether a convolution is a product of a matrix with the whole input of a sample."""
    table = spec.connections
    return (spec.options["padding"] == (0, 0)
            and spec.options["kernel_size"] == spec.input_shape[1:]
            and table == ConnectionTable.full(table.in_maps, table.out_maps))


def _maps(shape):
    """A sample's shape as (maps, height, width)."""
    return tuple(shape) if len(shape) == 3 else (*shape, 1, 1)
