// Sums over the lanes of a team, whose results are spread over its lanes.

// The sums of COUNT values over teams of LANES lanes: those that differ only in lane bits STRIDE,
// 2 * STRIDE, ... Each step exchanges half of the values that are left, so that it takes about COUNT
// shuffles in all, where summing one value after the other would take log2(LANES) times as many.
template <int LANES, int STRIDE, int COUNT>
struct LaneSums {
    // Where there are fewer values than lanes, COPIES neighbours in the team end up with the same one.
    static __host__ __device__ constexpr int power_above(int count) {
        int power = 1;
        while (power < count) power *= 2;
        return power;
    }
    static constexpr int COPIES = COUNT >= LANES ? 1 : LANES / power_above(COUNT);
    static constexpr int SHARE = (COUNT + LANES - 1) / LANES;  // values that a lane ends up with
    static constexpr int PADDED = SHARE * LANES / COPIES;      // the size of `values`

    static __device__ __forceinline__ int rank() { return threadIdx.x / STRIDE % LANES; }

    // Adds; all lanes of the warp must come here. Afterwards values[k], k < SHARE, is the sum of the
    // values of number first() + k, which is nothing from COUNT on.
    template <typename T>
    static __device__ __forceinline__ void add(T (&values)[PADDED]) {
        halve<LANES / 2, PADDED>(values);
    }
    static __device__ __forceinline__ int first() { return rank() / COPIES * SHARE; }
    // Whether this lane is the one, of those with the same sums, that is to use them.
    static __device__ __forceinline__ bool uses() { return rank() % COPIES == 0; }

private:
    template <int WIDTH, int LEFT, typename T>
    static __device__ __forceinline__ void halve(T (&values)[PADDED]) {
        if constexpr (WIDTH > 0 && LEFT > SHARE) {
            const bool upper = rank() & WIDTH;
#pragma unroll
            for (int i = 0; i < LEFT / 2; ++i) {
                const T given = upper ? values[i] : values[i + LEFT / 2];
                const T kept = upper ? values[i + LEFT / 2] : values[i];
                values[i] = kept + __shfl_xor_sync(0xffffffffu, given, WIDTH * STRIDE);
            }
            halve<WIDTH / 2, LEFT / 2>(values);
        } else if constexpr (WIDTH > 0) {
            values[0] += __shfl_xor_sync(0xffffffffu, values[0], WIDTH * STRIDE);
            halve<WIDTH / 2, LEFT>(values);
        }
    }
};
