// Gradients of matrix layers over a large batch, first stage: a share of the samples at a time.
//
//   for each product and each of its SHARES shares s that has samples:
//     row s of shares + PLACE: weight[o][i] = sum over n of dz[n][o] * x[n][i], (OUT, IN),
//                              then, if BIAS, bias[o] = sum over n of dz[n][o], (OUT)
//     with n from s * SAMPLES up to (s + 1) * SAMPLES or `samples`, x = saved + INPUT, (batch, IN), and
//     dz = saved + GRADIENT, (batch, OUT)
//
// update.cu adds the rows, as its section Shares. Rows start at multiples of four reals, `saved` and
// `shares` at multiples of 16 bytes. The generated network.h, the longest blocks first:
//
//   using Products = List<Product<OUT, IN, BIAS, INPUT, GRADIENT, PLACE, SHARES, SAMPLES, TENSOR_CORES, ROWS>, ...>;
//
// A block computes a tile of 16 * ROWS outputs x TILE_IN inputs for one share; ROWS is 1, 2, 4 or 8. STEP
// samples at a time of dz and x pass through shared memory, both as they lie in global memory, a row
// for each sample; the next step is loaded while this one is multiplied. The bias is one more column
// of the weight, whose x is 1.
//
// FFMA form: a thread owns ROWS outputs x 8 inputs, in fours that are neighbours where ROWS allows.
// Of four neighbouring lanes two share their outputs and two their inputs, so that a 16-byte load of
// the warp takes two passes through shared memory instead of four: with ROWS = 8 that is 8 passes for
// 64 multiply-adds, half of what the FMA pipe leaves time for.
// Tensor core form (float only): a warp owns tiles of 16 outputs x 8 inputs; operands are rounded to
// TF32 when they are put into shared memory. Rows there are 8 reals longer than the tile, so that the
// 4 samples x 8 columns of a fragment lie in 32 banks.
//
// Shared memory, static: Products::SCRATCH = 2 * STEP * (16 * ROWS + 8 + TILE_IN + 8) reals, ROWS being the
// largest. Launch: 1-D, THREADS threads, a block for each tile and each share, or fewer: blocks loop.
// Blocks of the same share stand together, as they read the same samples.

#include "constants.h"
#include "mma.cuh"
#include "sections.cuh"

constexpr int THREADS = 128, WARPS = THREADS / 32;
constexpr int STEP = 16;                  // samples in shared memory
constexpr int TILE_IN = 64, COLUMNS = 8;  // inputs of a block, and of a thread
constexpr int PADDING = 8;

struct Batch {
    const real *saved;
    real *shares;
    int samples;
};

// STEP rows of a TILE columns wide part of a saved matrix (batch, WIDTH), on their way to shared memory.
template <int WIDTH, int TILE, bool ALIGNED, bool ONES>
struct Staged {
    static constexpr int PITCH = TILE + PADDING, FOURS = TILE / 4, COUNT = STEP * FOURS;
    static constexpr int PER_THREAD = parts_of(COUNT, THREADS);
    Four fours[PER_THREAD];

    __device__ __forceinline__ void load(const real *matrix, int column, int first, int end) {
#pragma unroll
        for (int j = 0; j < PER_THREAD; ++j) {
            const int i = threadIdx.x + j * THREADS, n = first + i / FOURS;
            fours[j] = four_of_row<WIDTH, ALIGNED, ONES>(matrix + (size_t)n * WIDTH, column + i % FOURS * 4,
                                                         n < end && i < COUNT);
        }
    }

    template <bool ROUNDED>
    __device__ __forceinline__ void store(real *buffer) const {
#pragma unroll
        for (int j = 0; j < PER_THREAD; ++j) {
            const int i = threadIdx.x + j * THREADS;
            if (i >= COUNT) continue;
            Four four = fours[j];
            if constexpr (ROUNDED)
#pragma unroll
                for (int k = 0; k < 4; ++k) four.at[k] = __uint_as_float(to_tf32(four.at[k]));
            *reinterpret_cast<Four *>(buffer + i / FOURS * PITCH + i % FOURS * 4) = four;
        }
    }
};

