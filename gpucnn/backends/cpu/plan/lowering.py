"""From a network's layers to the steps of a plan."""

from dataclasses import dataclass, replace
from math import prod

from gpucnn.backends.cpu.memory import padded
from gpucnn.backends.cpu.plan.conv2d import Conv2d
from gpucnn.backends.cpu.plan.dense import Dense, covers
from gpucnn.backends.cpu.plan.layout import Layout
from gpucnn.backends.cpu.plan.plain_op import PlainOp
from gpucnn.backends.cpu.plan.pooling import TiledMaxPool2d, TiledSubsample2d
from gpucnn.backends.cpu.plan.tables import groupings, seconds_to_move
from gpucnn.backends.cpu.plan.views import Flatten
from gpucnn.backends.cpu.plan.windows import Windows
from gpucnn.shapes import window_positions

ONE = (1, 1)
SAMPLES = 32        # of a micro-batch, as estimates have it
POOLING_PASSES = 1  # over the pixels that pooling reads, forward and backward


@dataclass(frozen=True)
class Lowering:
    """The steps of a plan, and the layout of the images that the first one takes."""

    steps: tuple
    input_layout: Layout

    @property
    def gradient_size(self):
        """How many numbers the gradients of all steps take together."""
        return self.places()[-1].stop

    def places(self):
        """Where each step's part of the gradients lies, from a cache line's beginning on."""
        first, places = 0, []
        for step in self.steps:
            places.append(slice(first, first + step.gradient_size))
            first += padded(step.gradient_size)
        return places


def lower(layers, input_shape, dtype):
    """The `Lowering` of a chain of `LayerProgram`s for images of `input_shape`."""
    roles = [_role(layers, number) for number in range(len(layers))]
    windows, phases = _windows(layers, roles)
    scaled = _scaled(roles)
    input_layout = layout = Layout(input_shape[0], input_shape[1:], phases=phases[0])
    layers, left = _leave_relu(layers, roles)
    steps = []
    for number, (layer, role) in enumerate(zip(layers, roles, strict=True)):
        common = {"scaled": scaled[number + 1], "dtype": dtype}
        if role == "conv2d":
            way, ways = windows[number]
            used = tuple(map(int.__mul__, way[0].cells, way[0].slabs))
            out = Layout(layer.output_shape[0], used, way[0].slabs, way[0].out_phases)
            step = Conv2d(layer, layout.scale, out, *way, ways, **common)
        elif role == "tiled subsample2d":
            step = TiledSubsample2d(layer, layout, phases[number + 1], **common)
        elif role == "tiled max_pool2d":
            in_place = layers[number - 1].options["activation"] == "identity"
            step = TiledMaxPool2d(layer, layout, phases[number + 1], left[number],
                                  in_place=in_place)
        else:
            step = _of_any_plan(layer, role, layout.scale, **common)
        steps.append(step)
        layout = step.layout
    return Lowering(tuple(steps), input_layout)


def _of_any_plan(layer, role, input_scale, *, scaled, dtype):
    if role == "dense":
        return Dense(layer, input_scale, layer.output_shape[1:] or ONE, scaled=scaled, dtype=dtype)
    if role == "flatten":
        return Flatten(layer, input_scale)
    return PlainOp(layer, dtype=dtype)


def _role(layers, number):
    """How a layer will be computed."""
    layer = layers[number]
    if layer.op == "conv2d":
        return "dense" if covers(layer) else "conv2d"
    if layer.op in ("subsample2d", "max_pool2d"):
        options = layer.options
        behind = number and _role(layers, number - 1) == "conv2d"
        if behind and options["pool_size"] == options["stride"]:
            return f"tiled {layer.op}"
        return "plain"
    return layer.op


