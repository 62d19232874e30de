// Subsample2dLayer and MaxPool2dLayer.
//
// Their descriptions have, besides what group.cuh asks for, POOL_* and STRIDE_*. Subsample2dLayer: WEIGHT and
// BIAS are the coefficients and biases, or -1 for the fixed coefficient 1 / pool area; PARTIALS, where
// its rows of partial sums begin: [block][part][coefficients, biases]; PARTS is 1.

#include "max_pool2d.cuh"

constexpr int POOLED_AT_ONCE = 4;  // output pixels of a thread

template <class L>
using PoolOf = Pool<L::POOL_HEIGHT, L::POOL_WIDTH, L::STRIDE_Y, L::STRIDE_X>;

// Calls visit(n, map, oy, ox, window) for each cell of STRIDE_Y x STRIDE_X input pixels, with the window
// that begins at its first pixel, if there is one. Cells cover the map.
template <class L, typename Visit>
__device__ __forceinline__ void each_cell(Visit visit) {
    using In = typename L::Input;
    using Out = typename L::Output;
    constexpr int DOWN = (In::HEIGHT + L::STRIDE_Y - 1) / L::STRIDE_Y;
    constexpr int ACROSS = (In::WIDTH + L::STRIDE_X - 1) / L::STRIDE_X;
    each_of_samples<In::MAPS * DOWN * ACROSS>([&](int n, int i) {
        const int oy = i / ACROSS % DOWN, ox = i % ACROSS;
        visit(n, i / (DOWN * ACROSS), oy, ox, oy < Out::HEIGHT && ox < Out::WIDTH);
    });
}

// Writes the gradients of a cell's pixels: gradient(inside, place), `inside` the window the pixel has number `place`.
template <class L, typename Gradient>
__device__ __forceinline__ void write_cell(const Work &work, int n, int map, int oy, int ox, Gradient gradient) {
    using In = typename L::Input;
    using Dx = typename L::InputGradient;
    constexpr bool EVEN_DOWN = In::HEIGHT % L::STRIDE_Y == 0, EVEN_ACROSS = In::WIDTH % L::STRIDE_X == 0;
    const int top = oy * L::STRIDE_Y, left = ox * L::STRIDE_X;
    const auto is_there = [&](int y, int x) {
        return (EVEN_DOWN || top + y < In::HEIGHT) && (EVEN_ACROSS || left + x < In::WIDTH);
    };
    real values[L::STRIDE_Y][L::STRIDE_X];  // all are read before any is written
#pragma unroll
    for (int y = 0; y < L::STRIDE_Y; ++y)
#pragma unroll
        for (int x = 0; x < L::STRIDE_X; ++x)
            values[y][x] = is_there(y, x) ? gradient(y < L::POOL_HEIGHT && x < L::POOL_WIDTH, y * L::POOL_WIDTH + x)
                                                * L::Before::slope(work.memory[In::at(n, map, top + y, left + x)])
                                          : real(0);
#pragma unroll
    for (int y = 0; y < L::STRIDE_Y; ++y)
#pragma unroll
        for (int x = 0; x < L::STRIDE_X; ++x)
            if (is_there(y, x)) work.memory[Dx::at(n, map, top + y, left + x)] = values[y][x];
}

struct Subsample2dLayer {
    template <class L>
    static __device__ __forceinline__ real coefficient(const Work &work, int map) {
        if constexpr (L::WEIGHT >= 0) return weight_of<L>(work)[map];
        return real(1) / (L::POOL_HEIGHT * L::POOL_WIDTH);
    }

    template <class L>
    static __device__ __forceinline__ real sum_at(const Work &work, int n, int map, int oy, int ox) {
        using In = typename L::Input;
        return window_sum<PoolOf<L>>(work.memory + In::at(n, map, oy * L::STRIDE_Y, ox * L::STRIDE_X),
                                     In::PITCH);
    }

    // A thread computes an output pixel at a time.
    template <class L>
    static __device__ __forceinline__ void forward(const Work &work) {
        using Out = typename L::Output;
        each_value_of_samples<Out::SIZE, POOLED_AT_ONCE>(
            [&](int n, int i) {
                const int map = i / Out::PIXELS, oy = i / Out::WIDTH % Out::HEIGHT, ox = i % Out::WIDTH;
                return L::Squash::value(coefficient<L>(work, map) * sum_at<L>(work, n, map, oy, ox)
                                        + bias_of<L>(work, map));
            },
            [&](int n, int i, real value) {
                work.memory[Out::at(n, i / Out::PIXELS, i / Out::WIDTH % Out::HEIGHT, i % Out::WIDTH)] = value;
            });
    }

