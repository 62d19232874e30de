"""What a network is, for a planner: plain values, without layers and without arrays.

`Network.compile_step` lowers a network to a `Program` and asks its backend for a plan that runs it.
"""

from dataclasses import dataclass

from gpucnn.connections import ConnectionTable


@dataclass(frozen=True)
class ParameterSlot:
    """Where one parameter lies in the network's flat array: elements offset..offset + size."""

    name: str
    shape: tuple[int, ...]
    offset: int
    size: int


@dataclass(frozen=True)
class LayerProgram:
    """One layer: the backend's op, the shapes of one sample, and the op's options.

    `options` holds the layer's own arguments as plain values (kernel_size, stride, ...).
    """

    op: str
    name: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    options: dict
    connections: ConnectionTable | None
    parameters: tuple[ParameterSlot, ...]
    multiply_adds: int


@dataclass(frozen=True)
class Program:
    """A training step: the layers in order, the loss, the optimiser and the largest batch.

    `precision` is how far products may be rounded: "float32", or "tf32" for tensor cores.
    """

    layers: tuple[LayerProgram, ...]
    input_shape: tuple[int, ...]
    input_range: tuple[float, float]
    dtype: str
    n_parameters: int
    loss: object
    optimizer: object
    batch_size: int
    precision: str = "float32"
