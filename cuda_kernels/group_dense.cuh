// MatrixLayer: a Dense at one position, or a convolution whose kernel covers its input through a full
// table, so that its weight is a matrix (out, in) and Input's samples are vectors.
//
//   forward:     y[n][o] = act(sum over i of weight[o][i] * x[n][i] + bias[o])
//   grad_input:  dx[n][i] = sum over o of weight[o][i] * dz[n][o]
//   grad_weight: a product over the whole batch, left to update.cu or matrix_partials.cu; x and dz are
//                saved for it in global memory.
//
// The weight is too large for shared memory as a rule: it is read from global memory, coalesced, once
// for all SAMPLES samples. A layer's description has, besides what group.cuh asks for: OUTPUTS, how many
// outputs a warp computes at a time; VECTOR, neighbouring weights read at once; SAVED_INPUT and
// SAVED_GRADIENT, where its arrays (BATCH, in) and (BATCH, out) begin.

#include "dense.cuh"
#include "lane_sums.cuh"

struct MatrixLayer {
    // A warp computes OUTPUTS outputs of all samples, its lanes sharing the inputs.
    template <class L>
    static __device__ __forceinline__ void forward(const Work &work) {
        const int thread = thread_index();
        using In = typename L::Input;
        using Out = typename L::Output;
        constexpr int FEATURES = In::SIZE, VECTOR = L::VECTOR, AT_ONCE = L::OUTPUTS;
        using Sums = LaneSums<32, 1, AT_ONCE * SAMPLES>;
        const real *weight = weight_of<L>(work);
#pragma unroll 1
        for (int first = thread / 32 * AT_ONCE; first < Out::SIZE; first += THREADS / 32 * AT_ONCE) {
            real sums[Sums::PADDED] = {};
#pragma unroll 1  // two turns at once would not fit into registers; 16 warps have enough loads under way
            for (int i = thread % 32 * VECTOR; i < FEATURES; i += 32 * VECTOR) {
                real x[SAMPLES][VECTOR];
#pragma unroll
                for (int n = 0; n < SAMPLES; ++n) read_pack(x[n], work.memory + In::OFFSET + n * In::SAMPLE + i);
                real w[AT_ONCE][VECTOR];
#pragma unroll
                for (int k = 0; k < AT_ONCE; ++k)
                    read_pack(w[k], weight + (size_t)min(first + k, Out::SIZE - 1) * FEATURES + i);
#pragma unroll
                for (int v = 0; v < VECTOR; ++v)
                    add_outer<AT_ONCE, SAMPLES, VECTOR, VECTOR>(sums, w[0] + v, x[0] + v);
            }
            Sums::add(sums);
            if (!Sums::uses()) continue;
#pragma unroll
            for (int s = 0; s < Sums::SHARE; ++s) {
                const int which = Sums::first() + s, o = first + which / SAMPLES;
                if (which < AT_ONCE * SAMPLES && o < Out::SIZE)
                    work.memory[Out::at(which % SAMPLES, o)] =
                        L::Squash::value(sums[s] + bias_of<L>(work, o));
            }
        }
    }

    // Saves what the product over the batch needs.
    template <class L>
    static __device__ __forceinline__ void grad_parameters(const Work &work) {
        using In = typename L::Input;
        using Dz = typename L::OutputGradient;
        each_of_samples<In::SIZE>([&](int n, int i) {
            if (work.first + n < work.samples)
                work.saved[L::SAVED_INPUT + (size_t)(work.first + n) * In::SIZE + i] =
                    work.memory[In::OFFSET + n * In::SAMPLE + i];
        });
        each_of_samples<Dz::SIZE>([&](int n, int o) {
            if (work.first + n < work.samples)
                work.saved[L::SAVED_GRADIENT + (size_t)(work.first + n) * Dz::SIZE + o] =
                    work.memory[Dz::at(n, o)];
        });
    }

    // A warp computes 8 * VECTOR inputs of all samples: 8 packs, each by 4 lanes that share the outputs.
    template <class L>
    static __device__ __forceinline__ void grad_input(const Work &work) {
        const int thread = thread_index();
        using In = typename L::Input;
        using Dx = typename L::InputGradient;
        using Dz = typename L::OutputGradient;
        constexpr int FEATURES = In::SIZE, VECTOR = L::VECTOR, WIDTH = 8 * VECTOR;
        using Sums = LaneSums<4, 8, SAMPLES * VECTOR>;
        const real *weight = weight_of<L>(work);
#pragma unroll 1
        for (int first = thread / 32 * WIDTH; first < FEATURES; first += THREADS / 32 * WIDTH) {
            const int i = first + thread % 8 * VECTOR;
            real sums[Sums::PADDED] = {};
            if (i < FEATURES) {
#pragma unroll 8  // loads of weights under way
                for (int o = thread / 8 % 4; o < Dz::SIZE; o += 4) {
                    real w[VECTOR];
                    read_pack(w, weight + (size_t)o * FEATURES + i);
                    real dz[SAMPLES];
#pragma unroll
                    for (int n = 0; n < SAMPLES; ++n) dz[n] = work.memory[Dz::at(n, o)];
                    add_outer<SAMPLES, VECTOR>(sums, dz, w);
                }
            }
            Sums::add(sums);
            if (i >= FEATURES || !Sums::uses()) continue;
#pragma unroll
            for (int s = 0; s < Sums::SHARE; ++s) {
                const int which = Sums::first() + s;
                if (which >= SAMPLES * VECTOR) continue;
                const int n = which / VECTOR, feature = i + which % VECTOR;
                write_grad_input<L>(work, In::OFFSET + n * In::SAMPLE + feature,
                                    Dx::OFFSET + n * Dx::SAMPLE + feature, sums[s]);
            }
        }
    }
};
