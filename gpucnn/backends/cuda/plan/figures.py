"""What kernels do, counted by hand: multiply-adds and bytes, and the least time for them."""

from math import prod

import numpy as np

LANES = {(7, 5): 64, (8, 0): 64}  # multiply-adds that a multiprocessor does in a cycle, else 128


def group_multiply_adds(planned, direction):
    """Multiply-adds of a group's kernel for one sample: forward, and in a backward kernel the
    gradients too, but for those of matrix weights, which are the update's."""
    total = 0
    for layer in planned.layers:
        passes = 1
        if direction == "backward":
            passes += (layer.link.kind != "matrix") + layer.link.needs_grad_input
        total += passes * layer.link.spec.multiply_adds
    return total


def step_multiply_adds(planned):
    """Multiply-adds of a sample's whole step: forward and all gradients."""
    return sum((2 + layer.link.needs_grad_input) * layer.link.spec.multiply_adds
               for layer in planned.layers)


def group_bytes(planned, blocks, direction):
    """Bytes that a group's kernel asks of global memory for a whole batch."""
    chain, item, batch = planned.chain, np.dtype(planned.dtype).itemsize, planned.batch_size
    parts = -(-batch // planned.samples)
    total = batch * prod(chain.boundaries[0].shape) * (1 if chain.first else item)
    if direction == "forward":
        total += batch * prod(chain.boundaries[-1].shape) * item
    for layer in planned.layers:
        size = layer.link.weight.size if layer.link.weight else 0
        if layer.link.kind == "matrix":  # read for each part, and saved for the update
            total += size * parts * item
            if direction == "backward":
                total += item * (size * parts * layer.link.needs_grad_input
                                 + batch * sum(layer.link.features))
        else:
            total += size * blocks * item
            if direction == "backward":
                total += blocks * layer.parts * layer.partial_size * item
    if direction == "backward" and not chain.first:
        total += batch * prod(chain.boundaries[0].shape) * item
    if direction == "backward" and not chain.last:
        total += batch * prod(chain.boundaries[-1].shape) * item
    return total


def layer_bytes(program, layer, passes):
    """Bytes that a layer's own kernels ask of global memory, in so many passes over its maps."""
    item = np.dtype(program.dtype).itemsize
    maps = prod(layer.input_shape) + prod(layer.output_shape)
    return passes * item * (program.batch_size * maps
                            + sum(slot.size for slot in layer.parameters))


def limit_seconds(device, multiply_adds, count):
    """The least time of a device for so many multiply-adds and bytes; None if nobody knows its
    clock and bandwidth."""
    if not device.clock or not device.bandwidth:
        return None
    rate = device.multiprocessors * LANES.get(device.compute_capability, 128) * device.clock
    return max(multiply_adds / rate, count / device.bandwidth)
