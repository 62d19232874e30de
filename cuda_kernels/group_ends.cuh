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

// The images of batch `number` of those that `order` lists.
__device__ __forceinline__ Images batch_of(Images images, int number) {
    images.order += (size_t)number * BATCH;
    if (images.shifts) images.shifts += (size_t)number * BATCH * 2;
    return images;
}

// Brings the images of a part of the batch into InputMaps, scaled, centred and shifted. Beyond the
// batch's end all is background.
__device__ __forceinline__ void load_images(const Work &work, const Images &images) {
    each_of_samples<InputMaps::SIZE>([&](int n, int i) {
        const int k = work.first + n;
        real value = images.background;
        if (k < work.samples) {
            const int map = i / InputMaps::PIXELS, y = i / InputMaps::WIDTH % InputMaps::HEIGHT;
            const int x = i % InputMaps::WIDTH;
            const Placement placement(images.height, images.width, InputMaps::HEIGHT, InputMaps::WIDTH,
                                      images.shifts ? images.shifts + 2 * k : nullptr);
            const size_t begin = ((size_t)images.order[k] * InputMaps::MAPS + map) * images.height * images.width;
            value = images.bytes
                        ? placed_pixel(images.bytes + begin, images.height, images.width, placement, y, x,
                                       images.background,
                                       [&](unsigned char byte) { return images.background + real(byte) * images.step; })
                        : placed_pixel(images.reals + begin, images.height, images.width, placement, y, x,
                                       images.background, [](real pixel) { return pixel; });
        }
        work.memory[InputMaps::at_pixel(n, i)] = value;
    });
}

// Brings maps (samples, maps, height, width) of global memory into shared memory; zeros beyond the end.
template <class M>
__device__ __forceinline__ void load_maps(const Work &work, const real *from) {
    each_of_samples<M::SIZE>([&](int n, int i) {
        const bool inside = work.first + n < work.samples;
        work.memory[M::at_pixel(n, i)] = inside ? from[(size_t)(work.first + n) * M::SIZE + i] : real(0);
    });
}

template <class M>
__device__ __forceinline__ void store_maps(const Work &work, real *to) {
    each_of_samples<M::SIZE>([&](int n, int i) {
        if (work.first + n < work.samples)
            to[(size_t)(work.first + n) * M::SIZE + i] = work.memory[M::at_pixel(n, i)];
    });
}

// dz of the group's last layer, in place of its output, from the gradient by that output.
__device__ __forceinline__ void load_gradient(const Work &work, const real *grad_output) {
    each_of_samples<OutputMaps::SIZE>([&](int n, int i) {
        const int at = OutputMaps::at_pixel(n, i);
        const bool inside = work.first + n < work.samples;
        const real gradient = inside ? grad_output[(size_t)(work.first + n) * OutputMaps::SIZE + i] : real(0);
        work.memory[at] = gradient * OutputSquash::slope(work.memory[at]);
    });
}

// The loss of a part of the batch: dz of the last layer takes the place of its output. A warp has a
// sample at a time, and lane 0 adds up what the warp has seen.
struct LossTotals {
    double losses = 0, errors = 0, bad_labels = 0;

    __device__ __forceinline__ void evaluate(const Work &work, const int *labels, const int *order, real target) {
        const int lane = threadIdx.x % 32;
        for (int n = threadIdx.x / 32; n < SAMPLES; n += THREADS / 32) {
            real *output = work.memory + OutputMaps::at(n, 0);
            if (work.first + n >= work.samples) {
                for (int c = lane; c < CLASSES; c += 32) output[c] = 0;
                continue;
            }
            const int label = labels[order[work.first + n]];
            const int answer = verdict<32>(output, label, CLASSES, lane);
            losses += LossKind::evaluate<32>(output, label, CLASSES, work.samples, target, answer, lane,
                                             [&](int c, real gradient) {
                                                 output[c] = gradient * OutputSquash::slope(output[c]);
                                             });
            errors += answer & WRONG ? 1 : 0;
            bad_labels += answer & BAD_LABEL ? 1 : 0;
        }
    }

    // Adds the warps' totals, in their order, and writes those of the block.
    __device__ __forceinline__ void store(double *block_totals) const {
        __shared__ double of_warps[3][THREADS / 32];
        if (threadIdx.x % 32 == 0) {
            of_warps[0][threadIdx.x / 32] = losses;
            of_warps[1][threadIdx.x / 32] = errors;
            of_warps[2][threadIdx.x / 32] = bad_labels;
        }
        __syncthreads();
        if (threadIdx.x < 3) {
            double sum = 0;
            for (int warp = 0; warp < THREADS / 32; ++warp) sum += of_warps[threadIdx.x][warp];
            block_totals[3 * blockIdx.x + threadIdx.x] = sum;
        }
    }
};
