// What convolutions by register tiles have in common, forward and by the input: a block stages the maps
// that its own maps depend on, and each warp walks the connections of its maps.
//
//   for region, group of target maps:                                  one work item of a block
//     for turn:                                                        if all that is needed is staged at once
//       for chunk of the maps that the group depends on:
//         stage the chunk
//         for each of the warp's MAPS target maps, for its connections into the chunk:
//           tile += what the connection adds, from shared memory       32 tiles, one of each lane
//       write the tiles
//
// The WARPS warps of a block are map_warps x pixel_warps: those of one row have other target maps of the group,
// those of one column the same maps of other samples. The host has ordered the connections (walks.py):
//
//   target_maps[slot]                    the target map of each slot, -1 for none; slots are numbered by group,
//                                        turn, map warp and m < MAPS
//   used_starts[group], used[...]        the source maps that a group depends on, `chunk` of them staged at a time
//   starts[slot * chunks + c]            where the slot's connections into chunk c begin in `entries`
//   entries[e] = (place of the source map in the chunk, connection)
//
// Shared memory, dynamic: chunk * Stage::slot() reals (twice that where outputs are staged as well); from
// store_at on, 32 * TILE_ROWS * TILE_COLUMNS reals for each warp, through which tiles are written so that
// neighbouring lanes write neighbouring pixels. With one turn that is the staged maps' own memory.

#include "conv2d.cuh"
#include "conv2d_staging.cuh"
#include "settle.cuh"

constexpr int THREADS = 32 * WARPS;
constexpr int BLOCKS_AT_ONCE = 2;  // one computes while the other stages; it also bounds the registers
constexpr int TILE = TILE_ROWS * TILE_COLUMNS;
constexpr int BAND = TILE_ROWS * STRIDE_Y;
using Kernel = Window<KERNEL_HEIGHT, KERNEL_WIDTH, STRIDE_Y, STRIDE_X>;

// A lane's window in a slot: `first` is its first element.
__device__ __forceinline__ auto window_of(const real *first, const Stage<BAND> &stage) {
    if constexpr (SKEWED)
        return SkewedRows<BAND, WINDOW_ALIGNMENT, real>{first, stage.pitch, stage.skew};
    else
        return Rows<WINDOW_ALIGNMENT, real>{first, stage.pitch};
}

struct Walk {
    const int *used_starts, *used, *target_maps, *starts;
    const int2 *entries;
    int groups, turns, chunk, chunks, store_at;
};

// What a warp and lane of a block own.
struct Owner {
    int map_warp, map_warps, sample;  // of the warp: its row of target maps, its first sample of the block
    bool active;                      // lanes beyond the last tile repeat the first and write nothing
    TilePlace tile;

    __device__ Owner(const TileGrid &grid, int warp_samples)
        : map_warp(warp() % (WARPS / (grid.samples / warp_samples))),
          map_warps(WARPS / (grid.samples / warp_samples)), sample(warp() / map_warps * warp_samples),
          active(lane() < warp_samples * grid.down * grid.across), tile(grid, active ? lane() : 0) {}
    static __device__ int warp() { return threadIdx.x / 32; }
    static __device__ int lane() { return threadIdx.x % 32; }
};

// Writes what lies inside of a warp's tiles of one target map.
__device__ __forceinline__ void write_tiles(real *buffer, real *target, int map, const Maps &maps,
                                            const TileGrid &grid, const Region &region, const Owner &owner,
                                            int warp_samples, const real (&values)[TILE_ROWS][TILE_COLUMNS]) {
    const int rows = min(grid.rows, maps.height - region.row);
    const int columns = min(grid.columns, maps.width - region.column);
    const int size = rows * columns;
    __syncwarp();  // all lanes have read what lay here before
    if (owner.active)
#pragma unroll
        for (int i = 0; i < TILE_ROWS; ++i)
#pragma unroll
            for (int j = 0; j < TILE_COLUMNS; ++j) {
                const int row = owner.tile.row + i, column = owner.tile.column + j;
                if (row < rows && column < columns)
                    buffer[owner.tile.sample * size + row * columns + column] = values[i][j];
            }
    __syncwarp();
    const int first = region.sample + owner.sample;
    const bool whole_rows = columns == maps.width;  // then a sample's pixels are neighbours in memory
    const int runs = whole_rows ? 1 : rows, length = whole_rows ? size : columns;
    for (int s = 0; s < warp_samples && first + s < maps.samples; ++s) {
        real *to = target + ((size_t)(first + s) * maps.count + map) * maps.area() + region.row * maps.width
                   + region.column;
        for (int run = 0; run < runs; ++run)
            for (int i = Owner::lane(); i < length; i += 32)
                to[(size_t)run * maps.width + i] = buffer[s * size + run * length + i];
    }
}

