// Convolution through a connection table, for any sizes: gradient by the input.
//
//   for n, i, iy, ix:
//     grad_input[n][i][iy][ix] = sum over connections c with in(c) = i, over ky, kx with
//       oy * STRIDE_Y = iy + padding_y - ky and ox * STRIDE_X = ix + padding_x - kx:
//       weight[c][ky][kx] * dz[n][out(c)][oy][ox],    dz = grad_output * act'(output)
//
// The forward kernel with the table turned round: a block owns a tile of 32 input pixels of WARPS
// input maps, a warp one map, a lane one pixel. The part of dz that the tile needs for STRIP_HEIGHT
// kernel rows is computed while it is staged in shared memory, for STAGED_MAPS output maps at a time.
//
// Shared memory: STAGED_MAPS * MAP_STRIDE reals, static. Launch: as conv2d_general_forward, over input tiles.

#include "activation.cuh"
#include "constants.h"
#include "conv2d.cuh"
#include "conv2d_general.cuh"

using Kernel = Window<KERNEL_HEIGHT, KERNEL_WIDTH, STRIDE_Y, STRIDE_X>;
constexpr int THREADS = 32 * WARPS;
constexpr int BLOCKS_AT_ONCE = 2;  // on a multiprocessor, at least: without it ptxas aims for more, and spills
static_assert(TILE_PIXELS == 32, "a lane owns one pixel");
// As many outputs as have their window's origin in a run of this many input rows or columns.
constexpr int STAGED_HEIGHT = (TILE_HEIGHT + STRIP_HEIGHT - 2) / STRIDE_Y + 1;
constexpr int STAGED_WIDTH = (TILE_WIDTH + KERNEL_WIDTH - 2) / STRIDE_X + 1;
constexpr int SAMPLE_STRIDE = sample_stride(STAGED_HEIGHT, STAGED_WIDTH);
constexpr int MAP_STRIDE = TILE_SAMPLES * SAMPLE_STRIDE;

// The smallest whole number that is at least a / b, for b > 0 and any a.
__device__ inline int ceil_div(int a, int b) { return a > 0 ? (a + b - 1) / b : -(-a / b); }

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_AT_ONCE)
conv2d_general_grad_input(const real *__restrict__ grad_output, const real *__restrict__ output,
                  const real *__restrict__ weight, const int *__restrict__ starts,
                  const int *__restrict__ connections, const int *__restrict__ outputs,
                  real *__restrict__ grad_input, int samples, int in_maps, int height, int width,
                  int out_maps, int out_height, int out_width, int padding_y, int padding_x) {
    __shared__ real staged[STAGED_MAPS * MAP_STRIDE];
    const TileGrid grid(samples, height, width);
    const int map_groups = (in_maps + WARPS - 1) / WARPS;
    const int warp = threadIdx.x / 32;
    const TilePixel pixel(threadIdx.x % 32);

    for (int work = blockIdx.x; work < grid.tiles() * map_groups; work += gridDim.x) {
        const TileOrigin origin = grid.origin(work / map_groups);
        const int i = work % map_groups * WARPS + warp;
        int next = i < in_maps ? starts[i] : 0;
        const int end = i < in_maps ? starts[i + 1] : 0;
        real sum = 0;

        for (int first = 0; first < out_maps; first += STAGED_MAPS) {
            const int maps = min(STAGED_MAPS, out_maps - first);
            int after = next;
            for (int strip = 0; strip < KERNEL_HEIGHT; strip += STRIP_HEIGHT) {
                const int top = ceil_div(origin.row + padding_y - strip - (STRIP_HEIGHT - 1), STRIDE_Y);
                const int left = ceil_div(origin.column + padding_x - (KERNEL_WIDTH - 1), STRIDE_X);
                stage<THREADS, STAGED_HEIGHT, STAGED_WIDTH>(
                    staged, maps, [&](int map, int sample, int row, int column) {
                        const int n = origin.sample + sample, oy = top + row, ox = left + column;
                        if (n >= samples || oy < 0 || oy >= out_height || ox < 0 || ox >= out_width)
                            return real(0);
                        const size_t at =
                            (((size_t)n * out_maps + first + map) * out_height + oy) * out_width + ox;
                        return grad_output[at] * Squash::slope(output[at]);
                    });
                __syncthreads();
                for (after = next; after < end && outputs[after] < first + maps; ++after) {
                    const real *dz = staged + (outputs[after] - first) * MAP_STRIDE
                                     + pixel.sample * SAMPLE_STRIDE;
                    const real *taps = weight + (size_t)connections[after] * (KERNEL_HEIGHT * KERNEL_WIDTH);
                    const int rows = min(STRIP_HEIGHT, KERNEL_HEIGHT - strip);
                    sum += strided_window<Kernel>(
                        origin.row + pixel.row + padding_y, origin.column + pixel.column + padding_x, out_height,
                        out_width, taps, strip, rows,
                        [&](int oy, int ox) { return dz[(oy - top) * STAGED_WIDTH + ox - left]; });
                }
                __syncthreads();
            }
            next = after;
        }
        const int n = origin.sample + pixel.sample, iy = origin.row + pixel.row,
                  ix = origin.column + pixel.column;
        if (i < in_maps && n < samples && iy < height && ix < width)
            grad_input[(((size_t)n * in_maps + i) * height + iy) * width + ix] = sum;
    }
}
