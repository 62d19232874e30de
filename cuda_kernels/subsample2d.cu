// Trainable subsampling: forward and all gradients.
//
//   output[n][m][oy][ox] = act(coefficient[m] * sum(window of x[n][m] at (oy, ox)) + bias[m])
//   dz = grad_output * act'(output)
//   grad_input[n][m][iy][ix] = coefficient[m] * sum of dz over the windows that hold (iy, ix)
//   grad_coefficient[m] = sum of dz * window sum;   grad_bias[m] = sum of dz
//
// The windows are POOL_HEIGHT x POOL_WIDTH at multiples of STRIDE_Y, STRIDE_X; they may overlap or
// leave gaps. forward: one thread per output pixel. grad_input: one thread per input pixel, which
// gathers from its windows, so that nothing is added atomically. Both: any number of blocks of THREADS
// threads. grad_parameters: one block per (share, map), a share being every shares-th sample; THREADS
// reals of static shared memory; reduce.cu adds the shares.

#include "activation.cuh"
#include "constants.h"
#include "reduce.cuh"
#include "subsample2d.cuh"

constexpr int BLOCKS_AT_ONCE = 4;  // on a multiprocessor, at least: without it ptxas aims for more, and spills

using Windows = Pool<POOL_HEIGHT, POOL_WIDTH, STRIDE_Y, STRIDE_X>;

__device__ __forceinline__ real sum_at(const real *map, int width, int oy, int ox) {
    return window_sum<Windows>(map + (size_t)oy * STRIDE_Y * width + ox * STRIDE_X, width);
}

extern "C" __global__ void __launch_bounds__(THREADS)
subsample2d_forward(const real *__restrict__ x, const real *__restrict__ coefficient,
                    const real *__restrict__ bias, real *__restrict__ output, int all_maps, int maps,
                    int height, int width, int out_height, int out_width) {
    const long long count = (long long)all_maps * out_height * out_width;
    for (long long i = blockIdx.x * (long long)THREADS + threadIdx.x; i < count;
         i += gridDim.x * (long long)THREADS) {
        const int ox = i % out_width, oy = i / out_width % out_height;
        const int plane = i / ((long long)out_width * out_height), m = plane % maps;
        const real sum = sum_at(x + (size_t)plane * height * width, width, oy, ox);
        output[i] = Squash::value(coefficient[m] * sum + (bias ? bias[m] : real(0)));
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
subsample2d_grad_input(const real *__restrict__ grad_output, const real *__restrict__ output,
                       const real *__restrict__ coefficient, real *__restrict__ grad_input,
                       int all_maps, int maps, int height, int width, int out_height, int out_width) {
    const long long count = (long long)all_maps * height * width;
    for (long long i = blockIdx.x * (long long)THREADS + threadIdx.x; i < count;
         i += gridDim.x * (long long)THREADS) {
        const int ix = i % width, iy = i / width % height;
        const int plane = i / ((long long)width * height);
        real sum = 0;
        each_window_of<Windows>(iy, ix, out_height, out_width, [&](int oy, int ox) {
            const size_t at = ((size_t)plane * out_height + oy) * out_width + ox;
            sum += grad_output[at] * Squash::slope(output[at]);
        });
        grad_input[i] = coefficient[plane % maps] * sum;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_AT_ONCE)
subsample2d_grad_parameters(const real *__restrict__ grad_output, const real *__restrict__ output,
                            const real *__restrict__ x, real *__restrict__ coefficient_partials,
                            real *__restrict__ bias_partials, int samples, int maps, int height,
                            int width, int out_height, int out_width, int shares) {
    __shared__ real scratch[THREADS];
    const int positions = out_height * out_width;
    for (int work = blockIdx.x; work < maps * shares; work += gridDim.x) {
        const int m = work % maps, share = work / maps;
        real by_coefficient = 0, by_bias = 0;
        for (int n = share; n < samples; n += shares) {
            const size_t plane = (size_t)n * maps + m;
            for (int p = threadIdx.x; p < positions; p += THREADS) {
                const size_t at = plane * positions + p;
                const real dz = grad_output[at] * Squash::slope(output[at]);
                by_bias += dz;
                by_coefficient += dz * sum_at(x + plane * height * width, width, p / out_width, p % out_width);
            }
        }
        by_coefficient = block_sum<THREADS>(by_coefficient, scratch);
        by_bias = block_sum<THREADS>(by_bias, scratch);
        if (threadIdx.x == 0) {
            coefficient_partials[work] = by_coefficient;
            bias_partials[work] = by_bias;
        }
    }
}
