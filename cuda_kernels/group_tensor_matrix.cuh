// TensorMatrixLayer: MatrixLayer's forward and grad_input on tensor cores, in TF32. Float only.
//
//   forward, D = A B:     D[output][sample] = sum over features of weight[output][feature] * x[feature][sample]
//   grad_input, D = A B:  D[feature][sample] = sum over outputs of weight[output][feature] * dz[output][sample]
//
// Samples are the columns of D, a tile for every 8. The weights, A, are read from global memory by whole
// packs: what a lane calls row or column of a fragment is for the layer to choose, as long as both
// operands agree. Fragments are those of mma.cuh, with group = lane / 4 and member = lane % 4:
// - forward: a warp computes 16 outputs; row group is output `group`. Of a step's 4 * WIDTH features a
//   lane reads WIDTH neighbours, number member * WIDTH, of rows group and group + 8. Pairs of these are columns
//   member and member + 4 of one product after the other.
// - grad_input: a warp computes 8 * WIDTH features; a lane reads WIDTH neighbours, number group * WIDTH, of
//   outputs member and member + 4. Pairs of these are rows group and group + 8 of one product after the other.
// grad_parameters is MatrixLayer's. A layer's description has what MatrixLayer asks for, and FORWARD_PASSES and
// INPUT_PASSES: 1 or 3 products for each (mma.cuh), or 0, then MatrixLayer computes this.

#include "mma.cuh"

struct TensorMatrixLayer {
    static constexpr int SAMPLE_TILES = (SAMPLES + 7) / 8;
    static constexpr int AT_ONCE = 4;  // steps whose weights are on their way from global memory

    // Neighbours that a lane reads together: a pack, or two single ones.
    template <class L>
    static constexpr int WIDTH = L::VECTOR == 1 ? 2 : L::VECTOR;

    template <class L>
    static __device__ __forceinline__ void forward(const Work &work) {
        if constexpr (L::FORWARD_PASSES > 0)
            outputs<L>(work);
        else
            MatrixLayer::forward<L>(work);
    }

    template <class L>
    static __device__ __forceinline__ void grad_parameters(const Work &work) {
        MatrixLayer::grad_parameters<L>(work);
    }

    template <class L>
    static __device__ __forceinline__ void grad_input(const Work &work) {
        if constexpr (L::INPUT_PASSES > 0)
            input_gradients<L>(work);
        else
            MatrixLayer::grad_input<L>(work);
    }

private:
    // `values` from place `i` of a row of LENGTH, zeros beyond its end.
    template <class L, int LENGTH, int COUNT>
    static __device__ __forceinline__ void read_row(real (&values)[COUNT], const real *row, int i) {
        if constexpr (L::VECTOR == COUNT) {
            if (i < LENGTH) return read_pack(values, row + i);
        }
#pragma unroll
        for (int v = 0; v < COUNT; ++v) values[v] = L::VECTOR < COUNT && i + v < LENGTH ? row[i + v] : real(0);
    }

    template <class L>
    static __device__ __forceinline__ void outputs(const Work &work) {
        using In = typename L::Input;
        using Out = typename L::Output;
        constexpr int FEATURES = In::SIZE, COUNT = WIDTH<L>, STEP = 4 * COUNT;
        const int thread = thread_index(), group = thread % 32 / 4, member = thread % 4;
        const real *weight = weight_of<L>(work);
#pragma unroll 1
        for (int first = thread / 32 * 16; first < Out::SIZE; first += THREADS / 32 * 16) {
            const real *rows[2];
#pragma unroll
            for (int s = 0; s < 2; ++s)
                rows[s] = weight + (size_t)min(first + group + 8 * s, Out::SIZE - 1) * FEATURES;
            float sums[SAMPLE_TILES][4] = {};
#pragma unroll AT_ONCE
            for (int step = 0; step < FEATURES; step += STEP) {
                const int i = step + member * COUNT;
                real w[2][COUNT];
#pragma unroll
                for (int s = 0; s < 2; ++s) read_row<L, FEATURES>(w[s], rows[s], i);
#pragma unroll
                for (int tile = 0; tile < SAMPLE_TILES; ++tile) {
                    real x[COUNT];
                    const int n = min(tile * 8 + group, SAMPLES - 1);
                    read_row<L, FEATURES>(x, work.memory + In::OFFSET + n * In::SAMPLE, i);
#pragma unroll
                    for (int v = 0; v < COUNT; v += 2) {
                        const float a[4] = {w[0][v], w[1][v], w[0][v + 1], w[1][v + 1]}, b[2] = {x[v], x[v + 1]};
                        mma_split<L::FORWARD_PASSES>(sums[tile], a, b);
                    }
                }
            }
#pragma unroll
            for (int tile = 0; tile < SAMPLE_TILES; ++tile)
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int n = tile * 8 + 2 * member + i % 2, o = first + group + i / 2 * 8;
                    if (n < SAMPLES && o < Out::SIZE)
                        work.memory[Out::at(n, o)] = L::Squash::value(sums[tile][i] + bias_of<L>(work, o));
                }
        }
    }

    template <class L>
    static __device__ __forceinline__ void input_gradients(const Work &work) {
        using In = typename L::Input;
        using Dx = typename L::InputGradient;
        using Dz = typename L::OutputGradient;
        constexpr int FEATURES = In::SIZE, COUNT = WIDTH<L>;
        const int thread = thread_index(), group = thread % 32 / 4, member = thread % 4;
        const real *weight = weight_of<L>(work);
#pragma unroll 1
        for (int first = thread / 32 * 8 * COUNT; first < FEATURES; first += THREADS / 32 * 8 * COUNT) {
            const int feature = first + group * COUNT;
            float sums[SAMPLE_TILES][COUNT / 2][4] = {};
#pragma unroll AT_ONCE
            for (int step = 0; step < Dz::SIZE; step += 8) {
                real w[2][COUNT];
                int outputs[2];
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    outputs[half] = min(step + member + 4 * half, Dz::SIZE - 1);
                    read_row<L, FEATURES>(w[half], weight + (size_t)outputs[half] * FEATURES, feature);
                }
#pragma unroll
                for (int tile = 0; tile < SAMPLE_TILES; ++tile) {
                    const int n = min(tile * 8 + group, SAMPLES - 1);
                    float dz[2];
#pragma unroll
                    for (int half = 0; half < 2; ++half)
                        dz[half] = step + member + 4 * half < Dz::SIZE ? work.memory[Dz::at(n, outputs[half])] : 0.0f;
#pragma unroll
                    for (int v = 0; v < COUNT; v += 2) {
                        const float a[4] = {w[0][v], w[0][v + 1], w[1][v], w[1][v + 1]};
                        mma_split<L::INPUT_PASSES>(sums[tile][v / 2], a, dz);
                    }
                }
            }
#pragma unroll
            for (int tile = 0; tile < SAMPLE_TILES; ++tile)
#pragma unroll
                for (int v = 0; v < COUNT; ++v)
#pragma unroll
                    for (int e = 0; e < 2; ++e) {
                        const int n = tile * 8 + 2 * member + e, at = n * In::SAMPLE + feature + v;
                        if (n < SAMPLES && feature + v < FEATURES)
                            write_grad_input<L>(work, In::OFFSET + at, Dx::OFFSET + n * Dx::SAMPLE + feature + v,
                                                sums[tile][v / 2][v % 2 * 2 + e]);
                    }
        }
    }
};
