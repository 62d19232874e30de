// The end of a training step: finishes every gradient, updates every parameter, adds up the losses.
//
//   gradients[i] = the gradient by parameter i, from what the step has left behind, see below
//   parameters[i], state = the optimiser's update of them (optimizers.cuh)
//   totals[k] += sum over blocks of block_totals[block][k];   loss[0] = sum of the losses / samples
//   next_number[0] = number[0] + 1, the number of the next step, whose scalars stand in their row
//
// Parameters lie in the flat array section by section. The generated network.h lists what each
// section's gradient comes from, and the optimiser:
//
//   using Optimizer = Sgd;                                // or Adam
//   using Sections = List<
//       Matrix<OFFSET, OUT, IN, BIAS, INPUT, GRADIENT>,   // a weight (OUT, IN), behind it a bias (OUT) if BIAS:
//           // weight[o][i]: sum over n of dz[n][o] * x[n][i]; bias[o]: sum over n of dz[n][o]
//           // with x = saved + INPUT, (batch, IN), and dz = saved + GRADIENT, (batch, OUT)
//       Rows<OFFSET, SIZE, PLACE, PARTS, BLOCKS, SAMPLES>,  // sum of rows partials + PLACE, (rows, SIZE), of
//           // which the first min(BLOCKS, ceil(samples / SAMPLES)) * PARTS are in use
//       Shares<OFFSET, SIZE, PLACE, SHARES, SAMPLES>,     // the same of shares + PLACE, as matrix_partials.cu
//           // leaves them: rows start at multiples of four reals
//       Ready<OFFSET, SIZE>>;                             // the gradient stands in `gradients`
//   using Totals = BlockTotals<BLOCKS, SAMPLES>;          // rows of block_totals in use; none if BLOCKS is 0
//
// `samples` is the size of this batch. A batch may be smaller than the largest: rows that belong to no
// sample of it are not read. `saved`, `partials` and `shares` start at multiples of 16 bytes. `first` and
// `second` are the optimiser's state: the velocity (null without momentum), or mean and square.
// `constants` are what its struct below takes. `number` and `next_number` are different places.
//
// Items of work: of a Matrix TILE_OUT x TILE_IN parameters, one item of a block; each warp adds up the
// products of every WARPS-th sample, a lane 4 x 4 of them. Of Rows and Shares 32 * PER_THREAD
// parameters; warp w adds up every WARPS-th row from w on. The warps' sums meet in shared memory and
// are added in order. Of Ready READY_PER_THREAD parameters a thread. One item more adds up the losses.
//
// Shared memory, static: Sections::SCRATCH reals (at most WARPS * TILE_OUT * TILE_IN) and 96 doubles.
// Launch: 1-D, THREADS threads, a block for each item, or fewer: blocks loop.

#include "constants.h"
#include "optimizers.cuh"
#include "sections.cuh"

constexpr int THREADS = 256, WARPS = THREADS / 32;
constexpr int TILE_OUT = 16, TILE_IN = 32, TILE = TILE_OUT * TILE_IN;
constexpr int READY_PER_THREAD = 4;
constexpr int LARGE_SIZE = 16384;                   // of rows that keep the whole device busy
// Samples or rows that a warp loads before it adds them up: what is beyond the end counts as zero, so
// that the last ones need no loop of their own, which would wait for each load.
constexpr int AT_ONCE = sizeof(real) == 4 ? 8 : 4;

template <class Optimizer>
struct Step {
    Optimizer optimizer;
    real *gradients;
    const real *partials, *shares, *saved;
    int samples;

    using Slot = typename Optimizer::Slot;
    __device__ Slot load(int i) const { return optimizer.load(i); }
    __device__ void finish(int i, Slot slot, real gradient) const {
        gradients[i] = gradient;
        optimizer.update(i, slot, gradient);
    }
};

template <int OFFSET, int OUT, int IN, bool BIAS, long long INPUT, long long GRADIENT>
struct Matrix {
    static constexpr int TILES_IN = parts_of(IN + BIAS, TILE_IN), ITEMS = parts_of(OUT, TILE_OUT) * TILES_IN;
    static constexpr int SCRATCH = WARPS * TILE;
    static constexpr int PER_THREAD = TILE / THREADS;
    static_assert(TILE_OUT / 4 * (TILE_IN / 4) == 32, "a warp's lanes cover a tile with 4 x 4 each");

