// Convolution through a connection table by register tiles: gradients by the weights and the biases, first
// stage.
//
//   for c, ky, kx:
//     grad_weight[c][ky][kx] = sum over n, oy, ox of
//       x[n][in(c)][oy * STRIDE_Y + ky - padding_y][ox * STRIDE_X + kx - padding_x] * dz[n][out(c)][oy][ox]
//   grad_bias[o] = sum over n, oy, ox of dz[n][o][oy][ox],    dz = grad_output * act'(output)
//
// A team of LANES lanes owns SHARED connections of one input map and TAP_ROWS x TAP_COLUMNS of their taps, whose
// gradients it keeps in registers from the first sample of its block to the last. A lane takes a tile of TILE_ROWS x
// TILE_COLUMNS output pixels at a time: what the taps see of x is loaded into registers once and serves all
// SHARED connections, whose dz is read row by row.
//
// A block owns `teams` such teams, each `slices` times for other samples, and a share of the regions of the
// output: every shares-th. For each region it stages the maps of x and dz that its teams need, in two
// buffers: the next region is on its way while this one is computed. At the end the lanes' sums are added,
// then the slices', in a fixed order. partials[share] is one whole grad_weight and one grad_bias;
// conv2d_sums.cu adds the shares.
//
//   x_starts[block], x_maps[...], dz_starts[block], dz_maps[...]    the maps that a block stages
//   records[(block * teams + team) * RECORD ...] = place of the input map among x_maps, first tap row and column,
//     the first row and column that no other team owns (the last taps are moved inwards), then for each of SHARED:
//     place of the output map among dz_maps, connection or -1, and the output map whose bias it sums or -1 (the
//     first connection of each does)
//
// Shared memory, dynamic: `table` ints with the places of a region's tiles, then two buffers of x_slots slots of x,
// dz_slots of grad_output and as many of output (none with the identity). The sums of the lanes pass through
// the buffers: THREADS / LANES * SHARED * (TAPS + 1) reals.
// x is skewed only where a team has all of a kernel's taps and SHARED > 1.
// Launch: 1-D, THREADS threads, a block for each share and block of connections, or fewer: blocks loop.

#include "activation.cuh"
#include "constants.h"
#include "conv2d.cuh"
#include "conv2d_staging.cuh"
#include "lane_sums.cuh"

using Kernel = Window<KERNEL_HEIGHT, KERNEL_WIDTH, STRIDE_Y, STRIDE_X>;
constexpr int TAPS = TAP_ROWS * TAP_COLUMNS, RECORD = 5 + 3 * SHARED, BAND = TILE_ROWS * STRIDE_Y;
using Sums = LaneSums<LANES, 1, TAPS + 1>;
using All = Threads<THREADS>;

// A team's description, see above.
struct Record {
    const int *at;
    __device__ int input() const { return at[0]; }
    __device__ int tap_row() const { return at[1]; }
    __device__ int tap_column() const { return at[2]; }
    __device__ bool owns(int ky, int kx) const { return ky >= at[3] && kx >= at[4]; }
    __device__ int output(int q) const { return at[5 + 3 * q]; }
    __device__ int connection(int q) const { return at[6 + 3 * q]; }
    __device__ int bias(int q) const { return at[7 + 3 * q]; }
};

// Adds what one tile brings to the sums of a team's connections.
__device__ __forceinline__ void add_tile(real (&sums)[SHARED][Sums::PADDED], const real *x, int x_pitch,
                                         int x_skew, const real *(&dz)[SHARED], int at, int dz_pitch,
                                         const bool (&counted)[SHARED]) {
    using DzRows = Rows<DZ_ALIGNMENT, real>;
    if constexpr (SHARED == 1) {
        real tile[TILE_ROWS][TILE_COLUMNS];
#pragma unroll
        for (int i = 0; i < TILE_ROWS; ++i) {
            DzRows{dz[0] + at, dz_pitch}.read(tile[i], i);
#pragma unroll
            for (int j = 0; j < TILE_COLUMNS; ++j)
                if (counted[0]) sums[0][TAPS] += tile[i][j];
        }
        add_products<Kernel, TAP_ROWS, TAP_COLUMNS>(sums[0], tile, Rows<WINDOW_ALIGNMENT, real>{x, x_pitch});
    } else {
        SharedWindow<Kernel, TAP_ROWS, TAP_COLUMNS, TILE_ROWS, TILE_COLUMNS, real> window;
        window.load(SkewedRows<BAND, WINDOW_ALIGNMENT, real>{x, x_pitch, x_skew});
#pragma unroll
        for (int q = 0; q < SHARED; ++q)
            window.add_products(sums[q], sums[q][TAPS], DzRows{dz[q] + at, dz_pitch}, counted[q]);
    }
}

