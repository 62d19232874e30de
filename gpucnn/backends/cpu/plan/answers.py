"""The last step: loss, errors and gradient of one micro-batch's outputs."""

from math import exp, isfinite, log

import numpy as np


class Answers:
    """The loss of a lane's outputs (classes, samples), and its gradient.

    Labels out of range and outputs that are not finite are left to the backend's op.
    """

    def __init__(self, lane, output, loss, backend):
        classes = output.shape[0]
        self._scores = output.reshape(classes, lane.samples)
        self.grad_output = lane.empty(output.shape)
        self._grad = self.grad_output.reshape(classes, lane.samples)
        self._loss = loss
        self._backend = backend
        self._mean = lane.empty((1,))
        self._columns = np.arange(lane.samples)
        self._losses = {"cross_entropy": self._cross_entropy, "mse": self._mse}[loss.op]

    def evaluate(self, labels, samples, totals):
        """Fill `grad_output`, of the mean over a batch of `samples`; add to `totals`."""
        if labels.min() >= 0 and labels.max() < len(self._scores):
            loss = self._losses(labels, samples)
            if isfinite(loss):
                totals[0] += loss
                totals[1] += np.count_nonzero(self._scores.argmax(axis=0) != labels)
                return
        self._loss.evaluate(self._backend, self._scores.T, labels, grad_output=self._grad.T,
                            loss=self._mean, totals=totals)
        self._grad *= len(labels) / samples

    def _cross_entropy(self, labels, samples):
        grad = self._grad
        np.subtract(self._scores, self._scores.max(axis=0), out=grad)
        chosen = grad[labels, self._columns].sum(dtype=np.float64)
        np.exp(grad, out=grad)
        exponentials = grad.sum(axis=0)
        loss = np.log(exponentials).sum(dtype=np.float64) - chosen
        exponentials *= samples
        grad /= exponentials
        grad[labels, self._columns] -= 1 / samples
        return loss

    def _mse(self, labels, samples):
        grad = self._grad
        np.add(self._scores, self._loss.target, out=grad)
        grad[labels, self._columns] -= 2 * self._loss.target
        loss = 0.5 * np.einsum("cn,cn->", grad, grad, dtype=np.float64)
        grad /= samples
        return loss


class OneAnswer(Answers):
    """One sample's loss, in Python's own floats: for ten numbers that is quicker than NumPy."""

    def __init__(self, lane, output, loss, backend):
        super().__init__(lane, output, loss, backend)
        self._column, self._outputs = self._grad.reshape(-1), self._scores.reshape(-1)
        self._one_loss = {"cross_entropy": _cross_entropy, "mse": _mse}[loss.op]

    def evaluate(self, labels, samples, totals):
        self.answer(int(labels[0]), totals)

    def answer(self, label, totals):
        """Fill `grad_output`; add to `totals`; the loss."""
        scores = self._outputs.tolist()
        if not 0 <= label < len(scores) or not isfinite(sum(scores)):
            super().evaluate(np.array([label], np.int32), 1, totals)
            return self._mean[0]
        loss, gradient = self._one_loss(scores, label, self._loss)
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
