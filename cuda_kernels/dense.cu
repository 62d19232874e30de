// Dense over the map axis at every position: forward and all gradients.
//
//   with columns j = (n, p) over samples and positions, X[i][j] = x[n][i][p] and dz = grad_output * act'(output):
//   output[o][j] = act(sum over i of weight[o][i] * X[i][j] + bias[o])
//   grad_input[i][j] = sum over o of weight[o][i] * dz[o][j]
//   grad_weight[o][i] = sum over j of dz[o][j] * X[i][j];   grad_bias[o] = sum over j of dz[o][j]
//
// Each is a matrix product: a block owns a part of PART x PART elements of the result, a thread SIDE x SIDE
// of them, TILE apart, and both operands pass through shared memory TILE columns at a time. With SIDE = 4
// a value read from there serves four multiply-adds. grad_weight has two stages: a share is every
// shares-th step of the sum over j, and reduce.cu adds the shares.
//
// Shared memory: 2 * TILE * (PART + 1) reals, static. Launch: 1-D, TILE * TILE threads, one block per part
// (and share), or fewer: blocks loop.

#include "activation.cuh"
#include "constants.h"
#include "dense.cuh"
#include "reduce.cuh"

constexpr int THREADS = TILE * TILE, PART = TILE * SIDE;

// store(row, column, sum over k of left(row, k) * right(k, column)) for one part of the result.
// k runs over steps of TILE from `first` on, `stride` steps apart.
template <typename Left, typename Right, typename Store>
__device__ void product_part(int part, int rows, int columns, int inner, int first, int stride, Left left,
                             Right right, Store store) {
    __shared__ real lefts[TILE][PART + 1];
    __shared__ real rights[TILE][PART + 1];
    const int down = threadIdx.x / TILE, across = threadIdx.x % TILE;
    const int parts_across = (columns + PART - 1) / PART;
    const int top = part / parts_across * PART, from = part % parts_across * PART;
    real sums[SIDE * SIDE] = {};
    for (int step = first; step * TILE < inner; step += stride) {
#pragma unroll
        for (int s = 0; s < SIDE; ++s) {
            const int row = s * TILE + down, column = s * TILE + across;
            const int k_across = step * TILE + across, k_down = step * TILE + down;
            lefts[across][row] = top + row < rows && k_across < inner ? left(top + row, k_across) : real(0);
            rights[down][column] =
                k_down < inner && from + column < columns ? right(k_down, from + column) : real(0);
        }
        __syncthreads();
        for (int k = 0; k < TILE; ++k)
            add_outer<SIDE, SIDE, TILE, TILE>(sums, lefts[k] + down, rights[k] + across);
        __syncthreads();
    }
#pragma unroll
    for (int s = 0; s < SIDE * SIDE; ++s) {
        const int row = top + s / SIDE * TILE + down, column = from + s % SIDE * TILE + across;
        if (row < rows && column < columns) store(row, column, sums[s]);
    }
}

__device__ inline int parts(int rows, int columns) {
    return (rows + PART - 1) / PART * ((columns + PART - 1) / PART);
}

// Where element (feature, column) of an array (samples, features, positions) is.
__device__ inline size_t place(int feature, int column, int features, int positions) {
    return ((size_t)(column / positions) * features + feature) * positions + column % positions;
}

extern "C" __global__ void __launch_bounds__(THREADS)
dense_forward(const real *__restrict__ x, const real *__restrict__ weight, const real *__restrict__ bias,
              real *__restrict__ output, int samples, int in_features, int out_features, int positions) {
    const int columns = samples * positions;
    for (int part = blockIdx.x; part < parts(out_features, columns); part += gridDim.x)
        product_part(
            part, out_features, columns, in_features, 0, 1,
            [&](int o, int i) { return weight[(size_t)o * in_features + i]; },
            [&](int i, int j) { return x[place(i, j, in_features, positions)]; },
            [&](int o, int j, real z) {
                output[place(o, j, out_features, positions)] =
                    Squash::value(z + (bias ? bias[o] : real(0)));
            });
}

extern "C" __global__ void __launch_bounds__(THREADS)
dense_grad_input(const real *__restrict__ grad_output, const real *__restrict__ output,
                 const real *__restrict__ weight, real *__restrict__ grad_input, int samples,
                 int in_features, int out_features, int positions) {
    const int columns = samples * positions;
    for (int part = blockIdx.x; part < parts(in_features, columns); part += gridDim.x)
        product_part(
            part, in_features, columns, out_features, 0, 1,
            [&](int i, int o) { return weight[(size_t)o * in_features + i]; },
            [&](int o, int j) {
                const size_t at = place(o, j, out_features, positions);
                return grad_output[at] * Squash::slope(output[at]);
            },
            [&](int i, int j, real sum) { grad_input[place(i, j, in_features, positions)] = sum; });
}

extern "C" __global__ void __launch_bounds__(THREADS)
dense_grad_weight(const real *__restrict__ grad_output, const real *__restrict__ output,
                  const real *__restrict__ x, real *__restrict__ partials, int samples, int in_features,
                  int out_features, int positions, int shares) {
    const int all_parts = parts(out_features, in_features);
    for (int work = blockIdx.x; work < all_parts * shares; work += gridDim.x) {
        const int share = work / all_parts;
        real *mine = partials + (size_t)share * out_features * in_features;
        product_part(
            work % all_parts, out_features, in_features, samples * positions, share, shares,
            [&](int o, int j) {
                const size_t at = place(o, j, out_features, positions);
                return grad_output[at] * Squash::slope(output[at]);
            },
            [&](int j, int i) { return x[place(i, j, in_features, positions)]; },
            [&](int o, int i, real sum) { mine[(size_t)o * in_features + i] = sum; });
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
dense_grad_bias(const real *__restrict__ grad_output, const real *__restrict__ output,
                real *__restrict__ partials, int samples, int out_features, int positions, int shares) {
    __shared__ real scratch[THREADS];
    sum_dz_by_map<THREADS, Squash>(grad_output, output, partials, samples, out_features, positions, shares,
                                   scratch);
}
