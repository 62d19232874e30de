// The second stage of every sum over a batch: sums[i] = sum over shares of partials[share][i].
//
// One thread per i, which adds the shares in order. Any number of blocks of THREADS threads.

#include "constants.h"


extern "C" __global__ void __launch_bounds__(THREADS)
sum_partials(const real *__restrict__ partials, real *__restrict__ sums, int count, int shares) {
    for (int i = blockIdx.x * THREADS + threadIdx.x; i < count; i += gridDim.x * THREADS) {
        real sum = 0;
        for (int share = 0; share < shares; ++share) sum += partials[(size_t)share * count + i];
        sums[i] = sum;
    }
}
