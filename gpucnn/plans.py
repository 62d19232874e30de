"""Training steps as plans: the plain one, layer by layer, which every other is tested against, and
those that a backend compiles."""

import warnings
from abc import ABC, abstractmethod

import numpy as np

from gpucnn.backends.base import Workspace
from gpucnn.devices import as_array, backend_of
from gpucnn.errors import ArgumentError, DataError, DeviceError, DTypeError, ShapeError

FAR_OUTSIDE = 10  # times the width of the input range
LOSSES_AT_ONCE = 256  # losses of steps are allocated in arrays of this many


class Loss:
    """The loss of one step, a number that stays on the device until it is asked for: `float(loss)`
    waits for the step and copies it."""

    def __init__(self, backend, loss, totals):
        self._backend = backend
        self._loss = loss
        self._totals = totals

    def __float__(self):
        """Raises `DataError` if a label of the step was out of range."""
        check_labels(self._backend.to_host(self._totals))
        return float(self._backend.to_host(self._loss)[0])

    def item(self):
        """The loss as a float."""
        return float(self)

    def __format__(self, specification):
        return format(float(self), specification)

    def __repr__(self):
        return f"<Loss: {float(self):.6g}>"


class ResidentData:
    """A data set on a plan's device: images (count, maps, height, width), labels (count,) int32."""

    def __init__(self, images, labels):
        self.images = images
        self.labels = labels

    def __len__(self):
        return len(self.labels)


class Plan(ABC):
    """A training step of a network, with everything allocated beforehand.

    `step` trains on a batch that it is given, `epoch` on batches of a data set on the device.
    `learning_rate` is that of `step`; `steps` counts all steps; `state` is the optimiser's.
    """

    def __init__(self, network, program):
        self.program = program
        self.backend = network.backend
        self.learning_rate = program.optimizer.lr
        self.steps = 0
        self._network = network
        self._parameters = network.parameters
        self._dtype = np.dtype(program.dtype)
        self._classes = _single_position(program)
        self.state = program.optimizer.state(self.backend, program.n_parameters, self._dtype)
        self._first = self.backend.from_host(np.arange(program.batch_size, dtype=np.int32))
        self._epoch_loss = self.backend.empty((1,), self._dtype)
        self._losses_used = LOSSES_AT_ONCE

    @abstractmethod
    def explain(self, *, profile=False):
        """A text: the plan's steps in the order in which they run. With `profile` the time of each
        is measured; parameters and the optimiser's state stay as they are."""

    @abstractmethod
    def _train(self, data, order, shifts, scalars, loss, totals, progress):
        """Train on `data` in batches of batch_size, all arrays on the device; `scalars` has a row
        for each. `loss` (1,) is written, totals (3,) are added to."""

    # -- what a user calls ---------------------------------------------------------------------

    def step(self, images, labels):
        """Train on one batch of 1 to batch_size samples; returns its `Loss`.

        images: (samples, maps, height, width) or (samples, height, width), uint8 or the network's
        type, at most as large as its input; labels: (samples,) of any integer type. Arrays of the
        host are copied to the device. The rate is `learning_rate`, which may be set between steps.
        Pixels are not looked at: NaN among them ruins the parameters (`fit` checks a whole set).
        """
        self._check_network()
        images, labels = self._checked_batch(images, labels)
        samples = len(labels)
        data = ResidentData(*(_on_device(array, self.backend) for array in (images, labels)))
        self.steps += 1
        scalars = self.backend.from_host(np.array(
            [self.program.optimizer.scalars(self.steps, self.learning_rate)], self._dtype))
        loss, totals = self._next_loss()
        self._train(data, self._first[:samples], None, scalars, loss, totals, None)
        return Loss(self.backend, loss, totals)

    def load(self, dataset):
        """The images and labels of a `Dataset` on the plan's device."""
        return resident(dataset, self.program, self.backend)

    def epoch(self, data, order, shifts, rates, progress=None):
        """Train on `data` once, in batches; returns (mean loss, error in per cent) over the epoch.

        order: int32 (samples,), the sample of each place; shifts: int32 (samples, 2) or None;
        rates: the learning rate of each batch. progress, if given, is called with the number of
        samples of each batch. Loss and error are those of each batch before its own update.
        """
        self._check_network()
        scalars = self.program.optimizer.scalar_rows(self.steps, rates)
        scalars = self.backend.from_host(scalars.astype(self._dtype))
        order = self.backend.from_host(np.asarray(order, np.int32))
        if shifts is not None:
            shifts = self.backend.from_host(np.asarray(shifts, np.int32))
        totals = self.backend.zeros((3,), np.float64)
        self._train(data, order, shifts, scalars, self._epoch_loss, totals, progress)
        self.steps += len(rates)
        totals = self.backend.to_host(totals)
        check_labels(totals)
        return float(totals[0] / len(order)), float(100 * totals[1] / len(order))

    # -- how it works --------------------------------------------------------------------------

    def _next_loss(self):
        """Places for one step's loss and totals. Arrays of many are made at once; each stays alive
        as long as a `Loss` refers to it."""
        if self._losses_used == LOSSES_AT_ONCE:
            self._losses = self.backend.empty((LOSSES_AT_ONCE,), self._dtype)
            self._totals = self.backend.zeros((LOSSES_AT_ONCE, 3), np.float64)
            self._losses_used = 0
        number = self._losses_used
        self._losses_used += 1
        return self._losses[number:number + 1], self._totals[number]

    # -- checks --------------------------------------------------------------------------------

    def _check_network(self):
        if self._network.parameters is not self._parameters:
            raise DeviceError(f"plan: expected the network where the plan was compiled, on "
                              f"{self.backend.device}; it has moved since")

    def _checked_batch(self, images, labels):
        images = as_array(images, "step: images", self.backend)
        labels = as_array(labels, "step: labels", self.backend)
        for name, array in (("images", images), ("labels", labels)):
            if not self.backend.owns(array) and not isinstance(array, np.ndarray):
                raise DeviceError(f"step: expected {name} on {self.backend.device} or the host, "
                                  f"got them on {backend_of(array, where='step').device}")
        if images.ndim == 3:
            images = images[:, None]
        check_images(images, self.program)
        if labels.ndim != 1 or len(labels) != len(images):
            raise ShapeError(f"step: expected labels of shape ({len(images)},), got {labels.shape}")
        if not 1 <= len(labels) <= self.program.batch_size:
            raise ShapeError(f"step: expected 1 to {self.program.batch_size} samples, "
                             f"got {len(labels)}")
        if labels.dtype.kind not in "iu":
            raise DTypeError(f"step: expected labels of an integer type, got {labels.dtype}")
        if isinstance(labels, np.ndarray):
            outside = (labels < 0) | (labels >= self._classes)
            if outside.any():
                sample = int(np.argmax(outside))
                raise DataError(f"step: expected labels of 0 to {self._classes - 1}, got "
                                f"{labels[sample]} for sample {sample}")
            labels = labels.astype(np.int32)
        elif labels.dtype != np.int32:
            raise DTypeError(f"step: expected labels of int32 on the device, got {labels.dtype}")
        return images, labels


