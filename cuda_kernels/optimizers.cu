// One update of the flat parameter array, in place, as optimizers.cuh defines it.
//
//   sgd:   rate = scalars[0]
//   adam:  rate = scalars[0], correction = scalars[1]
//
// What changes from step to step is read from `scalars` in device memory, so that a captured graph
// can be replayed. One thread per parameter, any number of blocks of THREADS threads. `velocity` is null
// without momentum.

#include "constants.h"
#include "optimizers.cuh"


extern "C" __global__ void __launch_bounds__(THREADS)
sgd_step(real *__restrict__ parameters, const real *__restrict__ gradients, real *__restrict__ velocity,
         const real *__restrict__ scalars, int count, real momentum, int nesterov, real weight_decay) {
    const real rate = scalars[0];
    for (int i = blockIdx.x * THREADS + threadIdx.x; i < count; i += gridDim.x * THREADS) {
        real remembered = velocity ? velocity[i] : real(0);
        sgd_update(parameters[i], remembered, gradients[i], rate, momentum, velocity, nesterov, weight_decay);
        if (velocity) velocity[i] = remembered;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
adam_step(real *__restrict__ parameters, const real *__restrict__ gradients, real *__restrict__ mean,
          real *__restrict__ square, const real *__restrict__ scalars, int count, real beta1, real beta2,
          real one_minus_beta1, real one_minus_beta2, real epsilon, real weight_decay) {
    for (int i = blockIdx.x * THREADS + threadIdx.x; i < count; i += gridDim.x * THREADS)
        adam_update(parameters[i], mean[i], square[i], gradients[i], scalars[0], scalars[1], beta1, beta2,
                    one_minus_beta1, one_minus_beta2, epsilon, weight_decay);
}
