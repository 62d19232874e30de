"""What a plan does, as text: its steps, what they cost, and where asked what they take."""

import time
from dataclasses import dataclass
from statistics import median

import numpy as np

from gpucnn.backends.cpu.plan.crews.choice import SECONDS_ALONE

REPETITIONS = 30


@dataclass(frozen=True)
class Row:
    """The line of one step: its name, op, how it is done, multiply-adds and bytes, and under which
    name it was timed, if that is another."""

    name: str
    op: str
    how: str
    multiply_adds: str = ""
    numbers: str = ""
    timed: object = None


def explain(step, profile):
    """The text of a `CpuStep`'s plan: how it divides a batch, then a line for each step."""
    program, lowering = step.program, step.lowering
    largest = step.largest_part
    rows = [Row("images", "gather", "place on the background, samples last, scale")]
    for number, one in enumerate(lowering.steps):
        cost = one.cost(products=3 if number else 2)
        rows.append(Row(one.name, one.kind, one.describe(), f"{cost.multiply_adds:,}",
                        bytes_text(cost.numbers * step.parameters.itemsize), number))
    rows += [
        Row("loss", program.loss.op, "loss, errors and gradient"),
        Row("weights", "prepare", "into the form above, once a batch"),
        Row("gradients", "finish", "and back, once a batch"),
        Row("update", program.optimizer.__class__.__name__,
            f"{program.n_parameters:,} parameters, once a batch")]
    lines = _heading(step, largest) + table(rows, _times(step, largest) if profile else None)
    lines += considered(lowering.steps)
    if profile:
        lines.append(f"times: medians of {REPETITIONS} on one thread, a micro-batch of {largest}")
    return "\n".join(lines)


def _heading(step, largest):
    program, item = step.program, step.parameters.itemsize
    memory = sum(one.numbers for one in step.lowering.steps) * item * largest
    gradients, groups = item * step.lowering.gradient_size, step.groups
    return [f"plan on cpu: {program.dtype}, batches of up to {program.batch_size} in micro-batches "
            f"of up to {largest}, {threads_text(step.threads)}{processes_text(step.processes)}",
            f"memory: {bytes_text(memory)} for a thread's micro-batch; gradients of {groups} group"
            f"{'s' * (groups > 1)} of micro-batches, {bytes_text(gradients)} each, added "
            f"in order; multiply-adds and bytes moved are those of one sample, forward and "
            f"backward"]


def threads_text(threads):
    """How many threads work, in words; None is what `CpuStep.threads` says it is."""
    if threads is None:
        return ("1 thread; BLAS has as many as it likes, as it cannot be held to one in every "
                "thread (pip install threadpoolctl), so another number may give other last bits")
    return f"{threads} thread{'s' * (threads > 1)} with one BLAS thread each"


def processes_text(processes):
    """Which processes take the threads' place, in words."""
    if processes == 1:
        return ""
    return f"; from about {SECONDS_ALONE:g} s of training on, {processes} processes in their place"


def considered(steps):
    """A line for each step that could have been computed in another way."""
    return [f"{step.name}: ways considered, estimated time of a sample: "
            + "; ".join(f"{way}, {1e6 * seconds:.1f}" for way, seconds in step.considered)
            for step in steps if step.considered]


def table(rows, times):
    """The `Row`s as lines, in columns, numbers to the right; with `Times` or None."""
    head = ["step", "op", "multiply-adds", "bytes"]
    head += ["forward + backward"] if times else []
    cells = [[*head, "how"]] + [_cells(row, times) for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = []
    for row in cells:
        aligned = [f"{cell:<{width}}" if column < 2 else f"{cell:>{width}}"
                   for column, (cell, width) in enumerate(zip(row, widths, strict=False))]
        lines.append("  ".join([*aligned, row[-1]]))
    return lines


def _cells(row, times):
    cells = [row.name, row.op, row.multiply_adds, row.numbers]
    if times:
        taken = times.of(row.name if row.timed is None else row.timed)
        cells.append(" + ".join(f"{microseconds:.1f}" for microseconds in taken.values()) + " us")
    return [*cells, row.how]


def bytes_text(count):
    """So many bytes, in words."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} KB"


class Times:
    """Medians of what steps take, in microseconds."""

    def __init__(self):
        self._seconds = {}

    def take(self, name, which, work):
        """Measure a call of `work`, one pass of what `name` stands for."""
        start = time.perf_counter()
        work()
        self._seconds.setdefault((name, which), []).append(time.perf_counter() - start)

    def of(self, name):
        """Which pass -> microseconds."""
        return {which: 1e6 * median(seconds)
                for (who, which), seconds in self._seconds.items() if who == name}


def _times(step, samples):
    """What each step takes, on a lane and on copies of the arrays."""
    times, program = Times(), step.program
    lane = step.new_lane(samples)
    maps, *size = program.input_shape
    images = np.zeros((samples, maps, *size), np.uint8)
    labels, order = np.zeros(samples, np.int32), np.arange(samples)
    parameters, gradients = step.parameters.copy(), step.gradients.copy()
    state = program.optimizer.state(step.backend, len(parameters), parameters.dtype)
    scalars = np.array(program.optimizer.scalars(1, program.optimizer.lr), parameters.dtype)
    sums = np.zeros(step.lowering.gradient_size, parameters.dtype)
    before = step.gradients.copy()
    steps, places = step.lowering.steps, step.lowering.places()
    for _ in range(REPETITIONS):
        times.take("weights", "", lambda: [one.prepare() for one in steps])
        times.take("images", "", lambda: lane.images.gather(images, order, None))
        for number, run in enumerate(lane.runs):
            times.take(number, "forward", run.forward)
        times.take("loss", "", lambda: lane.answers.evaluate(labels, samples, np.zeros(3)))
        for number in reversed(range(len(steps))):
            times.take(number, "backward", lambda number=number: lane.runs[number].backward(
                sums[places[number]], False))
        times.take("gradients", "", lambda: [one.finish() for one in steps])
        times.take("update", "", lambda: program.optimizer.update(
            step.backend, parameters, gradients, state, scalars))
    step.gradients[:] = before
    return times
