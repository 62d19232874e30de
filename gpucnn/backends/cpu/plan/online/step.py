"""What the plan for one sample is made of: steps, and their runs on its memory."""

from abc import ABC, abstractmethod


class Step(ABC):
    """One named step: the geometry of a layer, and where its parameters lie.

    To add one: a subclass of this and of `Run`, and a line in `lowering.py`.
    """

    name: str               # the layer's
    kind: str               # what it does, in a word or two
    size: tuple             # (maps, rows, columns) of its output
    pitch: int              # how many numbers lie between two rows of it
    scale = 1.0             # the true outputs are `scale` times those stored
    gradient_factor = 1.0   # the true gradient by the inputs is as many times the one given; None:
                            # that of the step behind
    considered = ()         # (way, estimated seconds) of each that could have been chosen
    shape = None            # of the array of its parameters, and
    parts = ()              # the `Block`s of it, or what is `Scattered` there
    in_low_rank = False     # whether its run has a matrix that it updates itself
    tanh_size = 0           # how many numbers its output has if they are a tanh

    @abstractmethod
    def describe(self):
        """How it does it, in a line, for `explain`."""

    @abstractmethod
    def cost(self, products):
        """`Cost` of a sample: `products` are forward, by weights and, but for the first step, by
        inputs."""

    @abstractmethod
    def bind(self, memory, source, values, gradients):
        """A `Run` that reads the `Maps` source. values, gradients: the step's parameters and their
        gradients, of its `shape`, or None."""


class Run(ABC):
    """A step bound to memory: all views are made beforehand.

    `maps` are the `Maps` that `forward` fills, `grad_input` those that `backward` fills.
    """

    grad_input = None

    def views(self, images):
        """For each image of an array (images, maps, rows, columns) what `view` may be set to, so
        that the next `forward` reads that image; None if the run has its own input alone."""

    @abstractmethod
    def forward(self):
        """Compute the outputs."""

    @abstractmethod
    def bind_backward(self, gradient, factor, needs_grad_input):
        """Take the `Maps` with the gradient by the outputs, to be multiplied by `factor`."""

    @abstractmethod
    def backward(self):
        """Compute the gradients."""

