// Sums in a fixed order, so that the same inputs give the same bits.
//
// A sum over a whole batch has two stages: each block sums its share into `partials`, one row of
// results per share, and sum_partials (reduce.cu) adds the rows in order.

// The sum of `value` over the block's THREADS threads (a power of two), returned to all of them.
// `scratch` is shared memory of THREADS elements; it may be used again right after.
template <int THREADS, typename T>
__device__ T block_sum(T value, T *scratch) {
    static_assert((THREADS & (THREADS - 1)) == 0, "the tree halves the threads");
    scratch[threadIdx.x] = value;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) scratch[threadIdx.x] += scratch[threadIdx.x + half];
        __syncthreads();
    }
    const T sum = scratch[0];
    __syncthreads();
    return sum;
}

// grad_bias: partials[share * maps + map] = the share's part of
// sum of grad_output * act'(output) over a map, arrays being (samples, maps, positions).
// One block per (share, map); a share is every `shares`-th sample.
template <int THREADS, typename Act, typename T>
__device__ void sum_dz_by_map(const T *grad_output, const T *output, T *partials, int samples,
                              int maps, int positions, int shares, T *scratch) {
    for (int work = blockIdx.x; work < maps * shares; work += gridDim.x) {
        const int map = work % maps, share = work / maps;
        T sum = 0;
        for (int n = share; n < samples; n += shares) {
            const size_t first = ((size_t)n * maps + map) * positions;
            for (int p = threadIdx.x; p < positions; p += THREADS)
                sum += grad_output[first + p] * Act::slope(output[first + p]);
        }
        sum = block_sum<THREADS>(sum, scratch);
        if (threadIdx.x == 0) partials[work] = sum;
    }
}
