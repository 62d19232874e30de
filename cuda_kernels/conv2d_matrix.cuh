// A matrix product whose operands are gathered as they are needed: product = left * right, left (rows, depth), right
// (depth, columns). conv2d_matrix.cu says which elements of a convolution they are.
//
// A block computes a tile of TILE_OUT = 16 * ROWS rows x TILE_IN columns. STEP of the depth at a time pass through
// shared memory, both operands with a row for each of the depth; the next step is loaded into registers
// while this one is multiplied.
//
// PASSES = 0 is the FFMA form; 1 and 3 that of tensor cores (float only), with operands rounded to TF32 or split in
// two for float's precision. product_tile.cuh has both.
//
// Shared memory, static: 2 * STEP * (TILE_OUT + TILE_IN + 16) reals. THREADS threads.

#include "product_tile.cuh"

constexpr int BLOCKS_AT_ONCE = 2;  // at least: without it ptxas aims for more, and spills
constexpr int TILE_OUT = 16 * ROWS;
constexpr int LEFT_PITCH = TILE_OUT + PADDING, RIGHT_PITCH = TILE_IN + PADDING;
constexpr int BUFFER = STEP * (LEFT_PITCH + RIGHT_PITCH);
static_assert(PASSES == 0 || sizeof(real) == 4, "tensor cores take float");

using Products = SumsOf<PASSES != 0, ROWS, PASSES>::Type;

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

// Calls store(row, column, sum) for all of a thread's.
template <class Store>
__device__ __forceinline__ void each_sum(const Products &sums, Store store) {
    sums.each([&](int row, int column, const real *values, auto pack) {
        constexpr int COUNT = sizeof pack.at / sizeof(real);
#pragma unroll
        for (int j = 0; j < COUNT; ++j) store(row, column + j, values[j]);
    });
}

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
        sums.template add<LEFT_PITCH, RIGHT_PITCH>(buffer, buffer + STEP * LEFT_PITCH);
        real *const next = other;
        other = buffer;
        buffer = next;
    }
}
