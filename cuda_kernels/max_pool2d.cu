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
#include "max_pool2d.cuh"

using Windows = Pool<POOL_HEIGHT, POOL_WIDTH, STRIDE_Y, STRIDE_X>;

extern "C" __global__ void __launch_bounds__(THREADS)
max_pool2d_forward(const real *__restrict__ x, real *__restrict__ output, int all_maps, int height,
                   int width, int out_height, int out_width) {
    const long long count = (long long)all_maps * out_height * out_width;
    for (long long i = blockIdx.x * (long long)THREADS + threadIdx.x; i < count;
         i += gridDim.x * (long long)THREADS) {
        const int ox = i % out_width, oy = i / out_width % out_height;
        const size_t plane = i / ((long long)out_width * out_height);
        const real *window = x + (plane * height + (size_t)oy * STRIDE_Y) * width + ox * STRIDE_X;
        real highest;
        first_maximum<Windows>(window, width, highest);
        output[i] = highest;
    }
}

// At least one block on a multiprocessor: unless told so ptxas aims for more on some GPUs, and spills.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
max_pool2d_grad_input(const real *__restrict__ grad_output, const real *__restrict__ x,
                      real *__restrict__ grad_input, int all_maps, int height, int width, int out_height,
                      int out_width) {
    const long long count = (long long)all_maps * height * width;
    for (long long i = blockIdx.x * (long long)THREADS + threadIdx.x; i < count;
         i += gridDim.x * (long long)THREADS) {
        const int ix = i % width, iy = i / width % height;
        const size_t plane = i / ((long long)width * height);
        real sum = 0;
        each_window_of<Windows>(iy, ix, out_height, out_width, [&](int oy, int ox) {
            const real *window = x + (plane * height + (size_t)oy * STRIDE_Y) * width + ox * STRIDE_X;
            const int place = (iy - oy * STRIDE_Y) * POOL_WIDTH + ix - ox * STRIDE_X;
            real highest;
            if (first_maximum<Windows>(window, width, highest) == place)
                sum += grad_output[(plane * out_height + oy) * out_width + ox];
        });
        grad_input[i] = sum;
    }
}
