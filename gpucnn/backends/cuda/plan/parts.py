"""The parts of a step bound to arrays: groups of layers, and layers that run by themselves."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpucnn.backends.base import Workspace
from gpucnn.backends.cuda.plan import update


@dataclass(frozen=True)
class Batch:
    """A batch of a data set on the device, as `CompiledStep.train` has it. Its samples are those of
    row `number`, an int32 array (1,) on the device, of rows of the plan's batch size."""

    images: Any
    labels: Any
    order: Any
    shifts: Any
    number: Any
    samples: int


@dataclass(frozen=True)
class Arrays:
    """What all parts share: the flat parameters and gradients, the partial sums, what matrix layers
    save, and each block's totals; see `update.Update.launch`. None for what nobody needs."""

    parameters: Any
    gradients: Any
    partials: Any
    saved: Any
    block_totals: Any


class GroupPart:
    """A `PlannedGroup` on a backend. `arrays` are set when all parts are known."""

    arrays = None

    def __init__(self, backend, planned, program):
        self.planned = planned
        self._backend = backend
        self._range = program.input_range
        self._target = getattr(program.loss, "target", 0.0)
        self._sources = {kernel: planned.source(kernel) for kernel in self.kernel_names}

    @property
    def kernel_names(self):
        """The last group goes forward and back in one kernel."""
        return ("group_backward",) if self.planned.chain.last else ("group_forward",
                                                                     "group_backward")

    def sources(self):
        """What is to be compiled."""
        return list(self._sources.values())

    def source(self, kernel):
        """The specialisation of one of its kernels."""
        return self._sources[kernel]

    def forward(self, batch, x, out):
        """Fill `out` from the images, or from x, the output of the part before."""
        self._launch("group_forward", batch.samples, *self._images(batch),
                     batch.order if self.planned.chain.first else None,
                     batch.shifts if self.planned.chain.first else None, batch.number,
                     self.arrays.parameters, x, out, batch.samples, *self._scaling(batch))

    def backward(self, batch, x, grad_output, grad_input, output=None):
        """Leave sums of gradients behind, and fill `grad_input`, if there is one."""
        chain, arrays = self.planned.chain, self.arrays
        self._launch("group_backward", batch.samples, *self._images(batch),
                     batch.labels if chain.last else None, batch.order,
                     batch.shifts if chain.first else None, batch.number, arrays.parameters, x,
                     grad_output, grad_input, arrays.partials, arrays.saved,
                     arrays.block_totals if chain.last else None, batch.samples,
                     *self._scaling(batch), self._target)

    def _images(self, batch):
        if not self.planned.chain.first:
            return None, None
        return ((batch.images, None) if batch.images.dtype == np.uint8 else (None, batch.images))

    def _scaling(self, batch):
        low, high = self._range
        return *batch.images.shape[2:], low, (high - low) / 255

    def _launch(self, kernel, samples, *arguments):
        planned = self.planned
        self._backend.kernels.launch(
            self._sources[kernel], kernel, planned.blocks(self._backend.runtime.profile, samples),
            planned.threads, *arguments, shared_bytes=planned.shared_bytes)


