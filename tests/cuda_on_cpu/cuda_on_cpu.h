// Lets the text of a CUDA kernel compile with g++ and run on the host, one fibre per CUDA thread.
//
// tests/cuda_on_cpu/translate.py puts this file before a kernel's text, rewrites the
// `__shared__` declarations and adds a launch function for each kernel. A kernel that needs
// another text on the host (inline PTX, say) asks `#ifdef CUDA_ON_CPU`.
#pragma once

#define CUDA_ON_CPU 1

#include "launch.h"
#include "vectors.h"
#include "mathematics.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(bytes) __attribute__((aligned(bytes)))

CUDA_ON_CPU_EXPORT extern const uint3 threadIdx, blockIdx, blockDim, gridDim;
constexpr int warpSize = cuda_on_cpu::WARP;

namespace cuda_on_cpu {

// The place of the call that has this as a default argument.
constexpr Site here(const char *file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
}

template <class Variable>
inline Variable &shared(const void *key, size_t alignment, Site site) {
    return *static_cast<Variable *>(
        shared_memory(key, sizeof(Variable), alignment < 16 ? 16 : alignment, site));
}

template <int... I>
struct Indices {};

// Call a kernel with arguments that lie in slots of eight bytes.
template <class... Parameters, int... I>
inline void call(void (*kernel)(Parameters...), const char *slots, Indices<I...>) {
    (void)slots;
    kernel(*reinterpret_cast<const Parameters *>(slots + 8 * I)...);
}
template <class... Parameters>
inline void call(void (*kernel)(Parameters...), const char *slots) {
    call(kernel, slots, Indices<__integer_pack(int(sizeof...(Parameters)))...>());
}

template <class T>
inline T shuffle(unsigned mask, T value, int source, Site site) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a shuffle moves 4 or 8 bytes");
    unsigned long long bits = 0;
    __builtin_memcpy(&bits, &value, sizeof value);
    bits = warp_meeting(WarpCall::shuffle, mask, bits, source, site);
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}

inline int lane() { return int(threadIdx.x) % WARP; }
inline unsigned ballot(unsigned mask, bool predicate, Site site) {
    return unsigned(warp_meeting(WarpCall::vote, mask, predicate, 0, site));
}

}  // namespace cuda_on_cpu

#define SITE cuda_on_cpu::Site site = cuda_on_cpu::here()

// Barriers
inline void __syncthreads(SITE) {
    cuda_on_cpu::block_barrier(cuda_on_cpu::Barrier::plain, false, site);
}
inline int __syncthreads_count(int predicate, SITE) {
    return cuda_on_cpu::block_barrier(cuda_on_cpu::Barrier::count, predicate != 0, site);
}
inline int __syncthreads_and(int predicate, SITE) {
    return cuda_on_cpu::block_barrier(cuda_on_cpu::Barrier::all, predicate != 0, site);
}
inline int __syncthreads_or(int predicate, SITE) {
    return cuda_on_cpu::block_barrier(cuda_on_cpu::Barrier::any, predicate != 0, site);
}
inline void __syncwarp(unsigned mask = 0xffffffffu, SITE) {
    cuda_on_cpu::warp_meeting(cuda_on_cpu::WarpCall::sync, mask, 0, 0, site);
}

// Shuffles and votes. `width` cuts the warp into segments, as in CUDA.
template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = warpSize, SITE) {
    const int start = cuda_on_cpu::lane() & -width;
    return cuda_on_cpu::shuffle(mask, value, start + (source & (width - 1)), site);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize, SITE) {
    const int lane = cuda_on_cpu::lane(), source = lane - int(delta);
    return cuda_on_cpu::shuffle(mask, value, source < (lane & -width) ? lane : source, site);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize, SITE) {
    const int lane = cuda_on_cpu::lane(), source = lane + int(delta);
    return cuda_on_cpu::shuffle(mask, value, source >= (lane & -width) + width ? lane : source,
                                site);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = warpSize, SITE) {
    const int lane = cuda_on_cpu::lane(), source = lane ^ lanes;
    return cuda_on_cpu::shuffle(mask, value, source >= (lane & -width) + width ? lane : source,
                                site);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, SITE) {
    return cuda_on_cpu::ballot(mask, predicate != 0, site);
}
inline int __any_sync(unsigned mask, int predicate, SITE) {
    return cuda_on_cpu::ballot(mask, predicate != 0, site) != 0;
}
inline int __all_sync(unsigned mask, int predicate, SITE) {
    return cuda_on_cpu::ballot(mask, predicate == 0, site) == 0;
}

