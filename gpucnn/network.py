"""A network: layers in a row, their parameters in one flat array."""

import numpy as np

from gpucnn.backends.base import Workspace
from gpucnn.devices import as_array, backend_of, get_backend
from gpucnn.errors import (
    ArgumentError,
    DataError,
    DeviceError,
    DTypeError,
    GpucnnError,
    ShapeError,
)
from gpucnn.losses import get_loss
from gpucnn.named_arrays import NamedArrays
from gpucnn.network_checks import (
    checked_dtype,
    checked_input_shape,
    checked_layers,
    checked_range,
    name_layers,
)
from gpucnn.optimizers import SGD, Adam
from gpucnn.plans import CompiledPlan, PlainPlan, warn_of_range
from gpucnn.program import LayerProgram, ParameterSlot, Program
from gpucnn.shapes import whole_number
from gpucnn.summary import summary

INPUT_RANGE = (-0.1, 1.175)  # LeCun et al. 1998, II.A: inputs of mean 0 and variance 1, roughly
PRECISIONS = ("float32", "tf32")
LARGEST_SEED = 2**63 - 1
FORWARD_PASSES_KEPT = 4  # for images of so many sizes


class Network:
    """Layers in a row, on one device, with all parameters in one flat array and all gradients in
    another.

    layers: a list of `Layer`; those without a name get one of their op and place, as in "conv2d1".
    input_shape: (maps, height, width) of one sample. seed: of the initial values (Philox); layers
    that have values already keep them. dtype: "float32" or "float64". device: "cpu", "cuda",
    "cuda:1", "auto" or a `Backend`. input_range: what the uint8 values 0 and 255 become; the lower
    end is the background that images are padded with.

    `parameters` and `gradients` are `NamedArrays`: by name, or all as `flat`.

    Raises `ShapeError` if a layer does not fit the one before it, naming it.
    """

    def __init__(self, layers, input_shape, *, seed=0, dtype="float32", device="auto",
                 input_range=INPUT_RANGE):
        self.layers = checked_layers(layers)
        self.input_shape = checked_input_shape(input_shape)
        self.seed = whole_number(seed, "Network: seed", least=0, most=LARGEST_SEED)
        self.dtype = checked_dtype(dtype)
        self.input_range = checked_range(input_range)
        backend = get_backend(device)
        unnamed = [layer for layer in self.layers if layer.name is None]
        try:
            name_layers(self.layers)
            self.shapes = self._walk()
        except GpucnnError:
            for layer in unnamed:
                layer.name = None
            raise
        self._slots = self._allot()
        self._bind(backend, self._initial_values())

    @property
    def output_shape(self):
        """The shape of one sample's output at the size that the network was built for."""
        return self.shapes[-1]

    @property
    def device(self):
        """The name of the device that holds the parameters, such as "cpu" or "cuda:0"."""
        return self.backend.device

    @property
    def n_parameters(self):
        """How many trainable numbers all layers have together."""
        return sum(slot.size for slot in self._slots.values())

    def __getitem__(self, name):
        """The layer of a name."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(f"expected a layer of {', '.join(layer.name for layer in self.layers)}, "
                       f"got {name!r}")

    def __repr__(self):
        return (f"<Network: {len(self.layers)} layers, input {self.input_shape}, "
                f"{self.n_parameters} parameters, {self.dtype} on {self.device}>")

    # -- computing -----------------------------------------------------------------------------

    def forward(self, x):
        """The outputs for a batch x (samples, maps, height, width) of the network's type, on its
        device: (samples, classes, out_height, out_width), or (samples, classes) behind a Flatten.
        Every layer remembers what `backward` needs."""
        x = self._checked_input(x)
        with self.backend.computing():
            for layer in self.layers:
                x = layer.forward(x, workspace=self._workspace)
        return x

    def backward(self, grad_output, *, needs_grad_input=False):
        """Fill `gradients` from the derivative of the loss by the last `forward`'s output; returns
        the derivative by its input if that is needed, else None."""
        with self.backend.computing():
            for number in reversed(range(len(self.layers))):
                grad_output = self.layers[number].backward(
                    grad_output, needs_grad_input=needs_grad_input or number > 0,
                    workspace=self._workspace)
        return grad_output

    def outputs(self, images, *, batch_size=256, threads=None):
        """The outputs for any number of images, as a NumPy array (samples, classes, height, width)
        or (samples, classes).

        images: (samples, maps, height, width) or (samples, height, width), uint8 (scaled to
        `input_range`) or the network's type (taken as they are), on the host or the network's
        device. Smaller images than `input_shape` are padded with background; larger ones give more
        output positions, unless the network has a Flatten. batch_size: how many are computed at a
        time on a GPU; the CPU divides them by its caches. threads: as in `compile_step`.
        """
        batch_size = whole_number(batch_size, "batch_size", least=1)
        threads = self.checked_threads(threads)
        images = self.checked_images(images)
        shape = self._padded_shape(images.shape[2:])
        outputs = np.empty((len(images), *self._walk(shape)[-1]), self.dtype)
        compiled = self._compiled_outputs(shape, threads)
        if compiled is not None:
            compiled.outputs(images, outputs)
            return outputs
        workspace = Workspace(self.backend)
        with self.backend.computing():
            for first in range(0, len(images), batch_size):
                output = self._apply(images[first:first + batch_size], shape, workspace)
                outputs[first:first + batch_size] = self.backend.to_host(output)
        return outputs

    def _compiled_outputs(self, shape, threads):
        """The backend's forward pass for inputs of `shape`, kept for the next time; or None."""
        key = shape, threads
        if key not in self._forward_passes:
            if len(self._forward_passes) == FORWARD_PASSES_KEPT:
                self._forward_passes.clear()
            self._forward_passes[key] = self.backend.compile_outputs(
                self._layer_programs(shape), shape, self.input_range, self.parameters.flat,
                threads=threads)
        return self._forward_passes[key]

    def _apply(self, images, shape, workspace):
        """The output for a batch of images, each scaled and padded to `shape` first."""
        if not self.backend.owns(images):
            images = self.backend.from_host(images)
        x = self.backend.empty_batch((len(images), *shape), self.dtype)
        order = self.backend.from_host(np.arange(len(images), dtype=np.int32))
        self.backend.gather(images, None, order, None, input_range=self.input_range, out=x,
                            out_labels=None)
        for layer in self.layers:
            x = layer.apply(x, workspace=workspace)
        return x

    def predict(self, images, *, batch_size=256, threads=None):
        """The label of the largest output for each of any number of images, as a NumPy array:
        (samples,), or (samples, height, width) where the outputs have several positions. Arguments
        as in `outputs`: uint8 is scaled to `input_range`, floats are not."""
        labels = self.outputs(images, batch_size=batch_size, threads=threads).argmax(axis=1)
        if labels.ndim == 3 and labels.shape[1:] == (1, 1):
            return labels[:, 0, 0]
        return labels

    def forget(self):
        """Drop the memory that forward passes keep for the next one, and what `backward` needs: on
        the CPU `outputs` keeps some 10 MB a thread for a network like LeNet-5."""
        self._forward_passes.clear()
        for layer in self.layers:
            layer.forget()

    def positions(self, size):
        """How many output positions images of `size` = (height, width) give: (height, width), or ()
        behind a Flatten."""
        return self._walk(self._padded_shape(size))[-1][1:]

    def compile_step(self, *, loss, optimizer, batch_size, threads=None, precision="float32"):
        """A training step as a plan, with everything allocated and compiled beforehand.

        loss: "mse", "cross_entropy" or a loss object. optimizer: `SGD(...)` or `Adam(...)`.
        batch_size: the largest batch. threads: how many threads of the CPU work on a step, as many
        as the process has cores unless given; after about a second of `epoch`s as many processes
        take their place (not on Windows). The result is the same, bit for bit. precision: how far a
        GPU may round products, "float32" or "tf32": then tensor cores multiply with 10 bits of
        mantissa where that is quicker, and gradients are off by up to about 1e-3. The plan has
        `step(images, labels)`, `explain()`, and what `gpucnn.fit` uses; it trains this network's
        own parameters.
        """
        program = self.program(loss=loss, optimizer=optimizer, batch_size=batch_size,
                               precision=precision)
        compiled = self.backend.compile(program, self.parameters.flat, self.gradients.flat,
                                        threads=self.checked_threads(threads))
        if compiled is None:
            return PlainPlan(self, program)
        return CompiledPlan(self, program, compiled)

    def program(self, *, loss, optimizer, batch_size, precision="float32"):
        """The `Program` of a training step, for a planner; arguments as in `compile_step`."""
        if not isinstance(optimizer, (SGD, Adam)):
            raise ArgumentError(f"optimizer: expected SGD(...) or Adam(...), got {optimizer!r}")
        return Program(self._layer_programs(self.input_shape), self.input_shape,
                       self.input_range, self.dtype.name, self.n_parameters, get_loss(loss),
                       optimizer, whole_number(batch_size, "batch_size", least=1),
                       self.checked_precision(precision))

    def _layer_programs(self, input_shape):
        shapes = self._walk(input_shape)
        return tuple(
            LayerProgram(layer.op, layer.name, shape, output_shape, layer.options(),
                         getattr(layer, "connections", None),
                         tuple(slot for name, slot in self._slots.items()
                               if name.startswith(f"{layer.name}.")),
                         layer.multiply_adds(shape))
            for layer, shape, output_shape in zip(
                self.layers, (input_shape, *shapes), shapes, strict=False))

    # -- parameters ----------------------------------------------------------------------------

    def to(self, device):
        """Move the parameters to another device, in place; returns the network itself. Gradients
        start there at zero, and plans compiled before are void."""
        backend = get_backend(device)
        if backend is not self.backend:
            self._bind(backend, self.parameter_values())
        return self

    def parameter_values(self):
        """Name -> NumPy copy of every parameter."""
        return {name: self.backend.to_host(array) for name, array in self.parameters.items()}

    def set_parameters(self, values):
        """Copy in the values of all parameters, a mapping of NumPy arrays by name.

        Raises `ShapeError` for a missing, unknown or misshapen array, before anything is changed.
        """
        if set(values) != set(self._slots):
            missing, unknown = set(self._slots) - set(values), set(values) - set(self._slots)
            raise ShapeError(f"parameters: expected {', '.join(self._slots)}; missing: "
                             f"{', '.join(sorted(missing)) or 'none'}, unknown: "
                             f"{', '.join(sorted(unknown)) or 'none'}")
        for name, slot in self._slots.items():
            if np.shape(values[name]) != slot.shape:
                raise ShapeError(f"parameter {name}: expected shape {slot.shape}, "
                                 f"got {np.shape(values[name])}")
        self.backend.from_host(self._flattened(values), self.parameters.flat)

    def summary(self):
        """A table, as text: each layer's output shape, parameters, connections (pairs of joined
        maps) and multiply-adds for one sample."""
        return summary(self)

    # -- how it is built -----------------------------------------------------------------------

    def _padded_shape(self, size):
        """The input's shape for images of `size`, smaller ones padded to the input's own size."""
        return (self.input_shape[0], *map(max, size, self.input_shape[1:]))

    def _walk(self, shape=None):
        """The output shape of every layer for an input of `shape`, with the layers' own checks."""
        shapes = []
        shape = self.input_shape if shape is None else shape
        for layer in self.layers:
            shape = layer.output_shape(shape)
            shapes.append(shape)
        return tuple(shapes)

    def _allot(self):
        slots, offset = {}, 0
        for layer in self.layers:
            for name, shape in layer.parameter_shapes().items():
                size = int(np.prod(shape))
                slots[f"{layer.name}.{name}"] = ParameterSlot(name, shape, offset, size)
                offset += size
        return slots

    def _initial_values(self):
        """Drawn for each layer from its own stream, so that one layer's size changes no other's."""
        values = {}
        for number, layer in enumerate(self.layers):
            generator = np.random.Generator(np.random.Philox(key=[self.seed, number]))
            initial = layer.initial_values(generator)
            if layer.backend is not None:
                initial = {name: layer.backend.to_host(array)
                           for name, array in layer.parameters.items()}
            values |= {f"{layer.name}.{name}": array for name, array in initial.items()}
        return values

    def _flattened(self, values):
        flat = np.empty(self.n_parameters, self.dtype)
        for name, slot in self._slots.items():
            flat[slot.offset:slot.offset + slot.size] = np.reshape(values[name], -1)
        return flat

    def _bind(self, backend, values):
        self.backend = backend
        self.parameters = NamedArrays(backend.from_host(self._flattened(values)), self._slots)
        self.gradients = NamedArrays(backend.zeros((self.n_parameters,), self.dtype), self._slots)
        self._workspace = Workspace(backend)
        self._forward_passes = {}
        for layer in self.layers:
            names = {name: f"{layer.name}.{name}" for name in layer.parameter_shapes()}
            layer.bind(self, backend,
                       {name: self.parameters[full] for name, full in names.items()},
                       {name: self.gradients[full] for name, full in names.items()})

    # -- checks --------------------------------------------------------------------------------

    def checked_threads(self, threads):
        """`threads`, if it is None or a number of threads for a network on the CPU."""
        if threads is None:
            return None
        if self.backend.device != "cpu":
            raise ArgumentError(f"threads: expected none on {self.device}, where only the CPU's "
                                f"work is divided by threads, got {threads!r}")
        return whole_number(threads, "threads", least=1)

    def checked_precision(self, precision):
        """`precision`, if it is "float32", or "tf32" for a float32 network on a GPU."""
        known = PRECISIONS if self.backend.device != "cpu" and self.dtype == np.float32 else (
            PRECISIONS[:1])
        if precision not in known:
            raise ArgumentError(f"precision: expected {' or '.join(map(repr, known))} for a "
                                f"{self.dtype} network on {self.device}, got {precision!r}")
        return precision

    def _checked_input(self, x):
        x = as_array(x, "Network.forward", self.backend)
        if not self.backend.owns(x):
            raise DeviceError(f"Network.forward: expected an input on {self.device}, got one on "
                              f"{backend_of(x, where='Network.forward').device}")
        if x.dtype != self.dtype:
            raise DTypeError(f"Network.forward: expected an input of {self.dtype}, got {x.dtype}")
        if x.ndim != 4:
            raise ShapeError(f"Network.forward: expected an input of shape (samples, maps, height, "
                             f"width), got {x.shape}")
        return x

    def checked_images(self, images):
        """`images` as (samples, maps, height, width), if this network can take them: see `outputs`.

        Raises `DTypeError`, `DeviceError`, `ShapeError` or `DataError` (NaN or infinity).
        """
        images = as_array(images, "images", self.backend)
        if not self.backend.owns(images) and not isinstance(images, np.ndarray):
            raise DeviceError(f"images: expected an array on {self.device} or the host, got one on "
                              f"{backend_of(images, where='images').device}")
        shape, maps = images.shape, self.input_shape[0]
        if images.ndim == 3:
            images = images[:, None]
        if images.ndim != 4 or images.shape[1] != maps or 0 in images.shape[1:]:
            flat = " or (samples, height, width)" if maps == 1 else ""
            raise ShapeError(f"images: expected shape (samples, {maps}, height, width){flat}, "
                             f"got {shape}")
        if images.dtype not in (np.uint8, self.dtype):
            raise DTypeError(f"images: expected uint8 or {self.dtype}, got {images.dtype}")
        if isinstance(images, np.ndarray) and not np.isfinite(images).all():
            raise DataError("images: expected finite values, got NaN or infinity")
        warn_of_range(images, self.input_range)
        return images

