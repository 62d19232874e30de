// Convolution through a connection table by register tiles: forward.
//
//   for n, o, oy, ox:
//     z = bias[o]
//     for connections c with out(c) = o, for ky, kx:
//       z += weight[c][ky][kx] * x[n][in(c)][oy * STRIDE_Y + ky - padding_y][ox * STRIDE_X + kx - padding_x]
//     output[n][o][oy][ox] = act(z)                     (x is 0 outside the map)
//
// A lane owns TILE_ROWS x TILE_COLUMNS pixels of MAPS output maps, a warp 32 such tiles of the same maps, so
// that a weight is one load for the whole warp and an element of x, which comes from shared memory, is
// loaded once for all taps and pixels of the tile that need it. conv2d_tiles.cuh says who owns which maps and
// samples; conv2d_walk.cuh has the loops, and the shared memory, conv2d_ring.cuh those with PRODUCERS.
//
// Launch: 1-D, (WARPS + PRODUCERS) * 32 threads, a block for each region and group of output maps, or fewer: blocks
// loop, with PRODUCERS to their advantage.
// constants.h: KERNEL_*, STRIDE_*, TILE_*, MAPS, WARPS, PRODUCERS; SKEWED, whether `skew` is not 0; WINDOW_ALIGNMENT:
// every lane's window begins at a multiple of so many reals (backends/cuda/conv2d_kernels/tiles.py).

#include "activation.cuh"
#include "constants.h"
#include "conv2d_loops.cuh"

struct Forward {
    const real *x, *bias;
    Maps maps;
    int first_row, first_column, lead;  // of the window of pixel 0; what is staged before its first column

    __device__ __forceinline__ real begin(int map) const { return bias && map >= 0 ? bias[map] : real(0); }
    static constexpr bool FINISHES = false;
    __device__ __forceinline__ StageOrigin origin(const Region &region) const {
        return {region.sample, region.row * STRIDE_Y + first_row, region.column * STRIDE_X + first_column - lead};
    }
    // As many neighbouring pixels as are copied at once.
    __device__ __forceinline__ int pixels(const StageOrigin &origin) const {
        return group_size(maps, origin.column, x, x);
    }
    template <class T, class... Known>
    __device__ __forceinline__ void start(real *staged, const int *list, int count, const Stage<BAND> &stage,
                                          const StageOrigin &origin, int v, const Known &...steps) const {
        stage_maps<T>(staged, x, list, count, stage, maps, origin, v, steps...);
    }
    template <class X>
    __device__ __forceinline__ void add(real (&z)[TILE_ROWS][TILE_COLUMNS], const X &window,
                                        const real *weight) const {
        add_banded_windows<Kernel>(z, window, weight);
    }
    static __device__ __forceinline__ real value(real z) { return Squash::value(z); }
};

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_AT_ONCE)
conv2d_forward(const real *__restrict__ x, const real *__restrict__ weight, const real *__restrict__ bias,
               const int *__restrict__ used_starts, const int *__restrict__ used,
               const int *__restrict__ target_maps, const int *__restrict__ starts,
               const int *__restrict__ entries, real *__restrict__ output, int samples, int in_maps, int height,
               int width, int out_maps, int out_height, int out_width, int padding_y, int padding_x, int lead,
               int tiles_down, int tiles_across, int warp_samples, int block_samples, int pitch, int skew, int plane,
               int groups, int turns, int chunk, int chunks, int store_at, int stages) {
    extern __shared__ __align__(16) real staged[];
    const Maps targets{samples, out_maps, out_height, out_width};
    const TileGrid grid(targets, tiles_down, tiles_across, block_samples);
    const Stage<BAND> stage{block_samples, (grid.rows - 1) * STRIDE_Y + KERNEL_HEIGHT,
                      lead + (grid.columns - 1) * STRIDE_X + KERNEL_WIDTH, pitch, skew, plane};
    const Forward op{x, bias, {samples, in_maps, height, width}, -padding_y, -padding_x, lead};
    add_connections(op, staged, weight, output, targets, grid, warp_samples, stage,
                    Walk{used_starts, used, target_maps, starts, reinterpret_cast<const int2 *>(entries), groups,
                         turns, chunk, chunks, store_at}, stages);
}