    // A warp sums over one map at a time.
    template <class L>
    static __device__ __forceinline__ void grad_parameters(const Work &work) {
        const int thread = thread_index();
        using Dz = typename L::OutputGradient;
        if constexpr (L::WEIGHT < 0) return;
        using Sums = LaneSums<32, 1, 2>;
        for (int map = thread / 32; map < Dz::MAPS; map += THREADS / 32) {
            real sums[Sums::PADDED] = {};
            for (int i = thread % 32; i < SAMPLES * Dz::PIXELS; i += 32) {
                const int n = i / Dz::PIXELS, oy = i / Dz::WIDTH % Dz::HEIGHT, ox = i % Dz::WIDTH;
                const real dz = work.memory[Dz::at(n, map, oy, ox)];
                sums[0] += dz * sum_at<L>(work, n, map, oy, ox);
                sums[1] += dz;
            }
            Sums::add(sums);
            if (Sums::uses())  // number 0 is the coefficient's, 1 the bias's
                bring(work, L::PARTIALS + (size_t)work.block * L::PARTIAL_SIZE + Sums::first() * Dz::MAPS + map,
                      sums[0]);
        }
    }

    // Where windows lie apart, a thread computes a cell's pixels, of which one window holds those that
    // any does; elsewhere a pixel at a time, from the windows that hold it.
    template <class L>
    static __device__ __forceinline__ void grad_input(const Work &work) {
        using In = typename L::Input;
        using Dx = typename L::InputGradient;
        using Dz = typename L::OutputGradient;
        if constexpr (PoolOf<L>::APART) {
            each_cell<L>([&](int n, int map, int oy, int ox, bool window) {
                const real dz = window ? work.memory[Dz::at(n, map, oy, ox)] : real(0);
                const real gradient = coefficient<L>(work, map) * dz;
                write_cell<L>(work, n, map, oy, ox,
                              [&](bool inside, int) { return inside ? gradient : real(0); });
            });
        } else {
            each_of_samples<In::SIZE>([&](int n, int i) {
                const int map = i / In::PIXELS, iy = i / In::WIDTH % In::HEIGHT, ix = i % In::WIDTH;
                real sum = 0;
                each_window_of<PoolOf<L>>(iy, ix, Dz::HEIGHT, Dz::WIDTH, [&](int oy, int ox) {
                    sum += work.memory[Dz::at(n, map, oy, ox)];
                });
                write_grad_input<L>(work, In::at(n, map, iy, ix), Dx::at(n, map, iy, ix),
                                    coefficient<L>(work, map) * sum);
            });
        }
    }
};

struct MaxPool2dLayer {
    template <class L>
    static __device__ __forceinline__ int first_maximum_at(const Work &work, int n, int map, int oy, int ox,
                                                           real &highest) {
        using In = typename L::Input;
        return first_maximum<PoolOf<L>>(work.memory + In::at(n, map, oy * L::STRIDE_Y, ox * L::STRIDE_X),
                                        In::PITCH, highest);
    }

    // A thread computes an output pixel at a time.
    template <class L>
    static __device__ __forceinline__ void forward(const Work &work) {
        using Out = typename L::Output;
        each_value_of_samples<Out::SIZE, POOLED_AT_ONCE>(
            [&](int n, int i) {
                const int map = i / Out::PIXELS, oy = i / Out::WIDTH % Out::HEIGHT, ox = i % Out::WIDTH;
                real highest;
                first_maximum_at<L>(work, n, map, oy, ox, highest);
                return highest;
            },
            [&](int n, int i, real value) {
                work.memory[Out::at(n, i / Out::PIXELS, i / Out::WIDTH % Out::HEIGHT, i % Out::WIDTH)] = value;
            });
    }

    template <class L>
    static __device__ __forceinline__ void grad_parameters(const Work &) {}

    // Where windows lie apart, InputGradient may be Input itself: a thread computes a cell's pixels.
    // Elsewhere it is another place, and a thread computes a pixel at a time, asking each of its
    // windows whose maximum it has.
    template <class L>
    static __device__ __forceinline__ void grad_input(const Work &work) {
        using In = typename L::Input;
        using Dx = typename L::InputGradient;
        using Dz = typename L::OutputGradient;
        if constexpr (PoolOf<L>::APART) {
            each_cell<L>([&](int n, int map, int oy, int ox, bool window) {
                real highest;
                const int first = window ? first_maximum_at<L>(work, n, map, oy, ox, highest) : -1;
                const real gradient = window ? work.memory[Dz::at(n, map, oy, ox)] : real(0);
                write_cell<L>(work, n, map, oy, ox, [&](bool inside, int place) {
                    return inside && place == first ? gradient : real(0);
                });
            });
        } else {
            static_assert(int(In::OFFSET) != int(Dx::OFFSET), "windows that overlap read each other's pixels");
            each_of_samples<In::SIZE>([&](int n, int i) {
                const int map = i / In::PIXELS, iy = i / In::WIDTH % In::HEIGHT, ix = i % In::WIDTH;
                real sum = 0;
                each_window_of<PoolOf<L>>(iy, ix, Dz::HEIGHT, Dz::WIDTH, [&](int oy, int ox) {
                    real highest;
                    const int place = (iy - oy * L::STRIDE_Y) * L::POOL_WIDTH + ix - ox * L::STRIDE_X;
                    if (first_maximum_at<L>(work, n, map, oy, ox, highest) == place)
                        sum += work.memory[Dz::at(n, map, oy, ox)];
                });
                write_grad_input<L>(work, In::at(n, map, iy, ix), Dx::at(n, map, iy, ix), sum);
            });
        }
    }
};
