// Forward and grad_input of TensorConv2dLayer: group_tensor_conv2d.cuh says what they compute, and how.

#include "mma.cuh"

constexpr int WARPS = THREADS / 32;

// Position `number` of maps of a certain width; beyond the end, the last one. The strip at a map's right
// edge is moved inwards; what a neighbour owns already is not its own.
template <int WIDTH, int PIXELS>
struct Strip {
    static_assert(PIXELS <= WIDTH, "a strip reaches beyond its map");
    static constexpr int ACROSS = (WIDTH + PIXELS - 1) / PIXELS, COUNT = SAMPLES * ACROSS;
    int n, column;    // its sample and first pixel
    int not_own;      // how many of its first pixels are a neighbour's
    bool exists;

    __device__ __forceinline__ explicit Strip(int number) {
        exists = number < COUNT;
        number = min(number, COUNT - 1);
        const int own = number % ACROSS * PIXELS;
        n = number / ACROSS;
        column = min(own, WIDTH - PIXELS);
        not_own = own - column;
    }
};

// How the forward pass reads maps and weights, and writes.
template <class L>
struct ForwardProduct {
    using Phase = typename L::TensorForward;
    using From = typename L::Input;
    using To = typename L::Output;
    static constexpr bool INSIDE = true;  // what windows see is there: the map, or its border
    static constexpr int STRIDE_Y = L::STRIDE_Y, STRIDE_X = L::STRIDE_X;

    // Where the window of a pixel of To begins in From.
    static __device__ __forceinline__ int row(int y) { return y * STRIDE_Y - L::PADDING_Y; }
    static __device__ __forceinline__ int column(int x) { return x * STRIDE_X - L::PADDING_X; }
    // The tap by which a pixel sees place (y, x) of its window: in which row of taps, and which of it.
    static __device__ __forceinline__ int tap_row(int y) { return y; }
    static __device__ __forceinline__ int tap(int x) { return x; }
    static __device__ __forceinline__ int connection(int map, int other) {
        return L::connection_between(other, map);
    }
    static __device__ __forceinline__ real bias(const Work &work, int map) { return bias_of<L>(work, map); }
    static __device__ __forceinline__ void write(const Work &work, int n, int map, int y, int x, real z) {
        work.memory[To::at(n, map, y, x)] = L::Squash::value(z);
    }
};

// The same of the gradient by the input: From is dz.
template <class L>
struct GradInputProduct {
    using Phase = typename L::TensorInput;
    using From = typename L::OutputGradient;
    using To = typename L::Input;
    static constexpr bool INSIDE = false;
    static constexpr int STRIDE_Y = 1, STRIDE_X = 1;
    static_assert(L::STRIDE_Y == 1 && L::STRIDE_X == 1, "other strides leave gaps");

    static __device__ __forceinline__ int row(int y) { return y + L::PADDING_Y - (L::KERNEL_HEIGHT - 1); }
    static __device__ __forceinline__ int column(int x) { return x + L::PADDING_X - (L::KERNEL_WIDTH - 1); }
    static __device__ __forceinline__ int tap_row(int y) { return L::KERNEL_HEIGHT - 1 - y; }
    static __device__ __forceinline__ int tap(int x) { return L::KERNEL_WIDTH - 1 - x; }
    static __device__ __forceinline__ int connection(int map, int other) {
        return L::connection_between(map, other);
    }
    static __device__ __forceinline__ real bias(const Work &, int) { return 0; }
    static __device__ __forceinline__ void write(const Work &work, int n, int map, int y, int x, real gradient) {
        write_grad_input<L>(work, To::at(n, map, y, x), L::InputGradient::at(n, map, y, x), gradient);
    }
};

