"""What all layers share: their arrays, their memory between forward and backward, their name."""

from abc import ABC, abstractmethod

import numpy as np

from gpucnn.devices import as_array, backend_of, get_backend
from gpucnn.errors import ArgumentError, DeviceError, DTypeError, ShapeError


class Parameter:
    """A layer's attribute for one of its trainable arrays, or None where the layer has none.

    Reading gives the array itself, a view into a network's flat array if the layer is part of one.
    Assigning copies values into it, from an array of its shape.
    """

    def __init__(self, doc):
        self.__doc__ = doc

    def __set_name__(self, owner, name):
        self._name = name

    def __get__(self, layer, owner=None):
        if layer is None:
            return self
        layer.allocate()
        return layer.parameters.get(self._name)

    def __set__(self, layer, values):
        layer.allocate()
        if self._name not in layer.parameters:
            raise ArgumentError(f"{layer.where}: has no {self._name} to assign to")
        layer.assign(self._name, values)


class Layer(ABC):
    """One step of a network.

    A layer holds its parameters and calls its backend's ops; it knows no device. `forward`
    remembers its input and output for `backward`, which writes the parameters' gradients to
    `gradients` (it does not add to what is there) and returns the gradient by the input.

    A layer that is used by itself makes its arrays when they are first needed, on the CPU in
    float32 or as its first input is; a `Network` rebinds them to views of its flat arrays, with the
    values that they have.
    """

    op = ""          # the name of the backend's op
    is_view = False  # whether the output is the input's memory in another shape

    def __init__(self, name):
        if name is not None and (not isinstance(name, str) or not name or "." in name):
            raise ArgumentError(f"{type(self).__name__}: expected a name without dots, "
                                f"got {name!r}")
        self.name = name
        self.network = None
        self.backend = None
        self.parameters = {}
        self.gradients = {}
        self._remembered = None

    # -- what a layer tells of itself ----------------------------------------------------------

    @property
    def where(self):
        """How errors call this layer: its class and its name."""
        return type(self).__name__ + (f" {self.name!r}" if self.name else "")

    def parameter_shapes(self):
        """Name -> shape of each trainable array, in the order in which they are stored."""
        return {}

    def initial_values(self, generator):
        """Name -> float64 array of initial values, drawn from a NumPy generator."""
        return {}

    @abstractmethod
    def output_shape(self, input_shape):
        """The shape of one sample's output; raises `ShapeError` if the input does not fit."""

    def multiply_adds(self, input_shape):
        """How many multiply-adds the forward pass of one sample takes."""
        return 0

    @abstractmethod
    def options(self):
        """The constructor's arguments as plain values, but for `name` and a connection table."""

    @property
    def n_parameters(self):
        """How many trainable numbers the layer has."""
        return sum(int(np.prod(shape)) for shape in self.parameter_shapes().values())

    def __repr__(self):
        words = [f"{key}={value!r}" for key, value in self.options().items()]
        words += [f"name={self.name!r}"] if self.name else []
        return f"{type(self).__name__}({', '.join(words)})"

    # -- arrays --------------------------------------------------------------------------------

    def allocate(self, backend=None, dtype=np.float32):
        """Make the layer's own arrays, with the initial values of seed 0, unless it has some."""
        if self.backend is not None:
            return
        self.backend = get_backend("cpu") if backend is None else backend
        values = self.initial_values(np.random.Generator(np.random.Philox(0)))
        self.parameters = {name: self.backend.from_host(array.astype(dtype))
                           for name, array in values.items()}
        self.gradients = {name: self.backend.zeros(array.shape, dtype)
                          for name, array in values.items()}

    def bind(self, network, backend, parameters, gradients):
        """Take a network's views as this layer's arrays."""
        self.network = network
        self.backend = backend
        self.parameters = parameters
        self.gradients = gradients
        self._remembered = None

    def assign(self, name, values):
        """Copy `values`, an array of the host or of the layer's device, into parameter `name`."""
        target = self.parameters[name]
        values = as_array(values, f"{self.where}: {name}", self.backend)
        if values.shape != target.shape:
            raise ShapeError(f"{self.where}: expected {name} of shape {target.shape}, "
                             f"got {values.shape}")
        if values.dtype.kind not in "fiu":
            raise DTypeError(f"{self.where}: expected {name} of {target.dtype}, got {values.dtype}")
        if self.backend.owns(values) and values.dtype == target.dtype:
            self.backend.copy(values, target)
            return
        if not isinstance(values, np.ndarray):
            raise DeviceError(f"{self.where}: expected {name} as a {target.dtype} array of "
                              f"{self.backend.device} or a NumPy array, got {values.dtype} of "
                              f"{backend_of(values, where=self.where).device}")
        self.backend.from_host(values.astype(target.dtype), target)

    # -- computing -----------------------------------------------------------------------------

    @abstractmethod
    def apply(self, x, out=None, workspace=None):
        """The output for a batch x (samples, *input shape), without remembering anything."""

    def forward(self, x, out=None, workspace=None):
        """The output for a batch x (samples, *input shape), in `out` if given, with scratch memory
        of `workspace` if given."""
        x = as_array(x, self.where, self.backend)
        self._check_type(x)
        self.output_shape(x.shape[1:])
        if self.backend is None:
            self.allocate(backend_of(x, where=self.where), x.dtype)
        self._check_device("an input", x)
        output = self.apply(x, out, workspace)
        self._remembered = x, output
        return output

    def backward(self, grad_output, *, needs_grad_input=True, out=None, workspace=None):
        """Write the parameters' gradients, return the input's (None unless it is needed).

        grad_output: the derivative of the loss by the last `forward`'s output, of its shape.
        """
        if self._remembered is None:
            raise ArgumentError(f"{self.where}: expected a forward pass before backward")
        x, output = self._remembered
        grad_output = as_array(grad_output, self.where, self.backend)
        self._check_device("a grad_output", grad_output)
        if grad_output.shape != output.shape:
            raise ShapeError(f"{self.where}: expected a grad_output of shape {output.shape} like "
                             f"the output, got {grad_output.shape}")
        if grad_output.dtype != output.dtype:
            raise DTypeError(f"{self.where}: expected a grad_output of {output.dtype} like the "
                             f"output, got {grad_output.dtype}")
        return self.propagate(grad_output, output, x, needs_grad_input, out, workspace)

    @abstractmethod
    def propagate(self, grad_output, output, x, needs_grad_input, out, workspace):
        """The backward pass of a layer, with all it needs."""

    def forget(self):
        """Drop the input and output that `forward` remembered."""
        self._remembered = None

    def _check_device(self, what, array):
        if not self.backend.owns(array):
            raise DeviceError(f"{self.where}: expected {what} on {self.backend.device}, got one on "
                              f"{backend_of(array, where=self.where).device}")

    def _check_type(self, x):
        for array in self.parameters.values():
            if array.dtype != x.dtype:
                raise DTypeError(f"{self.where}: expected an input of {array.dtype}, got {x.dtype}")
        if x.dtype not in (np.float32, np.float64):
            raise DTypeError(f"{self.where}: expected an input of float32 or float64, "
                             f"got {x.dtype}")

    def _expect_maps(self, input_shape, maps=None):
        """Check that one sample's shape is (maps, height, width)."""
        if len(input_shape) != 3:
            raise ShapeError(f"{self.where}: expected an input of shape (maps, height, width), "
                             f"got {tuple(input_shape)}")
        if maps is not None and input_shape[0] != maps:
            raise ShapeError(f"{self.where}: expected {maps} input maps, got {input_shape[0]} "
                             f"(input of shape {tuple(input_shape)})")


def uniform(generator, shape, fan_in):
    """float64 values uniform in +-sqrt(3 / fan_in), of variance 1 / fan_in; `fan_in` broadcasts
    against `shape`. LeCun et al. 1998, "Efficient BackProp", section 4.6."""
    return generator.uniform(-1.0, 1.0, shape) * np.sqrt(3.0 / np.asarray(fan_in, np.float64))
