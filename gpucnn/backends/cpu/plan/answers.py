"""The last step: loss, errors and gradient of one micro-batch's outputs."""

from math import isfinite

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
