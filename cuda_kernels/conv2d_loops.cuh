// The loops of a convolution by register tiles, with producers or without.

#include "conv2d_ring.cuh"
#include "conv2d_walk.cuh"

template <class Op>
__device__ __forceinline__ void add_connections(const Op &op, real *staged, const real *weight, real *target,
                                                const Maps &target_maps, const TileGrid &grid, int warp_samples,
                                                const Stage<BAND> &stage, const Walk &walk, int stages) {
    if constexpr (PRODUCERS > 0)
        ring_connections(op, staged, weight, target, target_maps, grid, warp_samples, stage, walk, stages);
    else
        walk_connections(op, staged, weight, target, target_maps, grid, warp_samples, stage, walk);
}
