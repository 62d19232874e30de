"""What a plan launches, as text: kernels, what each fuses and takes, its time and its limit."""

from dataclasses import dataclass

import numpy as np

from gpucnn.backends.cuda.plan import tensor_cores
from gpucnn.backends.cuda.plan.figures import (
    group_bytes,
    group_multiply_adds,
    layer_bytes,
    limit_seconds,
)
from gpucnn.backends.cuda.plan.parts import Batch, LayerPart

REPETITIONS = 20


@dataclass(frozen=True)
class Row:
    """One kernel, or the kernels of a layer by itself. `work` runs them; counts are for a whole
    batch, and None is what nobody knows."""

    name: str
    what: str
    launch: str
    registers: int | None
    local_bytes: int | None
    shared_bytes: int | None
    multiply_adds: int
    bytes: int
    work: object


def explain(step, profile):
    """The text of a `CudaStep`'s plan."""
    device = step.backend.runtime.profile
    rows = _rows(step)
    lines = [_heading(step, device), *step.remarks, *_table(step, device, rows, profile)]
    lines += [f"{row.name}: {row.local_bytes} bytes of local memory a thread: registers spill"
              for row in rows if row.local_bytes]
    lines.append("multiply-adds and bytes are of a whole batch; bytes are what blocks ask of "
                 "global memory, much of which L2 answers")
    if profile:
        lines.append(f"times: means of {REPETITIONS} on {step.backend.description}; limit: the "
                     f"larger of multiply-adds over the float32 rate and bytes over the bandwidth")
    return "\n".join(lines)


def _heading(step, device):
    program = step.program
    alone = len(step.parts) - len(step.groups)
    return (f"plan on {step.backend.device}: {program.dtype}, precision {step.precision}, batches "
            f"of up to {program.batch_size}, {len(step.groups)} group"
            f"{'s' * (len(step.groups) > 1)} of layers, {alone} layer{'s' * (alone != 1)} by "
            f"{'itself' if alone == 1 else 'themselves'}; "
            f"{device.name}: {device.multiprocessors} multiprocessors, "
            f"{device.dynamic_shared_bytes // 1024} KB of shared memory a block")


# -- rows ------------------------------------------------------------------------------------------


def _rows(step):
    rows = [_part_row(step, number, "forward") for number in range(len(step.parts) - 1)]
    rows += [_part_row(step, number, "backward")
             for number in reversed(range(step.first_trained, len(step.parts)))]
    return rows + _update_rows(step)


def _part_row(step, number, direction):
    part = step.parts[number]
    work = _Work(step, number, direction)
    if isinstance(part, LayerPart):
        layer = part.layer
        passes = 1 if direction == "forward" else 2
        return Row(layer.name, f"{layer.op}, {direction}, by its own kernels", "", None, None, None,
                   passes * layer.multiply_adds * step.program.batch_size,
                   layer_bytes(step.program, layer, passes), work)
    planned, kernel = part.planned, f"group_{direction}"
    blocks = planned.blocks(step.backend.runtime.profile)
    taken = step.backend.kernels.resources(part.source(kernel), kernel)
    return Row(kernel, _fused(step, planned, direction),
               f"{blocks} x {planned.threads}, {planned.samples} sample"
               f"{'s' * (planned.samples > 1)}",
               taken and taken.registers, taken and taken.local_bytes, planned.shared_bytes,
               group_multiply_adds(planned, direction) * step.program.batch_size,
               group_bytes(planned, blocks, direction), work)


def _update_rows(step):
    names = {"matrix_partials": "gradients of matrices, shares of the batch",
             "update": f"sums of gradients, {type(step.program.optimizer).__name__}, totals"}
    rows = []
    for figures, source in zip(step.update.kernels(), step.update.sources(), strict=True):
        taken = step.backend.kernels.resources(source, figures.name)
        rows.append(Row(figures.name, names[figures.name], f"{figures.blocks} x {figures.threads}",
                        taken and taken.registers, taken and taken.local_bytes,
                        figures.shared_bytes, figures.multiply_adds, figures.bytes, None))
    rows[-1] = Row(**{**vars(rows[-1]), "work": _Work(step, None, "update")})
    return rows


