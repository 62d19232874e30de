// Convolution's inner loops, on windows that lie in shared memory; every kernel that convolves uses them.
//
// Each takes a tile of ROWS x COLUMNS pixels in registers and one connection's taps (the elements of
// its weight), and brings a row of the window into registers once for all taps and pixels that need
// it: for a 5 x 5 kernel and a tile of 2 x 10 that is a shared-memory load for every six
// multiply-adds, where a pixel at a time would need one for each.

// z[j] += sum over kx of taps[kx] * x[j * STRIDE + kx]: one row of taps on one row of the window.
template <int COLUMNS, int KERNEL_WIDTH, int STRIDE, typename T>
__device__ __forceinline__ void correlate_row(T *z, const T *x, const T *taps) {
#pragma unroll
    for (int kx = 0; kx < KERNEL_WIDTH; ++kx)
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) z[j] += taps[kx] * x[j * STRIDE + kx];
}

// The geometry of a convolution that the loops below are made for.
template <int KernelHeight, int KernelWidth, int StrideY, int StrideX>
struct Window {
    static constexpr int KERNEL_HEIGHT = KernelHeight, KERNEL_WIDTH = KernelWidth;
    static constexpr int STRIDE_Y = StrideY, STRIDE_X = StrideX, TAPS = KernelHeight * KernelWidth;
    // Larger kernels would not fit into registers with a tile; their taps are read as they are used.
    static constexpr bool IN_REGISTERS = TAPS <= 36;
    static __host__ __device__ constexpr int rows(int tile) { return (tile - 1) * StrideY + KernelHeight; }
    static __host__ __device__ constexpr int columns(int tile) { return (tile - 1) * StrideX + KernelWidth; }
};

// Forward: z[i][j] += sum over ky, kx of taps[ky][kx] * x[i * STRIDE_Y + ky][j * STRIDE_X + kx].
// `x` is the window of the tile's first pixel, its rows `pitch` apart.
template <typename W, int ROWS, int COLUMNS, typename T>
__device__ __forceinline__ void add_windows(T (&z)[ROWS][COLUMNS], const T *x, int pitch, const T *weight) {
    if constexpr (W::IN_REGISTERS) {
        T taps[W::TAPS];
#pragma unroll
        for (int t = 0; t < W::TAPS; ++t) taps[t] = weight[t];
#pragma unroll
        for (int r = 0; r < W::rows(ROWS); ++r) {
            T row[W::columns(COLUMNS)];
#pragma unroll
            for (int q = 0; q < W::columns(COLUMNS); ++q) row[q] = x[r * pitch + q];
#pragma unroll
            for (int i = 0; i < ROWS; ++i) {
                const int ky = r - i * W::STRIDE_Y;
                if (ky >= 0 && ky < W::KERNEL_HEIGHT)
                    correlate_row<COLUMNS, W::KERNEL_WIDTH, W::STRIDE_X>(z[i], row, taps + ky * W::KERNEL_WIDTH);
            }
        }
    } else {
        for (int ky = 0; ky < W::KERNEL_HEIGHT; ++ky)
            for (int kx = 0; kx < W::KERNEL_WIDTH; ++kx) {
                const T tap = weight[ky * W::KERNEL_WIDTH + kx];
#pragma unroll
                for (int i = 0; i < ROWS; ++i)
#pragma unroll
                    for (int j = 0; j < COLUMNS; ++j)
                        z[i][j] += tap * x[(i * W::STRIDE_Y + ky) * pitch + j * W::STRIDE_X + kx];
            }
    }
}

