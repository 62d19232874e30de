// Convolution's inner loops, on windows that lie in shared memory; every kernel that convolves uses them.
//
// Each takes a tile of ROWS x COLUMNS pixels in registers and one connection's taps (the elements of
// its weight), and brings a row of the window into registers once for all taps and pixels that need
// it: for a 5 x 5 kernel and a tile of 2 x 10 that is a shared-memory load for every six
// multiply-adds, where a pixel at a time would need one for each.

// Reads COUNT neighbouring elements that begin at a multiple of ALIGNMENT of them, by the widest loads there are:
// compilers do not join loads of single elements, whatever they are told about the alignment.
template <int ALIGNMENT, int COUNT, typename T>
__device__ __forceinline__ void read_run(T *to, const T *from) {
    constexpr int LARGEST = 16 / sizeof(T), MOST = ALIGNMENT < LARGEST ? ALIGNMENT : LARGEST;
    constexpr int WIDTH = COUNT >= 4 && MOST >= 4 ? 4 : COUNT >= 2 && MOST >= 2 ? 2 : 1, WIDE = COUNT / WIDTH * WIDTH;
    struct alignas(WIDTH * sizeof(T)) Run {
        T at[WIDTH];
    };
#pragma unroll
    for (int q = 0; q < WIDE; q += WIDTH) {
        const Run run = *reinterpret_cast<const Run *>(from + q);
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) to[q + j] = run.at[j];
    }
    if constexpr (WIDE < COUNT) read_run<WIDTH / 2, COUNT - WIDE>(to + WIDE, from + WIDE);
}

// A window whose rows lie `pitch` apart, each at a multiple of ALIGNMENT elements.
template <int ALIGNMENT, typename T>
struct Rows {
    const T *first;
    int pitch;
    __device__ __forceinline__ const T *at(int row) const { return first + row * pitch; }
    template <int COUNT>
    __device__ __forceinline__ void read(T (&to)[COUNT], int row) const {
        read_run<ALIGNMENT, COUNT>(to, at(row));
    }
    __device__ __forceinline__ Rows from(int row) const { return {at(row), pitch}; }
};

// The same with `skew` more behind every BAND rows, so that lanes whose windows begin some bands apart read from other
// banks of shared memory.
template <int BAND, int ALIGNMENT, typename T>
struct SkewedRows {
    const T *first;
    int pitch, skew, begin = 0;
    __device__ __forceinline__ const T *at(int row) const {
        return first + (begin + row) * pitch + (begin + row) / BAND * skew;
    }
    template <int COUNT>
    __device__ __forceinline__ void read(T (&to)[COUNT], int row) const {
        read_run<ALIGNMENT, COUNT>(to, at(row));
    }
    __device__ __forceinline__ SkewedRows from(int row) const { return {first, pitch, skew, begin + row}; }
};

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
// `x`, Rows or SkewedRows, is the window of the tile's first pixel.
template <typename W, int ROWS, int COLUMNS, typename T, typename X>
__device__ __forceinline__ void add_windows(T (&z)[ROWS][COLUMNS], const X &x, const T *weight) {
    if constexpr (W::IN_REGISTERS) {
        T taps[W::TAPS];
#pragma unroll
        for (int t = 0; t < W::TAPS; ++t) taps[t] = weight[t];
#pragma unroll
        for (int r = 0; r < W::rows(ROWS); ++r) {
            T row[W::columns(COLUMNS)];
            x.read(row, r);
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
                        z[i][j] += tap * x.at(i * W::STRIDE_Y + ky)[j * W::STRIDE_X + kx];
            }
    }
}

// From this height of a kernel on, rows outside of a map are multiplied as zeros: their loads take registers early.
constexpr int BRANCHLESS_HEIGHT = 4;

