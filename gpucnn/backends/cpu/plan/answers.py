"""The last step: loss, errors and gradient of one micro-batch's outputs."""

from math import exp, isfinite, log

import numpy as np


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


class OneAnswer(Answers):
    """One sample's loss, in Python's own floats: for ten numbers that is quicker than NumPy."""

    def __init__(self, lane, output, loss, backend):
        super().__init__(lane, output, loss, backend)
        self._column = self._grad.reshape(-1)
        self._evaluate = {"cross_entropy": _cross_entropy, "mse": _mse}[loss.op]

    def evaluate(self, labels, samples, totals):
        self.answer(int(labels[0]), totals)

    def answer(self, label, totals):
        """Fill `grad_output`; add to `totals`; the loss."""
        scores = self._scores.ravel().tolist()
        if not 0 <= label < len(scores) or not isfinite(sum(scores)):
            super().evaluate(np.array([label], np.int32), 1, totals)
            return self._mean[0]
        loss, gradient = self._evaluate(scores, label, self._loss)
        self._column[:] = gradient
        totals[0] += loss
        totals[1] += scores.index(max(scores)) != label
        return loss


def _cross_entropy(scores, label, _):
    highest = max(scores)
    exponentials = [exp(score - highest) for score in scores]
    total = sum(exponentials)
    gradient = [one / total for one in exponentials]
    gradient[label] -= 1
    return log(total) - (scores[label] - highest), gradient


def _mse(scores, label, loss):
    gradient = [score + loss.target for score in scores]
    gradient[label] -= 2 * loss.target
    return 0.5 * sum(one * one for one in gradient), gradient
