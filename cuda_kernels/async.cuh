// Copies from global to shared memory that a thread starts and waits for later.
//
//   copy_async<16>(shared, global, there);   // 16, 8 or 4 bytes, both at multiples of that; zeros if not `there`
//   commit_copies();                         // what was started since the last call is one group
//   wait_for_copies<1>();                    // until all groups but the last 1 have arrived
//
// A thread waits for its own copies alone: a barrier tells it that those of others have come. From
// sm_80 on the copies pass no registers; before, and on the host, they are done when they are started.

// How often a loop of copies is to be unrolled: where they pass registers, those are scarce.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
constexpr int COPIES_AT_ONCE = 4;
#else
constexpr int COPIES_AT_ONCE = 1;
#endif

template <int BYTES>
struct alignas(BYTES) Bytes {
    unsigned words[BYTES / 4];
};

template <int BYTES>
__device__ __forceinline__ void copy_async(void *shared, const void *global, bool there) {
    static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "sizes that cp.async knows");
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    const unsigned target = __cvta_generic_to_shared(shared);
    if constexpr (BYTES == 16)  // past the first cache: what is staged is read once by a block
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(global), "r"(there ? 16 : 0));
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %3, %2;" ::"r"(target), "l"(global),
                     "r"(there ? BYTES : 0), "n"(BYTES));
#else
    Bytes<BYTES> bytes = {};
    if (there) bytes = *static_cast<const Bytes<BYTES> *>(global);
    *static_cast<Bytes<BYTES> *>(shared) = bytes;
#endif
}

__device__ __forceinline__ void commit_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

template <int LATER>
__device__ __forceinline__ void wait_for_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(LATER) : "memory");
#endif
}