// Gradient by the input, stride 1: grad[i][j] += sum over ky, kx of taps[ky][kx] * dz(i - ky, j - kx).
// `Dz` reads dz relative to the output whose window begins at the tile's first pixel: at(row, column) where
// has_row(row) and has_column(column), which are 0 elsewhere; read(to, row) as many columns of a row from
// 1 - KERNEL_WIDTH on, zeros where there are none: lanes of a warp mostly have different rows, and without
// branches the loads of one row come while another is multiplied. What is known as the kernel is compiled to lie
// outside, as for a tile as wide as the map, costs nothing.
template <typename W, int ROWS, int COLUMNS, typename T, typename Dz>
__device__ __forceinline__ void add_transposed_windows(T (&grad)[ROWS][COLUMNS], const T *weight, const Dz &dz) {
    static_assert(W::STRIDE_Y == 1 && W::STRIDE_X == 1, "other strides leave gaps: strided_window");
    if constexpr (W::IN_REGISTERS) {
        T taps[W::TAPS];
#pragma unroll
        for (int t = 0; t < W::TAPS; ++t) taps[t] = weight[t];
#pragma unroll
        for (int r = 1 - W::KERNEL_HEIGHT; r < ROWS; ++r) {
            if (W::KERNEL_HEIGHT < BRANCHLESS_HEIGHT && !dz.has_row(r)) continue;
            T row[W::columns(COLUMNS)];
            dz.read(row, r);
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
// for TAP_ROWS x TAP_COLUMNS taps; `x`, Rows or SkewedRows, is what the first of them sees of the tile's first window.
template <typename W, int TAP_ROWS, int TAP_COLUMNS, int ROWS, int COLUMNS, typename T, typename X>
__device__ __forceinline__ void add_products(T *sums, const T (&dz)[ROWS][COLUMNS], const X &x) {
    constexpr int WIDTH = (COLUMNS - 1) * W::STRIDE_X + TAP_COLUMNS;
#pragma unroll
    for (int r = 0; r < (ROWS - 1) * W::STRIDE_Y + TAP_ROWS; ++r) {
        T row[WIDTH];
        x.read(row, r);
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

// One pixel, for some rows of the kernel: the sum of weight[ky][kx] * x[ky][kx] for ky below `rows`; `x` is what
// the first of them sees.
template <typename W, typename T>
__device__ __forceinline__ T window_rows(const T *x, int pitch, const T *weight, int rows) {
    T sum = 0;
    for (int ky = 0; ky < rows; ++ky)
#pragma unroll
        for (int kx = 0; kx < W::KERNEL_WIDTH; ++kx) sum += weight[ky * W::KERNEL_WIDTH + kx] * x[ky * pitch + kx];
    return sum;
}

// Bands of kernel rows whose taps fit into registers: COUNT of ROWS rows, and one of what is left.
template <typename W>
struct Bands {
    static constexpr int FITTING = W::KERNEL_WIDTH < 36 ? 36 / W::KERNEL_WIDTH : 1;
    static constexpr int PARTS = (W::KERNEL_HEIGHT + FITTING - 1) / FITTING;
    static constexpr int ROWS = (W::KERNEL_HEIGHT + PARTS - 1) / PARTS;
    static constexpr int COUNT = W::KERNEL_HEIGHT / ROWS, LEFT = W::KERNEL_HEIGHT % ROWS;
    using Band = Window<ROWS, W::KERNEL_WIDTH, W::STRIDE_Y, W::STRIDE_X>;
    using Last = Window<LEFT ? LEFT : 1, W::KERNEL_WIDTH, W::STRIDE_Y, W::STRIDE_X>;
};

// COUNT, without the compiler knowing it: bands that are not a loop would be computed side by side, which takes
// more registers than there are.
template <int COUNT>
__device__ __forceinline__ int hidden_count() {
    int count = COUNT;
#ifdef __CUDA_ARCH__
    asm volatile("" : "+r"(count));
#endif
    return count;
}

// Forward for kernels of any size, band by band of their rows.
template <typename W, int ROWS, int COLUMNS, typename T, typename X>
__device__ __forceinline__ void add_banded_windows(T (&z)[ROWS][COLUMNS], const X &x, const T *weight) {
    using B = Bands<W>;
    const int bands = B::LEFT > 0 ? hidden_count<B::COUNT>() : B::COUNT;
#pragma unroll 1
    for (int band = 0; band < bands; ++band)
        add_windows<typename B::Band>(z, x.from(band * B::ROWS), weight + band * B::ROWS * W::KERNEL_WIDTH);
    if constexpr (B::LEFT > 0) {
        constexpr int FIRST = B::COUNT * B::ROWS;
        add_windows<typename B::Last>(z, x.from(FIRST), weight + FIRST * W::KERNEL_WIDTH);
    }
}

// dz that is staged with zeros around it, for add_transposed_windows with a band of a kernel's rows; `rows` begin where
// the kernel's last element sees the tile's first pixel, which is `below` rows above that of the band's last.
template <int KERNEL_HEIGHT, int KERNEL_WIDTH, typename X>
struct StagedDz {
    static constexpr bool WHOLE_ROWS = false;
    X rows;
    int below;

    static __device__ constexpr bool has_row(int) { return true; }
    static __device__ constexpr bool has_column(int) { return true; }
    __device__ __forceinline__ auto at(int row, int column) const {
        return rows.at(row + KERNEL_HEIGHT - 1 + below)[column + KERNEL_WIDTH - 1];
    }
    template <typename T, int COUNT>
    __device__ __forceinline__ void read(T (&to)[COUNT], int row) const {
        rows.read(to, row + KERNEL_HEIGHT - 1 + below);
    }
};

// add_transposed_windows for staged dz, Rows or SkewedRows, and kernels of any size, band by band of their rows.
template <typename W, int ROWS, int COLUMNS, typename T, typename X>
__device__ __forceinline__ void add_banded_transposed_windows(T (&grad)[ROWS][COLUMNS], const X &dz,
                                                              const T *weight) {
    using B = Bands<W>;
    const int bands = B::LEFT > 0 ? hidden_count<B::COUNT>() : B::COUNT;
#pragma unroll 1
    for (int band = 0; band < bands; ++band) {
        using Dz = StagedDz<B::ROWS, W::KERNEL_WIDTH, X>;
        add_transposed_windows<typename B::Band>(grad, weight + band * B::Band::TAPS,
                                                 Dz{dz, W::KERNEL_HEIGHT - (band + 1) * B::ROWS});
    }
    if constexpr (B::LEFT > 0)
        add_transposed_windows<typename B::Last>(grad, weight + B::COUNT * B::Band::TAPS,
                                                 StagedDz<B::LEFT, W::KERNEL_WIDTH, X>{dz, 0});
}

// What TAP_ROWS x TAP_COLUMNS taps see of a tile of ROWS x COLUMNS windows, in registers, so that several
// connections of one input map share it.
template <typename W, int TAP_ROWS, int TAP_COLUMNS, int ROWS, int COLUMNS, typename T>
struct SharedWindow {
    static constexpr int HEIGHT = (ROWS - 1) * W::STRIDE_Y + TAP_ROWS;
    static constexpr int WIDTH = (COLUMNS - 1) * W::STRIDE_X + TAP_COLUMNS;
    T at[HEIGHT][WIDTH];

    template <typename X>
    __device__ __forceinline__ void load(const X &x) {
#pragma unroll
        for (int r = 0; r < HEIGHT; ++r) x.read(at[r], r);
    }

    // As add_products, `dz` being read row by row; where it is `counted`, its sum is added to `total`.
    template <typename Dz>
    __device__ __forceinline__ void add_products(T *sums, T &total, const Dz &dz, bool counted) const {
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            T row[COLUMNS];
            dz.read(row, i);
            if (counted)
#pragma unroll
                for (int j = 0; j < COLUMNS; ++j) total += row[j];
#pragma unroll
            for (int ky = 0; ky < TAP_ROWS; ++ky)
#pragma unroll
                for (int kx = 0; kx < TAP_COLUMNS; ++kx)
#pragma unroll
                    for (int j = 0; j < COLUMNS; ++j)
                        sums[ky * TAP_COLUMNS + kx] += row[j] * at[i * W::STRIDE_Y + ky][j * W::STRIDE_X + kx];
        }
    }
};
