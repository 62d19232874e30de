// Pooling windows of POOL_HEIGHT x POOL_WIDTH pixels at multiples of STRIDE_Y, STRIDE_X.

template <int PoolHeight, int PoolWidth, int StrideY, int StrideX>
struct Pool {
    static constexpr int HEIGHT = PoolHeight, WIDTH = PoolWidth, STRIDE_Y = StrideY, STRIDE_X = StrideX;
    // Each pixel lies in one window at most.
    static constexpr bool APART = PoolHeight <= StrideY && PoolWidth <= StrideX;
};

// The sum of the window whose first pixel is window[0], in row-major order.
template <typename P, typename T>
__device__ __forceinline__ T window_sum(const T *window, int pitch) {
    T sum = 0;
#pragma unroll
    for (int py = 0; py < P::HEIGHT; ++py)
#pragma unroll
        for (int px = 0; px < P::WIDTH; ++px) sum += window[(size_t)py * pitch + px];
    return sum;
}

// Calls visit(oy, ox) for each window that holds pixel (iy, ix), in row-major order.
template <typename P, typename Visit>
__device__ __forceinline__ void each_window_of(int iy, int ix, int out_height, int out_width, Visit visit) {
    const int top = iy < P::HEIGHT ? 0 : (iy - P::HEIGHT) / P::STRIDE_Y + 1;
    const int left = ix < P::WIDTH ? 0 : (ix - P::WIDTH) / P::STRIDE_X + 1;
    for (int oy = top; oy <= min(iy / P::STRIDE_Y, out_height - 1); ++oy)
        for (int ox = left; ox <= min(ix / P::STRIDE_X, out_width - 1); ++ox) visit(oy, ox);
}