struct TensorProduct {
    // Forward or grad_input. A lane owns rows `group` and `group + 8` of A and D, its positions.
    template <class L, class Product>
    static __device__ __forceinline__ void multiply(const Work &work) {
        using Phase = typename Product::Phase;
        using From = typename Product::From;
        using To = typename Product::To;
        using S = Strip<To::WIDTH, Phase::PIXELS>;
        constexpr int ROWS = Phase::ROWS, TILES = Phase::TILES, PIXELS = Phase::PIXELS;
        constexpr int WINDOW = (PIXELS - 1) * Product::STRIDE_X + L::KERNEL_WIDTH;
        constexpr int SEEN = (ROWS - 1) * Product::STRIDE_Y + L::KERNEL_HEIGHT;  // rows of From
        constexpr int DOWN = (To::HEIGHT + ROWS - 1) / ROWS, ACROSS = (S::COUNT + 15) / 16;
        constexpr bool STAY = Phase::SETS == 1 && Phase::MOST * WINDOW <= 8;  // weights, from unit to unit
        const int thread = thread_index(), group = thread % 32 / 4, member = thread % 4;
        Tf32Parts<2> weights[L::KERNEL_HEIGHT][TILES];
        if constexpr (STAY) load_weights<L, Product>(work, weights, 0, 0, Phase::first(1) * WINDOW, group, member);
#pragma unroll 1
        for (int unit = thread / 32; unit < Phase::SETS * DOWN * ACROSS; unit += WARPS) {
            const int set = unit / (DOWN * ACROSS), own_row = unit / ACROSS % DOWN * ROWS;
            const int first_row = min(own_row, To::HEIGHT - ROWS), top = Product::row(first_row);
            const S strips[2] = {S(unit % ACROSS * 16 + group), S(unit % ACROSS * 16 + group + 8)};
            const int first = Phase::first(set), length = (Phase::first(set + 1) - first) * WINDOW;
            float sums[ROWS][TILES][4] = {};
#pragma unroll 1
            for (int chunk = 0; chunk < length; chunk += 8) {
                if constexpr (!STAY) load_weights<L, Product>(work, weights, set, chunk, length, group, member);
                int from[2][2];
                bool inside[2][2];
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const int index = min(chunk + member + 4 * half, length - 1);
                    const int other = Phase::other(first + index / WINDOW);
#pragma unroll
                    for (int s = 0; s < 2; ++s) {
                        const int column = Product::column(strips[s].column) + index % WINDOW;
                        inside[half][s] = Product::INSIDE || (column >= 0 && column < From::WIDTH);
                        from[half][s] = From::at(strips[s].n, other, top, column);
                    }
                }
                const auto has_row = [&](int r) {
                    return Product::INSIDE || (top + r >= 0 && top + r < From::HEIGHT);
                };
                const auto read = [&](float (&seen)[4], int r) {
#pragma unroll
                    for (int i = 0; i < 4; ++i)
                        seen[i] = inside[i / 2][i % 2] && has_row(r)
                                      ? work.memory[from[i / 2][i % 2] + r * From::PITCH] : 0.0f;
                };
                float seen[4];
                read(seen, 0);
#pragma unroll
                for (int r = 0; r < SEEN; ++r) {
                    const Tf32Parts<4> a(seen);
                    if (r + 1 < SEEN) read(seen, r + 1);  // on its way while this row is multiplied
                    if (!has_row(r)) continue;
#pragma unroll
                    for (int j = 0; j < ROWS; ++j) {
                        const int ky = r - j * Product::STRIDE_Y;
                        if (ky < 0 || ky >= L::KERNEL_HEIGHT) continue;
#pragma unroll
                        for (int tile = 0; tile < TILES; ++tile)
                            mma_split<Phase::PASSES>(sums[j][tile], a, weights[ky][tile]);
                    }
                }
            }
#pragma unroll
            for (int tile = 0; tile < TILES; ++tile)
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    const int column = (set * TILES + tile) * 8 + 2 * member + e, p = column % PIXELS;
                    if (column >= To::MAPS * PIXELS) continue;
                    const int map = Phase::map(column / PIXELS);
                    const real bias = Product::bias(work, map);
#pragma unroll
                    for (int s = 0; s < 2; ++s) {
                        if (!strips[s].exists || p < strips[s].not_own) continue;
#pragma unroll
                        for (int j = 0; j < ROWS; ++j)
                            if (To::HEIGHT % ROWS == 0 || first_row + j >= own_row)
                                Product::write(work, strips[s].n, map, first_row + j, strips[s].column + p,
                                               sums[j][tile][2 * s + e] + bias);
                    }
                }
        }
    }

    // A lane's part of B for every ky: its rows of a chunk of (other map, c), of which a set has `length`.
    template <class L, class Product, int TILES>
    static __device__ __forceinline__ void load_weights(
        const Work &work, Tf32Parts<2> (&weights)[L::KERNEL_HEIGHT][TILES], int set, int chunk, int length,
        int group, int member) {
        using Phase = typename Product::Phase;
        constexpr int WINDOW = (Phase::PIXELS - 1) * Product::STRIDE_X + L::KERNEL_WIDTH;
        const real *weight = weight_of<L>(work);
        int others[2], seen[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int index = chunk + member + 4 * half;
            others[half] = Phase::other(Phase::first(set) + min(index, length - 1) / WINDOW);
            seen[half] = index < length ? index % WINDOW : -1;  // by no tap
        }
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile) {
            const int column = (set * TILES + tile) * 8 + group, place = column / Phase::PIXELS;
            const int map = Phase::map(min(place, Product::To::MAPS - 1));
            int taps[2];  // the first of them all, or -1
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int x = seen[half] - column % Phase::PIXELS * Product::STRIDE_X;
                const int connection = Product::connection(map, others[half]);
                const bool joined = place < Product::To::MAPS && connection >= 0 && x >= 0 && x < L::KERNEL_WIDTH;
                taps[half] = joined ? connection * L::KERNEL_HEIGHT * L::KERNEL_WIDTH + Product::tap(x) : -1;
            }
#pragma unroll
            for (int ky = 0; ky < L::KERNEL_HEIGHT; ++ky) {
                float values[2];
#pragma unroll
                for (int half = 0; half < 2; ++half)
                    values[half] = taps[half] < 0
                                       ? 0.0f : weight[taps[half] + Product::tap_row(ky) * L::KERNEL_WIDTH];
                weights[ky][tile] = Tf32Parts<2>(values);
            }
        }
    }
};
