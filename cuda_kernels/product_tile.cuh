// The sums of one tile of a matrix product, 16 * ROWS rows x TILE_IN columns, in the registers of a block. STEP of the
// depth at a time lie in shared memory, of both operands a row for each; whoever multiplies larger matrices
// brings them there.
//
// FFMA form (ThreadSums): a thread owns ROWS rows x 8 columns, in fours that are neighbours where ROWS allows. Of four
// neighbouring lanes two share their rows and two their columns, so that a 16-byte load of the warp takes
// two passes through shared memory instead of four: with ROWS = 8 that is 8 for 64 multiply-adds, half of what
// the FMA pipe leaves time for.
// Tensor core form (WarpSums, float only): a warp owns tiles of 16 rows x 8 columns. Rows in shared memory are PADDING
// longer than the tile, so that the 4 x 8 elements of a fragment lie in 32 banks.
//
// ROWS is 1, 2, 4 or 8. THREADS threads, all of them together.

#include "mma.cuh"
#include "pack.cuh"

constexpr int THREADS = 128, WARPS = THREADS / 32;
constexpr int TILE_IN = 64, COLUMNS = 8, STEP = 16, PADDING = 8;

// A thread's sums.
template <int ROWS>
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

    template <int LEFT_PITCH, int RIGHT_PITCH>
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
                const Four four = *reinterpret_cast<const Four *>(right + k * RIGHT_PITCH + column_of(c));
#pragma unroll
                for (int j = 0; j < 4; ++j) b[c + j] = four.at[j];
            }
#pragma unroll
            for (int r = 0; r < ROWS; ++r)
#pragma unroll
                for (int c = 0; c < COLUMNS; ++c) sums[r][c] += a[r] * b[c];
        }
    }

    // Calls store(row, column, pointer to neighbouring sums, Pack of as many) for all of them.
    template <class Store>
    __device__ __forceinline__ void each(Store store) const {
#pragma unroll
        for (int r = 0; r < ROWS; ++r)
#pragma unroll
            for (int c = 0; c < COLUMNS; c += 4) store(row_of(r), column_of(c), &sums[r][c], Four());
    }
};

// A warp's sums: TALL x WIDE fragments of 16 rows x 8 columns. PASSES: operands are in TF32 as they lie in shared
// memory (0), are rounded to it (1), or split in two for float's precision (3).
template <int ROWS, int PASSES>
struct WarpSums {
    static constexpr int WARPS_DOWN = ROWS < 2 ? 1 : 2, WARPS_ACROSS = WARPS / WARPS_DOWN;
    static constexpr int TALL = ROWS / WARPS_DOWN, WIDE = TILE_IN / 8 / WARPS_ACROSS;
    static constexpr int AT_ONCE = PASSES == 0 ? STEP / 8 : 1;  // more takes registers that rounding needs
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
            big[i] = PASSES == 0 ? __float_as_uint(x[i]) : to_tf32(x[i]);
            small[i] = PASSES == 3 ? to_tf32(x[i] - __uint_as_float(big[i])) : 0;
        }
    }

    template <int LEFT_PITCH, int RIGHT_PITCH>
    __device__ __forceinline__ void add(const real *rows, const real *columns) {
#pragma unroll AT_ONCE
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

    // As of ThreadSums.
    template <class Store>
    __device__ __forceinline__ void each(Store store) const {
#pragma unroll
        for (int t = 0; t < TALL; ++t)
#pragma unroll
            for (int w = 0; w < WIDE; ++w)
#pragma unroll
                for (int j = 0; j < 4; j += 2)
                    store(top + t * 16 + group + j / 2 * 8, left + w * 8 + place * 2, &sums[t][w][j], Pack<2>());
    }
};

// The form: FFMA, or that of tensor cores with so many passes.
template <bool TENSOR_CORES, int ROWS, int PASSES>
struct SumsOf {
    using Type = ThreadSums<ROWS>;
};
template <int ROWS, int PASSES>
struct SumsOf<true, ROWS, PASSES> {
    using Type = WarpSums<ROWS, PASSES>;
};