// A thread's sums in the FFMA form. Of the tile's outputs it owns those of `output`, of its inputs
// those of `input`.
template <int ROWS>
struct ThreadSums {
    static constexpr int CHUNK = ROWS < 4 ? ROWS : 4;
    real sums[ROWS][COLUMNS] = {};
    int row, column;

    // Bit 0 of a lane's number chooses among outputs, bit 1 among inputs, see above.
    __device__ ThreadSums() {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        row = warp * 4 + lane / 16 * 2 + lane % 2;
        column = lane / 2 % 8;
    }
    __device__ __forceinline__ int output(int r) const {
        return r / CHUNK * 16 * CHUNK + row * CHUNK + r % CHUNK;
    }
    __device__ __forceinline__ int input(int c) const { return c / 4 * 32 + column * 4 + c % 4; }

    template <int LEFT_PITCH, int RIGHT_PITCH>
    __device__ __forceinline__ void add(const real *left, const real *right) {
#pragma unroll 4
        for (int k = 0; k < STEP; ++k) {
            real dz[ROWS], x[COLUMNS];
#pragma unroll
            for (int r = 0; r < ROWS; r += CHUNK) {
                const auto pack = *reinterpret_cast<const Pack<CHUNK> *>(left + k * LEFT_PITCH + output(r));
#pragma unroll
                for (int j = 0; j < CHUNK; ++j) dz[r + j] = pack.at[j];
            }
#pragma unroll
            for (int c = 0; c < COLUMNS; c += 4) {
                const Four four = *reinterpret_cast<const Four *>(right + k * RIGHT_PITCH + input(c));
#pragma unroll
                for (int j = 0; j < 4; ++j) x[c + j] = four.at[j];
            }
            add_products(sums, dz, x);
        }
    }

    // Calls store(output, input, pointer to COUNT neighbouring sums) for all of them, COUNT being 4.
    template <class Store>
    __device__ __forceinline__ void each(Store store) const {
#pragma unroll
        for (int r = 0; r < ROWS; ++r)
#pragma unroll
            for (int c = 0; c < COLUMNS; c += 4) store(output(r), input(c), &sums[r][c], Pack<4>());
    }
};

// A warp's sums in the tensor core form: TALL x WIDE fragments of 16 outputs x 8 inputs.
template <int ROWS>
struct WarpSums {
    static constexpr int WARPS_DOWN = ROWS < 2 ? 1 : 2, WARPS_ACROSS = WARPS / WARPS_DOWN;
    static constexpr int TALL = ROWS / WARPS_DOWN, WIDE = TILE_IN / 8 / WARPS_ACROSS;
    float sums[TALL][WIDE][4] = {};
    int top, left, group, place;   // the warp's first output and input; the lane's place in a fragment

    __device__ WarpSums() {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        top = warp % WARPS_DOWN * TALL * 16;
        left = warp / WARPS_DOWN * WIDE * 8;
        group = lane / 4;
        place = lane % 4;
    }

    template <int LEFT_PITCH, int RIGHT_PITCH>
    __device__ __forceinline__ void add(const real *dz, const real *x) {
#pragma unroll
        for (int k = 0; k < STEP; k += 8) {
            unsigned a[TALL][4], b[WIDE][2];
#pragma unroll
            for (int t = 0; t < TALL; ++t)
#pragma unroll
                for (int j = 0; j < 4; ++j)
                    a[t][j] = __float_as_uint(
                        dz[(k + place + j / 2 * 4) * LEFT_PITCH + top + t * 16 + group + j % 2 * 8]);
#pragma unroll
            for (int w = 0; w < WIDE; ++w)
#pragma unroll
                for (int j = 0; j < 2; ++j)
                    b[w][j] = __float_as_uint(x[(k + place + j * 4) * RIGHT_PITCH + left + w * 8 + group]);
#pragma unroll
            for (int t = 0; t < TALL; ++t)
#pragma unroll
                for (int w = 0; w < WIDE; ++w) mma_tf32(sums[t][w], a[t], b[w]);
        }
    }

