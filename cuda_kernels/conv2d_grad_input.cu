// Convolution through a connection table by register tiles: gradient by the input, stride 1.
//
//   for n, i, iy, ix:
//     grad_input[n][i][iy][ix] = sum over connections c with in(c) = i, over ky, kx:
//       weight[c][ky][kx] * dz[n][out(c)][iy + padding_y - ky][ix + padding_x - kx]
//     with dz = grad_output * act'(output), 0 outside the map
//
// The forward kernel with the table turned round: a lane owns TILE_ROWS x TILE_COLUMNS pixels of MAPS input
// maps, a warp 32 such tiles; dz is staged with zeros around it. Loops, owners and shared memory are the forward
// kernel's; grad_output and output are staged side by side, and each thread turns what it has staged into dz. With
// the identity outputs are not read.
//
// Launch: 1-D, (WARPS + PRODUCERS) * 32 threads, a block for each region and group of input maps, or fewer: blocks
// loop, with PRODUCERS to their advantage. constants.h: as of conv2d.cu.

#include "activation.cuh"
#include "constants.h"
#include "conv2d_loops.cuh"

static_assert(STRIDE_Y == 1 && STRIDE_X == 1, "other strides leave gaps between the windows");

struct GradInput {
    const real *grad_output, *output;
    Maps maps;
    int first_row, first_column, lead, outputs;

    static __device__ __forceinline__ real begin(int) { return 0; }
    static constexpr bool FINISHES = HAS_SLOPE;
    __device__ __forceinline__ StageOrigin origin(const Region &region) const {
        return {region.sample, region.row + first_row, region.column + first_column - lead};
    }
    __device__ __forceinline__ int pixels(const StageOrigin &origin) const {
        return group_size(maps, origin.column, grad_output, output);
    }
    template <class T, class... Known>
    __device__ __forceinline__ void start(real *staged, const int *list, int count, const Stage<BAND> &stage,
                                          const StageOrigin &origin, int v, const Known &...steps) const {
        stage_maps<T>(staged, grad_output, list, count, stage, maps, origin, v, steps...);
        if constexpr (HAS_SLOPE)
            stage_maps<T>(staged + outputs, output, list, count, stage, maps, origin, v, steps...);
    }
    template <class T>
    __device__ __forceinline__ void finish(real *staged, int count, const Stage<BAND> &stage,
                                           const StageOrigin &origin, int v) const {
        apply_slopes<T>(staged, outputs, count, stage, maps, origin, v);
    }
    template <class X>
    __device__ __forceinline__ void add(real (&grad)[TILE_ROWS][TILE_COLUMNS], const X &window,
                                        const real *weight) const {
        add_banded_transposed_windows<Kernel>(grad, window, weight);
    }
    static __device__ __forceinline__ real value(real sum) { return sum; }
};

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_AT_ONCE)
conv2d_grad_input(const real *__restrict__ grad_output, const real *__restrict__ output,
                  const real *__restrict__ weight, const int *__restrict__ used_starts,
                  const int *__restrict__ used, const int *__restrict__ target_maps,
                  const int *__restrict__ starts, const int *__restrict__ entries,
                  real *__restrict__ grad_input, int samples, int in_maps, int height, int width, int out_maps,
                  int out_height, int out_width, int padding_y, int padding_x, int lead, int tiles_down,
                  int tiles_across, int warp_samples, int block_samples, int pitch, int skew, int plane, int groups,
                  int turns, int chunk, int chunks, int store_at, int stages) {
    extern __shared__ __align__(16) real staged[];
    const Maps targets{samples, in_maps, height, width};
    const TileGrid grid(targets, tiles_down, tiles_across, block_samples);
    const Stage<BAND> stage{block_samples, grid.rows + KERNEL_HEIGHT - 1, lead + grid.columns + KERNEL_WIDTH - 1, pitch,
                            skew, plane};
    const GradInput op{grad_output, output, {samples, out_maps, out_height, out_width},
                       padding_y - (KERNEL_HEIGHT - 1), padding_x - (KERNEL_WIDTH - 1), lead,
                       chunk * stage.slot()};
    add_connections(op, staged, weight, grad_input, targets, grid, warp_samples, stage,
                    Walk{used_starts, used, target_maps, starts, reinterpret_cast<const int2 *>(entries), groups,
                         turns, chunk, chunks, store_at}, stages);
}