    // The place of element e of a tile among the parameters, or -1: the bias is column IN.
    static __device__ __forceinline__ int place(int top, int left, int e) {
        const int o = top + e / TILE_IN, i = left + e % TILE_IN;
        if (o >= OUT || i >= IN + BIAS) return -1;
        return OFFSET + (i < IN ? o * IN + i : OUT * IN + o);
    }

    template <class Step>
    static __device__ void run(int item, const Step &step, real *scratch) {
        const int top = item / TILES_IN * TILE_OUT, left = item % TILES_IN * TILE_IN;
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        const int row = lane / (TILE_IN / 4) * 4, column = lane % (TILE_IN / 4) * 4;
        typename Step::Slot slots[PER_THREAD] = {};
#pragma unroll
        for (int k = 0; k < PER_THREAD; ++k) {
            const int i = place(top, left, threadIdx.x + k * THREADS);
            if (i >= 0) slots[k] = step.load(i);
        }

        real sums[4][4] = {};
        for (int first = warp; first < step.samples; first += AT_ONCE * WARPS) {
            Four dz[AT_ONCE], x[AT_ONCE];
#pragma unroll
            for (int k = 0; k < AT_ONCE; ++k) {
                const int n = first + k * WARPS;
                dz[k] = four_of_row<OUT, aligned_rows(GRADIENT, OUT), false>(
                    step.saved + GRADIENT + (size_t)n * OUT, top + row, n < step.samples);
                x[k] = four_of_row<IN, aligned_rows(INPUT, IN), BIAS>(
                    step.saved + INPUT + (size_t)n * IN, left + column, n < step.samples);
            }
#pragma unroll
            for (int k = 0; k < AT_ONCE; ++k) add_products(sums, dz[k].at, x[k].at);
        }
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            Four four;
#pragma unroll
            for (int c = 0; c < 4; ++c) four.at[c] = sums[r][c];
            *reinterpret_cast<Four *>(scratch + warp * TILE + (row + r) * TILE_IN + column) = four;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < PER_THREAD; ++k) {
            const int e = threadIdx.x + k * THREADS, i = place(top, left, e);
            real sum = 0;
#pragma unroll
            for (int w = 0; w < WARPS; ++w) sum += scratch[w * TILE + e];
            if (i >= 0) step.finish(i, slots[k], sum);
        }
    }
};

// The sum of the first `count` rows, PITCH reals apart, of 32 * PER_THREAD of SIZE parameters.
template <int SIZE, int PITCH>
struct RowSums {
    static constexpr int PER_THREAD = SIZE > LARGE_SIZE ? 4 : 1, WIDTH = 32 * PER_THREAD;
    static constexpr int ITEMS = parts_of(SIZE, WIDTH), SCRATCH = WARPS * WIDTH;
    static constexpr int ROWS_AT_ONCE = PER_THREAD == 1 ? AT_ONCE : AT_ONCE / 2;

    template <class Step>
    static __device__ __forceinline__ void run(int item, int offset, const real *rows, int count,
                                               const Step &step, real *scratch) {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = item * WIDTH;
        const bool finishes = threadIdx.x < WIDTH && first + threadIdx.x < SIZE;
        const int mine = offset + first + threadIdx.x;
        typename Step::Slot slot = {};
        if (finishes) slot = step.load(mine);
        real sums[PER_THREAD] = {};
        for (int top = warp; top < count; top += ROWS_AT_ONCE * WARPS) {
            real values[ROWS_AT_ONCE][PER_THREAD] = {};
#pragma unroll
            for (int r = 0; r < ROWS_AT_ONCE; ++r)
#pragma unroll
                for (int k = 0; k < PER_THREAD; ++k) {
                    const int row = top + r * WARPS, i = first + 32 * k + lane;
                    if (row < count && i < SIZE) values[r][k] = rows[(size_t)row * PITCH + i];
                }
#pragma unroll
            for (int r = 0; r < ROWS_AT_ONCE; ++r)
#pragma unroll
                for (int k = 0; k < PER_THREAD; ++k) sums[k] += values[r][k];
        }
#pragma unroll
        for (int k = 0; k < PER_THREAD; ++k) scratch[warp * WIDTH + 32 * k + lane] = sums[k];
        __syncthreads();
        if (!finishes) return;
        real sum = 0;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) sum += scratch[w * WIDTH + threadIdx.x];
        step.finish(mine, slot, sum);
    }
};

