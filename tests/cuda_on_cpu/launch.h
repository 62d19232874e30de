// What a kernel compiled for the host (cuda_on_cpu.h) asks of the scheduler (scheduler.cpp).
//
// A kernel library is linked with the scheduler library of its own variant: plain, "address"
// (CUDA_ON_CPU_ADDRESS) or "thread" (CUDA_ON_CPU_THREAD).
#pragma once

#include <stddef.h>

#define CUDA_ON_CPU_EXPORT __attribute__((visibility("default")))

struct uint3 {
    unsigned int x, y, z;
};

namespace cuda_on_cpu {

constexpr int MAX_THREADS = 1024;
constexpr int WARP = 32;
constexpr int MAX_BLOCKS_OF_CLUSTER = 8;

// A place in a kernel's source, as `#line` names it.
struct Site {
    const char *file;
    int line;
};

// One launch, as tests/cuda_on_cpu/runtime.py describes it (the same fields in the same order).
struct Launch {
    long long blocks;
    long long blocks_of_cluster;  // a divisor of `blocks`
    long long threads;
    long long order;          // 0 forward, -1 reverse, else the seed of a random order
    long long dynamic_bytes;  // size of `extern __shared__` memory
    long long static_limit;   // most that a block may have of __shared__ variables of known size
    long long shared_limit;   // most shared memory that a block may have, of both kinds
};

// What went wrong in a launch. The offsets are return addresses in the kernel library: the later
// and the earlier access of a data race.
struct Fault {
    char message[1024];
    const char *file;
    int line;
    unsigned long long offsets[2];
};

using ThreadFunction = void (*)(const char *arguments);

// Run the whole grid; 0, or 1 when `fault` was filled in.
CUDA_ON_CPU_EXPORT int run(const Launch *launch, long long launch_bounds, ThreadFunction function,
                           const char *arguments, Fault *fault);

enum class Barrier { plain, count, all, any };
CUDA_ON_CPU_EXPORT int block_barrier(Barrier kind, bool predicate, Site site);

// A meeting of a warp's lanes. `sync` returns 0, `vote` the mask of lanes whose value is not
// zero, `shuffle` the value of lane `source`; a product is asked for by warp_product.
enum class WarpCall { sync, vote, shuffle, product };
CUDA_ON_CPU_EXPORT unsigned long long warp_meeting(
    WarpCall call, unsigned mask, unsigned long long value, int source, Site site);

// One lane's part of two factors in TF32, which lies with it as cuda_kernels/mma.cuh says.
struct Factors {
    const unsigned *a;  // 4 numbers
    const unsigned *b;  // 2 numbers
};
// A meeting of all lanes of a warp: d += a b for each of `count` factors in turn.
CUDA_ON_CPU_EXPORT void warp_product(float (&d)[4], const Factors (&factors)[3], int count,
                                     Site site);

// The block's memory of a `__shared__` variable, known by `key`; 0xFF in every byte at first.
CUDA_ON_CPU_EXPORT void *shared_memory(const void *key, size_t bytes, size_t alignment, Site site);
CUDA_ON_CPU_EXPORT void *dynamic_shared_memory();

// Clusters (cuda_kernels/cluster.cuh).
CUDA_ON_CPU_EXPORT int rank_in_cluster();
CUDA_ON_CPU_EXPORT void meet_cluster(Site site);
// Where block `rank` of the cluster is to be written, for the place `here` in the running block's
// shared memory.
CUDA_ON_CPU_EXPORT void *memory_of_block(const void *here, size_t bytes, int rank, Site site);

// Barriers in shared memory (cuda_kernels/mbarrier.cuh), known by their place.
CUDA_ON_CPU_EXPORT void mbarrier_init(const void *place, int arrivals, Site site);
CUDA_ON_CPU_EXPORT void mbarrier_arrive(const void *place, Site site);
CUDA_ON_CPU_EXPORT void mbarrier_wait(const void *place, int parity, Site site);

// Tell the race detector of an access that it does not see, made from the code at `address`.
CUDA_ON_CPU_EXPORT void atomic_access(const void *memory, int bytes, const void *address);
CUDA_ON_CPU_EXPORT void write_access(const void *memory, int bytes, const void *address);
CUDA_ON_CPU_EXPORT void read_access(const void *memory, int bytes, const void *address);

[[noreturn]] CUDA_ON_CPU_EXPORT void trap(Site site);

}  // namespace cuda_on_cpu
