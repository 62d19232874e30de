// A matrix product whose operands are gathered as they are needed: product = left * right, left (rows, depth), right
// (depth, columns). conv2d_matrix.cu says which elements of a convolution they are.
//
// A block computes a tile of TILE_OUT = 16 * ROWS rows x TILE_IN columns. STEP of the depth at a time pass through
// shared memory, both operands with a row for each of the depth; the next step is loaded into registers
// while this one is multiplied.
//
// FFMA form (PASSES = 0): a thread owns ROWS rows x 8 columns, in fours that are neighbours where ROWS allows. Of
// four neighbouring lanes two share their rows and two their columns, so that a 16-byte load of the warp
// takes two passes through shared memory instead of four: with ROWS = 8 that is 8 for 64 multiply-adds.
// Tensor core form (float only): a warp owns tiles of 16 rows x 8 columns, and operands are rounded to TF32
// (PASSES = 1) or split in two (PASSES = 3, float's precision). Rows in shared memory are 8 longer than the
// tile, so that the 4 x 8 elements of a fragment lie in 32 banks.
//
// Shared memory, static: 2 * STEP * (TILE_OUT + TILE_IN + 16) reals. THREADS threads.

#include "mma.cuh"

constexpr int THREADS = 128, WARPS = THREADS / 32;
constexpr int BLOCKS_AT_ONCE = 2;  // at least: without it ptxas aims for more, and spills
constexpr int TILE_OUT = 16 * ROWS, TILE_IN = 64, COLUMNS = 8, STEP = 16;
constexpr int LEFT_PITCH = TILE_OUT + 8, RIGHT_PITCH = TILE_IN + 8;
constexpr int BUFFER = STEP * (LEFT_PITCH + RIGHT_PITCH);
static_assert(PASSES == 0 || sizeof(real) == 4, "tensor cores take float");

template <int COUNT>
struct alignas(COUNT * sizeof(real) < 16 ? COUNT * sizeof(real) : 16) Pack {
    real at[COUNT];
};

// A thread's sums in the FFMA form.
struct ThreadSums {
    static constexpr int CHUNK = ROWS < 4 ? ROWS : 4;
    real sums[ROWS][COLUMNS] = {};
    int row, column;

    // Bit 0 of a lane's number chooses among rows, bit 1 among columns, see above.
    __device__ ThreadSums() {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        row = warp * 4 + lane / 16 * 2 + lane % 2;
        column = lane / 2 % 8;
    }
    __device__ __forceinline__ int row_of(int r) const { return r / CHUNK * 16 * CHUNK + row * CHUNK + r % CHUNK; }
    __device__ __forceinline__ int column_of(int c) const { return c / 4 * 32 + column * 4 + c % 4; }

    __device__ __forceinline__ void add(const real *left, const real *right) {
#pragma unroll 4
        for (int k = 0; k < STEP; ++k) {
            real a[ROWS], b[COLUMNS];
#pragma unroll
            for (int r = 0; r < ROWS; r += CHUNK) {
                const auto pack = *reinterpret_cast<const Pack<CHUNK> *>(left + k * LEFT_PITCH + row_of(r));
#pragma unroll
                for (int j = 0; j < CHUNK; ++j) a[r + j] = pack.at[j];
            }
#pragma unroll
            for (int c = 0; c < COLUMNS; c += 4) {
                const auto four = *reinterpret_cast<const Pack<4> *>(right + k * RIGHT_PITCH + column_of(c));
#pragma unroll
                for (int j = 0; j < 4; ++j) b[c + j] = four.at[j];
            }
#pragma unroll
            for (int r = 0; r < ROWS; ++r)
#pragma unroll
                for (int c = 0; c < COLUMNS; ++c) sums[r][c] += a[r] * b[c];
        }
    }

    // Calls store(row, column, sum) for all of them.
    template <class Store>
    __device__ __forceinline__ void each(Store store) const {
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c)
#pragma unroll
            for (int r = 0; r < ROWS; ++r) store(row_of(r), column_of(c), sums[r][c]);
    }
};

// A warp's sums in the tensor core form: TALL x WIDE fragments of 16 rows x 8 columns.
struct WarpSums {
    static constexpr int WARPS_DOWN = ROWS < 2 ? 1 : 2, WARPS_ACROSS = WARPS / WARPS_DOWN;
    static constexpr int TALL = ROWS / WARPS_DOWN, WIDE = TILE_IN / 8 / WARPS_ACROSS;
    float sums[TALL][WIDE][4] = {};
    int top, left, group, place;   // the warp's first row and column; the lane's place in a fragment

    __device__ WarpSums() {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        top = warp % WARPS_DOWN * TALL * 16;
        left = warp / WARPS_DOWN * WIDE * 8;
        group = lane / 4;
        place = lane % 4;
    }

