"""Micro-batches: how a batch is divided, and the memory and the runs of one part."""

from gpucnn.backends.cpu.plan.answers import Answers
from gpucnn.backends.cpu.plan.images import Images
from gpucnn.backends.cpu.plan.step import Lane, parts

LANE_BYTES = 24 * 1024 * 1024  # what the steps of a micro-batch keep
MICRO_BATCHES = (64, 32, 16, 8, 4, 2, 1)
SIZES_KEPT = 3                 # a whole batch has parts of two sizes, an epoch ends with another


def micro_batch(steps, itemsize):
    """The largest number of samples whose work in `steps` stays within `LANE_BYTES`."""
    sample = itemsize * sum(step.numbers for step in steps)
    return next((size for size in MICRO_BATCHES if size * sample <= LANE_BYTES), 1)


def shares(samples, most):
    """A batch as parts of at most `most` samples, and as two if it has more than half as many, so
    that two threads can work on it. The threads there are play no role."""
    return parts(samples, min(most, -(-samples // 2)) if samples > most // 2 else most)


class InferenceLane:
    """Forward only: the input and one run for each step."""

    training = False

    def __init__(self, lowering, samples, dtype, input_range):
        scratch = max(step.scratch_size(samples) for step in lowering.steps)
        self.lane = Lane(samples, dtype, self.training, scratch)
        self.images = Images(self.lane, lowering.input_layout, input_range)
        self.runs, x = [], self.images.output
        for step in lowering.steps:
            run = step.bind(self.lane, x)
            self.runs.append(run)
            x = run.output
        self.output = x

    def forward(self, images, order, shifts=None):
        """The output, (maps, 1, 1, 1, 1, height, width, samples), for images[order]."""
        self.images.gather(images, order, shifts)
        for run in self.runs:
            run.forward()
        return self.output


class TrainingLane(InferenceLane):
    """Forward, loss and backward."""

    training = True
    def __init__(self, lowering, samples, dtype, input_range, loss, backend):
        super().__init__(lowering, samples, dtype, input_range)
        self.answers = Answers(self.lane, self.output, loss, backend)
        self.places = lowering.places()
        grad = self.answers.grad_output
        for number in reversed(range(len(self.runs))):
            self.runs[number].bind_backward(grad, needs_grad_input=number > 0)
            grad = self.runs[number].grad_input

    def train(self, images, labels, order, shifts, samples, sums, first, totals):
        """Add the gradients of images[order], part of a batch of `samples`, to `sums`."""
        self.forward(images, order, shifts)
        self.answers.evaluate(labels[order], samples, totals)
        for run, place in zip(reversed(self.runs), reversed(self.places), strict=True):
            run.backward(sums[place], first)


class Lanes:
    """Lanes by worker and number of samples, made when they are first needed."""

    def __init__(self, make):
        self._make = make
        self._by_worker = {}

    def get(self, worker, samples):
        """The lane of a worker for so many samples; a worker keeps the last few sizes."""
        lanes = self._by_worker.setdefault(worker, {})
        if samples not in lanes:
            if len(lanes) == SIZES_KEPT:
                del lanes[next(iter(lanes))]
            lanes[samples] = self._make(samples)
        else:
            lanes[samples] = lanes.pop(samples)
        return lanes[samples]
