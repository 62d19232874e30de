// Clusters: up to 8 neighbouring blocks that run at the same time and may write into each other's shared memory.
//
// CLUSTER_OF(BLOCKS), before a kernel's __launch_bounds__, makes every BLOCKS blocks of its grid a cluster; BLOCKS is
// a number or the name of a constexpr int of the source. The grid is a multiple of it. More than one block takes
// compute capability 9.0.
//
// cluster_rank(): the block's number in its cluster, blockIdx.x % BLOCKS.
// cluster_barrier(): all threads of all blocks of the cluster meet; what they wrote before, to any block's shared
//   memory or to global memory, is seen by all of them behind it. So it is a __syncthreads() too.
// store_to_block(here, rank, value): `here` lies in this block's shared memory, static or dynamic; writes to the same
//   place of block `rank`'s. T has 4 or 8 bytes. The cluster has met before the first one, as a block that has not
//   begun has no memory yet, and it meets after the last one, as one that has ended has none any more.

#if defined(CUDA_ON_CPU)  // tests/cuda_on_cpu/cuda_on_cpu.h

#define CLUSTER_OF(blocks)
using cuda_on_cpu::cluster_barrier;
using cuda_on_cpu::cluster_rank;
using cuda_on_cpu::store_to_block;

#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

#define CLUSTER_OF(blocks) __cluster_dims__(blocks, 1, 1)

__device__ __forceinline__ int cluster_rank() {
    int rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

__device__ __forceinline__ void cluster_barrier() {
    asm volatile("barrier.cluster.arrive.release;\n\tbarrier.cluster.wait.acquire;" ::: "memory");
}

template <typename T>
__device__ __forceinline__ void store_to_block(T *here, int rank, T value) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a store to another block writes 4 or 8 bytes");
    unsigned there;
    asm("mapa.shared::cluster.u32 %0, %1, %2;"
        : "=r"(there) : "r"(static_cast<unsigned>(__cvta_generic_to_shared(here))), "r"(rank));
    if constexpr (sizeof(T) == 4) {
        unsigned bits;
        memcpy(&bits, &value, sizeof bits);
        asm volatile("st.shared::cluster.b32 [%0], %1;" ::"r"(there), "r"(bits) : "memory");
    } else {
        unsigned long long bits;
        memcpy(&bits, &value, sizeof bits);
        asm volatile("st.shared::cluster.b64 [%0], %1;" ::"r"(there), "l"(bits) : "memory");
    }
}

#else  // clusters of one block

#define CLUSTER_OF(blocks)

__device__ __forceinline__ int cluster_rank() { return 0; }

__device__ __forceinline__ void cluster_barrier() { __syncthreads(); }

template <typename T>
__device__ __forceinline__ void store_to_block(T *here, int, T value) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a store to another block writes 4 or 8 bytes");
    *here = value;
}

#endif
