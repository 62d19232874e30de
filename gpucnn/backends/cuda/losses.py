"""Launches of the loss kernels: cuda_kernels/losses.cu."""

import numpy as np

from gpucnn.backends.cuda.kernels import Specialisation
from gpucnn.backends.cuda.launch import BLOCK, THREADS, blocks_for


def mse(backend, output, labels, *, target, grad_output, loss, totals, workspace=None):
    """A launch over the samples and one that adds them up."""
    _launch(backend, "mse_samples", output, labels, grad_output, loss, totals, workspace, target)


def cross_entropy(backend, output, labels, *, grad_output, loss, totals, workspace=None):
    """A launch over the samples and one that adds them up."""
    _launch(backend, "cross_entropy_samples", output, labels, grad_output, loss, totals, workspace)


def _launch(backend, kernel, output, labels, grad_output, loss, totals, workspace, *options):
    samples, classes = output.shape
    specialisation = Specialisation("losses.cu", output.dtype, None, (BLOCK,))
    losses = backend.scratch(workspace, "losses.sample_losses", (samples,), np.float64)
    verdicts = backend.scratch(workspace, "losses.verdicts", (samples,), np.int32)
    backend.kernels.launch(specialisation, kernel, blocks_for(samples, THREADS), THREADS, output,
                           labels, grad_output, losses, verdicts, samples, classes, *options)
    backend.kernels.launch(specialisation, "sum_losses", 1, THREADS, losses, verdicts, loss, totals,
                           samples)
