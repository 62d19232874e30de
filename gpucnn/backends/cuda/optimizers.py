"""Launches of the update kernels: cuda_kernels/optimizers.cu."""

from gpucnn.backends.cuda.kernels import Specialisation
from gpucnn.backends.cuda.launch import BLOCK, THREADS, blocks_for


def sgd_step(backend, parameters, gradients, velocity, scalars, *, momentum, nesterov,
             weight_decay):
    """One launch, a thread per parameter."""
    _launch(backend, "sgd_step", parameters, gradients, velocity, scalars, parameters.size,
            momentum, int(nesterov), weight_decay)


def adam_step(backend, parameters, gradients, mean, square, scalars, *, beta1, beta2, epsilon,
              weight_decay):
    """One launch, a thread per parameter."""
    _launch(backend, "adam_step", parameters, gradients, mean, square, scalars, parameters.size,
            beta1, beta2, 1 - beta1, 1 - beta2, epsilon, weight_decay)


def _launch(backend, kernel, parameters, *arguments):
    specialisation = Specialisation("optimizers.cu", parameters.dtype, None, (BLOCK,))
    backend.kernels.launch(specialisation, kernel, blocks_for(parameters.size, THREADS), THREADS,
                           parameters, *arguments)
