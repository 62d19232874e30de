// The second stage of a convolution's gradients by the parameters: the sum over the shares of a batch.
//
//   grad_weight[i] = sum over shares of weights[share][i],  i < count
//   grad_bias[o] = sum over shares of biases[share][o],     o < maps
//
// A block adds COLUMNS neighbouring elements at a time: thread (r, c) the shares r, r + ROWS, ... of element c, then
// the ROWS sums of an element are added in order. Shared memory: ROWS * COLUMNS reals, static. Launch: 1-D, ROWS *
// COLUMNS threads, a block for each COLUMNS elements, those of the biases beginning at a block of their own,
// or fewer: blocks loop.

#include "constants.h"

extern "C" __global__ void __launch_bounds__(ROWS *COLUMNS)
conv2d_sums(const real *__restrict__ weights, const real *__restrict__ biases, real *__restrict__ grad_weight,
            real *__restrict__ grad_bias, int count, int maps, int shares) {
    __shared__ real sums[ROWS][COLUMNS];
    const int column = threadIdx.x % COLUMNS, row = threadIdx.x / COLUMNS;
    const int of_weights = (count + COLUMNS - 1) / COLUMNS, blocks = of_weights + (maps + COLUMNS - 1) / COLUMNS;
    for (int block = blockIdx.x; block < blocks; block += gridDim.x) {
        const bool bias = block >= of_weights;
        const int size = bias ? maps : count, i = (bias ? block - of_weights : block) * COLUMNS + column;
        const real *partials = bias ? biases : weights;
        real sum = 0;
        if (i < size)
#pragma unroll 4
            for (int share = row; share < shares; share += ROWS) sum += partials[(size_t)share * size + i];
        sums[row][column] = sum;
        __syncthreads();
        if (row == 0 && i < size) {
            for (int r = 1; r < ROWS; ++r) sum += sums[r][column];
            (bias ? grad_bias : grad_weight)[i] = sum;
        }
        __syncthreads();
    }
}