class PlainPlan(Plan):
    """Runs a training step layer by layer, with every buffer allocated once."""

    def __init__(self, network, program):
        super().__init__(network, program)
        self._layers = network.layers
        self._allocate()

    def explain(self, *, profile=False):
        if profile:
            raise ArgumentError(f"explain: expected profile=False of the plain plan on "
                                f"{self.backend.device}, which is not timed, got {profile!r}")
        program = self.program
        lines = [f"plain plan on {self.backend.device}: layer by layer, {program.dtype}, batches "
                 f"of up to {program.batch_size}",
                 "gather: scale, pad and shift the images"]
        lines += [f"{layer.name}: {layer.op}, {layer.input_shape} to {layer.output_shape}, "
                  f"{layer.multiply_adds} multiply-adds a sample" for layer in program.layers]
        lines.append(f"{program.loss.op} and its gradient")
        lines += [f"{layer.name}: {layer.op}_backward" for layer in reversed(program.layers)]
        lines.append(f"{program.optimizer}: update of {program.n_parameters} parameters")
        return "\n".join(lines)

    def _train(self, data, order, shifts, scalars, loss, totals, progress):
        size = self.program.batch_size
        with self.backend.computing():
            for number, first in enumerate(range(0, len(order), size)):
                batch = slice(first, min(first + size, len(order)))
                self.launch(data, order[batch], None if shifts is None else shifts[batch],
                            scalars[number], loss, totals)
                if progress is not None:
                    progress(batch.stop - batch.start)

    def _allocate(self):
        backend, program, most = self.backend, self.program, self.program.batch_size
        self._workspace = Workspace(backend)
        self._input = backend.empty_batch((most, *program.input_shape), self._dtype)
        self._labels = backend.empty((most,), np.int32)
        self._outputs = [self._buffer(layer, spec.output_shape)
                         for layer, spec in zip(self._layers, program.layers, strict=True)]
        self._grad_inputs = [None] + [
            self._buffer(layer, spec.input_shape)
            for layer, spec in zip(self._layers[1:], program.layers[1:], strict=True)]
        self._grad_output = backend.empty((most, self._classes), self._dtype)

    def _buffer(self, layer, shape):
        if layer.is_view:
            return None
        return self.backend.empty_batch((self.program.batch_size, *shape), self._dtype)

    def launch(self, data, order, shifts, scalars, loss, totals):
        """One whole step on arrays of the device: gather, forward, loss, backward, update.

        data: `ResidentData`; order: int32 (samples,); shifts: int32 (samples, 2) or None; scalars:
        the optimiser's, of this step; loss (1,) is written, totals (3,) float64 are added to. Once
        it has run, it allocates nothing and does not touch the host, so that on CUDA a graph can
        capture it.
        """
        samples = len(order)
        x, labels = self._input[:samples], self._labels[:samples]
        self.backend.gather(data.images, data.labels, order, shifts,
                            input_range=self.program.input_range, out=x, out_labels=labels)
        for layer, buffer in zip(self._layers, self._outputs, strict=True):
            x = layer.forward(x, None if buffer is None else buffer[:samples], self._workspace)
        grad = self._grad_output[:samples]
        self.program.loss.evaluate(self.backend, x.reshape(samples, self._classes), labels,
                                   grad_output=grad, loss=loss, totals=totals,
                                   workspace=self._workspace)
        grad = grad.reshape(x.shape)
        for number in reversed(range(len(self._layers))):
            buffer = self._grad_inputs[number]
            grad = self._layers[number].backward(
                grad, needs_grad_input=number > 0, workspace=self._workspace,
                out=None if buffer is None else buffer[:samples])
            self._layers[number].forget()
        self.program.optimizer.update(self.backend, self._parameters.flat,
                                      self._network.gradients.flat, self.state, scalars)


