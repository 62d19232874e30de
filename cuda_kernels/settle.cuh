// Works `value` out here: what is asked for in a branch alone, as by a store that not every thread makes, a compiler
// would move into that branch, and one value after the other would wait for its own instructions.
template <typename T>
__device__ __forceinline__ void settle(T &value) {
#ifndef CUDA_ON_CPU
    if constexpr (sizeof(T) == 4)
        asm volatile("" : "+f"(value));
    else
        asm volatile("" : "+d"(value));
#endif
}
