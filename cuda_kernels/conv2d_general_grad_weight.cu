// Convolution through a connection table, for any sizes: gradients by the weights and the biases, first stage.
//
//   for c, ky, kx:
//     grad_weight[c][ky][kx] = sum over n, oy, ox of
//       x[n][in(c)][oy * STRIDE_Y + ky - padding_y][ox * STRIDE_X + kx - padding_x] * dz[n][out(c)][oy][ox]
//   grad_bias[o] = sum over n, oy, ox of dz[n][o][oy][ox],    dz = grad_output * act'(output)
//
// A block owns one connection, STRIP_HEIGHT rows of its kernel, and a share of the tiles of output
// pixels: every shares-th tile. For each it stages dz and the pixels of x in shared memory. A
// thread owns up to TAPS_PER_THREAD taps and one of SLICES interleaved slices of the tile's pixels;
// the slices are added in order at the end. partials[share] is one whole grad_weight; reduce.cu adds
// the shares.
//
// Shared memory, static: TILE_SAMPLES * SAMPLE_STRIDE + TILE_PIXELS + THREADS reals. Launch: 1-D, THREADS
// threads, one block per connection, strip and share, or fewer: blocks loop.

#include "activation.cuh"
#include "constants.h"
#include "reduce.cuh"
#include "conv2d_general.cuh"

constexpr int BLOCKS_AT_ONCE = 2;  // on a multiprocessor, at least: without it ptxas aims for more, and spills
constexpr int TAPS = STRIP_HEIGHT * KERNEL_WIDTH;
constexpr int TAPS_PER_THREAD = (TAPS + THREADS - 1) / THREADS;
constexpr int SLICES = TAPS < THREADS ? THREADS / TAPS : 1;
constexpr int STAGED_HEIGHT = (TILE_HEIGHT - 1) * STRIDE_Y + STRIP_HEIGHT;
constexpr int STAGED_WIDTH = (TILE_WIDTH - 1) * STRIDE_X + KERNEL_WIDTH;
constexpr int SAMPLE_STRIDE = sample_stride(STAGED_HEIGHT, STAGED_WIDTH);
constexpr int STRIPS = (KERNEL_HEIGHT + STRIP_HEIGHT - 1) / STRIP_HEIGHT;

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_AT_ONCE)
conv2d_general_grad_weight(const real *__restrict__ grad_output, const real *__restrict__ output,
                   const real *__restrict__ x, const int *__restrict__ pairs,
                   real *__restrict__ partials, int n_connections, int samples, int in_maps,
                   int height, int width, int out_maps, int out_height, int out_width, int padding_y,
                   int padding_x, int shares) {
    __shared__ real staged[TILE_SAMPLES * SAMPLE_STRIDE];
    __shared__ real dz[TILE_PIXELS];
    __shared__ real scratch[THREADS];
    const TileGrid grid(samples, out_height, out_width);
    const int slice = threadIdx.x / TAPS;      // 0 where a thread owns several taps
    const bool working = slice < SLICES;

    for (int work = blockIdx.x; work < n_connections * STRIPS * shares; work += gridDim.x) {
        const int connection = work % n_connections, strip = work / n_connections % STRIPS * STRIP_HEIGHT,
                  share = work / (n_connections * STRIPS);
        const int in_map = pairs[connection], out_map = pairs[n_connections + connection];
        const int taps = min(STRIP_HEIGHT, KERNEL_HEIGHT - strip) * KERNEL_WIDTH;
        real sums[TAPS_PER_THREAD] = {};

        for (int tile = share; tile < grid.tiles(); tile += shares) {
            const TileOrigin origin = grid.origin(tile);
            const int top = origin.row * STRIDE_Y + strip - padding_y;
            const int left = origin.column * STRIDE_X - padding_x;
            stage<THREADS, STAGED_HEIGHT, STAGED_WIDTH>(
                staged, 1, [&](int, int sample, int row, int column) {
                    const int n = origin.sample + sample, iy = top + row, ix = left + column;
                    const bool inside = n < samples && iy >= 0 && iy < height && ix >= 0 && ix < width;
                    return inside ? x[(((size_t)n * in_maps + in_map) * height + iy) * width + ix]
                                  : real(0);
                });
            for (int i = threadIdx.x; i < TILE_PIXELS; i += THREADS) {
                const TilePixel pixel(i);
                const int n = origin.sample + pixel.sample, oy = origin.row + pixel.row,
                          ox = origin.column + pixel.column;
                dz[i] = 0;
                if (n < samples && oy < out_height && ox < out_width) {
                    const size_t at = (((size_t)n * out_maps + out_map) * out_height + oy) * out_width + ox;
                    dz[i] = grad_output[at] * Squash::slope(output[at]);
                }
            }
            __syncthreads();
            for (int t = 0; t < TAPS_PER_THREAD; ++t) {
                const int tap = threadIdx.x % TAPS + t * THREADS;
                if (!working || tap >= taps) continue;
                const int ky = tap / KERNEL_WIDTH, kx = tap % KERNEL_WIDTH;
                for (int i = slice; i < TILE_PIXELS; i += SLICES) {
                    const TilePixel pixel(i);
                    sums[t] += dz[i] * staged[pixel.sample * SAMPLE_STRIDE
                                              + (pixel.row * STRIDE_Y + ky) * STAGED_WIDTH
                                              + pixel.column * STRIDE_X + kx];
                }
            }
            __syncthreads();
        }
        for (int t = 0; t < TAPS_PER_THREAD; ++t) {
            scratch[threadIdx.x] = sums[t];
            __syncthreads();
            const int tap = threadIdx.x + t * THREADS;
            if (threadIdx.x < TAPS && tap < taps) {
                real sum = scratch[threadIdx.x];
                for (int s = 1; s < SLICES; ++s) sum += scratch[s * TAPS + threadIdx.x];
                partials[((size_t)share * n_connections + connection) * (KERNEL_HEIGHT * KERNEL_WIDTH)
                         + strip * KERNEL_WIDTH + tap] = sum;
            }
            __syncthreads();
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
conv2d_general_grad_bias(const real *__restrict__ grad_output, const real *__restrict__ output,
                 real *__restrict__ partials, int samples, int out_maps, int positions, int shares) {
    __shared__ real scratch[THREADS];
    sum_dz_by_map<THREADS, Squash>(grad_output, output, partials, samples, out_maps, positions, shares,
                                   scratch);
}