// What one region needs of x and of dz, in one buffer.
struct Buffers {
    const real *x, *grad_output, *output;
    const int *x_list, *dz_list;
    int x_count, dz_count, dz_at, output_at;   // where dz and outputs begin in a buffer
    Maps x_maps, dz_maps;
    Stage<BAND> x_stage;
    Stage<TILE_ROWS> dz_stage;
    int padding_y, padding_x, lead;

    __device__ __forceinline__ StageOrigin x_origin(const Region &region) const {
        return {region.sample, region.row * STRIDE_Y - padding_y, region.column * STRIDE_X - padding_x - lead};
    }
    __device__ __forceinline__ StageOrigin dz_origin(const Region &region) const {
        return {region.sample, region.row, region.column};
    }
    __device__ __forceinline__ int dz_group(const Region &region) const {
        return group_size(dz_maps, region.column, grad_output, HAS_SLOPE ? output : grad_output);
    }
    __device__ __forceinline__ void start(real *buffer, const Region &region) const {
        const StageOrigin from = x_origin(region), dz_from = dz_origin(region);
        stage_maps<All>(buffer, x, x_list, x_count, x_stage, x_maps, from, group_size(x_maps, from.column, x, x));
        const int v = dz_group(region);
        stage_maps<All>(buffer + dz_at, grad_output, dz_list, dz_count, dz_stage, dz_maps, dz_from, v);
        if constexpr (HAS_SLOPE)
            stage_maps<All>(buffer + output_at, output, dz_list, dz_count, dz_stage, dz_maps, dz_from, v);
        commit_copies();
    }
    // Of what this thread has copied, once it has come.
    __device__ __forceinline__ void finish(real *buffer, const Region &region) const {
        if constexpr (HAS_SLOPE)
            apply_slopes<All>(buffer + dz_at, output_at - dz_at, dz_count, dz_stage, dz_maps, dz_origin(region),
                                  dz_group(region));
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_AT_ONCE)
conv2d_grad_weight(const real *__restrict__ grad_output, const real *__restrict__ output,
                   const real *__restrict__ x, const int *__restrict__ x_starts, const int *__restrict__ x_maps,
                   const int *__restrict__ dz_starts, const int *__restrict__ dz_maps,
                   const int *__restrict__ records, real *__restrict__ grad_weight, real *__restrict__ grad_bias,
                   int samples, int in_maps, int height, int width, int out_maps, int out_height, int out_width,
                   int padding_y, int padding_x, int n_connections, int lead, int tiles_down, int tiles_across,
                   int slice_samples, int block_samples, int x_pitch, int x_skew, int x_plane, int dz_pitch,
                   int dz_skew, int dz_plane, int x_slots, int dz_slots, int blocks, int teams, int shares, int table) {
    extern __shared__ __align__(16) int shared[];
    real *const memory = reinterpret_cast<real *>(shared + table);
    const Maps targets{samples, out_maps, out_height, out_width};
    const TileGrid grid(targets, tiles_down, tiles_across, block_samples);
    const Stage<BAND> x_stage{block_samples, (grid.rows - 1) * STRIDE_Y + KERNEL_HEIGHT,
                              lead + (grid.columns - 1) * STRIDE_X + KERNEL_WIDTH, x_pitch, x_skew, x_plane};
    const Stage<TILE_ROWS> dz_stage{block_samples, grid.rows, grid.columns, dz_pitch, dz_skew, dz_plane};
    const int tiles = slice_samples * tiles_down * tiles_across, slices = block_samples / slice_samples;
    for (int t = threadIdx.x; t < tiles; t += THREADS) {
        const TilePlace tile(grid, t);
        shared[2 * t] = x_stage.place(tile.sample, tile.row * STRIDE_Y, tile.column * STRIDE_X);
        shared[2 * t + 1] = dz_stage.place(tile.sample, tile.row, tile.column);
    }
    const int team = threadIdx.x / LANES % teams, slice = threadIdx.x / LANES / teams;

#pragma unroll 1
    for (int work = blockIdx.x; work < blocks * shares; work += gridDim.x) {
        const int block = work % blocks, share = work / blocks;
        const Record record{records + (size_t)(block * teams + team) * RECORD};
        const int *x_list = x_maps + x_starts[block], *dz_list = dz_maps + dz_starts[block];
        Buffers b{x, grad_output, output, x_list, dz_list, x_starts[block + 1] - x_starts[block],
                  dz_starts[block + 1] - dz_starts[block], 0, 0, {samples, in_maps, height, width}, targets,
                  x_stage, dz_stage, padding_y, padding_x, lead};
        b.dz_at = x_slots * b.x_stage.slot();
        b.output_at = b.dz_at + dz_slots * b.dz_stage.slot();
        const int buffer_size = b.output_at + (HAS_SLOPE ? dz_slots * b.dz_stage.slot() : 0);
        const int x_first = record.input() * b.x_stage.slot() + slice * slice_samples * x_plane
                            + record.tap_row() * x_pitch + record.tap_column() + lead;  // not skewed, see below
        int dz_first[SHARED];
        bool counted[SHARED];
        real sums[SHARED][Sums::PADDED] = {};
#pragma unroll
        for (int q = 0; q < SHARED; ++q) {
            dz_first[q] = b.dz_at + record.output(q) * b.dz_stage.slot() + slice * slice_samples * dz_plane;
            counted[q] = record.bias(q) >= 0;
        }
        int current = 0;
        __syncthreads();  // the buffers are free, the places of the tiles are there
        if (share < grid.regions()) b.start(memory, Region(grid, share));
#pragma unroll 1
        for (int r = share; r < grid.regions(); r += shares) {
            if (r + shares < grid.regions()) {
                b.start(memory + (1 - current) * buffer_size, Region(grid, r + shares));
                wait_for_copies<1>();
            } else {
                wait_for_copies<0>();
            }
            real *const buffer = memory + current * buffer_size;
            b.finish(buffer, Region(grid, r));
            __syncthreads();
            if (slice < slices) {
                const real *dz[SHARED];
#pragma unroll
                for (int q = 0; q < SHARED; ++q) dz[q] = buffer + dz_first[q];
#pragma unroll 1
                for (int t = threadIdx.x % LANES; t < tiles; t += LANES)
                    add_tile(sums, buffer + x_first + shared[2 * t], x_pitch, x_skew, dz, shared[2 * t + 1],
                             dz_pitch, counted);
            }
            __syncthreads();
            current = 1 - current;
        }

        real *const team_sums = memory + (size_t)(threadIdx.x / LANES) * SHARED * (TAPS + 1);
#pragma unroll
        for (int q = 0; q < SHARED; ++q) {
            Sums::add(sums[q]);
            if (!Sums::uses()) continue;
#pragma unroll
            for (int k = 0; k < Sums::SHARE; ++k)
                if (Sums::first() + k <= TAPS) team_sums[q * (TAPS + 1) + Sums::first() + k] = sums[q][k];
        }
        __syncthreads();
        for (int i = threadIdx.x; i < teams * SHARED * (TAPS + 1); i += THREADS) {
            const int tap = i % (TAPS + 1), q = i / (TAPS + 1) % SHARED, owner = i / (TAPS + 1) / SHARED;
            const Record of{records + (size_t)(block * teams + owner) * RECORD};
            if (of.connection(q) < 0) continue;
            real sum = 0;
            for (int s = 0; s < slices; ++s) sum += memory[(size_t)s * teams * SHARED * (TAPS + 1) + i];
            const int ky = of.tap_row() + tap / TAP_COLUMNS, kx = of.tap_column() + tap % TAP_COLUMNS;
            if (tap == TAPS) {
                if (of.bias(q) >= 0) grad_bias[(size_t)share * out_maps + of.bias(q)] = sum;
            } else if (of.owns(ky, kx)) {
                const size_t weight = ((size_t)share * n_connections + of.connection(q)) * Kernel::TAPS;
                grad_weight[weight + ky * KERNEL_WIDTH + kx] = sum;
            }
        }
    }
}
