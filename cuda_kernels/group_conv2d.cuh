// Conv2dLayer: a convolution through a connection table, or a Dense at several positions.
//
// A layer's description has, besides what group.cuh asks for: KERNEL_*, STRIDE_*, PADDING_* (the border
// of zeros around its Input is as wide as the padding), CONNECTIONS, the table as functions
//   first_of_output(o), connection_of_output(e), input_of(e)      entries sorted by output map
//   first_of_input(i), connection_of_input(e), output_of(e)       entries sorted by input map
//   input_map(c), output_map(c), is_first_of_output(c)            by connection
// and the tiles: FORWARD_*, INPUT_*, WEIGHT_ROWS and _COLUMNS, pixels that a thread owns at a time;
// TAP_ROWS, TAP_COLUMNS, the taps whose gradients it sums; SLICES lanes of a warp and PARTS such
// teams share one sum; SPREAD_*, whether a phase is divided among a cluster's blocks; PARTIALS, where its rows of partial sums begin: [block][part][weight, bias].
//
// The tiles at a map's lower and right edge are moved inwards, so that no tile reaches beyond the map;
// what a neighbouring tile owns already is neither written nor counted again.

#include "conv2d.cuh"
#include "lane_sums.cuh"

// The tiles of ROWS x COLUMNS pixels that cover maps of HEIGHT x WIDTH.
template <int HEIGHT, int WIDTH, int ROWS, int COLUMNS>
struct Tiles {
    static constexpr int DOWN = (HEIGHT + ROWS - 1) / ROWS, ACROSS = (WIDTH + COLUMNS - 1) / COLUMNS,
                         COUNT = DOWN * ACROSS;
    static constexpr bool EVEN_DOWN = HEIGHT % ROWS == 0, EVEN_ACROSS = WIDTH % COLUMNS == 0;
    static_assert(ROWS <= HEIGHT && COLUMNS <= WIDTH, "a tile reaches beyond its map");
    int row, column;            // its first pixel
    int own_row, own_column;    // the first pixel that no earlier tile owns

    __device__ __forceinline__ explicit Tiles(int number) {
        own_row = number / ACROSS * ROWS;
        own_column = ACROSS == 1 ? 0 : number % ACROSS * COLUMNS;
        row = EVEN_DOWN ? own_row : min(own_row, HEIGHT - ROWS);
        column = EVEN_ACROSS ? own_column : min(own_column, WIDTH - COLUMNS);
    }
    __device__ __forceinline__ bool owns(int i, int j) const {
        return (EVEN_DOWN || row + i >= own_row) && (EVEN_ACROSS || column + j >= own_column);
    }
};

// What a tile of input pixels sees of an output map; (top, left) is where the window that begins at the tile's
// first pixel lies; rows are read from BEFORE columns to the left of it on. WHOLE_ROWS: the tile is as wide as the map, so that `left` is known to the compiler.
template <class M, bool WholeRows, int BEFORE>
struct TileDz {
    static constexpr bool WHOLE_ROWS = WholeRows;
    const real *map;
    int top, left;

    __device__ __forceinline__ bool has_row(int row) const { return top + row >= 0 && top + row < M::HEIGHT; }
    __device__ __forceinline__ bool has_column(int column) const {
        return left + column >= 0 && left + column < M::WIDTH;
    }
    __device__ __forceinline__ real at(int row, int column) const {
        return map[(top + row) * M::PITCH + left + column];
    }
    template <int COUNT>
    __device__ __forceinline__ void read(real (&to)[COUNT], int row) const {
        const bool here = has_row(row);
#pragma unroll
        for (int q = 0; q < COUNT; ++q) to[q] = here && has_column(q - BEFORE) ? at(row, q - BEFORE) : real(0);
    }
};

struct Conv2dLayer {
    template <class L>
    using WindowOf = Window<L::KERNEL_HEIGHT, L::KERNEL_WIDTH, L::STRIDE_Y, L::STRIDE_X>;

