// The losses of a batch: value, gradient by the outputs, number of errors.
//
//   mse:            loss[n] = 0.5 * sum over c of (output[n][c] - t)^2, t = +target for the label, else -target
//   cross_entropy:  loss[n] = log(sum over c of exp(output[n][c])) - output[n][label]
//   grad_output[n][c] = d loss[n] / d output[n][c] / samples
//   an error is a sample whose first largest output is not its label's; a label out of range gives
//   loss and gradient 0, counts as an error, and is counted
//
// *_samples: one thread per sample, any number of blocks of THREADS threads; writes each sample's loss
// and verdict. sum_losses: one block, which adds them in a fixed order to `totals` (losses, errors,
// bad labels) and writes the mean to loss[0]; THREADS doubles of static shared memory.

#include "constants.h"
#include "losses.cuh"
#include "reduce.cuh"

template <typename Kind>
__device__ void each_sample(const real *output, const int *labels, real *grad_output, double *sample_losses,
                            int *verdicts, int samples, int classes, real target) {
    for (int n = blockIdx.x * THREADS + threadIdx.x; n < samples; n += gridDim.x * THREADS) {
        const real *mine = output + (size_t)n * classes;
        real *grad = grad_output + (size_t)n * classes;
        const int answer = verdict<1>(mine, labels[n], classes, 0);
        sample_losses[n] = Kind::template evaluate<1>(mine, labels[n], classes, samples, target, answer, 0,
                                                      [&](int c, real gradient) { grad[c] = gradient; });
        verdicts[n] = answer;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
mse_samples(const real *__restrict__ output, const int *__restrict__ labels,
            real *__restrict__ grad_output, double *__restrict__ sample_losses, int *__restrict__ verdicts,
            int samples, int classes, real target) {
    each_sample<MseLoss>(output, labels, grad_output, sample_losses, verdicts, samples, classes, target);
}

extern "C" __global__ void __launch_bounds__(THREADS)
cross_entropy_samples(const real *__restrict__ output, const int *__restrict__ labels,
                      real *__restrict__ grad_output, double *__restrict__ sample_losses,
                      int *__restrict__ verdicts, int samples, int classes) {
    each_sample<CrossEntropyLoss>(output, labels, grad_output, sample_losses, verdicts, samples, classes, real(0));
}

extern "C" __global__ void __launch_bounds__(THREADS)
sum_losses(const double *__restrict__ sample_losses, const int *__restrict__ verdicts,
           real *__restrict__ loss, double *__restrict__ totals, int samples) {
    __shared__ double scratch[THREADS];
    double sum = 0, wrong = 0, bad = 0;
    for (int n = threadIdx.x; n < samples; n += THREADS) {
        sum += sample_losses[n];
        wrong += verdicts[n] & WRONG ? 1 : 0;
        bad += verdicts[n] & BAD_LABEL ? 1 : 0;
    }
    sum = block_sum<THREADS>(sum, scratch);
    wrong = block_sum<THREADS>(wrong, scratch);
    bad = block_sum<THREADS>(bad, scratch);
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        loss[0] = real(sum / samples);
        totals[0] += sum;
        totals[1] += wrong;
        totals[2] += bad;
    }
}
