// The layers of a group, forward: images or maps in, maps out.
//
//   output[n] = layers(input[n])
//
// A block computes SAMPLES samples at a time with all maps between the layers in shared memory
// (group.cuh). The input is a batch of images, gathered, scaled and placed as gather.cu does (FIRST), or
// the output of the group before. Launch: 1-D, THREADS threads, a block for each SAMPLES samples, or
// fewer: blocks loop; MEMORY reals of dynamic shared memory.

#include "activation.cuh"
#include "constants.h"
#include "cluster.cuh"
#include "group.cuh"
#include "group_conv2d.cuh"
#include "group_pooling.cuh"
#include "group_dense.cuh"
#include "group_tensor_conv2d.cuh"
#include "group_tensor_matrix.cuh"
#include "losses.cuh"
#include "network.h"
#include "group_ends.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, 1)
group_forward(const unsigned char *__restrict__ bytes, const real *__restrict__ reals,
              const int *__restrict__ order, const int *__restrict__ shifts, const int *__restrict__ number,
              const real *__restrict__ parameters, const real *__restrict__ input, real *__restrict__ output,
              int samples, int image_height, int image_width, real background, real step) {
    extern __shared__ __align__(16) real memory[];
    Work work{memory, parameters, nullptr, nullptr, 0, samples, false, int(blockIdx.x)};
    const Images images{bytes, reals, order, shifts, image_height, image_width, background, step};
    prepare<Layers>(work);
    for (work.first = blockIdx.x * SAMPLES; work.first < samples; work.first += gridDim.x * SAMPLES) {
        if constexpr (FIRST)
            load_images(work, batch_of(images, number));
        else
            load_maps<InputMaps>(work, input);
        __syncthreads();
        Layers::forward(work);
        store_maps<OutputMaps>(work, output);
        __syncthreads();
    }
}
