// What the loops of convolution by register tiles have in common (conv2d_walk.cuh, conv2d_ring.cuh): who owns which
// maps and samples, the table's order, and how tiles are written.
//
// A lane owns a tile of TILE_ROWS x TILE_COLUMNS pixels of each of MAPS target maps, a warp 32 such tiles of the same
// maps. The WARPS warps that compute are map_warps x pixel_warps: those of one row have other target maps of a group,
// those of one column the same maps of other samples. The host has ordered the connections (walks.py):
//
//   target_maps[slot]                    the target map of each slot, -1 for none; slots are numbered by group,
//                                        turn, map warp and m < MAPS
//   used_starts[group], used[...]        the source maps that a group depends on, `chunk` of them staged at a time
//   starts[slot * chunks + c]            where the slot's connections into chunk c begin in `entries`
//   entries[e] = (place of the source map in the chunk, connection)
//
// `Op`, forward or by the input, has begin(map), a tile's first value; origin(region), where staging begins;
// pixels(origin), how many neighbours are copied at once from there; start<Threads>(staged, list, count, stage, origin,
// pixels), which starts to stage maps; finish<Threads>(...), once what a thread has started has come, if FINISHES;
// add(tile, window, weight) for one connection; and value(sum), what is written.

#include "conv2d.cuh"
#include "conv2d_staging.cuh"
#include "settle.cuh"

// With producers there is one block at a time, without them two: one computes while the other stages. It also bounds
// the registers.
constexpr int THREADS = 32 * (WARPS + PRODUCERS), BLOCKS_AT_ONCE = PRODUCERS > 0 ? 1 : 2;
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

    // Adds a chunk's connections to the tiles of the slots from first_slot on; `mine` is where a lane's window begins
    // in the chunk's first map.
    template <class Op>
    __device__ __forceinline__ void add_chunk(const Op &op, real (&tiles)[MAPS][TILE_ROWS][TILE_COLUMNS], int c,
                                              int first_slot, const real *mine, const real *weight,
                                              const Stage<BAND> &stage) const {
        const int slot_size = stage.slot();
#pragma unroll
        for (int m = 0; m < MAPS; ++m) {
            const int *start = starts + (size_t)(first_slot + m) * chunks + c;
            const int end = start[1];
            int e = start[0];
            int2 next = e < end ? entries[e] : int2{0, 0};
#pragma unroll 1
            for (; e < end; ++e) {
                const int2 entry = next;
                if (e + 1 < end) next = entries[e + 1];  // comes while this one is computed
                op.add(tiles[m], window_of(mine + entry.x * slot_size, stage), weight + (size_t)entry.y * Kernel::TAPS);
            }
        }
    }
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

// What of a target map lies in a region: rows x columns pixels, which lie side by side in a warp's buffer.
struct Patch {
    int rows, columns;
    bool whole_rows;  // then a sample's pixels are neighbours in memory
    __device__ Patch(const Maps &maps, const TileGrid &grid, const Region &region)
        : rows(min(grid.rows, maps.height - region.row)), columns(min(grid.columns, maps.width - region.column)),
          whole_rows(columns == maps.width) {}
    __device__ __forceinline__ int size() const { return rows * columns; }
    // Where the patch begins in a sample's target map.
    __device__ __forceinline__ real *place(real *target, int sample, int map, const Maps &maps,
                                           const Region &region) const {
        return target + ((size_t)sample * maps.count + map) * maps.area() + region.row * maps.width + region.column;
    }
};

// Brings a warp's tiles of one target map to its buffer.
__device__ __forceinline__ void fill_buffer(real *buffer, const Patch &patch, const Owner &owner,
                                            const real (&values)[TILE_ROWS][TILE_COLUMNS]) {
    if (owner.active)
#pragma unroll
        for (int i = 0; i < TILE_ROWS; ++i)
#pragma unroll
            for (int j = 0; j < TILE_COLUMNS; ++j) {
                const int row = owner.tile.row + i, column = owner.tile.column + j;
                if (row < patch.rows && column < patch.columns)
                    buffer[owner.tile.sample * patch.size() + row * patch.columns + column] = values[i][j];
            }
}

// Writes them from there, neighbouring lanes neighbouring pixels.
__device__ __forceinline__ void write_buffer(const real *buffer, real *target, int map, const Maps &maps,
                                             const Patch &patch, const Region &region, const Owner &owner,
                                             int warp_samples) {
    const int size = patch.size(), first = region.sample + owner.sample;
    const int runs = patch.whole_rows ? 1 : patch.rows, length = patch.whole_rows ? size : patch.columns;
    for (int s = 0; s < warp_samples && first + s < maps.samples; ++s) {
        real *to = patch.place(target, first + s, map, maps, region);
        for (int run = 0; run < runs; ++run)
            for (int i = Owner::lane(); i < length; i += 32)
                to[(size_t)run * maps.width + i] = buffer[s * size + run * length + i];
    }
}

// Sets the tiles of the slots from first_slot on to what they begin with.
template <class Op>
__device__ __forceinline__ void begin_tiles(const Op &op, real (&tiles)[MAPS][TILE_ROWS][TILE_COLUMNS],
                                            const int *target_maps) {
#pragma unroll
    for (int m = 0; m < MAPS; ++m) {
        const real begin = op.begin(target_maps[m]);
#pragma unroll
        for (int i = 0; i < TILE_ROWS; ++i)
#pragma unroll
            for (int j = 0; j < TILE_COLUMNS; ++j) tiles[m][i][j] = begin;
    }
}

// Turns sums into what is written.
template <class Op>
__device__ __forceinline__ void settle_tile(const Op &op, real (&tile)[TILE_ROWS][TILE_COLUMNS]) {
#pragma unroll
    for (int i = 0; i < TILE_ROWS; ++i)
#pragma unroll
        for (int j = 0; j < TILE_COLUMNS; ++j) {
            tile[i][j] = op.value(tile[i][j]);
            settle(tile[i][j]);
        }
}
