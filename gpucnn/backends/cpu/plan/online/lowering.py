"""From a network's layers to the steps for one sample."""

from dataclasses import replace
from functools import partial
from math import prod

from gpucnn.backends.cpu.plan.conv2d import Conv2d
from gpucnn.backends.cpu.plan.dense import Dense, covers
from gpucnn.backends.cpu.plan.layout import ONE, Layout
from gpucnn.backends.cpu.plan.online import low_rank
from gpucnn.backends.cpu.plan.online.conv2d import WideConv2d, run_of, source_pitch
from gpucnn.backends.cpu.plan.online.dense import VectorDense
from gpucnn.backends.cpu.plan.online.flatten import Flatten
from gpucnn.backends.cpu.plan.online.general import General
from gpucnn.backends.cpu.plan.online.subsample2d import WideSubsample2d
from gpucnn.backends.cpu.plan.plain_op import PlainOp
from gpucnn.backends.cpu.plan.squash import Squash
from gpucnn.backends.cpu.plan.tables import groupings
from gpucnn.backends.cpu.plan.windows import Windows

WIDE_CONV = "wide conv2d"
WIDE = "one dense product on long runs"
MOST_WINDOW_NUMBERS = 256  # in all rows of a pooling window: its product takes every one of them


def lower_online(program):
    """The `Step`s for one sample of a `Program`, in order; and the scale of the images that the
    first one wants: the true images are as many times those stored."""
    layers, dtype = program.layers, program.dtype
    pitches, ways = _pitches(layers)
    roles = [_role(layer, pitch, way) for layer, pitch, way
             in zip(layers, pitches, ways, strict=True)]
    steps, scale = [], _input_scale(layers[0], roles[0])
    input_scale = scale
    for number, (layer, role) in enumerate(zip(layers, roles, strict=True)):
        common = {"scaled": _reads_scaled(roles[number + 1:])}
        considered = [(way.name, way.seconds) for way in ways[number]]
        pitch = steps[-1].pitch if steps else layer.input_shape[2]
        if role == WIDE_CONV:
            step = WideConv2d(layer, pitch, scale, considered,
                              compact=not _takes_gaps(roles[number + 1:]), **common)
        elif role == "wide subsample2d":
            step = WideSubsample2d(layer, pitch, scale, **common)
        elif role == "vector dense" and low_rank.pays(layer, program.optimizer):
            step = low_rank.LowRankDense(layer, scale, program.optimizer, **common)
        elif role == "vector dense":
            step = VectorDense(layer, scale, **common)
        elif role == "flatten":
            step = Flatten(layer, scale)
        else:
            step = General(layer, partial(_general, ways=ways[number], dtype=dtype))
        steps.append(step)
        scale = step.scale
    return steps, input_scale


def _input_scale(layer, role):
    """That by which a convolution's slope needs no call: many images are scaled at once."""
    return 1 / Squash(layer.options["activation"], scaled=True).slope if role == WIDE_CONV else 1.0


def _pitches(layers):
    """For each layer the pitch of what it reads if every convolution before leaves gaps, and the
    ways to compute a convolution, the cheapest first."""
    pitches, ways, pitch = [], [], layers[0].input_shape[2]
    for number, layer in enumerate(layers):
        pitches.append(pitch)
        ways.append(_ways(layer, pitch, first=number == 0) if _is_convolution(layer) else [])
        is_wide = ways[-1] and ways[-1][0].name == WIDE
        pitch = source_pitch(layer, pitch) if is_wide else (*layer.output_shape, 1, 1)[2]
    return pitches, ways


def _ways(layer, pitch, *, first):
    """Every way to compute a convolution: on long runs, or by those of the batch plan."""
    windows = _windows(layer)
    ways = groupings(layer.connections, windows, 1, first=first)
    if layer.options["stride"] == ONE:
        run = run_of(layer.output_shape, source_pitch(layer, pitch))
        ways += [replace(way, name=WIDE) for way in groupings(
            layer.connections, replace(windows, run=run), 1, first=first)
            if way.name == "one dense product"]
    return sorted(ways, key=lambda way: way.seconds)


def _windows(layer):
    return Windows(layer.options["kernel_size"], layer.options["stride"], layer.output_shape[1:],
                   ONE, ONE, ONE, True)


def _is_convolution(layer):
    return layer.op == "conv2d" and not covers(layer)


def _role(layer, pitch, ways):
    """How a layer will be computed."""
    if ways:
        return WIDE_CONV if ways[0].name == WIDE else "general"
    if layer.op in ("conv2d", "dense"):
        return "vector dense" if prod(layer.output_shape[1:]) == 1 else "general"
    if layer.op == "subsample2d":
        size, stride = layer.options["pool_size"], layer.options["stride"]
        fits = size[0] * pitch <= MOST_WINDOW_NUMBERS
        return "wide subsample2d" if size == stride and fits else "general"
    return "flatten" if layer.op == "flatten" else "general"


def _reads_scaled(following):
    """Whether whoever reads what a step stores multiplies it by its scale; the loss does not."""
    reader = next((role for role in following if role != "flatten"), "loss")
    return reader not in ("general", "loss")


def _takes_gaps(following):
    """Whether the next step reads maps whose rows lie apart."""
    return bool(following) and following[0].startswith("wide")


def _general(layer, *, ways, dtype):
    """The batch plan's `Step` for a layer that reads and stores true values."""
    common = {"scaled": False, "dtype": dtype}
    if ways:
        layout = Layout(layer.output_shape[0], layer.output_shape[1:])
        ways = [way for way in ways if way.name != WIDE]
        return Conv2d(layer, 1.0, layout, _windows(layer), ways[0],
                      [(way.name, way.seconds) for way in ways], **common)
    if layer.op in ("conv2d", "dense"):
        return Dense(layer, 1.0, layer.output_shape[1:] or ONE, **common)
    return PlainOp(layer, dtype=dtype)