    // A thread computes tile after tile of one output map and sample; lanes of a warp mostly share the
    // map, so that they share its weights.
    template <class L>
    static __device__ __forceinline__ void forward(const Work &work) {
        using In = typename L::Input;
        using Out = typename L::Output;
        using W = WindowOf<L>;
        using T = Tiles<Out::HEIGHT, Out::WIDTH, L::FORWARD_ROWS, L::FORWARD_COLUMNS>;
        using Phase = Share<L::SPREAD_FORWARD>;
        constexpr int OF_MAP = SAMPLES * T::COUNT;
        const real *weight = weight_of<L>(work);
#pragma unroll 1
        for (int item = Phase::first(thread_index()); item < Out::MAPS * OF_MAP; item += Phase::STEP) {
            const int o = item / OF_MAP, n = item % OF_MAP / T::COUNT;
            const T tile(item % T::COUNT);
            const int corner = In::at(n, 0, tile.row * W::STRIDE_Y - L::PADDING_Y,
                                      tile.column * W::STRIDE_X - L::PADDING_X);
            real z[L::FORWARD_ROWS][L::FORWARD_COLUMNS];
            const real bias = bias_of<L>(work, o);
#pragma unroll
            for (int i = 0; i < L::FORWARD_ROWS; ++i)
#pragma unroll
                for (int j = 0; j < L::FORWARD_COLUMNS; ++j) z[i][j] = bias;
#pragma unroll 1
            for (int entry = L::first_of_output(o); entry < L::first_of_output(o + 1); ++entry)
                add_windows<W>(z, Rows<1, real>{work.memory + corner + L::input_of(entry) * In::MAP, In::PITCH},
                               weight + L::connection_of_output(entry) * W::TAPS);
#pragma unroll
            for (int i = 0; i < L::FORWARD_ROWS; ++i)
#pragma unroll
                for (int j = 0; j < L::FORWARD_COLUMNS; ++j) {
                    z[i][j] = L::Squash::value(z[i][j]);
                    settle(z[i][j]);
                }
#pragma unroll
            for (int i = 0; i < L::FORWARD_ROWS; ++i)
#pragma unroll
                for (int j = 0; j < L::FORWARD_COLUMNS; ++j)
                    if (tile.owns(i, j)) Phase::put(work, Out::at(n, o, tile.row + i, tile.column + j), z[i][j]);
        }
    }

    // A team of SLICES lanes sums the gradients of TAP_ROWS x TAP_COLUMNS taps of one connection, each lane
    // over its own tiles of the output.
    template <class L>
    static __device__ __forceinline__ void grad_parameters(const Work &work) {
        const int thread = thread_index();
        using In = typename L::Input;
        using Dz = typename L::OutputGradient;
        using W = WindowOf<L>;
        using T = Tiles<Dz::HEIGHT, Dz::WIDTH, L::WEIGHT_ROWS, L::WEIGHT_COLUMNS>;
        using Phase = Share<L::SPREAD_GRAD_PARAMETERS>;
        constexpr int BLOCKS_DOWN = (W::KERNEL_HEIGHT + L::TAP_ROWS - 1) / L::TAP_ROWS;
        constexpr int BLOCKS_ACROSS = (W::KERNEL_WIDTH + L::TAP_COLUMNS - 1) / L::TAP_COLUMNS;
        constexpr int TAPS = L::TAP_ROWS * L::TAP_COLUMNS, UNITS = SAMPLES * T::COUNT;
        constexpr int TEAMS = L::CONNECTIONS * BLOCKS_DOWN * BLOCKS_ACROSS * L::PARTS;
        using Sums = LaneSums<L::SLICES, 1, TAPS + 1>;
#pragma unroll 1
        for (int first = Phase::first(0) / L::SLICES; first < TEAMS; first += Phase::STEP / L::SLICES) {
            const int team = first + thread / L::SLICES, lane = thread % L::SLICES;
            const int part = team % L::PARTS, block = team / L::PARTS % (BLOCKS_DOWN * BLOCKS_ACROSS);
            const int connection = team / (L::PARTS * BLOCKS_DOWN * BLOCKS_ACROSS);
            const int own_row = block / BLOCKS_ACROSS * L::TAP_ROWS;
            const int own_column = block % BLOCKS_ACROSS * L::TAP_COLUMNS;
            const int tap_row = min(own_row, W::KERNEL_HEIGHT - L::TAP_ROWS);
            const int tap_column = min(own_column, W::KERNEL_WIDTH - L::TAP_COLUMNS);
            real sums[Sums::PADDED] = {};
            if (team < TEAMS) {
                const int i_map = L::input_map(connection), o = L::output_map(connection);
#pragma unroll 1
                for (int unit = part * L::SLICES + lane; unit < UNITS; unit += L::PARTS * L::SLICES) {
                    const int n = unit / T::COUNT;
                    const T tile(unit % T::COUNT);
                    real dz[L::WEIGHT_ROWS][L::WEIGHT_COLUMNS];
#pragma unroll
                    for (int i = 0; i < L::WEIGHT_ROWS; ++i)
#pragma unroll
                        for (int j = 0; j < L::WEIGHT_COLUMNS; ++j) {
                            const real here = work.memory[Dz::at(n, o, tile.row + i, tile.column + j)];
                            dz[i][j] = tile.owns(i, j) ? here : real(0);
                            sums[TAPS] += dz[i][j];
                        }
                    const int corner = In::at(n, i_map, tile.row * W::STRIDE_Y - L::PADDING_Y + tap_row,
                                              tile.column * W::STRIDE_X - L::PADDING_X + tap_column);
                    add_products<W, L::TAP_ROWS, L::TAP_COLUMNS>(sums, dz, Rows<1, real>{work.memory + corner, In::PITCH});
                }
            }
            Sums::add(sums);
            if (team >= TEAMS || !Sums::uses()) continue;
            const size_t row = L::PARTIALS
                               + ((size_t)work.block * L::PARTS + part) * L::PARTIAL_SIZE;
#pragma unroll
            for (int k = 0; k < Sums::SHARE; ++k) {
                const int tap = Sums::first() + k;
                if (tap < TAPS) {
                    const int ky = tap_row + tap / L::TAP_COLUMNS, kx = tap_column + tap % L::TAP_COLUMNS;
                    if (ky >= own_row && kx >= own_column)
                        bring<L::SPREAD_GRAD_PARAMETERS>(work, row + connection * W::TAPS + ky * W::KERNEL_WIDTH + kx, sums[k]);
                } else if (tap == TAPS && L::BIAS >= 0 && block == 0 && L::is_first_of_output(connection)) {
                    bring<L::SPREAD_GRAD_PARAMETERS>(work, row + L::WEIGHT_SIZE + L::output_map(connection), sums[k]);
                }
            }
        }
    }

