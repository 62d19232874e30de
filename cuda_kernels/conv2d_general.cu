// Convolution through a connection table, for any sizes: forward.
//
//   for n, o, oy, ox:
//     z = bias[o]
//     for connections c with out(c) = o, for ky, kx:
//       z += weight[c][ky][kx] * x[n][in(c)][oy * STRIDE_Y + ky - padding_y][ox * STRIDE_X + kx - padding_x]
//     output[n][o][oy][ox] = act(z)                     (x is 0 outside the map)
//
// A block owns a tile of 32 pixels (TILE_SAMPLES x TILE_HEIGHT x TILE_WIDTH) of WARPS output maps:
// a warp one map, a lane one pixel, so that a weight is one load for the whole warp. The pixels of
// STAGED_MAPS input maps that the tile needs for STRIP_HEIGHT kernel rows are staged in shared memory
// and serve all warps; each warp walks its own map's connections, sorted by input map.
//
// Shared memory: STAGED_MAPS * MAP_STRIDE reals, static. Launch: 1-D, WARPS * 32 threads, one block
// per tile and WARPS maps, or fewer: blocks loop.
// constants.h: KERNEL_*, STRIDE_*, TILE_*, STRIP_HEIGHT, STAGED_MAPS, WARPS (conv2d_kernels/general.py).

#include "activation.cuh"
#include "constants.h"
#include "conv2d.cuh"
#include "conv2d_general.cuh"

using Kernel = Window<KERNEL_HEIGHT, KERNEL_WIDTH, STRIDE_Y, STRIDE_X>;
constexpr int THREADS = 32 * WARPS;
constexpr int BLOCKS_AT_ONCE = 2;  // on a multiprocessor, at least: without it ptxas aims for more, and spills
static_assert(TILE_PIXELS == 32, "a lane owns one pixel");
constexpr int STAGED_HEIGHT = (TILE_HEIGHT - 1) * STRIDE_Y + STRIP_HEIGHT;
constexpr int STAGED_WIDTH = (TILE_WIDTH - 1) * STRIDE_X + KERNEL_WIDTH;
constexpr int SAMPLE_STRIDE = sample_stride(STAGED_HEIGHT, STAGED_WIDTH);
constexpr int MAP_STRIDE = TILE_SAMPLES * SAMPLE_STRIDE;

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_AT_ONCE)
conv2d_general_forward(const real *__restrict__ x, const real *__restrict__ weight,
               const real *__restrict__ bias, const int *__restrict__ starts,
               const int *__restrict__ connections, const int *__restrict__ inputs,
               real *__restrict__ output, int samples, int in_maps, int height, int width,
               int out_maps, int out_height, int out_width, int padding_y, int padding_x) {
    __shared__ real staged[STAGED_MAPS * MAP_STRIDE];
    const TileGrid grid(samples, out_height, out_width);
    const int map_groups = (out_maps + WARPS - 1) / WARPS;
    const int warp = threadIdx.x / 32;
    const TilePixel pixel(threadIdx.x % 32);
    const int mine = pixel.sample * SAMPLE_STRIDE + pixel.row * STRIDE_Y * STAGED_WIDTH
                     + pixel.column * STRIDE_X;

    for (int work = blockIdx.x; work < grid.tiles() * map_groups; work += gridDim.x) {
        const TileOrigin origin = grid.origin(work / map_groups);
        const int o = work % map_groups * WARPS + warp;
        int next = o < out_maps ? starts[o] : 0;
        const int end = o < out_maps ? starts[o + 1] : 0;
        real z = bias && o < out_maps ? bias[o] : real(0);

        for (int first = 0; first < in_maps; first += STAGED_MAPS) {
            const int maps = min(STAGED_MAPS, in_maps - first);
            int after = next;
            for (int strip = 0; strip < KERNEL_HEIGHT; strip += STRIP_HEIGHT) {
                const int top = origin.row * STRIDE_Y + strip - padding_y;
                const int left = origin.column * STRIDE_X - padding_x;
                stage<THREADS, STAGED_HEIGHT, STAGED_WIDTH>(
                    staged, maps, [&](int map, int sample, int row, int column) {
                        const int n = origin.sample + sample, iy = top + row, ix = left + column;
                        const bool inside =
                            n < samples && iy >= 0 && iy < height && ix >= 0 && ix < width;
                        return inside ? x[(((size_t)n * in_maps + first + map) * height + iy) * width + ix]
                                      : real(0);
                    });
                __syncthreads();
                for (after = next; after < end && inputs[after] < first + maps; ++after) {
                    const real *window = staged + (inputs[after] - first) * MAP_STRIDE + mine;
                    const real *taps = weight + (size_t)connections[after] * (KERNEL_HEIGHT * KERNEL_WIDTH)
                                       + strip * KERNEL_WIDTH;
                    const int rows = min(STRIP_HEIGHT, KERNEL_HEIGHT - strip);
                    z += window_rows<Kernel>(window, STAGED_WIDTH, taps, rows);
                }
                __syncthreads();
            }
            next = after;
        }
        const int n = origin.sample + pixel.sample, oy = origin.row + pixel.row,
                  ox = origin.column + pixel.column;
        if (o < out_maps && n < samples && oy < out_height && ox < out_width)
            output[(((size_t)n * out_maps + o) * out_height + oy) * out_width + ox] = Squash::value(z);
    }
}
