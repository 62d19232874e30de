"""Which layers go together into one kernel, by what fits into a block's shared memory.

A step is a row of parts: groups, and layers that run by themselves through the backend's own ops.
The first part is a group, which gathers the images, and so is the last, which has the loss; either
may be without layers.
"""

from math import prod

from gpucnn.backends.cuda.plan.chain import chain_of
from gpucnn.backends.cuda.plan.group import fits

LAUNCH = 2.5e-6       # seconds that a kernel takes beside its work
PLAIN_LAUNCHES = 6    # of a layer by itself, forward and backward
MULTIPLY_ADDS = 1e13  # that a device is thought to do in a second
PLAIN_FACTOR = 4      # by how much a layer's own kernels are slower
BYTES = 2e12          # that a device is thought to move in a second


def partition(program, profile):
    """The parts of a step in order: a pair (begin, end) for a group of `program.layers[begin:end]`,
    a number for a layer by itself. Of all ways that fit, the one that is estimated to be
    quickest; None if no block has room for an image."""
    n = len(program.layers)
    groups, alone = {}, {}  # how many layers are done -> (seconds, parts), by what the last part is
    for done in range(n + 1):
        if done:
            _keep(alone, done, [groups.get(done - 1), alone.get(done - 1)],
                  _alone_seconds(program, done - 1), done - 1)
        for begin in range(done + 1):
            if (begin < done or done in (0, n)) and _fits(program, profile, begin, done):
                before = [(0.0, ())] if begin == 0 else [alone.get(begin)]
                before += [groups.get(begin)] if 0 < begin < done else []
                _keep(groups, done, before, _group_seconds(program, begin, done), (begin, done))
    return groups[n][1] if n in groups else None


def chain_for(program, begin, end):
    """The `Chain` of `program.layers[begin:end]`."""
    layers = program.layers
    shape = layers[begin].input_shape if begin < len(layers) else layers[-1].output_shape
    return chain_of(layers[begin:end], shape, first=begin == 0, last=end == len(layers))


def _keep(found, done, before, seconds, part):
    """Note the quickest of the ways in `before`, with `part` behind it, if it beats what is
    known."""
    for way in before:
        if way is not None and (done not in found or way[0] + seconds < found[done][0]):
            found[done] = way[0] + seconds, (*way[1], part)


def _fits(program, profile, begin, end):
    return fits(chain_for(program, begin, end), program.dtype, profile)


def _group_seconds(program, begin, end):
    """A group before the last computes its maps a second time, and passes them on in memory."""
    layers, last = program.layers[begin:end], end == len(program.layers)
    work = sum(layer.multiply_adds for layer in layers) * program.batch_size
    passed_on = 0 if last else 3 * 4 * prod(program.layers[end].input_shape) * program.batch_size
    return LAUNCH * (1 if last else 2) + (3 if last else 4) * work / MULTIPLY_ADDS + (
        passed_on / BYTES)


def _alone_seconds(program, number):
    layer = program.layers[number]
    if layer.op == "flatten":
        return 0.0
    moved = 6 * 4 * (prod(layer.input_shape) + prod(layer.output_shape)) * program.batch_size
    return (LAUNCH * PLAIN_LAUNCHES
            + 3 * PLAIN_FACTOR * layer.multiply_adds * program.batch_size / MULTIPLY_ADDS
            + moved / BYTES)
