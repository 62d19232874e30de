// The layers of a group, forward and backward: gradients by their parameters and by their input.
//
//   output = layers(input)
//   LAST:  loss and its gradient by the output, as losses.cu; otherwise grad_output is given
//   partial sums over this block's samples of every gradient by a parameter   (summed by update.cu)
//   grad_input[n] = gradient by input[n]                                      (without FIRST)
//
// A block computes SAMPLES samples at a time with all maps in shared memory, as group_forward does; rather than
// fetch what the forward pass had stored, it computes the group's maps again, but for the last group, whose
// only pass this is. Launch: 1-D, THREADS threads, a block for each SAMPLES samples, or fewer: blocks
// loop; MEMORY reals of dynamic shared memory.

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
group_backward(const unsigned char *__restrict__ bytes, const real *__restrict__ reals,
               const int *__restrict__ labels, const int *__restrict__ order, const int *__restrict__ shifts,
               const int *__restrict__ number, const real *__restrict__ parameters,
               const real *__restrict__ input, const real *__restrict__ grad_output,
               real *__restrict__ grad_input, real *__restrict__ partials, real *__restrict__ saved,
               double *__restrict__ block_totals, int samples, int image_height, int image_width,
               real background, real step, real target) {
    extern __shared__ __align__(16) real memory[];
    Work work{memory, parameters, partials, saved, 0, samples, false, int(blockIdx.x)};
    const Images images{bytes, reals, order, shifts, image_height, image_width, background, step};
    __shared__ double of_warps[LossTotals::SIZE];
    __shared__ int labels_here[SAMPLES];
    const LossTotals totals{of_warps};
    totals.clear();
    prepare<Layers>(work);
    for (work.first = blockIdx.x * SAMPLES; work.first < samples; work.first += gridDim.x * SAMPLES) {
        if constexpr (FIRST)
            load_images(work, batch_of(images, number));
        else
            load_maps<InputMaps>(work, input);
        if constexpr (LAST) load_labels(work, labels, batch_of(images, number).order, labels_here);
        __syncthreads();
        Layers::forward(work);
        if constexpr (LAST)
            totals.evaluate(work, labels_here, target);
        else
            load_gradient(work, grad_output);
        __syncthreads();
        Layers::backward(work);
        if constexpr (!FIRST) {
            store_maps<InputGradientMaps>(work, grad_input);
            __syncthreads();
        }
        work.adds = true;
    }
    if constexpr (LAST) totals.store(block_totals);
}
