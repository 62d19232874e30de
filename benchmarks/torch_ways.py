"""The ways in which PyTorch runs the steps of training: eagerly, or as a CUDA graph.

Each trains on the pictures of an `order`, int32 numbers on the host, batch by batch.
"""

from contextlib import contextmanager

EAGER, RESIDENT, GRAPH, COMPILED_GRAPH = "eager", "resident", "graph", "compile+graph"
GATHERED_AT_ONCE = 1024
ORDERED_AT_ONCE = 1 << 16  # samples whose order is uploaded at once
WARM_UP_STEPS = 3
# No mode that makes CUDA graphs of its own: the whole step is captured here.
COMPILE_OPTIONS = {"fullgraph": True, "dynamic": False}


def make_way(name, torch, step, task):
    """What runs a `torch_step.Step` in the way of a name."""
    if name == EAGER:
        return Eager(torch, step)
    return Resident(torch, step, scheduled=task.scheduled, compiled=name == COMPILED_GRAPH,
                    captured=name in (GRAPH, COMPILED_GRAPH))


class Eager:
    """Step after step; samples are gathered and scaled by the thousand, and batches are views."""

    def __init__(self, torch, step):
        self._torch = torch
        self._step = step

    def train(self, order, rates=None):
        """Train on the samples of an order; the rate of each batch, where it is not constant."""
        for _ in self.losses(order, rates):
            pass

    def losses(self, order, rates=None):
        """Train on them; gives the loss of each batch, a tensor."""
        step, size = self._step, self._step.batch_size
        order = self._torch.from_numpy(order).to(step.device)
        number = 0
        for part in order.split(size * max(1, GATHERED_AT_ONCE // size)):
            x, labels = step.batch(part)
            for x_batch, labels_batch in zip(x.split(size), labels.split(size), strict=True):
                if rates is not None:
                    step.rate.fill_(rates[number])
                number += 1
                yield step.update(step.loss(x_batch, labels_batch))


class Resident:
    """The order of many batches lies on the device, and with it the number of the next batch, which
    each step moves on: a step takes nothing from the host, and running it again is all that the
    host does. `captured`: as a CUDA graph; `compiled`: gathering, forward pass and loss, and their
    backward pass, by `torch.compile`.

    A graph is captured at the first step, on the side stream on which the step has been warmed up,
    as PyTorch's documentation wants it. Samples that are left over have a graph of their own.
    """

    def __init__(self, torch, step, *, scheduled, compiled, captured, batch_size=None):
        """batch_size: the step's, unless given."""
        self._torch = torch
        self._step = step
        self._options = {"scheduled": scheduled, "compiled": compiled, "captured": captured}
        self._batch_size = batch_size or step.batch_size
        self._capacity = max(1, ORDERED_AT_ONCE // self._batch_size)
        self._orders = torch.zeros((self._capacity, self._batch_size), dtype=torch.int32,
                                   device=step.device)
        self._rates = torch.zeros(self._capacity, device=step.device) if scheduled else None
        self._next = torch.zeros(1, dtype=torch.int64, device=step.device)
        self._next_loss = (torch.compile(self._loss_of_next, **COMPILE_OPTIONS) if compiled
                           else self._loss_of_next)
        self._stream = torch.cuda.Stream(step.device) if step.device.type == "cuda" else None
        self._graph = None
        self._left_over = {}  # number of samples -> what runs a batch of them

    def train(self, order, rates=None):
        """As `Eager.train`."""
        with self._on_stream():
            for _ in self._steps(order, rates):
                pass

    def losses(self, order, rates=None):
        """As `Eager.losses`; each loss must be read before the next."""
        with self._on_stream():
            yield from self._steps(order, rates)

    def _steps(self, order, rates):
        run, size = self._runner(), self._batch_size
        whole = len(order) // size
        for first in range(0, whole, self._capacity):
            last = min(first + self._capacity, whole)
            self._upload(self._orders[:last - first],
                         order[first * size:last * size].reshape(-1, size))
            if rates is not None:
                self._upload(self._rates[:last - first], rates[first:last])
            self._next.zero_()
            for _ in range(first, last):
                yield run()
        left = len(order) - whole * size
        if left:
            if left not in self._left_over:
                self._left_over[left] = Resident(self._torch, self._step, batch_size=left,
                                                 **self._options)
            yield from self._left_over[left].losses(
                order[-left:], None if rates is None else rates[-1:])

    def _advance(self):
        """A whole step on the next batch of the order, from arrays of the device alone."""
        step = self._step
        if self._rates is not None:
            step.rate.copy_(self._rates.index_select(0, self._next).view(()))
        loss = step.update(self._next_loss())
        self._next.add_(1)
        return loss

    def _loss_of_next(self):
        numbers = self._orders.index_select(0, self._next).view(-1)
        return self._step.loss(*self._step.batch(numbers))

    def _runner(self):
        """What runs one step and gives its loss."""
        if not self._options["captured"]:
            return self._advance
        if self._graph is None:
            with self._step.preserved():
                self._capture()
        return self._replay

    def _replay(self):
        self._graph.replay()
        return self._loss

    def _capture(self):
        """Warm up and capture on the current stream, the side stream: cuDNN chooses its algorithms
        by timing them, and what autograd keeps of a stream must be of the one that is captured."""
        torch = self._torch
        for _ in range(WARM_UP_STEPS):
            self._next.zero_()
            self._advance()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=self._stream):
            self._loss = self._advance()

    @contextmanager
    def _on_stream(self):
        """The side stream, behind the work given to the current one and before what follows it."""
        if self._stream is None:
            yield
            return
        cuda = self._torch.cuda
        current = cuda.current_stream(self._step.device)
        self._stream.wait_stream(current)
        with cuda.stream(self._stream):
            yield
        current.wait_stream(self._stream)

    def _upload(self, tensor, values):
        tensor.copy_(self._torch.from_numpy(values))
