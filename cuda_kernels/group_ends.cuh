// Where a group begins and ends: the images or the maps that come from global memory, those that go
// back, and the loss. network.h gives, besides what group.cuh says:
//
//   using InputMaps, InputGradientMaps, OutputMaps;   // of the whole group
//   using OutputSquash = ...;                         // the last layer's activation
//   using LossKind = CrossEntropyLoss;                // with LAST
//   constexpr int CLASSES = 10;

#include "gather.cuh"
#include "losses.cuh"

// A batch of images of a data set: bytes or reals, whichever is not null.
struct Images {
    const unsigned char *bytes;
    const real *reals;
    const int *order, *shifts;   // of this batch
    int height, width;
    real background, step;       // value(byte) = background + byte * step
};

// The images of the batch whose number lies at `number`, of those that `order` lists. It is read anew each time:
// pointers into the batch would take registers from all layers.
__device__ __forceinline__ Images batch_of(Images images, const int *number) {
    const size_t before = (size_t)*(const volatile int *)number * BATCH;
    images.order += before;
    if (images.shifts) images.shifts += 2 * before;
    return images;
}

// Brings the images of a part of the batch into InputMaps, scaled, centred and shifted. Beyond the
// batch's end all is background. A thread has the same pixels of all samples; those of a few are on their way from
// global memory at a time.
__device__ __forceinline__ void load_images(const Work &work, const Images &images) {
    constexpr int AT_ONCE = SAMPLES < 4 ? SAMPLES : 4;
    const int height = anew(images.height), width = anew(images.width), pixels = height * width;
#pragma unroll 1
    for (int i = thread_index(); i < InputMaps::SIZE; i += THREADS) {
        const int begin = anew(work.first);  // as a register that lives through all phases would make them spill
        const int map = i / InputMaps::PIXELS, y = i / InputMaps::WIDTH % InputMaps::HEIGHT;
        const int x = i % InputMaps::WIDTH;
        const int to = InputMaps::at_pixel(0, i);
#pragma unroll 1
        for (int first = 0; first < SAMPLES; first += AT_ONCE) {
            long long from[AT_ONCE];  // -1 for the background
#pragma unroll
            for (int j = 0; j < AT_ONCE; ++j) {
                const int k = min(begin + first + j, work.samples - 1);
                from[j] = (long long)images.order[k] * InputMaps::MAPS * pixels;
            }
#pragma unroll
            for (int j = 0; j < AT_ONCE; ++j) {
                const int k = min(begin + first + j, work.samples - 1);
                const Placement placement(height, width, InputMaps::HEIGHT, InputMaps::WIDTH,
                                          images.shifts ? images.shifts + 2 * k : nullptr);
                const long long place = placed(map, height, width, placement, y, x);
                from[j] = place < 0 || begin + first + j >= work.samples ? -1 : from[j] + place;
            }
            real values[AT_ONCE];
#pragma unroll
            for (int j = 0; j < AT_ONCE; ++j) values[j] = images.background;
            if (images.bytes) {
                unsigned char bytes[AT_ONCE];
#pragma unroll
                for (int j = 0; j < AT_ONCE; ++j) bytes[j] = from[j] >= 0 ? images.bytes[from[j]] : 0;
#pragma unroll
                for (int j = 0; j < AT_ONCE; ++j) values[j] += real(bytes[j]) * images.step;
            } else {
#pragma unroll
                for (int j = 0; j < AT_ONCE; ++j)
                    if (from[j] >= 0) values[j] = images.reals[from[j]];
            }
#pragma unroll
            for (int j = 0; j < AT_ONCE; ++j)
                if (first + j < SAMPLES) work.memory[to + (first + j) * InputMaps::SAMPLE] = values[j];
        }
    }
}

// Brings the labels of a part of the batch into shared memory, long before the loss asks for them.
__device__ __forceinline__ void load_labels(const Work &work, const int *labels, const int *order, int *here) {
    const int n = thread_index();
    if (n < SAMPLES && work.first + n < work.samples) here[n] = labels[order[work.first + n]];
}

