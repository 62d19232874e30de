"""Which cases a random chain is an example of.

`traits_of(chain)` says so and `TRAITS` lists all there are, so that a test can assert that its
chains leave none out; `covering(chains)` are few of them that leave out no more than all do.
"""

from itertools import pairwise

import numpy as np

from gpucnn import ConnectionTable, activations
from tests.random_chains import LARGEST_KERNEL, LARGEST_POOL, MOST_LAYERS, STRIDES, TABLES

TRAITS = frozenset((
    *(f"{number} layers" for number in range(2, MOST_LAYERS + 1)),
    *(f"{number} input maps" for number in (1, 2, 3)), "non-square input",
    "conv2d", "subsample2d", "max_pool2d", "flatten", "dense",
    *(f"conv2d: {table} table" for table in TABLES), "conv2d: an input map goes unused",
    "conv2d: output maps share their input maps", "conv2d: weights in any order",
    *(f"conv2d: from {number} maps" for number in range(1, 9)),
    *(f"conv2d: to {number} maps" for number in range(1, 9)),
    *(f"conv2d: kernel of {size}" for size in range(1, LARGEST_KERNEL + 1)),
    *(f"conv2d: stride of {size}" for size in (1, 2)),
    *(f"conv2d: padding of {size}" for size in (0, 1, 2)),
    "conv2d: non-square kernel", "conv2d: non-square stride", "conv2d: non-square padding",
    "conv2d: with bias", "conv2d: without bias", "conv2d: some pixels are in no window",
    *(f"{op}: {name}" for op in ("conv2d", "subsample2d", "dense") for name in activations.NAMES),
    *(f"{op}: {trait}" for op in ("subsample2d", "max_pool2d") for trait in (
        *(f"pool of {size}" for size in range(1, LARGEST_POOL + 1)), "non-square pool",
        *(f"stride {stride}" for stride in STRIDES), "first")),
    "subsample2d: trainable", "subsample2d: not trainable",
    *(f"conv2d and {op} that tiles it{rest}" for op in ("subsample2d", "max_pool2d")
      for rest in ("", ", but for a last row or column")),
    "conv2d and conv2d", "pooling and pooling", "dense and conv2d", "dense and pooling",
    "dense: at several positions", "dense: at one position", "dense: behind flatten",
    "dense: first", "nothing but dense", "last: conv2d", "last: pooling", "last: dense",
    "last: flatten", "last: behind flatten", "last: one position",
))


def traits_of(chain):
    """Which of `TRAITS` a `Chain` has."""
    layers = [sketch.build() for sketch in chain.sketches]
    shapes = [chain.input_shape]
    for layer in layers:
        shapes.append(layer.output_shape(shapes[-1]))
    traits = {f"{len(layers)} layers", f"{chain.input_shape[0]} input maps"}
    if chain.input_shape[1] != chain.input_shape[2]:
        traits.add("non-square input")
    for sketch, layer, shape in zip(chain.sketches, layers, shapes, strict=False):
        traits |= {layer.op} | _traits_of_layer(sketch, layer, shape)
    for number, (layer, following) in enumerate(pairwise(layers)):
        traits |= _traits_of_pair(layer, following, shapes[number + 1])
    return frozenset(traits | _traits_of_ends(layers, shapes))


def covering(chains):
    """Some of the chains that together have the traits of all: again and again the one that has
    the most of those that are left."""
    traits = list(map(traits_of, chains))
    left, chosen = set().union(*traits), []
    while left:
        number = max(range(len(chains)), key=lambda number: len(traits[number] & left))
        chosen.append(chains[number])
        left -= traits[number]
    return chosen


def _traits_of_layer(sketch, layer, shape):
    if layer.op == "flatten":
        return set()
    if layer.op == "dense":
        place = ("behind flatten" if len(shape) == 1
                 else "at one position" if shape[1:] == (1, 1) else "at several positions")
        return {f"dense: {layer.activation}", f"dense: {place}"}
    if layer.op == "conv2d":
        return {f"conv2d: {trait}" for trait in _traits_of_conv(sketch.table, layer, shape)}
    traits = {f"pool of {size}" for size in layer.pool_size}
    traits |= {f"stride {stride}" for stride, step in (("equal", 0), ("smaller", -1), ("larger", 1))
               if np.array_equal(np.sign(np.subtract(layer.stride, layer.pool_size)), [step] * 2)}
    if layer.pool_size[0] != layer.pool_size[1]:
        traits.add("non-square pool")
    if layer.op == "subsample2d":
        traits |= {layer.activation, "trainable" if layer.trainable else "not trainable"}
    return {f"{layer.op}: {trait}" for trait in traits}


def _traits_of_conv(table, layer, shape):
    traits = {f"{table} table", f"from {layer.in_maps} maps", f"to {layer.out_maps} maps",
              layer.activation, "with bias" if layer.has_bias else "without bias"}
    for name, sizes in (("kernel", layer.kernel_size), ("stride", layer.stride),
                        ("padding", layer.padding)):
        traits |= {f"{name} of {size}" for size in sizes}
        if sizes[0] != sizes[1]:
            traits.add(f"non-square {name}")
    if any((size + 2 * pad - kernel) % step for size, pad, kernel, step in zip(
            shape[1:], layer.padding, layer.kernel_size, layer.stride, strict=True)):
        traits.add("some pixels are in no window")
    connections = layer.connections
    if not connections.fan_out.all():
        traits.add("an input map goes unused")
    if connections != ConnectionTable.from_matrix(connections.matrix):
        traits.add("weights in any order")
    input_sets = [tuple(column) for column in connections.matrix.T]
    if connections.density < 1 and len(set(input_sets)) < len(input_sets):
        traits.add("output maps share their input maps")
    return traits


def _traits_of_pair(layer, following, shape):
    """`shape` is that of the maps between the two."""
    traits = {f"{_family(layer)} and {_family(following)}"}
    if _family(layer) == "conv2d" and _family(following) == "pooling" and (
            following.pool_size == following.stride != (1, 1)):
        rest = any(size % pool for size, pool in zip(shape[1:], following.pool_size, strict=True))
        traits.add(f"conv2d and {following.op} that tiles it"
                   + (", but for a last row or column" if rest else ""))
    return traits & TRAITS


def _traits_of_ends(layers, shapes):
    first, last = layers[0], layers[-1]
    traits = {f"last: {_family(last)}",
              f"last: {'behind flatten' if len(shapes[-1]) == 1 else 'one position'}"}
    if _family(first) in ("pooling", "dense"):
        traits.add(f"{first.op}: first")
    if first.op == "flatten":
        traits.add("nothing but dense")
    return traits


def _family(layer):
    return "pooling" if layer.op in ("subsample2d", "max_pool2d") else layer.op
