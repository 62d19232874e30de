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
// product_tile.cuh has the FFMA form, and that of tensor cores (float only), for which operands are rounded to TF32 when
// they are put into shared memory.
//
// Shared memory, static: Products::SCRATCH = 2 * STEP * (16 * ROWS + 8 + TILE_IN + 8) reals, ROWS being the
// largest. Launch: 1-D, THREADS threads, a block for each tile and each share, or fewer: blocks loop.
// Blocks of the same share stand together, as they read the same samples.

#include "constants.h"
#include "product_tile.cuh"
#include "sections.cuh"

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
        typename SumsOf<TENSOR_CORES, ROWS, 0>::Type sums;
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
