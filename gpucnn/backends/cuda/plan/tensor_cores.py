"""Which phases of a group's layers use tensor cores, by estimates of both ways: those of
tensor_tiles.py and of tiles.py."""

from dataclasses import dataclass, replace

from gpucnn.backends.cuda.plan import tiles
from gpucnn.backends.cuda.plan.chain import Boundary
from gpucnn.backends.cuda.plan.layout import placed
from gpucnn.backends.cuda.plan.tensor_tiles import (
    PIXELS,
    MatrixPhase,
    Side,
    TensorCores,
    TensorPhase,
    bringing,
    matrix_cycles,
    product_phase,
    weight_phase,
)

# Dense multiply-adds in TF32 of a multiprocessor in a cycle, by compute capability, from the
# vendor's tables, and what mma.sync is believed to reach of them from Hopper on.
RATES = {(8, 0): 512, (8, 6): 128, (8, 7): 256, (8, 9): 128, (9, 0): 1024 * 0.6,
         (10, 0): 1024 * 0.6, (10, 3): 1024 * 0.6, (12, 0): 128, (12, 1): 128}
PASSES = {"tf32": 1, "float32": 3}
# Of a convolution forward, by those of the other phases. Rounded weights are wrong alike for every
# pixel and sample, which adds up in gradients, where rounded maps average out: a second product for
# the weights' rest halves the largest error of LeNet-5's gradients (batch 64: 2.0e-3 to 1.1e-3), a
# third gains nothing.
FORWARD_PASSES = {1: 2, 3: 3}
# At most this part of the other way's estimated cycles. A program that asks for float32 loses a
# little accuracy, so that it has to gain more: 0.7 is a guess at how wrong the estimates may be.
WORTH = {1: 1.0, 2: 1.0, 3: 0.7}


@dataclass(frozen=True)
class TensorLayer:
    """What a layer does on tensor cores, None for what it does without."""

    forward: TensorPhase | MatrixPhase | None = None
    grad_input: TensorPhase | MatrixPhase | None = None
    grad_weight: TensorPhase | None = None

    def passes(self, direction):
        """The products for each multiply-add that a kernel's phases take, 0 where none uses tensor
        cores."""
        phases = [self.forward] + (
            [self.grad_input, self.grad_weight] if direction == "backward" else [])
        return max((phase.passes for phase in phases if phase), default=0)


def tensor_cores(profile, program):
    """The `TensorCores` of a device for a program, None if it has none or may not use them."""
    rate = RATES.get(tuple(profile.compute_capability))
    if rate is None or program.dtype != "float32":
        return None
    return TensorCores(rate, PASSES[program.precision])


def is_quicker(tensor, other, passes):
    """Whether tensor cores are to be used, by two estimates of `Cycles`."""
    return tensor.total < WORTH[passes] * other.total


def of_convolution(block, cores, link):
    """The `TensorLayer` of a conv2d link, None without any phase on tensor cores. The choice is
    made before anybody knows where maps lie: the other way is taken at its best."""
    if cores is None:
        return None
    matrix = tuple(map(tuple, link.connections.matrix.tolist()))
    transposed = tuple(zip(*matrix, strict=True))
    partial_size = link.weight.size + (link.bias.size if link.bias else 0)
    out = Side(*link.output_shape[1:], transposed, link.kernel_size, link.stride, partial_size)
    before = link.kernel_size[0] - 1 - link.padding[0]  # rows above dz that the first row sees
    back = Side(*link.input_shape[1:], matrix, link.kernel_size, (1, 1),
                rows_seen=range(before, before + link.output_shape[1]))
    convolution = tiles.Convolution(link.kernel_size, link.stride, link.connections)
    places = [placed(Boundary(shape, (0, 0), False))
              for shape in (link.input_shape, link.output_shape)]
    forward, grad_input, grad_weight = (
        tile(block, convolution, *places, False)
        for tile in (tiles.forward_tile, tiles.input_tile, tiles.weight_tile))
    cores_forward = replace(cores, passes=FORWARD_PASSES[cores.passes])
    ways = {"forward": (product_phase(block, cores_forward, out, PIXELS), forward.cycles),
            "grad_weight": (weight_phase(block, cores, out, PIXELS),
                            grad_weight.cycles
                            + bringing(block, grad_weight.parts * partial_size))}
    if link.needs_grad_input and link.stride == (1, 1):
        ways["grad_input"] = product_phase(block, cores, back, PIXELS), grad_input.cycles
    return _layer({name: phase for name, (phase, other) in ways.items()
                   if phase and is_quicker(phase.cycles, other, cores.passes)})


def of_matrix(block, cores, link, cycles):
    """The `TensorLayer` of a matrix link, whose phases take `cycles` otherwise."""
    if cores is None:
        return None
    names = ("forward", "grad_input") if link.needs_grad_input else ("forward",)
    phases = {name: MatrixPhase(cores.passes, matrix_cycles(block, cores, link.features, name))
              for name in names}
    return _layer({name: phase for name, phase in phases.items()
                   if is_quicker(phase.cycles, cycles, cores.passes)})


def _layer(phases):
    return TensorLayer(**phases) if phases else None


def described(layers, direction):
    """Which of a group's layers use tensor cores in a kernel, in words; "" if none does."""
    used = {layer.link.spec.name: layer.tensor.passes(direction) for layer in layers
            if layer.tensor and layer.tensor.passes(direction)}
    if not used:
        return ""
    passes = max(used.values())
    passes = f"up to {passes} passes" if passes > 1 else "1 pass"
    return f" (tensor cores, {passes}: {' '.join(used)})"
