// Convolution by register tiles, every warp staging and computing in turn:
//
//   for region, group of target maps:                                  one work item of a block
//     for turn:                                                        if all that is needed is staged at once
//       for chunk of the maps that the group depends on:
//         stage the chunk
//         for each of the warp's MAPS target maps, for its connections into the chunk:
//           tile += what the connection adds, from shared memory       32 tiles, one of each lane
//       write the tiles
//
// Shared memory, dynamic: chunk * Stage::slot() reals (twice that where outputs are staged as well); from
// store_at on, 32 * TILE_ROWS * TILE_COLUMNS reals for each warp, through which tiles are written so that
// neighbouring lanes write neighbouring pixels. With one turn that is the staged maps' own memory.

#include "conv2d_tiles.cuh"

template <class Op>
__device__ __forceinline__ void walk_connections(const Op &op, real *staged, const real *weight, real *target,
                                                 const Maps &target_maps, const TileGrid &grid, int warp_samples,
                                                 const Stage<BAND> &stage, const Walk &walk) {
    using All = Threads<THREADS>;
    const Owner owner(grid, warp_samples);
    // where the lane's window begins in a slot
    const int window = stage.place(owner.sample + owner.tile.sample, owner.tile.row * STRIDE_Y,
                                   owner.tile.column * STRIDE_X + op.lead);
    const real *mine = staged + window;

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
            begin_tiles(op, tiles, walk.target_maps + first_slot);
#pragma unroll 1
            for (int c = 0; c * walk.chunk < used; ++c) {
                if (turn == 0) {
                    __syncthreads();  // nobody reads what is staged, or writes tiles through it
                    const StageOrigin origin = op.origin(region);
                    const int *list = walk.used + walk.used_starts[group] + c * walk.chunk;
                    const int count = min(walk.chunk, used - c * walk.chunk), v = op.pixels(origin);
                    op.template start<All>(staged, list, count, stage, origin, v);
                    commit_copies();
                    wait_for_copies<0>();
                    if constexpr (Op::FINISHES) op.template finish<All>(staged, count, stage, origin, v);
                    __syncthreads();
                }
                walk.add_chunk(op, tiles, c, first_slot, mine, weight, stage);
            }
            if (walk.store_at == 0) __syncthreads();  // nobody reads what is staged
            const Patch patch(target_maps, grid, region);
#pragma unroll
            for (int m = 0; m < MAPS; ++m) {
                const int map = walk.target_maps[first_slot + m];
                if (map < 0) continue;
                real *const buffer = staged + walk.store_at + Owner::warp() * 32 * TILE;
                settle_tile(op, tiles[m]);
                __syncwarp();  // all lanes have read what lay in the buffer before
                fill_buffer(buffer, patch, owner, tiles[m]);
                __syncwarp();
                write_buffer(buffer, target, map, target_maps, patch, region, owner, warp_samples);
            }
        }
    }
}
