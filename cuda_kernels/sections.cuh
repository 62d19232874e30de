// What update.cu and matrix_partials.cu share: sections in a row, and rows of saved matrices.

#include "pack.cuh"

// Sections whose items are numbered through. A section has ITEMS, the number of its items; SCRATCH, the
// reals of shared memory that an item takes; and run(item, context, scratch), which the threads of a
// block enter together.
template <class... Sections>
struct List {
    static constexpr int ITEMS = 0, SCRATCH = 1;

    template <class Context>
    static __device__ void run(int, const Context &, real *) {}
};

template <class First, class... Rest>
struct List<First, Rest...> {
    static constexpr int ITEMS = First::ITEMS + List<Rest...>::ITEMS;
    static constexpr int SCRATCH =
        First::SCRATCH > List<Rest...>::SCRATCH ? First::SCRATCH : List<Rest...>::SCRATCH;

    template <class Context>
    static __device__ __forceinline__ void run(int item, const Context &context, real *scratch) {
        if (item < First::ITEMS)
            First::run(item, context, scratch);
        else
            List<Rest...>::run(item - First::ITEMS, context, scratch);
    }
};

__host__ __device__ constexpr int rounded_up(int count, int step) { return (count + step - 1) / step * step; }
__host__ __device__ constexpr int parts_of(int count, int size) { return (count + size - 1) / size; }

// Whether fours of a saved matrix (batch, WIDTH) that lies `place` reals into an array can be loaded at once.
__host__ __device__ constexpr bool aligned_rows(long long place, int width) {
    return place % 4 == 0 && width % 4 == 0;
}

// Columns column..column + 3 of one row of a saved matrix (batch, WIDTH), `column` a multiple of 4. Beyond
// WIDTH, and where the row is not `there`, all are zero. With ONES, column WIDTH is 1: what the bias is
// multiplied by. That is put in before the load, not after it, so that nothing waits for what is loaded.
template <int WIDTH, bool ALIGNED, bool ONES>
__device__ __forceinline__ Four four_of_row(const real *row, int column, bool there) {
    Four four = {};
#pragma unroll
    for (int j = 0; j < (ALIGNED ? 1 : 4); ++j)
        if (ONES && column + j == WIDTH) four.at[j] = 1;
    if constexpr (ALIGNED) {
        if (there && column < WIDTH) four = *reinterpret_cast<const Four *>(row + column);
    } else {
#pragma unroll
        for (int j = 0; j < 4; ++j)
            if (there && column + j < WIDTH) four.at[j] = row[column + j];
    }
    return four;
}

// sums[r][c] += left[r] * right[c]
template <int ROWS, int COLUMNS>
__device__ __forceinline__ void add_products(real (&sums)[ROWS][COLUMNS], const real (&left)[ROWS],
                                             const real (&right)[COLUMNS]) {
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) sums[r][c] += left[r] * right[c];
}
