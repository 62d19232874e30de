// Staging of maps for convolutions by register tiles: which pixels a block computes, and how the part
// of other maps that they depend on comes into shared memory.
//
// Maps are cut into regions of `down` x `across` tiles of TILE_ROWS x TILE_COLUMNS pixels. A block computes
// one region of `samples` samples at a time. What it needs of a map is staged as
//
//   staged[slot][sample][row][column],   rows `pitch` apart, samples `plane`, slots samples * plane
//
// with `skew` more behind every BAND rows, a tile's, so that lanes whose tiles lie above each other read from
// other banks,
//
// and where row 0 and column 0 may lie outside the map: zeros are staged there. Which map a slot holds is
// read from a list, so that maps that a block does not use are not brought.

#include "async.cuh"

struct Identical {
    static constexpr bool VALUE = true;
};
struct Different {
    static constexpr bool VALUE = false;
};
template <class A, class B>
struct Same : Different {};
template <class A>
struct Same<A, A> : Identical {};

// A batch of maps (samples, count, height, width).
struct Maps {
    int samples, count, height, width;
    __device__ __forceinline__ int area() const { return height * width; }
};

// The regions that cover the maps of a batch.
struct TileGrid {
    int down, across, samples;                   // tiles of a region, samples of a block
    int rows, columns;                           // pixels of a region
    int regions_down, regions_across, batches;

    __device__ TileGrid(const Maps &maps, int tiles_down, int tiles_across, int block_samples)
        : down(tiles_down), across(tiles_across), samples(block_samples), rows(tiles_down * TILE_ROWS),
          columns(tiles_across * TILE_COLUMNS), regions_down((maps.height + rows - 1) / rows),
          regions_across((maps.width + columns - 1) / columns),
          batches((maps.samples + block_samples - 1) / block_samples) {}
    __device__ int regions() const { return batches * regions_down * regions_across; }
};

// One of them: its first sample and pixel.
struct Region {
    int sample, row, column;
    Region() = default;
    __device__ Region(const TileGrid &grid, int number)
        : sample(number / (grid.regions_down * grid.regions_across) * grid.samples),
          row(number / grid.regions_across % grid.regions_down * grid.rows),
          column(number % grid.regions_across * grid.columns) {}
};

// A tile of a region, tiles being numbered by sample, then from left to right and down.
struct TilePlace {
    int sample, row, column;  // of the region's
    __device__ TilePlace(const TileGrid &grid, int number)
        : sample(number / (grid.down * grid.across)), row(number / grid.across % grid.down * TILE_ROWS),
          column(number % grid.across * TILE_COLUMNS) {}
};

// What is staged of each map: `rows` x `columns` pixels of `samples` samples.
template <int Band>
struct Stage {
    static constexpr int BAND = Band;
    int samples, rows, columns, pitch, skew, plane;
    __device__ __forceinline__ int slot() const { return samples * plane; }
    __device__ __forceinline__ int place(int sample, int row, int column) const {
        return sample * plane + row * pitch + row / BAND * skew + column;
    }
};

// Where staging begins: the sample and pixel of element 0, which may lie outside the map.
struct StageOrigin {
    int sample, row, column;
};

// The threads that stage together: COUNT of a block, from FIRST on.
template <int Count, int First = 0>
struct Threads {
    static constexpr int COUNT = Count;
    static __device__ __forceinline__ int number() { return threadIdx.x - First; }
};

// Where a group of neighbouring pixels is in a map, and whether there is any.
struct Found {
    size_t from;
    bool there;
    __device__ __forceinline__ Found(const Maps &maps, const StageOrigin &origin, int sample, int row, int column) {
        const int n = origin.sample + sample, y = origin.row + row, x = origin.column + column;
        there = n < maps.samples && y >= 0 && y < maps.height && x >= 0 && x < maps.width;
        from = there ? (size_t)n * maps.count * maps.area() + y * maps.width + x : 0;
    }
};

// Calls body(element of slot 0, source of map 0, whether it is there, first slot, end of the slots) for every group of
// V neighbouring pixels that falls to this thread: the same ones at every call. Where there are more threads than
// groups, several share the slots of each.
template <int V, class T, class S, class Body>
__device__ __forceinline__ void each_group(const S &stage, const Maps &maps, const StageOrigin &origin, int slots,
                                           Body body) {
    const int groups = (stage.columns + V - 1) / V, count = stage.samples * stage.rows * groups;
    const int parts = count < T::COUNT ? min(slots, T::COUNT / count) : 1;
    const int share = parts > 1 ? (slots + parts - 1) / parts : slots;
    for (int i = T::number(); i < count * parts; i += T::COUNT) {
        const int part = parts > 1 ? i / count : 0, at = i - part * count;
        const int group = at % groups, row = at / groups % stage.rows, sample = at / groups / stage.rows;
        const Found found(maps, origin, sample, row, group * V);
        body(stage.place(sample, row, group * V), found.from, found.there, part * share,
             min(slots, (part + 1) * share));
    }
}

// For threads that stage again and again: where the first group of this one lies, and how far it is from one of its
// groups to the next, without divisions for each.
template <class T>
struct Steps {
    int v = 0;  // pixels of a group
    int groups, count, group, row, sample, by_group, by_row, by_sample;

