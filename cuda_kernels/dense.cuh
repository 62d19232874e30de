// Matrix products: operands in registers, and reading them in packs of neighbouring values.

// sums[r][c] += rows[r] * columns[c], a product's part in registers: each value read serves a whole row or
// column of it. Elements of `rows` and `columns` lie a step apart.
template <int ROWS, int COLUMNS, int ROW_STEP = 1, int COLUMN_STEP = 1, typename T>
__device__ __forceinline__ void add_outer(T *sums, const T *rows, const T *columns) {
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) sums[r * COLUMNS + c] += rows[r * ROW_STEP] * columns[c * COLUMN_STEP];
}

// VECTOR neighbouring values, read in one access: their address must be a multiple of the pack's size.
template <typename T, int VECTOR>
struct alignas(VECTOR * sizeof(T)) Pack {
    T values[VECTOR];
};

template <int VECTOR, typename T>
__device__ __forceinline__ void read_pack(T (&values)[VECTOR], const T *from) {
    const Pack<T, VECTOR> pack = *reinterpret_cast<const Pack<T, VECTOR> *>(from);
#pragma unroll
    for (int v = 0; v < VECTOR; ++v) values[v] = pack.values[v];
}

template <int VECTOR, typename T>
__device__ __forceinline__ void write_pack(T *to, const T (&values)[VECTOR]) {
    Pack<T, VECTOR> pack;
#pragma unroll
    for (int v = 0; v < VECTOR; ++v) pack.values[v] = values[v];
    *reinterpret_cast<Pack<T, VECTOR> *>(to) = pack;
}
