// Barriers in a block's shared memory at which some threads arrive and others wait (from sm_80 on), and copies from
// shared to global memory that go on by themselves (from sm_90 on).
//
//   init_mbarrier(barrier, arrivals);   // by one thread; a __syncthreads() comes before any use
//   arrive(barrier);                    // one of the arrivals that complete a phase; the next one begins with that
//   arrive_when_copied(barrier);        // the same, once all that this thread has copied by copy_async has come
//   wait(barrier, parity);              // until the phase of this parity is complete: 0 for the first, then 1, 0, ...
//
// What a thread has read and written before it arrives comes before what another one does behind its wait. A wait for
// parity 1 is over at once while the first phase lasts. Nobody arrives for a phase twice, nor waits for one that
// may end twice meanwhile.
//
//   fence_for_bulk_store(); __syncwarp();   // by all lanes, once they have written to shared memory
//   bulk_store(global, shared, bytes);      // then by one: all three multiples of 16
//   wait_for_bulk_reads();                  // by that one: until shared memory has been read, and may be written again

struct alignas(8) Mbarrier {
    unsigned long long state;
};

#if defined(CUDA_ON_CPU)  // tests/cuda_on_cpu/cuda_on_cpu.h

constexpr bool HAS_BULK_STORES = true;
using cuda_on_cpu::arrive;
using cuda_on_cpu::arrive_when_copied;
using cuda_on_cpu::init_mbarrier;
using cuda_on_cpu::wait;

inline void fence_for_bulk_store() {}

inline void bulk_store(void *global, const void *shared, unsigned bytes) {
    if (((size_t)global | (size_t)shared | bytes) % 16) __trap();
    for (unsigned i = 0; i < bytes / 4; ++i)
        static_cast<unsigned *>(global)[i] = static_cast<const unsigned *>(shared)[i];
}

inline void wait_for_bulk_reads() {}

#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800

constexpr bool HAS_BULK_STORES = __CUDA_ARCH__ >= 900;

__device__ __forceinline__ unsigned place_in_shared(const void *shared) {
    return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}

__device__ __forceinline__ void init_mbarrier(Mbarrier *barrier, int arrivals) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(place_in_shared(barrier)), "r"(arrivals) : "memory");
}

__device__ __forceinline__ void arrive(Mbarrier *barrier) {
    asm volatile("{\n\t.reg .b64 state;\n\tmbarrier.arrive.shared.b64 state, [%0];\n\t}" ::"r"(place_in_shared(barrier))
                 : "memory");
}

__device__ __forceinline__ void arrive_when_copied(Mbarrier *barrier) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(place_in_shared(barrier)) : "memory");
}

__device__ __forceinline__ void wait(Mbarrier *barrier, int parity) {
    int complete;
    do {
#if __CUDA_ARCH__ >= 900  // sleeps for a while
        asm volatile("{\n\t.reg .pred complete;\n\tmbarrier.try_wait.parity.shared.b64 complete, [%1], %2;\n\t"
                     "selp.b32 %0, 1, 0, complete;\n\t}"
                     : "=r"(complete) : "r"(place_in_shared(barrier)), "r"(parity) : "memory");
#else
        asm volatile("{\n\t.reg .pred complete;\n\tmbarrier.test_wait.parity.shared.b64 complete, [%1], %2;\n\t"
                     "selp.b32 %0, 1, 0, complete;\n\t}"
                     : "=r"(complete) : "r"(place_in_shared(barrier)), "r"(parity) : "memory");
#endif
    } while (!complete);
}

#if __CUDA_ARCH__ >= 900

__device__ __forceinline__ void fence_for_bulk_store() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

__device__ __forceinline__ void bulk_store(void *global, const void *shared, unsigned bytes) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;\n\tcp.async.bulk.commit_group;"
                 ::"l"(global), "r"(place_in_shared(shared)), "r"(bytes) : "memory");
}

__device__ __forceinline__ void wait_for_bulk_reads() {
    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

#else  // never called: HAS_BULK_STORES is false

__device__ __forceinline__ void fence_for_bulk_store() { __trap(); }
__device__ __forceinline__ void bulk_store(void *, const void *, unsigned) { __trap(); }
__device__ __forceinline__ void wait_for_bulk_reads() { __trap(); }

#endif

#else  // compiled, as some kernels name them, and never called

constexpr bool HAS_BULK_STORES = false;

__device__ __forceinline__ void init_mbarrier(Mbarrier *, int) { __trap(); }
__device__ __forceinline__ void arrive(Mbarrier *) { __trap(); }
__device__ __forceinline__ void arrive_when_copied(Mbarrier *) { __trap(); }
__device__ __forceinline__ void wait(Mbarrier *, int) { __trap(); }
__device__ __forceinline__ void fence_for_bulk_store() { __trap(); }
__device__ __forceinline__ void bulk_store(void *, const void *, unsigned) { __trap(); }
__device__ __forceinline__ void wait_for_bulk_reads() { __trap(); }

#endif
