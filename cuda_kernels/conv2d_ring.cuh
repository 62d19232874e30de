// Convolution by register tiles, some warps staging what others compute with: from sm_80 on.
//
//   producers:  for region, group of target maps, for chunk of the maps that the group depends on:
//                 wait until the chunk's place in the ring is empty; stage it there
//   consumers:  for region, group of target maps:
//                 for chunk:
//                   wait until its place is full
//                   for each of the warp's MAPS target maps, for its connections into the chunk:
//                     tile += what the connection adds, from shared memory
//                   the warp is done with the place
//                 write the tiles
//
// So no warp waits for another one but through the ring: a warp with few connections into some maps is ahead of one
// with many by up to a whole ring, copies go on while tiles are computed and written, and writing is left to the copy
// engine where rows and addresses allow it (sm_90).
//
// Warps 0 .. WARPS - 1 are consumers, who own what conv2d_tiles.cuh says; the PRODUCERS behind them stage together.
// Shared memory, dynamic: `stages` places of chunk * Stage::slot() reals (twice that where outputs are staged as
// well); from store_at on, 32 * TILE_ROWS * TILE_COLUMNS reals for each consumer. One turn.

#include "conv2d_tiles.cuh"
#include "mbarrier.cuh"

constexpr int MOST_STAGES = 32;

// A place in the ring, and how often the ring has gone round: its parity.
struct RingPlace {
    int slot = 0, parity = 0;
    __device__ __forceinline__ void advance(int stages) {
        if (++slot == stages) {
            slot = 0;
            parity ^= 1;
        }
    }
};

// What producers have started to stage, and have to finish.
struct Started {
    int slot = -1, count, v;
    StageOrigin origin;
};

template <class Op>
__device__ __forceinline__ void produce(const Op &op, real *staged, int stage_size, int stages, Mbarrier *full,
                                        Mbarrier *empty, const TileGrid &grid, const Stage<BAND> &stage,
                                        const Walk &walk) {
    using Producers = Threads<32 * PRODUCERS, 32 * WARPS>;
    RingPlace place;
    Started started;
    Steps<Producers> steps;
#pragma unroll 1
    for (int work = blockIdx.x; work < grid.regions() * walk.groups; work += gridDim.x) {
        const int group = work % walk.groups;
        const int used = walk.used_starts[group + 1] - walk.used_starts[group];
        const StageOrigin origin = op.origin(Region(grid, work / walk.groups));
        const int v = op.pixels(origin);
        steps.prepare(v, stage);
#pragma unroll 1
        for (int c = 0; c * walk.chunk < used; ++c) {
            const int count = min(walk.chunk, used - c * walk.chunk);
            wait(&empty[place.slot], place.parity ^ 1);  // in the first round it is
            op.template start<Producers>(staged + place.slot * stage_size,
                                         walk.used + walk.used_starts[group] + c * walk.chunk, count, stage, origin,
                                         v, steps);
            if constexpr (Op::FINISHES) {  // the chunk before: this one comes meanwhile
                commit_copies();
                if (started.slot >= 0) {
                    wait_for_copies<1>();
                    op.template finish<Producers>(staged + started.slot * stage_size, started.count, stage,
                                                  started.origin, started.v);
                    arrive(&full[started.slot]);
                }
                started = Started{place.slot, count, v, origin};
            } else {
                arrive_when_copied(&full[place.slot]);
            }
            place.advance(stages);
        }
    }
    if constexpr (Op::FINISHES)
        if (started.slot >= 0) {
            wait_for_copies<0>();
            op.template finish<Producers>(staged + started.slot * stage_size, started.count, stage, started.origin,
                                          started.v);
            arrive(&full[started.slot]);
        }
}

