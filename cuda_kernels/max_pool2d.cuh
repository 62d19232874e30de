// Which pixel of a pooling window is its first maximum, in row-major order. NaN beats every number.

#include "subsample2d.cuh"

template <typename T>
__device__ __forceinline__ bool replaces(T candidate, T highest) {
    return candidate > highest || (isnan(candidate) && !isnan(highest));
}

// The number of the window's first maximum; its value goes to `highest`.
template <typename P, typename T>
__device__ __forceinline__ int first_maximum(const T *window, int pitch, T &highest) {
    int place = 0;
    highest = window[0];
#pragma unroll
    for (int p = 1; p < P::HEIGHT * P::WIDTH; ++p) {
        const T candidate = window[(size_t)(p / P::WIDTH) * pitch + p % P::WIDTH];
        if (replaces(candidate, highest)) highest = candidate, place = p;
    }
    return place;
}
