// The loss of one sample, its gradient by the outputs and its verdict, by LANES threads together.
//
// One thread (LANES = 1) or a whole warp (LANES = 32) works on a sample; lane l takes classes l,
// l + LANES, ... Every lane gets the results. losses.cu has the formulas.

constexpr int WRONG = 1, BAD_LABEL = 2;

template <int LANES, typename T, typename Combine>
__device__ __forceinline__ T over_lanes(T value, Combine combine) {
#pragma unroll
    for (int lanes = LANES / 2; lanes > 0; lanes /= 2)
        value = combine(value, __shfl_xor_sync(0xffffffffu, value, lanes));
    return value;
}

template <int LANES, typename T>
__device__ __forceinline__ T lanes_sum(T value) {
    return over_lanes<LANES>(value, [](T a, T b) { return a + b; });
}

// WRONG unless the label's output is the first largest; BAD_LABEL as well if the label is out of range.
template <int LANES, typename T>
__device__ __forceinline__ int verdict(const T *output, int label, int classes, int lane) {
    if (label < 0 || label >= classes) return WRONG | BAD_LABEL;
    const T mine = output[label];
    int wrong = isnan(mine) ? WRONG : 0;
    for (int c = lane; c < classes; c += LANES)
        if (output[c] > mine || (c < label && output[c] == mine)) wrong = WRONG;
    return over_lanes<LANES>(wrong, [](int a, int b) { return a | b; });
}

// 0.5 * the squared distance from targets +target for the label and -target elsewhere. The gradient,
// over `samples`, goes to store(class, gradient), which may overwrite that class's output.
struct MseLoss {
    template <int LANES, typename T, typename Store>
    static __device__ __forceinline__ double evaluate(const T *output, int label, int classes, int samples,
                                                      T target, int answer, int lane, Store store) {
        double sum = 0;
        if constexpr (LANES > 1) __syncwarp();  // all lanes have their verdict: outputs may go
        for (int c = lane; c < classes; c += LANES) {
            const T difference = answer & BAD_LABEL ? T(0) : output[c] - (c == label ? target : -target);
            sum += (double)difference * (double)difference;
            store(c, difference / T(samples));
        }
        return 0.5 * lanes_sum<LANES>(sum);
    }
};

// -log softmax(output)[label]; `target` is not used.
struct CrossEntropyLoss {
    template <int LANES, typename T, typename Store>
    static __device__ __forceinline__ double evaluate(const T *output, int label, int classes, int samples,
                                                      T, int answer, int lane, Store store) {
        const bool bad = answer & BAD_LABEL;
        const T mine = bad ? T(0) : output[label];
        T highest = output[lane < classes ? lane : 0];
        for (int c = lane; c < classes; c += LANES)
            if (output[c] > highest || isnan(output[c])) highest = output[c];
        highest = over_lanes<LANES>(highest, [](T a, T b) { return b > a || isnan(b) ? b : a; });
        T sum = 0;
        for (int c = lane; c < classes; c += LANES) sum += exp(output[c] - highest);
        sum = lanes_sum<LANES>(sum);
        if constexpr (LANES > 1) __syncwarp();  // all lanes have read the label's output
        for (int c = lane; c < classes; c += LANES) {
            const T share = exp(output[c] - highest) / sum;
            store(c, bad ? T(0) : (share - (c == label ? T(1) : T(0))) / T(samples));
        }
        return bad ? 0.0 : log((double)sum) - (double)(mine - highest);
    }
};
