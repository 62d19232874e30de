"""Training steps of one sample each, in one thread."""

import numpy as np

from gpucnn.backends.base import CompiledStep
from gpucnn.backends.cpu.plan.explain import (
    REPETITIONS,
    Row,
    Times,
    bytes_text,
    considered,
    table,
    threads_text,
)
from gpucnn.backends.cpu.plan.images import ImagesAhead
from gpucnn.backends.cpu.plan.layout import Layout
from gpucnn.backends.cpu.plan.online.lowering import lower_online
from gpucnn.backends.cpu.plan.online.sample import Sample
from gpucnn.backends.cpu.threads import can_limit_blas, one_blas_thread

IMAGES_AHEAD = 64  # gathered at once for the steps to come


class OnlineStep(CompiledStep):
    """See `CompiledStep`; an epoch begins and ends with a copy of all parameters (`parameters`)."""

    def __init__(self, program, parameters, gradients, backend):
        self.program = program
        self.parameters = parameters
        self.gradients = gradients
        self.backend = backend
        self.steps, self._input_scale = lower_online(program)
        self._images, self._sample = self._new_sample()

    def _new_sample(self):
        program = self.program
        maps, *size = program.input_shape
        images = ImagesAhead(IMAGES_AHEAD, Layout(maps, tuple(size), scale=self._input_scale),
                             program.input_range, self.parameters.dtype)
        return images, Sample(self.steps, images.inputs, program.loss, self.backend)

    @property
    def threads(self):
        """1; None where BLAS could not be held to one thread."""
        return 1 if can_limit_blas() else None

    def train(self, images, labels, order, shifts, scalars, state, loss, totals, progress=None):
        with one_blas_thread(always=True):
            self._sample.load(self.parameters, self.gradients, state)
            try:
                self._train(images, labels, order, shifts, scalars, loss, totals, progress)
            finally:
                self._sample.store(self.parameters, self.gradients, state)

    def _train(self, images, labels, order, shifts, scalars, loss, totals, progress):
        sample, own = self._sample, self._sample.own
        update, backend = self.program.optimizer.update, self.backend
        for first in range(0, len(order), IMAGES_AHEAD):
            ahead = slice(first, min(first + IMAGES_AHEAD, len(order)))
            self._images.gather(images, order[ahead], None if shifts is None else shifts[ahead])
            for number, (label, now) in enumerate(zip(labels[order[ahead]].tolist(),
                                                      scalars[ahead], strict=True)):
                loss[0] = sample.train(number, label, totals)
                update(backend, own.flat, own.flat_gradients, own.state, now)
                for run in sample.low_rank:
                    run.update(float(now[0]))
                if progress is not None:
                    progress(1)

    def explain(self, *, profile=False):
        with one_blas_thread(always=True):
            return self._explain(self._times() if profile else None)

    def _explain(self, times):
        program, item = self.program, self.parameters.itemsize
        rows = [Row("images", "gather", f"{IMAGES_AHEAD} at once: place on the background, scale")]
        for number, step in enumerate(self.steps):
            cost = step.cost(products=3 if number else 2)
            rows.append(Row(step.name, step.kind, step.describe(), f"{cost.multiply_adds:,}",
                            bytes_text(cost.numbers * item), number))
        rows += [Row("loss", program.loss.op, "loss, error and gradient"),
                 Row("slopes", "derivatives", "of all tanh at once"),
                 Row("update", type(program.optimizer).__name__,
                     f"{program.n_parameters:,} parameters"),
                 Row("parameters", "copy", "into the order above, and back; once an epoch")]
        lines = [f"plan on cpu: {program.dtype}, one sample at a time, "
                 f"{threads_text(self.threads)}; multiply-adds and bytes moved are those of one "
                 f"sample, forward and backward"]
        lines += table(rows, times)
        lines += considered(self.steps)
        if times:
            lines.append(f"times: medians of {REPETITIONS} on one thread")
        return "\n".join(lines)

    def _times(self):
        """What each step takes, on memory of its own and copies of the arrays."""
        times, program = Times(), self.program
        gather, sample = self._new_sample()
        own = sample.own
        maps, *size = program.input_shape
        images = np.zeros((IMAGES_AHEAD, maps, *size), np.uint8)
        parameters, gradients = self.parameters.copy(), self.gradients.copy()
        state = program.optimizer.state(self.backend, len(parameters), parameters.dtype)
        scalars = np.array(program.optimizer.scalars(1, program.optimizer.lr), parameters.dtype)
        totals, order = np.zeros(3), np.arange(IMAGES_AHEAD)

        def update():
            program.optimizer.update(self.backend, own.flat, own.flat_gradients, own.state, scalars)
            for run in sample.low_rank:
                run.update(float(scalars[0]))

        for _ in range(REPETITIONS):
            times.take("parameters", "there", lambda: sample.load(parameters, gradients, state))
            times.take("images", "", lambda: gather.gather(images, order, None))
            sample.take(0)
            for number, run in enumerate(sample.runs):
                times.take(number, "forward", run.forward)
            times.take("loss", "", lambda: sample.answer.evaluate(0, totals))
            times.take("slopes", "", sample.derive)
            for number in reversed(range(len(sample.runs))):
                times.take(number, "backward", sample.runs[number].backward)
            times.take("update", "", update)
            times.take("parameters", "back", lambda: sample.store(parameters, gradients, state))
        return times
