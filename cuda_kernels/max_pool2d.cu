// Max pooling: forward and gradient.
//
//   output[n][m][oy][ox] = max(window of x[n][m] at (oy, ox)); a NaN counts as the largest
//   grad_input[n][m][iy][ix] = sum of grad_output over the windows whose first maximum, in row-major
//                              order, is (iy, ix)
//
// forward: one thread per output pixel. grad_input: one thread per input pixel, which asks each of its
// windows whether it is that window's first maximum; nothing is added atomically. Any number of
// blocks of THREADS threads, no shared memory.

#include "constants.h"


__device__ inline bool replaces(real candidate, real highest) {
    return candidate > highest || (isnan(candidate) && !isnan(highest));
}

extern "C" __global__ void __launch_bounds__(THREADS)
max_pool2d_forward(const real *__restrict__ x, real *__restrict__ output, int all_maps, int height,
                   int width, int out_height, int out_width) {
    const long long count = (long long)all_maps * out_height * out_width;
    for (long long i = blockIdx.x * (long long)THREADS + threadIdx.x; i < count;
         i += gridDim.x * (long long)THREADS) {
        const int ox = i % out_width, oy = i / out_width % out_height;
        const size_t plane = i / ((long long)out_width * out_height);
        const real *window = x + (plane * height + (size_t)oy * STRIDE_Y) * width + ox * STRIDE_X;
        real highest = window[0];
        for (int py = 0; py < POOL_HEIGHT; ++py)
            for (int px = 0; px < POOL_WIDTH; ++px) {
                const real candidate = window[(size_t)py * width + px];
                if (replaces(candidate, highest)) highest = candidate;
            }
        output[i] = highest;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
max_pool2d_grad_input(const real *__restrict__ grad_output, const real *__restrict__ x,
                      real *__restrict__ grad_input, int all_maps, int height, int width, int out_height,
                      int out_width) {
    const long long count = (long long)all_maps * height * width;
    for (long long i = blockIdx.x * (long long)THREADS + threadIdx.x; i < count;
         i += gridDim.x * (long long)THREADS) {
        const int ix = i % width, iy = i / width % height;
        const size_t plane = i / ((long long)width * height);
        const real mine = x[i];
        const int top = iy < POOL_HEIGHT ? 0 : (iy - POOL_HEIGHT) / STRIDE_Y + 1;
        const int left = ix < POOL_WIDTH ? 0 : (ix - POOL_WIDTH) / STRIDE_X + 1;
        real sum = 0;
        for (int oy = top; oy <= min(iy / STRIDE_Y, out_height - 1); ++oy)
            for (int ox = left; ox <= min(ix / STRIDE_X, out_width - 1); ++ox) {
                const real *window = x + (plane * height + (size_t)oy * STRIDE_Y) * width + ox * STRIDE_X;
                const int place = (iy - oy * STRIDE_Y) * POOL_WIDTH + ix - ox * STRIDE_X;
                bool first = true;
                for (int p = 0; p < POOL_HEIGHT * POOL_WIDTH && first; ++p) {
                    const real other = window[(size_t)(p / POOL_WIDTH) * width + p % POOL_WIDTH];
                    first = p < place ? replaces(mine, other) : !replaces(other, mine);
                }
                if (first) sum += grad_output[(plane * out_height + oy) * out_width + ox];
            }
        grad_input[i] = sum;
    }
}
