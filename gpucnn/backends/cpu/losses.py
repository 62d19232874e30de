"""Losses of a batch and their gradients, in NumPy."""

import numpy as np


def mse(output, labels, *, target, grad_output, loss, totals, workspace=None):
    """Half the squared distance from targets of +-target."""
    rows, safe, valid = _labelled(output, labels)
    np.add(output, target, out=grad_output)
    grad_output[rows, safe] -= 2 * target
    grad_output[~valid] = 0
    losses = 0.5 * np.einsum("nc,nc->n", grad_output, grad_output, dtype=np.float64)
    _finish(losses, output, safe, valid, grad_output, loss, totals)


def cross_entropy(output, labels, *, grad_output, loss, totals, workspace=None):
    """Softmax with the largest output subtracted first, so that nothing overflows."""
    rows, safe, valid = _labelled(output, labels)
    np.subtract(output, output.max(axis=1, keepdims=True), out=grad_output)
    chosen = grad_output[rows, safe].astype(np.float64)
    np.exp(grad_output, out=grad_output)
    sums = grad_output.sum(axis=1, keepdims=True)
    losses = np.where(valid, np.log(sums[:, 0], dtype=np.float64) - chosen, 0.0)
    grad_output /= sums
    grad_output[rows, safe] -= 1
    grad_output[~valid] = 0
    _finish(losses, output, safe, valid, grad_output, loss, totals)


def _labelled(output, labels):
    valid = (labels >= 0) & (labels < output.shape[1])
    return np.arange(len(labels)), np.where(valid, labels, 0), valid


def _finish(losses, output, safe, valid, grad_output, loss, totals):
    """Turn sums into means, and count errors: an output that is not greater than all before it and
    no less than all behind it is not the answer (a NaN never is)."""
    grad_output /= len(losses)
    loss[0] = losses.sum() / len(losses)
    totals[0] += losses.sum()
    answers = np.where(np.isnan(output), -np.inf, output).argmax(axis=1)
    right = valid & (answers == safe) & ~np.isnan(output[np.arange(len(losses)), safe])
    totals[1] += len(losses) - np.count_nonzero(right)
    totals[2] += len(losses) - np.count_nonzero(valid)
