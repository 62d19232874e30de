// Online training: one sample, one update, for a run of samples and for many networks, in one launch.
//
//   for each network, for s from begin to end - 1, with n = orders[network][s]:
//     forward, loss and backward of image n alone
//     the optimiser's update with scalars[network][s]
//     totals[network] += (loss, is it an error, is the label out of range);   losses[network] = loss
//
// A block, or a cluster of BLOCKS blocks, trains one network, its weights and maps in shared memory and registers
// (online.cuh), which come from the flat arrays `parameters` and go back there at the end. `gradients` get
// those of the last sample. Arrays of several networks lie one network behind the other, PARAMETERS apart;
// the images are common to all. `first` and `second` are the optimiser's state, as for update.cu; there is
// none in a cluster, whose blocks would have to share it.
//
// Launch: 1-D, THREADS threads, BLOCKS blocks for each network, or fewer: they loop; MEMORY reals of dynamic
// shared memory.

#include "activation.cuh"
#include "constants.h"
#include "cluster.cuh"
#include "group.cuh"
#include "group_conv2d.cuh"
#include "group_pooling.cuh"
#include "group_dense.cuh"
#include "losses.cuh"
#include "online.cuh"
#include "network.h"
#include "group_ends.cuh"

// A thread's pixels of the sample that comes next, on their way from global memory while this one is computed.
struct NextSample {
    static constexpr int PIXELS = (InputMaps::SIZE + THREADS - 1) / THREADS;
    unsigned char bytes[PIXELS];
    real reals[PIXELS];
    int label;

    __device__ __forceinline__ void fetch(const Images &images, const int *labels, int s) {
        const int image = images.order[s];
        label = labels[image];
#pragma unroll
        for (int p = 0; p < PIXELS; ++p) {
            const long long from = source(images, s, p);
            if (from < 0) continue;
            const size_t at = (size_t)image * InputMaps::MAPS * images.height * images.width + from;
            if (images.bytes)
                bytes[p] = images.bytes[at];
            else
                reals[p] = images.reals[at];
        }
    }

    __device__ __forceinline__ void place(const Work &work, const Images &images, int s, int *label_here) const {
        if (threadIdx.x == 0) *label_here = label;
#pragma unroll
        for (int p = 0; p < PIXELS; ++p) {
            const int i = thread_index() + p * THREADS;
            if (i >= InputMaps::SIZE) continue;
            real value = images.background;
            if (source(images, s, p) >= 0)
                value = images.bytes ? images.background + real(bytes[p]) * images.step : reals[p];
            work.memory[InputMaps::at_pixel(0, i)] = value;
        }
    }

private:
    // The place in its image of this thread's pixel p, or -1 where there is none but the background.
    static __device__ __forceinline__ long long source(const Images &images, int s, int p) {
        const int i = thread_index() + p * THREADS;
        if (i >= InputMaps::SIZE) return -1;
        const Placement placement(images.height, images.width, InputMaps::HEIGHT, InputMaps::WIDTH,
                                  images.shifts ? images.shifts + 2 * s : nullptr);
        return placed(i / InputMaps::PIXELS, images.height, images.width, placement,
                      i / InputMaps::WIDTH % InputMaps::HEIGHT, i % InputMaps::WIDTH);
    }
};

extern "C" __global__ void CLUSTER_OF(BLOCKS) __launch_bounds__(THREADS, 1)
online(const unsigned char *bytes, const real *reals, const int *labels, const int *orders, const int *shifts,
       real *parameters, real *gradients, real *first, real *second, const real *constants,
       const real *scalars, real *losses, double *totals, int networks, int samples, int begin, int end,
       int image_height, int image_width, real background, real step, real target) {
    extern __shared__ __align__(16) real memory[];
    __shared__ double of_warps[LossTotals::SIZE];
    __shared__ int label;
    for (int network = blockIdx.x / BLOCKS; network < networks; network += gridDim.x / BLOCKS) {
        const size_t flat = (size_t)network * PARAMETERS, row = (size_t)network * samples;
        const Work work{memory, parameters + flat, memory, nullptr, 0, 1, false, 0};
        for (int i = threadIdx.x; i < MEMORY; i += THREADS) memory[i] = 0;
        __syncthreads();
        Layers layers;
        layers.load(work, parameters + flat);
        const LossTotals seen{of_warps};
        seen.clear();
        Share<true>::barrier();  // all blocks of a cluster are there before any writes to another
        const Images images{bytes, reals, orders + row, shifts ? shifts + 2 * row : nullptr,
                            image_height, image_width, background, step};
        NextSample sample;
        if (begin < end) sample.fetch(images, labels, begin);
        for (int s = begin; s < end; ++s) {
            sample.place(work, images, s, &label);
            __syncthreads();
            if (s + 1 < end) sample.fetch(images, labels, s + 1);
            layers.forward(work);
            seen.evaluate(work, &label, target);
            __syncthreads();
            const OnlineUpdate<Optimizer> update{
                Optimizer(nullptr, first ? first + flat : nullptr, second ? second + flat : nullptr, constants,
                          scalars + (row + s) * Optimizer::SCALARS),
                s + 1 == end ? gradients + flat : nullptr};
            layers.backward(work, update);
            layers.finish(work, update);
            Share<true>::barrier();
        }
        layers.store(work, parameters + flat);
        if (first_of_cluster()) seen.add(losses + network, totals + 3 * network);
        Share<true>::barrier();  // before the next network takes the memory
    }
}