    // As of ThreadSums, COUNT being 2.
    template <class Store>
    __device__ __forceinline__ void each(Store store) const {
#pragma unroll
        for (int t = 0; t < TALL; ++t)
#pragma unroll
            for (int w = 0; w < WIDE; ++w)
#pragma unroll
                for (int j = 0; j < 4; j += 2)
                    store(top + t * 16 + group + j / 2 * 8, left + w * 8 + place * 2, &sums[t][w][j],
                          Pack<2>());
    }
};

template <bool TENSOR_CORES, int ROWS>
struct SumsOf {
    using Type = ThreadSums<ROWS>;
};
template <int ROWS>
struct SumsOf<true, ROWS> {
    using Type = WarpSums<ROWS>;
};

template <int OUT, int IN, bool BIAS, long long INPUT, long long GRADIENT, long long PLACE, int SHARES,
          int SAMPLES, bool TENSOR_CORES, int ROWS>
struct Product {
    static constexpr int TILE_OUT = 16 * ROWS, TILES_IN = parts_of(IN + BIAS, TILE_IN);
    static constexpr int TILES = parts_of(OUT, TILE_OUT) * TILES_IN, ITEMS = TILES * SHARES;
    static constexpr int PITCH = rounded_up(OUT * (IN + BIAS), 4);
    using Left = Staged<OUT, TILE_OUT, aligned_rows(GRADIENT, OUT), false>;
    using Right = Staged<IN, TILE_IN, aligned_rows(INPUT, IN), BIAS>;
    static constexpr int LEFT_SIZE = STEP * Left::PITCH, BUFFER = LEFT_SIZE + STEP * Right::PITCH;
    static constexpr int SCRATCH = 2 * BUFFER;

    static __device__ void run(int item, const Batch &batch, real *scratch) {
        const int share = item / TILES, tile = item % TILES, begin = share * SAMPLES;
        if (begin >= batch.samples) return;
        const int end = min(begin + SAMPLES, batch.samples);
        const int top = tile / TILES_IN * TILE_OUT, left = tile % TILES_IN * TILE_IN;
        const real *dz = batch.saved + GRADIENT, *x = batch.saved + INPUT;
        typename SumsOf<TENSOR_CORES, ROWS>::Type sums;
        Left lefts;
        Right rights;
        lefts.load(dz, top, begin, end);
        rights.load(x, left, begin, end);
        real *buffer = scratch, *other = scratch + BUFFER;
        for (int n = begin; n < end; n += STEP) {
            lefts.template store<TENSOR_CORES>(buffer);
            rights.template store<TENSOR_CORES>(buffer + LEFT_SIZE);
            __syncthreads();  // whoever stores into `other` next has left it before this barrier
            lefts.load(dz, top, n + STEP, end);
            rights.load(x, left, n + STEP, end);
            sums.template add<Left::PITCH, Right::PITCH>(buffer, buffer + LEFT_SIZE);
            real *const next = other;
            other = buffer;
            buffer = next;
        }
        real *row = batch.shares + PLACE + (size_t)share * PITCH;
        sums.each([&](int tile_o, int tile_i, const real *values, auto pack) {
            constexpr int COUNT = sizeof pack.at / sizeof(real);
            const int o = top + tile_o, i = left + tile_i;
            if (o >= OUT) return;
            if (IN % COUNT == 0 && i < IN) {
#pragma unroll
                for (int j = 0; j < COUNT; ++j) pack.at[j] = values[j];
                *reinterpret_cast<decltype(pack) *>(row + (size_t)o * IN + i) = pack;
                return;
            }
#pragma unroll
            for (int j = 0; j < COUNT; ++j)
                if (i + j < IN + BIAS)
                    row[i + j < IN ? (size_t)o * IN + i + j : (size_t)OUT * IN + o] = values[j];
        });
    }
};

#include "network.h"

extern "C" __global__ void __launch_bounds__(THREADS)
matrix_partials(const real *__restrict__ saved, real *__restrict__ shares, int samples) {
    __shared__ alignas(16) real scratch[Products::SCRATCH];
    for (int item = blockIdx.x; item < Products::ITEMS; item += gridDim.x) {
        Products::run(item, Batch{saved, shares, samples}, scratch);
        __syncthreads();  // before the next item takes the shared memory
    }
}
