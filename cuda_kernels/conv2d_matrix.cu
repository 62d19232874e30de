// Convolution through a dense or nearly dense table, as products of matrices whose elements are gathered from
// the maps (conv2d_matrix.cuh has the product). With t = (ky, kx) and p = (n, oy, ox):
//
//   forward      z[o][p] = sum over (i, t) of dense[(i, t)][o] * x[n][i][oy * STRIDE_Y + ky - padding_y][...]
//   grad_input   [i][(n, iy, ix)] = sum over (o, t) of dense[(o, t)][i] * dz[n][o][(iy + padding_y - ky) / STRIDE_Y][...]
//   grad_weight  [o][(i, t)] = sum over p of dz[o][p] * x[n][i][...], a share of p for each block, of which the
//     connections are written; one more column of x is 1, for the biases
//
//   dense[(source, t)][target] = weight[c][t] where connection c joins them, else 0: conv2d_dense_weight makes it
//   from connection_of[target][source], -1 for none. Its rows are `pitch` long, a multiple of the tile.
//
// What is not joined is multiplied all the same, so this pays from some density on (conv2d_kernels/matrix.py).
//
// A thread owns some elements of its block's tile of the product. Shared memory, static: see conv2d_matrix.cuh.
// Launch: 1-D, THREADS threads, a block for each tile of the product (and share), or fewer: blocks loop.
// constants.h: KERNEL_*, STRIDE_*, ROWS, PASSES.

#include "activation.cuh"
#include "constants.h"
#include "conv2d_matrix.cuh"

constexpr int KERNEL = KERNEL_HEIGHT * KERNEL_WIDTH;

struct Maps {
    int samples, count, height, width;
    __device__ __forceinline__ int area() const { return height * width; }
};

// dz = grad_output * act'(output) at a place.
struct Gradient {
    const real *grad_output, *output;
    __device__ __forceinline__ real at(size_t place) const {
        return grad_output[place] * Squash::slope(output[place]);
    }
};

// Rows of the matrix of weights, targets across.
struct DenseWeight {
    using At = Places<TILE_OUT, true>;
    const real *dense;
    int first, pitch;
    __device__ __forceinline__ real at(int j, int k) const {
        return dense[(size_t)k * pitch + first + At::column(j)];
    }
};

// Columns for pixels: for forward, what each element of the kernel sees of x; for grad_input, which dz sees the
// pixel through it. A thread has one column.
template <bool TRANSPOSED, class Read>
struct Pixels {
    using At = Places<TILE_IN, true>;
    Read read;
    Maps maps;
    int y, x;     // of kernel element (0, 0)
    size_t map0;
    bool there;

    __device__ Pixels(const Read &read, const Maps &maps, const Maps &targets, int first, int padding_y,
                      int padding_x)
        : read(read), maps(maps) {
        const int pixel = first + At::column(0), n = pixel / targets.area(), at = pixel % targets.area();
        there = n < targets.samples;
        map0 = there ? (size_t)n * maps.count * maps.area() : 0;
        y = TRANSPOSED ? at / targets.width + padding_y : at / targets.width * STRIDE_Y - padding_y;
        x = TRANSPOSED ? at % targets.width + padding_x : at % targets.width * STRIDE_X - padding_x;
    }
    __device__ __forceinline__ real at(int, int k) const {
        const int map = k / KERNEL, ky = k % KERNEL / KERNEL_WIDTH, kx = k % KERNEL_WIDTH;
        int row = y + ky, column = x + kx;
        bool inside = there;
        if constexpr (TRANSPOSED) {
            row = y - ky;
            column = x - kx;
            inside = inside && row >= 0 && column >= 0 && row % STRIDE_Y == 0 && column % STRIDE_X == 0;
            row /= STRIDE_Y;
            column /= STRIDE_X;
        }
        inside = inside && row >= 0 && row < maps.height && column >= 0 && column < maps.width;
        return inside ? read.at(map0 + (size_t)map * maps.area() + row * maps.width + column) : real(0);
    }
};

struct Values {
    const real *values;
    __device__ __forceinline__ real at(size_t place) const { return values[place]; }
};

// Position k of the output: all elements of a thread have the same.
struct Position {
    int n, row, column;
    __device__ __forceinline__ Position(int k, const Maps &targets)
        : n(k / targets.area()), row(k / targets.width % targets.height), column(k % targets.width) {}
};

// Rows for positions, output maps across: dz.
struct PositionGradient {
    using At = Places<TILE_OUT, false>;
    Gradient gradient;
    Maps targets;
    int first;
    __device__ __forceinline__ real at(int j, int k) const {
        const int o = first + At::column(j);
        if (o >= targets.count) return 0;
        const int n = k / targets.area();
        return gradient.at(((size_t)n * targets.count + o) * targets.area() + k % targets.area());
    }
};

// Rows for positions, kernel elements of input maps across: what they see of x. One column more is 1.
struct PositionWindow {
    using At = Places<TILE_IN, false>;
    const real *x;
    Maps maps, targets;
    int first, padding_y, padding_x;
    __device__ __forceinline__ real at(int j, int k) const {
        const int column = first + At::column(j), map = column / KERNEL, t = column % KERNEL;
        if (map >= maps.count) return column == maps.count * KERNEL ? real(1) : real(0);
        const Position position(k, targets);
        const int iy = position.row * STRIDE_Y - padding_y + t / KERNEL_WIDTH;
        const int ix = position.column * STRIDE_X - padding_x + t % KERNEL_WIDTH;
        const bool inside = iy >= 0 && iy < maps.height && ix >= 0 && ix < maps.width;
        return inside ? x[((size_t)position.n * maps.count + map) * maps.area() + iy * maps.width + ix] : real(0);
    }
};