def _fused(step, planned, direction):
    chain = planned.chain
    names = [layer.link.spec.name for layer in planned.layers]
    words = (["gather"] if chain.first else []) + names
    if direction == "backward":
        words += [step.program.loss.op] if chain.last else []
        words += [f"{name}'" for name in reversed(names)]
    return " ".join(words) + tensor_cores.described(planned.layers, direction)


# -- times -----------------------------------------------------------------------------------------


class _Work:
    """Runs one part of a step, or its update, on arrays of its own, so that training state stays
    as it is."""

    def __init__(self, step, number, direction):
        self._step = step
        self._number = number
        self._direction = direction

    def seconds(self):
        """The mean time on the device."""
        step, backend = self._step, self._step.backend
        gradients = backend.to_host(step.gradients)
        run = self._update() if self._direction == "update" else self._part()
        seconds = backend.runtime.seconds(run, REPETITIONS)
        backend.from_host(gradients, step.gradients)
        return seconds

    def _part(self):
        step, place = self._step, self._number
        backend, program = step.backend, step.program
        batch = Batch(
            backend.zeros((program.batch_size, *program.input_shape), np.uint8),
            backend.zeros((program.batch_size,), np.int32),
            backend.from_host(np.arange(program.batch_size, dtype=np.int32)), None,
            backend.zeros((1,), np.int32), program.batch_size)
        part, values, grads = step.parts[place], step.values, step.grads
        if self._direction == "forward":
            return lambda: part.forward(batch, values[place], values[place + 1])
        return lambda: part.backward(batch, values[place], grads[place + 1], grads[place],
                                     values[place + 1])

    def _update(self):
        step, backend = self._step, self._step.backend
        dtype = np.dtype(step.program.dtype)
        parameters, gradients = (backend.from_host(backend.to_host(array))
                                 for array in (step.parameters, step.gradients))
        optimizer = step.program.optimizer
        state = optimizer.state(backend, step.program.n_parameters, dtype)
        scalars = backend.from_host(np.array([optimizer.scalars(1, optimizer.lr)], dtype))
        number, other = backend.zeros((1,), np.int32), backend.zeros((1,), np.int32)
        loss, totals = backend.empty((1,), dtype), backend.zeros((3,), np.float64)
        arrays = step.arrays
        return lambda: step.update.launch(
            parameters, gradients, state, arrays.partials, arrays.saved, arrays.block_totals,
            number, other, scalars, loss, totals, step.program.batch_size)


# -- text ------------------------------------------------------------------------------------------


def _table(step, device, rows, profile):
    head = ["kernel", "blocks x threads", "registers", "shared", "multiply-adds", "bytes"]
    head += ["time", "limit"] if profile else []
    table = [[*head, "what"]]
    for row in rows:
        cells = [row.name, row.launch, _or_dash(row.registers), _kilobytes(row.shared_bytes),
                 f"{row.multiply_adds:,}", bytes_text(row.bytes)]
        if profile:
            cells += [microseconds_text(row.work.seconds() if row.work else None),
                      microseconds_text(limit_seconds(device, row.multiply_adds, row.bytes))]
        table.append([*cells, row.what])
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    return ["  ".join([*(f"{cell:<{width}}" if column < 2 else f"{cell:>{width}}"
                         for column, (cell, width) in enumerate(zip(row, widths, strict=False))),
                       row[-1]]) for row in table]


def _or_dash(value):
    return "-" if value is None else f"{value}"


def _kilobytes(count):
    return "-" if count is None else f"{count / 1024:.1f} KB"


def bytes_text(count):
    """A number of bytes, for people."""
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} KB"


def microseconds_text(seconds):
    """A time, for people; "-" for None."""
    return "-" if seconds is None else f"{1e6 * seconds:.1f} us"
