"""What a plan does, as text: its steps, what they cost, and where asked what they take."""

import time
from statistics import median

import numpy as np

REPETITIONS = 30


def explain(step, profile):
    """The text of a `CpuStep`'s plan: how it divides a batch, then a line for each step."""
    program, lowering = step.program, step.lowering
    largest = step.largest_part
    times = _Times(step, largest) if profile else None
    rows = [_row("images", "gather", None, "place on the background, samples last, scale", times)]
    for number, one in enumerate(lowering.steps):
        cost = one.cost(products=3 if number else 2)
        work = f"{cost.multiply_adds:,}", _bytes(cost.numbers * step.sums.itemsize)
        rows.append(_row(one.name, one.kind, work, one.describe(), times, number))
    rows += [
        _row("loss", program.loss.op, None, "loss, errors and gradient", times),
        _row("weights", "prepare", None, "into the form above, once a batch", times),
        _row("gradients", "finish", None, "and back, once a batch", times),
        _row("update", program.optimizer.__class__.__name__, None,
             f"{program.n_parameters:,} parameters, once a batch", times)]
    lines = _heading(step, largest) + _table(rows)
    for one in lowering.steps:
        if one.considered:
            lines.append(f"{one.name}: ways considered, estimated time of a sample: "
                         + "; ".join(f"{way}, {1e6 * seconds:.1f}"
                                     for way, seconds in one.considered))
    if profile:
        lines.append(f"times: medians of {REPETITIONS} on one thread, a micro-batch of {largest}")
    return "\n".join(lines)


def _heading(step, largest):
    program, item = step.program, step.sums.itemsize
    memory = sum(one.numbers for one in step.lowering.steps) * item * largest
    groups = len(step.sums)
    return [f"plan on cpu: {program.dtype}, batches of up to {program.batch_size} in micro-batches "
            f"of up to {largest}, {_threads(step.threads)}",
            f"memory: {_bytes(memory)} for a thread's micro-batch; gradients of {groups} group"
            f"{'s' * (groups > 1)} of micro-batches, {_bytes(step.sums[0].nbytes)} each, added in "
            f"order; multiply-adds and bytes moved are those of one sample, forward and backward"]


def _threads(threads):
    if threads is None:
        return ("1 thread; BLAS has as many as it likes, as it cannot be held to one in every "
                "thread (pip install threadpoolctl), so another number may give other last bits")
    return f"{threads} thread{'s' * (threads > 1)} with one BLAS thread each"


def _row(name, kind, work, how, times, number=None):
    """The cells of one step: name, op, multiply-adds, bytes, times, and how it is done."""
    row = [name, kind, *(work or ("", ""))]
    if times is not None:
        taken = times.of(name if number is None else number)
        row.append(" + ".join(f"{microseconds:.1f}" for microseconds in taken.values()) + " us")
    return [*row, how]


def _table(rows):
    """The rows as lines, in columns; numbers to the right."""
    head = ["step", "op", "multiply-adds", "bytes"]
    head += ["forward + backward"] if len(rows[0]) > 5 else []
    rows = [[*head, "how"], *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = []
    for row in rows:
        cells = [f"{cell:<{width}}" if column < 2 else f"{cell:>{width}}"
                 for column, (cell, width) in enumerate(zip(row, widths, strict=False))]
        lines.append("  ".join([*cells, row[-1]]))
    return lines


def _bytes(count):
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} KB"


class _Times:
    """Medians of what each step takes, on a lane and on copies of the arrays."""

    def __init__(self, step, samples):
        self._seconds = {}
        program = step.program
        lane = step.new_lane(samples)
        maps, *size = program.input_shape
        images = np.zeros((samples, maps, *size), np.uint8)
        labels, order = np.zeros(samples, np.int32), np.arange(samples)
        parameters, gradients = step.parameters.copy(), step.gradients.copy()
        state = program.optimizer.state(step.backend, len(parameters), parameters.dtype)
        scalars = np.array(program.optimizer.scalars(1, program.optimizer.lr), parameters.dtype)
        sums, before = np.zeros_like(step.sums[0]), step.gradients.copy()
        steps, places = step.lowering.steps, step.lowering.places()
        for _ in range(REPETITIONS):
            self._time("weights", "", lambda: [one.prepare() for one in steps])
            self._time("images", "", lambda: lane.images.gather(images, order, None))
            for number, run in enumerate(lane.runs):
                self._time(number, "forward", run.forward)
            self._time("loss", "", lambda: lane.answers.evaluate(labels, samples, np.zeros(3)))
            for number in reversed(range(len(steps))):
                self._time(number, "backward", lambda number=number: lane.runs[number].backward(
                    sums[places[number]], False))
            self._time("gradients", "", lambda: [one.finish() for one in steps])
            self._time("update", "", lambda: program.optimizer.update(
                step.backend, parameters, gradients, state, scalars))
        step.gradients[:] = before

    def of(self, name):
        """Which pass -> microseconds."""
        return {which: 1e6 * median(seconds)
                for (who, which), seconds in self._seconds.items() if who == name}

    def _time(self, name, which, work):
        start = time.perf_counter()
        work()
        self._seconds.setdefault((name, which), []).append(time.perf_counter() - start)
