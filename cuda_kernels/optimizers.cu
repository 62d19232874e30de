// One update of the flat parameter array, in place, as PyTorch's SGD and Adam define it.
//
//   g = gradient + weight_decay * parameter
//   sgd:   velocity = momentum * velocity + g
//          parameter -= scalars[0] * (nesterov ? g + momentum * velocity : velocity)
//   adam:  mean = beta1 * mean + (1 - beta1) * g;  square = beta2 * square + (1 - beta2) * g^2
//          parameter -= scalars[0] * mean / (sqrt(square) * scalars[1] + epsilon)
//
// What changes from step to step is read from `scalars` in device memory, so that a captured graph
// can be replayed. One thread per parameter, any number of blocks of THREADS threads. `velocity` is null
// without momentum.

#include "constants.h"


extern "C" __global__ void __launch_bounds__(THREADS)
sgd_step(real *__restrict__ parameters, const real *__restrict__ gradients, real *__restrict__ velocity,
         const real *__restrict__ scalars, int count, real momentum, int nesterov, real weight_decay) {
    const real rate = scalars[0];
    for (int i = blockIdx.x * THREADS + threadIdx.x; i < count; i += gridDim.x * THREADS) {
        const real g = gradients[i] + weight_decay * parameters[i];
        real step = g;
        if (velocity) {
            velocity[i] = momentum * velocity[i] + g;
            step = nesterov ? g + momentum * velocity[i] : velocity[i];
        }
        parameters[i] -= rate * step;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
adam_step(real *__restrict__ parameters, const real *__restrict__ gradients, real *__restrict__ mean,
          real *__restrict__ square, const real *__restrict__ scalars, int count, real beta1, real beta2,
          real one_minus_beta1, real one_minus_beta2, real epsilon, real weight_decay) {
    for (int i = blockIdx.x * THREADS + threadIdx.x; i < count; i += gridDim.x * THREADS) {
        const real g = gradients[i] + weight_decay * parameters[i];
        mean[i] = beta1 * mean[i] + one_minus_beta1 * g;
        square[i] = beta2 * square[i] + one_minus_beta2 * g * g;
        parameters[i] -= scalars[0] * mean[i] / (sqrt(square[i]) * scalars[1] + epsilon);
    }
}
