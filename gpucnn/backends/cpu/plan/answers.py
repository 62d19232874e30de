"""The last step: loss, errors and gradient of one micro-batch's outputs."""


class Answers:
    """The loss of a lane's outputs (classes, samples), and its gradient, by the backend's op."""

    def __init__(self, lane, output, loss, backend):
        classes = output.shape[0]
        self._scores = output.reshape(classes, lane.samples)
        self.grad_output = lane.empty(output.shape)
        self._grad = self.grad_output.reshape(classes, lane.samples)
        self._loss = loss
        self._backend = backend
        self._mean = lane.empty((1,))

    def evaluate(self, labels, samples, totals):
        """Fill `grad_output`, of the mean over a batch of `samples`; add to `totals`."""
        self._loss.evaluate(self._backend, self._scores.T, labels, grad_output=self._grad.T,
                            loss=self._mean, totals=totals)
        self._grad *= len(labels) / samples
