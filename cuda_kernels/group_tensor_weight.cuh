// grad_parameters of TensorConv2dLayer: group_tensor_conv2d.cuh says what it computes, and how.

#include "group_tensor_product.cuh"

struct TensorGradWeight {
    // Gradients by weights and biases. A lane owns rows `group` and `group + 8` of A and D, its (map, p).
    template <class L>
    static __device__ __forceinline__ void sum(const Work &work) {
        using Phase = typename L::TensorWeight;
        using In = typename L::Input;
        using Dz = typename L::OutputGradient;
        using S = Strip<Dz::WIDTH, Phase::PIXELS>;
        constexpr int ROWS = Phase::ROWS, TILES = Phase::TILES, PIXELS = Phase::PIXELS, SPLITS = Phase::SPLITS;
        constexpr int WINDOW = (PIXELS - 1) * L::STRIDE_X + L::KERNEL_WIDTH;
        constexpr int SEEN = (ROWS - 1) * L::STRIDE_Y + L::KERNEL_HEIGHT;  // rows of Input
        constexpr int DOWN = (Dz::HEIGHT + ROWS - 1) / ROWS, ACROSS = (S::COUNT + 7) / 8;
        constexpr int OF_SET = (Phase::MOST * WINDOW + 8 * TILES - 1) / (8 * TILES) * SPLITS;  // units
        static_assert(L::PARTS == SPLITS * PIXELS, "whoever sums apart has partial sums of its own");
        const int thread = thread_index(), group = thread % 32 / 4, member = thread % 4;
#pragma unroll 1
        for (int unit = thread / 32; unit < Phase::SETS * OF_SET; unit += WARPS) {
            const int set = unit / OF_SET, split = unit % SPLITS, first_column = unit % OF_SET / SPLITS * TILES * 8;
            const int first = Phase::first(set), length = (Phase::first(set + 1) - first) * WINDOW;
            if (first_column >= length) continue;
            int maps[2], pixels[2], input_at[TILES];
            bool exists[2];
#pragma unroll
            for (int s = 0; s < 2; ++s) {
                const int row = set * 16 + group + 8 * s;
                exists[s] = row < Dz::MAPS * PIXELS;
                maps[s] = Phase::map(min(row / PIXELS, Dz::MAPS - 1));
                pixels[s] = row % PIXELS;
            }
#pragma unroll
            for (int tile = 0; tile < TILES; ++tile) {
                const int index = min(first_column + tile * 8 + group, length - 1);
                input_at[tile] = Phase::other(first + index / WINDOW) * In::MAP + index % WINDOW;
            }
            float sums[L::KERNEL_HEIGHT][TILES][4] = {}, biases[2] = {};
#pragma unroll 1
            for (int item = split; item < DOWN * ACROSS; item += SPLITS) {
                const int own_row = item / ACROSS * ROWS, row = min(own_row, Dz::HEIGHT - ROWS);
                int dz_at[2][2], window[2];
                bool counts[2][2];
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const S strip(item % ACROSS * 8 + member + 4 * half);
                    window[half] = In::at(strip.n, 0, row * L::STRIDE_Y - L::PADDING_Y,
                                          strip.column * L::STRIDE_X - L::PADDING_X);
#pragma unroll
                    for (int s = 0; s < 2; ++s) {
                        dz_at[half][s] = Dz::at(strip.n, maps[s], row, strip.column + pixels[s]);
                        counts[half][s] = strip.exists && exists[s] && pixels[s] >= strip.not_own;
                    }
                }
                Tf32Parts<4> dz[ROWS];
#pragma unroll
                for (int r = 0; r < SEEN; ++r) {
                    if (r % L::STRIDE_Y == 0 && r / L::STRIDE_Y < ROWS) {
                        const int j = r / L::STRIDE_Y;
                        const bool own = Dz::HEIGHT % ROWS == 0 || row + j >= own_row;
                        float values[4];
#pragma unroll
                        for (int i = 0; i < 4; ++i) {
                            values[i] = own && counts[i / 2][i % 2]
                                            ? work.memory[dz_at[i / 2][i % 2] + j * Dz::PITCH] : 0.0f;
                            biases[i % 2] += values[i];
                        }
                        dz[j] = Tf32Parts<4>(values);
                    }
#pragma unroll
                    for (int tile = 0; tile < TILES; ++tile) {
                        const float seen[2] = {work.memory[window[0] + input_at[tile] + r * In::PITCH],
                                               work.memory[window[1] + input_at[tile] + r * In::PITCH]};
                        const Tf32Parts<2> x(seen);
#pragma unroll
                        for (int ky = 0; ky < L::KERNEL_HEIGHT; ++ky) {
                            const int j = (r - ky) / L::STRIDE_Y;
                            if (r >= ky && (r - ky) % L::STRIDE_Y == 0 && j < ROWS)
                                mma_split<Phase::PASSES>(sums[ky][tile], dz[j], x);
                        }
                    }
                }
            }
            bring_gradients<L>(work, sums, maps, pixels, exists, split, first_column + 2 * member, first, length);
            bring_biases<L>(work, biases, maps, pixels, exists, split, member == 0 && first_column == 0);
        }
    }

    // The place of the partial sums of a split and a pixel.
    template <class L>
    static __device__ __forceinline__ size_t partials_of(const Work &work, int split, int pixel) {
        return L::PARTIALS
               + ((size_t)work.block * L::PARTS + split * L::TensorWeight::PIXELS + pixel) * L::PARTIAL_SIZE;
    }

    // Brings a lane's part of D(ky), columns `column` and `column + 1` of each tile, where it belongs to a tap.
    template <class L, int TILES>
    static __device__ __forceinline__ void bring_gradients(
        const Work &work, const float (&sums)[L::KERNEL_HEIGHT][TILES][4], const int (&maps)[2],
        const int (&pixels)[2], const bool (&exists)[2], int split, int column, int first, int length) {
        using Phase = typename L::TensorWeight;
        constexpr int WINDOW = (Phase::PIXELS - 1) * L::STRIDE_X + L::KERNEL_WIDTH;
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const int index = column + tile * 8 + e;
                if (index >= length) continue;
                const int other = Phase::other(first + index / WINDOW);
#pragma unroll
                for (int s = 0; s < 2; ++s) {
                    const int kx = index % WINDOW - pixels[s] * L::STRIDE_X;
                    const int connection = exists[s] ? L::connection_between(other, maps[s]) : -1;
                    if (connection < 0 || kx < 0 || kx >= L::KERNEL_WIDTH) continue;
                    const size_t place = partials_of<L>(work, split, pixels[s])
                                         + connection * L::KERNEL_HEIGHT * L::KERNEL_WIDTH + kx;
#pragma unroll
                    for (int ky = 0; ky < L::KERNEL_HEIGHT; ++ky)
                        bring(work, place + ky * L::KERNEL_WIDTH, sums[ky][tile][2 * s + e]);
                }
            }
    }

    // Adds up what the four lanes of a row have seen of dz; `brings` for the lane that brings it.
    template <class L>
    static __device__ __forceinline__ void bring_biases(
        const Work &work, float (&biases)[2], const int (&maps)[2], const int (&pixels)[2],
        const bool (&exists)[2], int split, bool brings) {
        if constexpr (L::BIAS >= 0) {
#pragma unroll
            for (int s = 0; s < 2; ++s) {
                biases[s] += __shfl_xor_sync(0xffffffffu, biases[s], 1);
                biases[s] += __shfl_xor_sync(0xffffffffu, biases[s], 2);
                if (brings && exists[s])
                    bring(work, partials_of<L>(work, split, pixels[s]) + L::WEIGHT_SIZE + maps[s], biases[s]);
            }
        }
    }
};