    // A thread computes tile after tile of one input map and sample.
    template <class L>
    static __device__ __forceinline__ void grad_input(const Work &work) {
        using In = typename L::Input;
        using Dx = typename L::InputGradient;
        using Dz = typename L::OutputGradient;
        using W = WindowOf<L>;
        using T = Tiles<In::HEIGHT, In::WIDTH, L::INPUT_ROWS, L::INPUT_COLUMNS>;
        using Phase = Share<L::SPREAD_GRAD_INPUT>;
        constexpr int OF_MAP = SAMPLES * T::COUNT;
        const real *weight = weight_of<L>(work);
#pragma unroll 1
        for (int item = Phase::first(thread_index()); item < In::MAPS * OF_MAP; item += Phase::STEP) {
            const int i_map = item / OF_MAP, n = item % OF_MAP / T::COUNT;
            const T tile(item % T::COUNT);
            const int top = tile.row + L::PADDING_Y, left = tile.column + L::PADDING_X;
            real grad[L::INPUT_ROWS][L::INPUT_COLUMNS] = {};
#pragma unroll 1
            for (int entry = L::first_of_input(i_map); entry < L::first_of_input(i_map + 1); ++entry) {
                const real *dz = work.memory + Dz::at(n, L::output_of(entry));
                const real *taps = weight + L::connection_of_input(entry) * W::TAPS;
                if constexpr (W::STRIDE_Y == 1 && W::STRIDE_X == 1) {
                    add_transposed_windows<W>(grad, taps, TileDz<Dz, T::ACROSS == 1, W::KERNEL_WIDTH - 1>{dz, top, left});
                } else {
#pragma unroll
                    for (int i = 0; i < L::INPUT_ROWS; ++i)
#pragma unroll
                        for (int j = 0; j < L::INPUT_COLUMNS; ++j)
                            grad[i][j] += strided_window<W>(
                                top + i, left + j, Dz::HEIGHT, Dz::WIDTH, taps, 0, W::KERNEL_HEIGHT,
                                [&](int oy, int ox) { return dz[oy * Dz::PITCH + ox]; });
                }
            }
#pragma unroll
            for (int i = 0; i < L::INPUT_ROWS; ++i)
#pragma unroll
                for (int j = 0; j < L::INPUT_COLUMNS; ++j) {
                    const int at = In::at(n, i_map, tile.row + i, tile.column + j);
                    const real y = tile.owns(i, j) ? work.memory[at] : real(0);  // else its owner may be writing
                    grad[i][j] *= L::Before::slope(y);
                    settle(grad[i][j]);
                }
#pragma unroll
            for (int i = 0; i < L::INPUT_ROWS; ++i)
#pragma unroll
                for (int j = 0; j < L::INPUT_COLUMNS; ++j)
                    if (tile.owns(i, j))
                        Phase::put(work, Dx::at(n, i_map, tile.row + i, tile.column + j), grad[i][j]);
        }
    }
};