[[noreturn]] inline void __trap(SITE) { cuda_on_cpu::trap(site); }

// Only one thread runs at a time, so an atomic is a plain access that the race detector is told
// of; calls that are not inlined give it the place in the kernel.
#ifdef CUDA_ON_CPU_THREAD
#define TOLD template <class T> __attribute__((noinline, no_sanitize("thread")))
#define TELL(kind, memory) \
    cuda_on_cpu::kind##_access(memory, sizeof *memory, __builtin_return_address(0))
#else
#define TOLD template <class T> inline
#define TELL(kind, memory)
#endif

// Clusters of blocks (cuda_kernels/cluster.cuh).
namespace cuda_on_cpu {
inline int cluster_rank() { return rank_in_cluster(); }
inline void cluster_barrier(SITE) { meet_cluster(site); }
TOLD void store_to_block(T *here, int rank, T value, SITE) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a store to another block writes 4 or 8 bytes");
    T *there = static_cast<T *>(memory_of_block(here, sizeof(T), rank, site));
    TELL(write, there);
    *there = value;
}
// Barriers in shared memory (cuda_kernels/mbarrier.cuh). For the race detector one is written when
// it is initialised and read whenever it is used, so that it asks for a barrier of the
// block between.
TOLD void init_mbarrier(T *barrier, int arrivals, SITE) {
    TELL(write, barrier);
    mbarrier_init(barrier, arrivals, site);
}
TOLD void arrive(T *barrier, SITE) {
    TELL(read, barrier);
    mbarrier_arrive(barrier, site);
}
// The same: copies are done when they are started.
TOLD void arrive_when_copied(T *barrier, SITE) {
    TELL(read, barrier);
    mbarrier_arrive(barrier, site);
}
TOLD void wait(T *barrier, int parity, SITE) {
    TELL(read, barrier);
    mbarrier_wait(barrier, parity, site);
}
}  // namespace cuda_on_cpu
#undef SITE

namespace cuda_on_cpu {
template <class T> struct Same { using type = T; };
template <class T> using same = typename Same<T>::type;
}  // namespace cuda_on_cpu
#define ATOMIC_FUNCTION(name, expression)                        \
    TOLD T name(T *memory, cuda_on_cpu::same<T> value) {         \
        TELL(atomic, memory);                                    \
        const T old = *memory;                                   \
        *memory = expression;                                    \
        return old;                                              \
    }
ATOMIC_FUNCTION(atomicAdd, old + value)
ATOMIC_FUNCTION(atomicSub, old - value)
ATOMIC_FUNCTION(atomicExch, value)
ATOMIC_FUNCTION(atomicMin, value < old ? value : old)
ATOMIC_FUNCTION(atomicMax, old < value ? value : old)
ATOMIC_FUNCTION(atomicAnd, old & value)
ATOMIC_FUNCTION(atomicOr, old | value)
ATOMIC_FUNCTION(atomicXor, old ^ value)
ATOMIC_FUNCTION(atomicInc, old >= value ? 0 : old + 1)
ATOMIC_FUNCTION(atomicDec, old == 0 || old > value ? value : old - 1)
TOLD T atomicCAS(T *memory, cuda_on_cpu::same<T> compare, cuda_on_cpu::same<T> value) {
    TELL(atomic, memory);
    const T old = *memory;
    if (old == compare) *memory = value;
    return old;
}
#undef ATOMIC_FUNCTION
#undef TOLD
#undef TELL

inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

template <class T> inline T __ldg(const T *memory) { return *memory; }
template <class T> inline T __ldcg(const T *memory) { return *memory; }
template <class T> inline T __ldcs(const T *memory) { return *memory; }
template <class T> inline void __stcg(T *memory, T value) { *memory = value; }
template <class T> inline void __stcs(T *memory, T value) { *memory = value; }
