"""What a plan does, as text: its steps, what they cost, and where asked what they take."""

import time
from statistics import median

import numpy as np

REPETITIONS = 30


def explain(step, profile):
    """The text of a `CpuStep`'s plan, one line for each step and two for how it goes about it."""
    program, lowering = step.program, step.lowering
    size, groups = step.micro_batch, len(step.sums)
    lane = sum(one.numbers for one in lowering.steps) * step.sums.itemsize
    largest = min(size, program.batch_size)
    lines = [
        f"plan on cpu: {program.dtype}, batches of up to {program.batch_size} in micro-batches of "
        f"up to {size} samples, {_threads(step.threads)}",
        f"memory: {_bytes(lane * largest)} for each thread's micro-batch; {groups} "
        f"group{'s' * (groups > 1)} of micro-batches with gradients of "
        f"{_bytes(lowering.gradient_size * step.sums.itemsize)}, added in order"]
    times = _Times(step, largest) if profile else None
    lines.append(_line("images", "gather", "place on the background, samples last, scale", times))
    for number, one in enumerate(lowering.steps):
        cost = one.cost(training=True)
        how = (f"{one.describe()}; {cost.multiply_adds:,} multiply-adds and {_bytes(cost.bytes)} "
               f"a sample")
        lines.append(_line(one.name, one.kind, how, times, number))
    lines.append(_line("loss", program.loss.op, "loss, errors and gradient", times))
    lines.append(_line("weights", "prepare",
                       "bring the weights into the matrices above, once a batch", times))
    lines.append(_line("gradients", "finish", "and their gradients back, once a batch", times))
    lines.append(_line("update", str(program.optimizer), f"{program.n_parameters:,} parameters, "
                       f"once a batch", times))
    if times is not None:
        lines.append(f"times: medians of {REPETITIONS} on one thread, a micro-batch of {largest}")
    return "\n".join(lines)


def _threads(threads):
    if threads is None:
        return ("1 thread; BLAS has as many as it likes, as threadpoolctl is not installed "
                "(pip install threadpoolctl), so another number may give other last bits")
    return f"{threads} thread{'s' * (threads > 1)} with one BLAS thread each"


def _line(name, kind, how, times, number=None):
    line = f"{name}: {kind}, {how}"
    if times is None:
        return line
    taken = times.of(name if number is None else number)
    return line + "; " + ", ".join(f"{microseconds:.1f} us {which}".rstrip()
                                   for which, microseconds in taken.items())


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