// The loops above. `Op` has begin(map), a tile's first value; load(staged, list, count, stage, origin), which
// stages and waits; add(tile, window, weight) for one connection; and value(sum), what is written.
template <class Op>
__device__ __forceinline__ void walk_connections(const Op &op, real *staged, const real *weight, real *target,
                                                 const Maps &target_maps, const TileGrid &grid, int warp_samples,
                                                 const Stage<BAND> &stage, const Walk &walk) {
    const Owner owner(grid, warp_samples);
    // where the lane's window begins in a slot
    const int window = stage.place(owner.sample + owner.tile.sample, owner.tile.row * STRIDE_Y,
                                   owner.tile.column * STRIDE_X + op.lead);
    const real *mine = staged + window;
    const int slot_size = stage.slot();

#pragma unroll 1
    for (int work = blockIdx.x; work < grid.regions() * walk.groups; work += gridDim.x) {
        const int group = work % walk.groups;  // blocks with the same pixels run at the same time
        __shared__ Region region;  // there, so that it takes no registers while connections are walked
        __syncthreads();
        if (threadIdx.x == 0) region = Region(grid, work / walk.groups);
        __syncthreads();
        const int used = walk.used_starts[group + 1] - walk.used_starts[group];
#pragma unroll 1
        for (int turn = 0; turn < walk.turns; ++turn) {
            const int first_slot = ((group * walk.turns + turn) * owner.map_warps + owner.map_warp) * MAPS;
            real tiles[MAPS][TILE_ROWS][TILE_COLUMNS];
#pragma unroll
            for (int m = 0; m < MAPS; ++m) {
                const real begin = op.begin(walk.target_maps[first_slot + m]);
#pragma unroll
                for (int i = 0; i < TILE_ROWS; ++i)
#pragma unroll
                    for (int j = 0; j < TILE_COLUMNS; ++j) tiles[m][i][j] = begin;
            }
#pragma unroll 1
            for (int c = 0; c * walk.chunk < used; ++c) {
                if (turn == 0) {
                    __syncthreads();  // nobody reads what is staged, or writes tiles through it
                    const StageOrigin origin{region.sample, region.row * STRIDE_Y + op.first_row,
                                             region.column * STRIDE_X + op.first_column - op.lead};
                    op.load(staged, walk.used + walk.used_starts[group] + c * walk.chunk,
                            min(walk.chunk, used - c * walk.chunk), stage, origin);
                    __syncthreads();
                }
#pragma unroll
                for (int m = 0; m < MAPS; ++m) {
                    const int *start = walk.starts + (size_t)(first_slot + m) * walk.chunks + c;
                    const int end = start[1];
                    int e = start[0];
                    int2 next = e < end ? walk.entries[e] : int2{0, 0};
#pragma unroll 1
                    for (; e < end; ++e) {
                        const int2 entry = next;
                        if (e + 1 < end) next = walk.entries[e + 1];  // comes while this one is computed
                        op.add(tiles[m], window_of(mine + entry.x * slot_size, stage),
                               weight + (size_t)entry.y * Kernel::TAPS);
                    }
                }
            }
            if (walk.store_at == 0) __syncthreads();  // nobody reads what is staged
#pragma unroll
            for (int m = 0; m < MAPS; ++m) {
                const int map = walk.target_maps[first_slot + m];
                if (map < 0) continue;
                real *const buffer = staged + walk.store_at + Owner::warp() * 32 * TILE;
#pragma unroll
                for (int i = 0; i < TILE_ROWS; ++i)
#pragma unroll
                    for (int j = 0; j < TILE_COLUMNS; ++j) {
                        tiles[m][i][j] = op.value(tiles[m][i][j]);
                        settle(tiles[m][i][j]);
                    }
                write_tiles(buffer, target, map, target_maps, grid, region, owner, warp_samples, tiles[m]);
            }
        }
    }
}