    // An operand is split once for all the products that it takes part in.
    template <int N>
    static __device__ __forceinline__ void split(const float (&x)[N], unsigned (&big)[N], unsigned (&small)[N]) {
#pragma unroll
        for (int i = 0; i < N; ++i) {
            big[i] = to_tf32(x[i]);
            small[i] = PASSES == 3 ? to_tf32(x[i] - __uint_as_float(big[i])) : 0;
        }
    }

    __device__ __forceinline__ void add(const real *rows, const real *columns) {
#pragma unroll 1
        for (int k = 0; k < STEP; k += 8) {
            unsigned a[TALL][4], a_small[TALL][4];
#pragma unroll
            for (int t = 0; t < TALL; ++t) {
                float part[4];
#pragma unroll
                for (int j = 0; j < 4; ++j)
                    part[j] = rows[(k + place + j / 2 * 4) * LEFT_PITCH + top + t * 16 + group + j % 2 * 8];
                split(part, a[t], a_small[t]);
            }
#pragma unroll
            for (int w = 0; w < WIDE; ++w) {
                float part[2];
                unsigned b[2], b_small[2];
#pragma unroll
                for (int j = 0; j < 2; ++j)
                    part[j] = columns[(k + place + j * 4) * RIGHT_PITCH + left + w * 8 + group];
                split(part, b, b_small);
#pragma unroll
                for (int t = 0; t < TALL; ++t) {
                    if constexpr (PASSES == 3) {  // the smallest first
                        mma_tf32(sums[t][w], a_small[t], b);
                        mma_tf32(sums[t][w], a[t], b_small);
                    }
                    mma_tf32(sums[t][w], a[t], b);
                }
            }
        }
    }

    template <class Store>
    __device__ __forceinline__ void each(Store store) const {
#pragma unroll
        for (int w = 0; w < WIDE; ++w)
#pragma unroll
            for (int t = 0; t < TALL; ++t)
#pragma unroll
                for (int j = 0; j < 4; ++j)
                    store(top + t * 16 + group + j / 2 * 8, left + w * 8 + place * 2 + j % 2, sums[t][w][j]);
    }
};

template <bool FFMA>
struct SumsOf {
    using Type = ThreadSums;
};
template <>
struct SumsOf<false> {
    using Type = WarpSums;
};
using Products = SumsOf<PASSES == 0>::Type;

// How the threads share the gathering of STEP x WIDTH elements: a thread has COUNT of them.
// ACROSS: neighbouring lanes take neighbouring columns of one row, else neighbouring rows of one column.
template <int WIDTH, bool ACROSS>
struct Places {
    static constexpr int COUNT = STEP * WIDTH / THREADS;
    static constexpr int LANES = WIDTH < THREADS ? WIDTH : THREADS;  // that lie across one row
    static __device__ __forceinline__ int row(int j) {
        if constexpr (!ACROSS) return threadIdx.x % STEP;
        return WIDTH < THREADS ? threadIdx.x / LANES + j * (THREADS / LANES) : j / (WIDTH / LANES);
    }
    static __device__ __forceinline__ int column(int j) {
        if constexpr (!ACROSS) return threadIdx.x / STEP + j * (THREADS / STEP);
        return WIDTH < THREADS ? threadIdx.x % LANES : threadIdx.x + j % (WIDTH / LANES) * LANES;
    }
};

// Adds the product over the depth from `begin` to `end`. An operand has `At`, its Places, and at(j, k): element j of
// the thread's, k being the depth of its row; 0 from `end` on.
template <class Left, class Right>
__device__ __forceinline__ void multiply(Products &sums, const Left &left, const Right &right, int begin, int end,
                                         real *buffers) {
    using A = typename Left::At;
    using B = typename Right::At;
    real a[A::COUNT], b[B::COUNT];
    const auto load = [&](int first) {
#pragma unroll
        for (int j = 0; j < A::COUNT; ++j) {
            const int k = first + A::row(j);
            a[j] = k < end ? left.at(j, k) : real(0);
        }
#pragma unroll
        for (int j = 0; j < B::COUNT; ++j) {
            const int k = first + B::row(j);
            b[j] = k < end ? right.at(j, k) : real(0);
        }
    };
    real *buffer = buffers, *other = buffers + BUFFER;
    __syncthreads();  // whoever used the buffers before is done
    load(begin);
#pragma unroll 1
    for (int first = begin; first < end; first += STEP) {
#pragma unroll
        for (int j = 0; j < A::COUNT; ++j) buffer[A::row(j) * LEFT_PITCH + A::column(j)] = a[j];
#pragma unroll
        for (int j = 0; j < B::COUNT; ++j)
            buffer[STEP * LEFT_PITCH + B::row(j) * RIGHT_PITCH + B::column(j)] = b[j];
        __syncthreads();  // whoever stores into `other` next has left it before this barrier
        load(first + STEP);
        sums.add(buffer, buffer + STEP * LEFT_PITCH);
        real *const next = other;
        other = buffer;
        buffer = next;
    }
}