// Writes a warp's tiles of one target map through its buffer: at one go where the patch of a sample is one run of 16
// bytes and more.
__device__ __forceinline__ void write_tile(real *buffer, real *target, int map, const Maps &maps, const TileGrid &grid,
                                           const Region &region, const Owner &owner, int warp_samples,
                                           const real (&values)[TILE_ROWS][TILE_COLUMNS]) {
    const Patch patch(maps, grid, region);
    const int first = region.sample + owner.sample;
    if constexpr (HAS_BULK_STORES) {
        if (Owner::lane() == 0) wait_for_bulk_reads();  // of what lay in the buffer before
    }
    __syncwarp();
    fill_buffer(buffer, patch, owner, values);
    const unsigned bytes = patch.size() * sizeof(real);
    real *const to = patch.place(target, first, map, maps, region);
    const size_t pitch = (size_t)maps.count * maps.area();  // from one sample to the next
    if (HAS_BULK_STORES && patch.whole_rows && ((size_t)to | bytes | pitch * sizeof(real)) % 16 == 0) {
        fence_for_bulk_store();
        __syncwarp();
        if (Owner::lane() == 0)
            for (int s = 0; s < warp_samples && first + s < maps.samples; ++s)
                bulk_store(to + s * pitch, buffer + s * patch.size(), bytes);
    } else {
        __syncwarp();
        write_buffer(buffer, target, map, maps, patch, region, owner, warp_samples);
    }
}

template <class Op>
__device__ __forceinline__ void consume(const Op &op, real *staged, int stage_size, int stages, Mbarrier *full,
                                        Mbarrier *empty, const real *weight, real *target, const Maps &target_maps,
                                        const TileGrid &grid, int warp_samples, const Stage<BAND> &stage,
                                        const Walk &walk) {
    const Owner owner(grid, warp_samples);
    const real *const mine = staged + stage.place(owner.sample + owner.tile.sample, owner.tile.row * STRIDE_Y,
                                                  owner.tile.column * STRIDE_X + op.lead);
    RingPlace place;
#pragma unroll 1
    for (int work = blockIdx.x; work < grid.regions() * walk.groups; work += gridDim.x) {
        const int group = work % walk.groups;
        const int first_slot = (group * owner.map_warps + owner.map_warp) * MAPS;
        const int used = walk.used_starts[group + 1] - walk.used_starts[group];
        real tiles[MAPS][TILE_ROWS][TILE_COLUMNS];
        begin_tiles(op, tiles, walk.target_maps + first_slot);
#pragma unroll 1
        for (int c = 0; c * walk.chunk < used; ++c) {
            wait(&full[place.slot], place.parity);
            walk.add_chunk(op, tiles, c, first_slot, mine + place.slot * stage_size, weight, stage);
            __syncwarp();  // all lanes have read what they need
            if (Owner::lane() == 0) arrive(&empty[place.slot]);
            place.advance(stages);
        }
        const Region region(grid, work / walk.groups);
#pragma unroll
        for (int m = 0; m < MAPS; ++m) {
            const int map = walk.target_maps[first_slot + m];
            if (map < 0) continue;
            settle_tile(op, tiles[m]);
            write_tile(staged + walk.store_at + Owner::warp() * 32 * TILE, target, map, target_maps, grid, region,
                       owner, warp_samples, tiles[m]);
        }
    }
    if constexpr (HAS_BULK_STORES) {
        if (Owner::lane() == 0) wait_for_bulk_reads();  // shared memory ends with the block
    }
}

template <class Op>
__device__ __forceinline__ void ring_connections(const Op &op, real *staged, const real *weight, real *target,
                                                 const Maps &target_maps, const TileGrid &grid, int warp_samples,
                                                 const Stage<BAND> &stage, const Walk &walk, int stages) {
    __shared__ Mbarrier full[MOST_STAGES];
    __shared__ Mbarrier empty[MOST_STAGES];
    if (threadIdx.x < stages) {
        init_mbarrier(&full[threadIdx.x], 32 * PRODUCERS);
        init_mbarrier(&empty[threadIdx.x], WARPS);
    }
    __syncthreads();
    const int stage_size = walk.chunk * stage.slot() * (Op::FINISHES ? 2 : 1);
    if (threadIdx.x >= 32 * WARPS)
        produce(op, staged, stage_size, stages, full, empty, grid, stage, walk);
    else
        consume(op, staged, stage_size, stages, full, empty, weight, target, target_maps, grid, warp_samples, stage,
                walk);
}