class CompiledPlan(Plan):
    """Runs the step that a backend has compiled."""

    def __init__(self, network, program, compiled):
        super().__init__(network, program)
        self._compiled = compiled
        self._layers = network.layers

    def explain(self, *, profile=False):
        return self._compiled.explain(profile=profile)

    def _train(self, data, order, shifts, scalars, loss, totals, progress):
        for layer in self._layers:
            layer.forget()
        self._compiled.train(data.images, data.labels, order, shifts, scalars, self.state, loss,
                             totals, progress)


def resident(dataset, program, backend):
    """The images and labels of a `Dataset` on a backend's device, as `ResidentData`, if a network
    of this program can be trained on them."""
    check_images(dataset.images, program)
    warn_of_range(dataset.images, program.input_range)
    check_classes(dataset, _single_position(program), "training")
    return ResidentData(_on_device(dataset.images, backend), _on_device(dataset.labels, backend))


def _on_device(array, backend):
    return array if backend.owns(array) else backend.from_host(array)


def check_images(images, program):
    """Raise `DTypeError` or `ShapeError` if a program cannot be trained on arrays of images."""
    maps, height, width = program.input_shape
    if images.dtype not in (np.uint8, np.dtype(program.dtype)):
        raise DTypeError(f"training: expected images of uint8 or {program.dtype}, "
                         f"got {images.dtype}")
    if (images.ndim != 4 or images.shape[1] != maps or not 0 < images.shape[2] <= height
            or not 0 < images.shape[3] <= width):
        raise ShapeError(f"training: expected images of {maps} maps of at most {height}x{width} "
                         f"pixels, got an array of shape {images.shape}")


def warn_of_range(images, input_range):
    """Warn of float images on the host whose values lie so far outside the network's `input_range`
    that they cannot be meant: floats are taken as they are, uint8 values are scaled."""
    if not isinstance(images, np.ndarray) or images.dtype == np.uint8 or not images.size:
        return
    low, high = sorted(input_range)
    least, most = float(images.min()), float(images.max())
    slack = FAR_OUTSIDE * (high - low)
    if least < low - slack or most > high + slack:
        warnings.warn(f"float images are taken as they are, and these go from {least:g} to "
                      f"{most:g}, far outside the network's input_range {low:g} to {high:g}: scale "
                      f"them, or give uint8 images", RuntimeWarning, stacklevel=3)


def check_classes(dataset, outputs, where):
    """Raise `DataError` if a `Dataset` has more classes than a network has outputs."""
    if dataset.classes > outputs:
        raise DataError(f"{where}: expected labels of 0 to {outputs - 1}, as many as the network "
                        f"has outputs, got labels of {dataset.classes} classes")


def check_labels(totals):
    """Raise `DataError` if totals (losses, errors, bad labels) count a label out of range."""
    if totals[2]:
        raise DataError(f"training: expected labels below the number of the network's outputs, got "
                        f"{int(totals[2])} label(s) out of range")


def _single_position(program):
    """The number of classes, if the network's output has a single position."""
    classes, *positions = program.layers[-1].output_shape
    if any(size != 1 for size in positions):
        raise ShapeError(f"training: expected a network with one output position, got "
                         f"{positions[0]}x{positions[1]} (output of shape "
                         f"{program.layers[-1].output_shape})")
    return classes