// Brings maps (samples, maps, height, width) of global memory into shared memory; zeros beyond the end.
template <class M>
__device__ __forceinline__ void load_maps(const Work &work, const real *from) {
    each_of_samples<M::SIZE, 4>([&](int n, int i) {
        const bool inside = work.first + n < work.samples;
        work.memory[M::at_pixel(n, i)] = inside ? from[(size_t)(work.first + n) * M::SIZE + i] : real(0);
    });
}

template <class M>
__device__ __forceinline__ void store_maps(const Work &work, real *to) {
    each_of_samples<M::SIZE, 4>([&](int n, int i) {
        if (work.first + n < work.samples)
            to[(size_t)(work.first + n) * M::SIZE + i] = work.memory[M::at_pixel(n, i)];
    });
}

// dz of the group's last layer, in place of its output, from the gradient by that output.
__device__ __forceinline__ void load_gradient(const Work &work, const real *grad_output) {
    each_of_samples<OutputMaps::SIZE, 4>([&](int n, int i) {
        const int at = OutputMaps::at_pixel(n, i);
        const bool inside = work.first + n < work.samples;
        const real gradient = inside ? grad_output[(size_t)(work.first + n) * OutputMaps::SIZE + i] : real(0);
        work.memory[at] = gradient * OutputSquash::slope(work.memory[at]);
    });
}

// The loss of a part of the batch: dz of the last layer takes the place of its output. A warp has a sample at a
// time. What it has seen is added up in `of_warps`, SIZE doubles of shared memory: in registers it would
// be in the way of every layer.
struct LossTotals {
    static constexpr int KINDS = 3, LATEST = 3;  // losses, errors, bad labels; and the latest loss
    static constexpr int WARPS = THREADS / 32, SIZE = (KINDS + 1) * WARPS;
    double *of_warps;

    __device__ __forceinline__ void clear() const {
        for (int i = thread_index(); i < SIZE; i += THREADS) of_warps[i] = 0;
    }

    // labels: of this part's samples.
    __device__ __forceinline__ void evaluate(const Work &work, const int *labels, real target) const {
        const int warp = thread_index() / 32, lane = thread_index() % 32;
        for (int n = warp; n < SAMPLES; n += WARPS) {
            real *output = work.memory + OutputMaps::at(n, 0);
            if (work.first + n >= work.samples) {
                for (int c = lane; c < CLASSES; c += 32) output[c] = 0;
                continue;
            }
            const int label = labels[n];
            const int answer = verdict<32>(output, label, CLASSES, lane);
            const double loss = LossKind::evaluate<32>(output, label, CLASSES, work.samples, target, answer, lane,
                                                       [&](int c, real gradient) {
                                                           output[c] = gradient * OutputSquash::slope(output[c]);
                                                       });
            if (lane == 0) {
                of_warps[warp] += loss;
                of_warps[WARPS + warp] += answer & WRONG ? 1 : 0;
                of_warps[2 * WARPS + warp] += answer & BAD_LABEL ? 1 : 0;
                of_warps[LATEST * WARPS + warp] = loss;
            }
        }
    }

    // Writes the block's totals: the warps', added in their order. Behind a barrier.
    __device__ __forceinline__ void store(double *block_totals) const {
        if (threadIdx.x < KINDS) block_totals[KINDS * blockIdx.x + threadIdx.x] = of_block(threadIdx.x);
    }

    // Adds them to a network's totals, where samples come one after the other, all to the first warp.
    __device__ __forceinline__ void add(real *loss, double *totals) const {
        if (threadIdx.x < KINDS) totals[threadIdx.x] += of_block(threadIdx.x);
        if (threadIdx.x == 0) loss[0] = real(of_warps[LATEST * WARPS]);
    }

private:
    __device__ __forceinline__ double of_block(int kind) const {
        double sum = 0;
        for (int warp = 0; warp < WARPS; ++warp) sum += of_warps[kind * WARPS + warp];
        return sum;
    }
};