// The product of weights and pixels: write(map, place, sum) for every pixel of every target map.
template <class Right, class Write>
__device__ __forceinline__ void multiply_pixels(const real *dense, int pitch, const Maps &sources,
                                                const Maps &targets, Right right_of, Write write) {
    __shared__ alignas(16) real buffers[2 * BUFFER];
    const int pixels = targets.samples * targets.area(), rows = (targets.count + TILE_OUT - 1) / TILE_OUT;
    for (int work = blockIdx.x; work < rows * ((pixels + TILE_IN - 1) / TILE_IN); work += gridDim.x) {
        const int top = work % rows * TILE_OUT, left = work / rows * TILE_IN;  // blocks with the same pixels together
        Products sums;
        multiply(sums, DenseWeight{dense, top, pitch}, right_of(left), 0, sources.count * KERNEL, buffers);
        each_sum(sums, [&](int row, int column, real sum) {
            const int map = top + row, pixel = left + column;
            if (map < targets.count && pixel < pixels)
                write(map, ((size_t)(pixel / targets.area()) * targets.count + map) * targets.area()
                               + pixel % targets.area(), sum);
        });
    }
}

// `sources` and `targets` are in_maps and out_maps for forward, the other way round for grad_input.
extern "C" __global__ void __launch_bounds__(THREADS)
conv2d_dense_weight(const real *__restrict__ weight, const int *__restrict__ connection_of, real *__restrict__ dense,
                    int sources, int targets, int pitch) {
    for (int i = blockIdx.x * THREADS + threadIdx.x; i < sources * KERNEL * pitch; i += gridDim.x * THREADS) {
        const int target = i % pitch, source = i / pitch / KERNEL, t = i / pitch % KERNEL;
        const int c = target < targets ? connection_of[(size_t)target * sources + source] : -1;
        dense[i] = c < 0 ? real(0) : weight[(size_t)c * KERNEL + t];
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_AT_ONCE)
conv2d_matrix_forward(const real *__restrict__ x, const real *__restrict__ dense, const real *__restrict__ bias,
                      real *__restrict__ output, int samples, int in_maps, int height, int width, int out_maps,
                      int out_height, int out_width, int padding_y, int padding_x, int pitch) {
    const Maps sources{samples, in_maps, height, width}, targets{samples, out_maps, out_height, out_width};
    const auto right = [&](int first) {
        return Pixels<false, Values>(Values{x}, sources, targets, first, padding_y, padding_x);
    };
    multiply_pixels(dense, pitch, sources, targets, right, [&](int map, size_t place, real sum) {
        output[place] = Squash::value(bias ? sum + bias[map] : sum);
    });
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_AT_ONCE)
conv2d_matrix_grad_input(const real *__restrict__ grad_output, const real *__restrict__ output,
                         const real *__restrict__ dense, real *__restrict__ grad_input, int samples, int in_maps,
                         int height, int width, int out_maps, int out_height, int out_width, int padding_y,
                         int padding_x, int pitch) {
    const Maps sources{samples, out_maps, out_height, out_width}, targets{samples, in_maps, height, width};
    const auto right = [&](int first) {
        return Pixels<true, Gradient>(Gradient{grad_output, output}, sources, targets, first, padding_y, padding_x);
    };
    multiply_pixels(dense, pitch, sources, targets, right,
                    [&](int, size_t place, real sum) { grad_input[place] = sum; });
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_AT_ONCE)
conv2d_matrix_grad_weight(const real *__restrict__ grad_output, const real *__restrict__ output,
                          const real *__restrict__ x, const int *__restrict__ connection_of,
                          real *__restrict__ grad_weight, real *__restrict__ grad_bias, int n_connections,
                          int samples, int in_maps, int height, int width, int out_maps, int out_height,
                          int out_width, int padding_y, int padding_x, int shares) {
    __shared__ alignas(16) real buffers[2 * BUFFER];
    const Maps maps{samples, in_maps, height, width}, targets{samples, out_maps, out_height, out_width};
    const int columns = in_maps * KERNEL + 1, across = (columns + TILE_IN - 1) / TILE_IN;
    const int tiles = (out_maps + TILE_OUT - 1) / TILE_OUT * across;
    const int positions = samples * targets.area();
    const int of_share = ((positions + shares - 1) / shares + STEP - 1) / STEP * STEP;
    for (int work = blockIdx.x; work < tiles * shares; work += gridDim.x) {
        const int share = work / tiles, top = work % tiles / across * TILE_OUT, left = work % across * TILE_IN;
        const int begin = min(share * of_share, positions), end = min(begin + of_share, positions);
        Products sums;
        multiply(sums, PositionGradient{{grad_output, output}, targets, top},
                 PositionWindow{x, maps, targets, left, padding_y, padding_x}, begin, end, buffers);
        each_sum(sums, [&](int row, int column, real sum) {
            const int o = top + row, k = left + column;
            if (o >= out_maps || k >= columns) return;
            if (k == columns - 1) {
                grad_bias[(size_t)share * out_maps + o] = sum;
                return;
            }
            const int c = connection_of[(size_t)o * in_maps + k / KERNEL];
            if (c >= 0) grad_weight[((size_t)share * n_connections + c) * KERNEL + k % KERNEL] = sum;
        });
    }
}