template <int OFFSET, int SIZE, long long PLACE, int PARTS, int BLOCKS, int SAMPLES>
struct Rows : RowSums<SIZE, SIZE> {
    template <class Step>
    static __device__ void run(int item, const Step &step, real *scratch) {
        RowSums<SIZE, SIZE>::run(item, OFFSET, step.partials + PLACE,
                                 min(BLOCKS, parts_of(step.samples, SAMPLES)) * PARTS, step, scratch);
    }
};

template <int OFFSET, int SIZE, long long PLACE, int SHARES, int SAMPLES>
struct Shares : RowSums<SIZE, rounded_up(SIZE, 4)> {
    template <class Step>
    static __device__ void run(int item, const Step &step, real *scratch) {
        RowSums<SIZE, rounded_up(SIZE, 4)>::run(item, OFFSET, step.shares + PLACE,
                                                min(SHARES, parts_of(step.samples, SAMPLES)), step, scratch);
    }
};

template <int OFFSET, int SIZE>
struct Ready {
    static constexpr int WIDTH = THREADS * READY_PER_THREAD, ITEMS = parts_of(SIZE, WIDTH), SCRATCH = 1;

    template <class Step>
    static __device__ void run(int item, const Step &step, real *) {
        typename Step::Slot slots[READY_PER_THREAD] = {};
        real gradients[READY_PER_THREAD] = {};
#pragma unroll
        for (int k = 0; k < READY_PER_THREAD; ++k) {
            const int i = item * WIDTH + k * THREADS + threadIdx.x;
            if (i >= SIZE) continue;
            slots[k] = step.load(OFFSET + i);
            gradients[k] = step.gradients[OFFSET + i];
        }
#pragma unroll
        for (int k = 0; k < READY_PER_THREAD; ++k) {
            const int i = item * WIDTH + k * THREADS + threadIdx.x;
            if (i < SIZE) step.optimizer.update(OFFSET + i, slots[k], gradients[k]);
        }
    }
};

// Adds the blocks' (losses, errors, bad labels) up: 32 sums of every 32nd block, and those in order.
template <int BLOCKS, int SAMPLES>
struct BlockTotals {
    static __device__ void add(const double *block_totals, real *loss, double *totals, int samples,
                               double *scratch) {
        if constexpr (BLOCKS > 0) {
            const int blocks = min(BLOCKS, parts_of(samples, SAMPLES));
            if (threadIdx.x < 96) {
                double sum = 0;
                for (int i = threadIdx.x; i < 3 * blocks; i += 96) sum += block_totals[i];
                scratch[threadIdx.x] = sum;
            }
            __syncthreads();
            if (threadIdx.x < 3) {
                double sum = 0;
                for (int i = threadIdx.x; i < 96; i += 3) sum += scratch[i];
                totals[threadIdx.x] += sum;
                if (threadIdx.x == 0) loss[0] = real(sum / samples);
            }
        }
    }
};

#include "network.h"

// Blocks on a multiprocessor, at least: without it ptxas aims for more on some GPUs, and spills.
constexpr int BLOCKS_AT_ONCE = sizeof(real) == 4 ? 2 : 1;

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_AT_ONCE)
update(real *parameters, real *gradients, real *first, real *second, const real *constants,
       const real *partials, const real *shares, const real *saved, const double *block_totals,
       const int *number, int *next_number, const real *scalars, real *loss, double *totals, int samples) {
    __shared__ alignas(16) real scratch[Sections::SCRATCH];
    __shared__ double sums[96];
    const Step<Optimizer> step = {
        Optimizer(parameters, first, second, constants, scalars + (size_t)number[0] * Optimizer::SCALARS),
        gradients, partials, shares, saved, samples};
    for (int item = blockIdx.x; item <= Sections::ITEMS; item += gridDim.x) {
        if (item < Sections::ITEMS) {
            Sections::run(item, step, scratch);
        } else {
            Totals::add(block_totals, loss, totals, samples, sums);
            if (threadIdx.x == 0) next_number[0] = number[0] + 1;
        }
        __syncthreads();  // before the next item takes the shared memory
    }
}