// Gradient by the input, stride 1: grad[i][j] += sum over ky, kx of taps[ky][kx] * dz(i - ky, j - kx).
// `Dz` reads dz relative to the output whose window begins at the tile's first pixel: at(row, column) where
// has_row(row) and has_column(column), which are 0 elsewhere. What is known as the kernel is compiled to
// lie outside, as for a tile as wide as the map, costs nothing.
template <typename W, int ROWS, int COLUMNS, typename T, typename Dz>
__device__ __forceinline__ void add_transposed_windows(T (&grad)[ROWS][COLUMNS], const T *weight, const Dz &dz) {
    static_assert(W::STRIDE_Y == 1 && W::STRIDE_X == 1, "other strides leave gaps: strided_window");
    if constexpr (W::IN_REGISTERS) {
        T taps[W::TAPS];
#pragma unroll
        for (int t = 0; t < W::TAPS; ++t) taps[t] = weight[t];
#pragma unroll
        for (int r = 1 - W::KERNEL_HEIGHT; r < ROWS; ++r) {
            if (!dz.has_row(r)) continue;
            T row[W::columns(COLUMNS)];
#pragma unroll
            for (int q = 0; q < W::columns(COLUMNS); ++q) {
                const int column = q + 1 - W::KERNEL_WIDTH;
                row[q] = dz.has_column(column) ? dz.at(r, column) : T(0);
            }
#pragma unroll
            for (int i = 0; i < ROWS; ++i) {
                const int ky = i - r;
                if (ky < 0 || ky >= W::KERNEL_HEIGHT) continue;
#pragma unroll
                for (int kx = 0; kx < W::KERNEL_WIDTH; ++kx)
#pragma unroll
                    for (int j = 0; j < COLUMNS; ++j)
                        if (!Dz::WHOLE_ROWS || dz.has_column(j - kx))
                            grad[i][j] += taps[ky * W::KERNEL_WIDTH + kx] * row[j + W::KERNEL_WIDTH - 1 - kx];
            }
        }
    } else {
        for (int ky = 0; ky < W::KERNEL_HEIGHT; ++ky)
            for (int kx = 0; kx < W::KERNEL_WIDTH; ++kx) {
                const T tap = weight[ky * W::KERNEL_WIDTH + kx];
#pragma unroll
                for (int i = 0; i < ROWS; ++i)
#pragma unroll
                    for (int j = 0; j < COLUMNS; ++j)
                        if (dz.has_row(i - ky) && dz.has_column(j - kx)) grad[i][j] += tap * dz.at(i - ky, j - kx);
            }
    }
}

// Gradient by one input pixel, any stride: the sum over the taps through which outputs saw it.
// (y, x) is the pixel's place in the padded input; at(oy, ox) is dz inside the map.
template <typename W, typename T, typename At>
__device__ __forceinline__ T strided_window(int y, int x, int out_height, int out_width, const T *weight,
                                            int first_row, int rows, At at) {
    T sum = 0;
    for (int ky = first_row; ky < first_row + rows; ++ky) {
        const int down = y - ky;
        if (down < 0 || down % W::STRIDE_Y || down / W::STRIDE_Y >= out_height) continue;
        for (int kx = 0; kx < W::KERNEL_WIDTH; ++kx) {
            const int right = x - kx;
            if (right < 0 || right % W::STRIDE_X || right / W::STRIDE_X >= out_width) continue;
            sum += weight[ky * W::KERNEL_WIDTH + kx] * at(down / W::STRIDE_Y, right / W::STRIDE_X);
        }
    }
    return sum;
}

// Gradient by the taps: sums[ky][kx] += sum over the tile of dz[i][j] * x[i * STRIDE_Y + ky][j * STRIDE_X + kx],
// for TAP_ROWS x TAP_COLUMNS taps; `x` is what the first of them sees of the tile's first window.
template <typename W, int TAP_ROWS, int TAP_COLUMNS, int ROWS, int COLUMNS, typename T>
__device__ __forceinline__ void add_products(T *sums, const T (&dz)[ROWS][COLUMNS], const T *x, int pitch) {
    constexpr int WIDTH = (COLUMNS - 1) * W::STRIDE_X + TAP_COLUMNS;
#pragma unroll
    for (int r = 0; r < (ROWS - 1) * W::STRIDE_Y + TAP_ROWS; ++r) {
        T row[WIDTH];
#pragma unroll
        for (int q = 0; q < WIDTH; ++q) row[q] = x[r * pitch + q];
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            const int ky = r - i * W::STRIDE_Y;
            if (ky < 0 || ky >= TAP_ROWS) continue;
#pragma unroll
            for (int kx = 0; kx < TAP_COLUMNS; ++kx)
#pragma unroll
                for (int j = 0; j < COLUMNS; ++j)
                    sums[ky * TAP_COLUMNS + kx] += dz[i][j] * row[j * W::STRIDE_X + kx];
        }
    }
}