    template <class S>
    __device__ __forceinline__ void prepare(int pixels, const S &stage) {
        if (pixels == v) return;
        v = pixels;
        groups = (stage.columns + v - 1) / v;
        count = stage.samples * stage.rows * groups;
        group = T::number() % groups, row = T::number() / groups % stage.rows;
        sample = T::number() / groups / stage.rows;
        by_group = T::COUNT % groups, by_row = T::COUNT / groups % stage.rows;
        by_sample = T::COUNT / groups / stage.rows;
    }
};

// As the other one, with `steps` that have been prepared.
template <int V, class T, class S, class Body>
__device__ __forceinline__ void each_group(const S &stage, const Maps &maps, const StageOrigin &origin, int slots,
                                           Body body, const Steps<T> &steps) {
    if (steps.count < T::COUNT) return each_group<V, T>(stage, maps, origin, slots, body);
    int group = steps.group, row = steps.row, sample = steps.sample;
    for (int i = T::number(); i < steps.count; i += T::COUNT) {
        const Found found(maps, origin, sample, row, group * V);
        body(stage.place(sample, row, group * V), found.from, found.there, 0, slots);
        group += steps.by_group;
        row += steps.by_row;
        sample += steps.by_sample;
        if (group >= steps.groups) group -= steps.groups, ++row;
        if (row >= stage.rows) row -= stage.rows, ++sample;
    }
}

// As many neighbouring reals as can be copied at once: rows, the first column and the arrays must be aligned.
__device__ __forceinline__ int group_size(const Maps &maps, int column, const void *a, const void *b) {
    constexpr int LARGEST = 16 / sizeof(real);
    const size_t places = (size_t)a | (size_t)b;
    for (int v = LARGEST; v > 1; v /= 2)
        if (maps.width % v == 0 && column % v == 0 && places % (v * sizeof(real)) == 0) return v;
    return 1;
}

template <int V, class T, class S, class... Known>
__device__ __forceinline__ void copy_groups(real *staged, const real *source, const int *list, int count,
                                            const S &stage, const Maps &maps, const StageOrigin &origin,
                                            const Known &...steps) {
    const int slot_size = stage.slot();
    each_group<V, T>(stage, maps, origin, count, [&](int element, size_t from, bool there, int first_slot,
                                                           int end) {
        // In bytes, so that an address is one multiplication and addition; where nothing is there, all maps are
        // the first one.
        const char *const first = reinterpret_cast<const char *>(source + from);
        const unsigned bytes = there ? maps.area() * sizeof(real) : 0;
        real *to = staged + first_slot * slot_size + element;
#pragma unroll COPIES_AT_ONCE
        for (int slot = first_slot; slot < end; ++slot, to += slot_size)
            copy_async<V * sizeof(real)>(to, first + (size_t)(unsigned)list[slot] * bytes, there);
    }, steps...);
}

// Starts to stage the maps source[list[0..count)], v neighbouring pixels at once; with `Steps` for these, or without.
template <class T, class S, class... Known>
__device__ __forceinline__ void stage_maps(real *staged, const real *source, const int *list, int count,
                                           const S &stage, const Maps &maps, const StageOrigin &origin,
                                           int v, const Known &...steps) {
    if (v == 1)
        copy_groups<1, T>(staged, source, list, count, stage, maps, origin, steps...);
    else if (v == 2)
        copy_groups<2, T>(staged, source, list, count, stage, maps, origin, steps...);
    else if constexpr (sizeof(real) == 4)
        copy_groups<4, T>(staged, source, list, count, stage, maps, origin, steps...);
}

// dz = grad_output * act'(output), of what this thread has staged of both, `outputs` reals apart; each
// thread has to have waited for its own copies alone.
template <int V, class T, class S>
__device__ __forceinline__ void slope_groups(real *staged, int outputs, int count, const S &stage,
                                             const Maps &maps, const StageOrigin &origin) {
    struct alignas(V * sizeof(real)) Group {
        real at[V];
    };
    const int slot_size = stage.slot();
    each_group<V, T>(stage, maps, origin, count, [&](int element, size_t, bool there, int first_slot, int end) {
        if (!there) return;
#pragma unroll 2
        for (int slot = first_slot; slot < end; ++slot) {
            Group *place = reinterpret_cast<Group *>(staged + slot * slot_size + element);
            const Group output = *reinterpret_cast<const Group *>(staged + outputs + slot * slot_size + element);
            Group dz = *place;
#pragma unroll
            for (int j = 0; j < V; ++j) dz.at[j] *= Squash::slope(output.at[j]);
            *place = dz;
        }
    });
}

template <class T, class S>
__device__ __forceinline__ void apply_slopes(real *staged, int outputs, int count, const S &stage,
                                             const Maps &maps, const StageOrigin &origin, int v) {
    if (v == 1)
        slope_groups<1, T>(staged, outputs, count, stage, maps, origin);
    else if (v == 2)
        slope_groups<2, T>(staged, outputs, count, stage, maps, origin);
    else if constexpr (sizeof(real) == 4)
        slope_groups<4, T>(staged, outputs, count, stage, maps, origin);
}

// Without a slope other than 1, outputs are not even read.
constexpr bool HAS_SLOPE = !Same<Squash, Identity>::VALUE;
