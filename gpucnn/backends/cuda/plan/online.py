"""Online training: `OnlineStep` and `OnlineMany`, a launch for thousands of samples one after the
other, and for as many networks as there are."""

import numpy as np

from gpucnn.backends.base import CompiledMany, CompiledStep
from gpucnn.backends.cuda.plan.explain import bytes_text, microseconds_text
from gpucnn.backends.cuda.plan.figures import limit_seconds, step_multiply_adds
from gpucnn.backends.cuda.plan.optimizer_op import ask, op_of

LONGEST_LAUNCH = 4096  # samples: a few hundredths of a second, which no display would miss
TIMED_SAMPLES = 64


class OnlineKernel:
    """The kernel of a network and an optimiser, for any number of networks alike."""

    def __init__(self, program, planned, backend):
        self.planned = planned
        self.program = program
        self.backend = backend
        op = op_of(program.optimizer, np.dtype(program.dtype))
        self._source = planned.source(op.struct)
        self._constants = backend.from_host(np.array(op.constants, program.dtype))
        self._target = getattr(program.loss, "target", 0.0)
        backend.kernels.prepare(self._source)

    def run(self, images, labels, orders, shifts, parameters, gradients, state, scalars, losses,
            totals, progress):
        """Train networks whose flat arrays lie `planned.parameters_apart` from each other, on all
        samples of `orders` (networks, samples); the other arrays as `CompiledMany.train` has them.
        """
        networks, samples = orders.shape
        first, second = ask(self.program.optimizer, parameters, gradients, state).state
        byte = images.dtype == np.uint8
        low, high = self.program.input_range
        for begin in range(0, samples, LONGEST_LAUNCH):
            end = min(begin + LONGEST_LAUNCH, samples)
            self.backend.kernels.launch(
                self._source, "online", networks * self.planned.blocks, self.planned.threads,
                images if byte else None, None if byte else images, labels, orders, shifts,
                parameters, gradients, first, second, self._constants, scalars, losses, totals,
                networks, samples, begin, end, *images.shape[2:], low, (high - low) / 255,
                self._target, shared_bytes=self.planned.shared_bytes)
            if progress is not None:
                progress(networks * (end - begin))

    def explain(self, networks, profile):
        """A text: where each weight lives, what a block takes, and the time of an update."""
        backend, planned, program = self.backend, self.planned, self.program
        device = backend.runtime.profile
        taken = backend.kernels.resources(self._source, "online")
        lines = [f"online plan on {backend.device}: {program.dtype}, one sample an update, "
                 f"{networks} network{'s' * (networks > 1)}, each in {_blocks(planned.blocks)} of "
                 f"{planned.threads} threads and {planned.shared_bytes / 1024:.1f} KB of shared "
                 f"memory; {device.name}: {device.multiprocessors} multiprocessors",
                 f"online: {_or_unknown(taken and taken.registers)} registers a thread, "
                 f"{planned.registers_of_weights} of them hold weights; launches of up to "
                 f"{LONGEST_LAUNCH} samples"]
        for layer, home in zip(planned.group.layers, planned.homes, strict=True):
            divided = ", ".join(sorted(layer.spread))
            weights = ""
            if layer.link.weight is not None:
                size = layer.link.weight.size * np.dtype(program.dtype).itemsize
                place = HOMES["shared" if home.kind == "held" and not home.held else home.kind]
                weights = f", weights of {bytes_text(size)} in {place}"
            lines.append(f"{layer.link.spec.name}: {layer.link.spec.op}{weights}"
                         + (f"; divided among the blocks: {divided}" if divided else ""))
        if program.precision != "float32":
            lines.append(f"precision {program.precision}: one sample is no work for tensor cores, "
                         f"everything is float32")
        if taken and taken.local_bytes:
            lines.append(f"online: {taken.local_bytes} bytes of local memory a thread: registers "
                         f"spill")
        if profile:
            products = step_multiply_adds(planned.group)
            limit = limit_seconds(device, products * device.multiprocessors, 0)
            lines.append(f"an update: {products:,} multiply-adds, "
                         f"{microseconds_text(self._seconds())}; limit of one multiprocessor "
                         f"{microseconds_text(limit)}")
        return "\n".join(lines)

    def _seconds(self):
        """The mean time of an update, of one network that nobody has."""
        backend, program, dtype = self.backend, self.program, np.dtype(self.program.dtype)
        zeros = backend.zeros
        optimizer = program.optimizer
        scalars = np.tile(np.array([optimizer.scalars(1, optimizer.lr)], dtype),
                          (TIMED_SAMPLES, 1))[np.newaxis]
        arguments = (zeros((1, *program.input_shape), np.uint8), zeros((1,), np.int32),
                     zeros((1, TIMED_SAMPLES), np.int32), None,
                     zeros((program.n_parameters,), dtype), zeros((program.n_parameters,), dtype),
                     optimizer.state(backend, program.n_parameters, dtype),
                     backend.from_host(scalars), zeros((1,), dtype), zeros((1, 3), np.float64),
                     None)
        return backend.runtime.seconds(lambda: self.run(*arguments)) / TIMED_SAMPLES


HOMES = {"shared": "shared memory", "held": "registers and shared memory",
         "global": "global memory, for want of room"}


class OnlineStep(CompiledStep):
    """Steps of one sample each, of one network."""

    def __init__(self, program, parameters, gradients, backend, planned):
        self.program = program
        self.backend = backend
        self.parameters = parameters
        self.gradients = gradients
        self.kernel = OnlineKernel(program, planned, backend)

    def train(self, images, labels, order, shifts, scalars, state, loss, totals, progress=None):
        contiguous = self.backend.contiguous
        self.kernel.run(contiguous(images, "images", None), contiguous(labels, "labels", None),
                        order.reshape((1, len(order))), shifts, self.parameters, self.gradients,
                        state, scalars, loss, totals, progress)

    def explain(self, *, profile=False):
        return self.kernel.explain(1, profile)


class OnlineMany(CompiledMany):
    """Steps of one sample each, of many networks at once: each in a block of its own."""

    def __init__(self, program, parameters, backend, planned):
        self.backend = backend
        self.kernel = OnlineKernel(program, planned, backend)
        self._networks = parameters
        self._size = program.n_parameters
        shape, dtype = (len(parameters), planned.parameters_apart), np.dtype(program.dtype)
        self._parameters = backend.empty(shape, dtype)
        self._gradients = backend.empty(shape, dtype)
        self._state = {name: backend.empty(shape, dtype) for name in program.optimizer.state(
            backend, 1, dtype)}

    def train(self, images, labels, orders, shifts, scalars, states, losses, totals,
              progress=None):
        copy, contiguous = self.backend.copy, self.backend.contiguous
        for row, flat in enumerate(self._networks):
            copy(flat, self._parameters[row, :self._size])
            for name, array in self._state.items():
                copy(states[row][name], array[row, :self._size])
        self.kernel.run(contiguous(images, "images", None), contiguous(labels, "labels", None),
                        orders, shifts, self._parameters, self._gradients, self._state, scalars,
                        losses, totals, progress)
        for row, flat in enumerate(self._networks):
            copy(self._parameters[row, :self._size], flat)
            for name, array in self._state.items():
                copy(array[row, :self._size], states[row][name])

    def explain(self, *, profile=False):
        return self.kernel.explain(len(self._networks), profile)


def _blocks(count):
    return "a block" if count == 1 else f"a cluster of {count} blocks"


def _or_unknown(value):
    return "an unknown number of" if value is None else value