class LayerPart:
    """A layer by itself: its op of the backend, on views of the flat arrays."""

    def __init__(self, backend, layer, parameters, gradients, dtype, precision):
        self.layer = layer
        self._backend = backend
        self._precision = precision
        self._workspace = Workspace(backend)
        self._values = {slot.name: _view(parameters, slot) for slot in layer.parameters}
        self._gradients = {slot.name: _view(gradients, slot) for slot in layer.parameters}
        self._forward, self._backward = getattr(self, f"_{layer.op}")(dtype)

    def forward(self, batch, x, out):
        """Fill `out` from x, the output of the part before."""
        self._forward(self._as_input(x), self._as_output(out))

    def backward(self, batch, x, grad_output, grad_input, output):
        """Fill the gradients of the parameters, and `grad_input` unless that is None."""
        self._backward(self._as_input(x), self._as_output(output), self._as_output(grad_output),
                       None if grad_input is None else self._as_input(grad_input))

    def _as_input(self, array):
        """The array between two parts in the shape that this layer knows."""
        return array.reshape((len(array), *self.layer.input_shape))

    def _as_output(self, array):
        return array.reshape((len(array), *self.layer.output_shape))

    def _options(self, *names):
        return {name: self.layer.options[name] for name in names} | {"workspace": self._workspace}

    def _gradient(self, name, maps, dtype):
        """Where the gradient by a parameter of each map goes; nobody reads it if the layer has no
        such parameter."""
        found = self._gradients.get(name)
        return self._backend.empty((maps,), dtype) if found is None else found

    def _conv2d(self, dtype):
        options = self._options("stride", "padding", "activation") | {
            "precision": self._precision}
        table = self.layer.connections
        grad_bias = self._gradient("bias", table.out_maps, dtype)

        def forward(x, out):
            self._backend.conv2d(x, self._values["weight"], self._values.get("bias"), table,
                                 out=out, **options)

        def backward(x, output, grad_output, grad_input):
            self._backend.conv2d_backward(
                grad_output, output, x, self._values["weight"], table,
                needs_grad_input=grad_input is not None,
                out=(grad_input, self._gradients["weight"], grad_bias), **options)

        return forward, backward

    def _subsample2d(self, dtype):
        options = self._options("pool_size", "stride", "activation")
        height, width = self.layer.options["pool_size"]
        grads = [self._gradient(name, self.layer.input_shape[0], dtype)
                 for name in ("coefficient", "bias")]
        fixed = (None if self.layer.parameters else self._backend.from_host(
            np.full(self.layer.input_shape[0], 1 / (height * width), dtype)))

        def coefficient():
            return self._values["coefficient"] if fixed is None else fixed

        def forward(x, out):
            self._backend.subsample2d(x, coefficient(), self._values.get("bias"), out=out,
                                      **options)

        def backward(x, output, grad_output, grad_input):
            self._backend.subsample2d_backward(
                grad_output, output, x, coefficient(), needs_grad_input=grad_input is not None,
                out=(grad_input, *grads), **options)

        return forward, backward

    def _max_pool2d(self, dtype):
        options = self._options("pool_size", "stride")

        def forward(x, out):
            self._backend.max_pool2d(x, out=out, **options)

        def backward(x, output, grad_output, grad_input):
            if grad_input is not None:
                self._backend.max_pool2d_backward(grad_output, output, x, out=grad_input, **options)

        return forward, backward

    def _dense(self, dtype):
        options = self._options("activation")

        def forward(x, out):
            self._backend.dense(x, self._values["weight"], self._values["bias"], out=out, **options)

        def backward(x, output, grad_output, grad_input):
            self._backend.dense_backward(
                grad_output, output, x, self._values["weight"],
                needs_grad_input=grad_input is not None,
                out=(grad_input, self._gradients["weight"], self._gradients["bias"]), **options)

        return forward, backward


def with_places(groups, profile):
    """The groups with the places of what they leave behind, and the sizes (partials, saved) of the
    arrays for it; see `PlannedLayer`."""
    placed, partials, saved = [], 0, 0
    for group in groups:
        blocks, layers = group.blocks(profile), []
        for layer in group.layers:
            if layer.partial_size:
                layer = replace(layer, partials=partials)
                partials += blocks * layer.parts * layer.partial_size
            if layer.link.kind == "matrix":
                inputs, outputs = layer.link.features
                saved_gradient = saved + _aligned(group.batch_size * inputs)
                layer = replace(layer, saved_input=saved, saved_gradient=saved_gradient)
                saved = saved_gradient + _aligned(group.batch_size * outputs)
            layers.append(layer)
        placed.append(replace(group, layers=tuple(layers)))
    return placed, (partials, saved)


def sections_of(part, profile):
    """The sections of the flat arrays whose gradients a part leaves behind, for `update.Update`."""
    if isinstance(part, LayerPart):
        return [update.Ready(slot.offset, slot.size) for slot in part.layer.parameters]
    group = part.planned
    found = []
    for layer in group.layers:
        link = layer.link
        if link.kind == "matrix":
            inputs, outputs = link.features
            found.append(update.Matrix(link.weight.offset, outputs, inputs, layer.saved_input,
                                       layer.saved_gradient, link.bias is not None))
        elif layer.partial_size:
            found.append(update.Rows(link.weight.offset, layer.partial_size, layer.partials,
                                     layer.parts, group.blocks(profile), group.samples))
    return found


def _view(flat, slot):
    return flat[slot.offset:slot.offset + slot.size].reshape(slot.shape)


def _aligned(size):
    """Arrays begin where vectors of four elements do."""
    return -(-size // 4) * 4