def _leave_relu(layers, roles):
    """The layers, with ReLUs before a max pooling left to the pooling, and the activation that is
    left to each layer: the ReLU of a maximum is the maximum of the ReLUs, and the same pixel takes
    the gradient, for a fraction of the pixels."""
    layers, left = list(layers), ["identity"] * len(layers)
    for number in range(1, len(layers)):
        before = layers[number - 1]
        if roles[number] == "tiled max_pool2d" and before.options["activation"] == "relu":
            layers[number - 1] = replace(before,
                                         options=before.options | {"activation": "identity"})
            left[number] = "relu"
    return layers, left


def _scaled(roles):
    """For each boundary, the network's input first, whether whoever reads it multiplies by the
    scale; the loss does not."""
    scaled = [False]
    for role in reversed(roles):
        passed_on = role in ("flatten", "tiled max_pool2d")
        scaled.append(scaled[-1] if passed_on else role != "plain")
    return scaled[::-1]


def _windows(layers, roles):
    """The way chosen for each convolution, with all that were considered, and the phases of each
    boundary: from the last layer to the first, since the reader decides."""
    chosen, phases = {}, [ONE] * (len(layers) + 1)
    for number in reversed(range(len(layers))):
        if roles[number] != "conv2d":
            continue
        pooled = number + 1 < len(layers) and roles[number + 1].startswith("tiled")
        slabs = layers[number + 1].options["pool_size"] if pooled else ONE
        can_split = number == 0 or roles[number - 1].startswith(("conv2d", "tiled"))
        ways = sorted(_ways(layers[number], slabs, phases[number + 1 + pooled], can_split,
                            first=number == 0),
                      key=lambda way: way[1].seconds)
        chosen[number] = ways[0], [(_named(*way), way[1].seconds) for way in ways]
        phases[number] = ways[0][0].in_phases
    return chosen, phases


def _ways(layer, slabs, out_phases, can_split, first):
    """(windows, grouping) of every way to compute a convolution whose output is pooled by `slabs`:
    a column for each pixel, in rows or in slabs, or for each pooling cell."""
    kernel, stride, padding = (layer.options[name] for name in ("kernel_size", "stride", "padding"))
    size = layer.input_shape[1:]
    cells = tuple(window_positions(extent, length, step, pad) // slab for extent, length, step, pad,
                  slab in zip(size, kernel, stride, padding, slabs, strict=True))
    ways = [Windows(kernel, stride, cells, slabs, out_phases, ONE, aligned=True)]
    if prod(slabs) > 1:
        pixels = tuple(map(int.__mul__, cells, slabs))
        ways += [Windows(kernel, stride, cells, slabs, out_phases, ONE, aligned=False),
                 Windows(kernel, stride, pixels, ONE, ONE, ONE, aligned=True)]
    for way in ways:
        if way.aligned and can_split and padding == (0, 0):
            way = replace(way, in_phases=tuple(map(_split, way.pitch, way.reach, size)))
        for windows, grouping in _groupings(layer.connections, way, first):
            if windows.slabs != slabs:  # what pooling loses by pixels that lie apart
                outputs = prod(layer.output_shape)
                grouping = replace(grouping, seconds=grouping.seconds
                                   + POOLING_PASSES * outputs * seconds_to_move(SAMPLES))
            yield windows, grouping


def _groupings(connections, windows, first):
    """(windows, grouping) of every way to compute a table, in the form that is the cheapest."""
    best = {}
    for form in _forms(windows):
        for way in groupings(connections, form, SAMPLES, first=first):
            if way.name not in best or way.seconds < best[way.name][1].seconds:
                best[way.name] = form, way
    return best.values()


def _forms(windows):
    """The same windows, with and without lines that they share."""
    return [windows, replace(windows, lines=True)] if windows.can_share_lines else [windows]


def _split(pitch, reach, size):
    """Into how many phases one axis of the input is split, so that pixels which are read together
    lie together: `pitch` if that divides evenly."""
    return pitch if reach % pitch == 0 and size % pitch == 0 else 1


def _named(windows, grouping):
    if not windows.aligned:
        return f"{grouping.name} by pixel in slabs"
    return f"{grouping.name} {'by pooling cell' if prod(windows.slabs) > 1 else 'by pixel'}"
