// A batch gathered from its data set: out[k] = images[order[k]], scaled, centred and shifted.
//
//   for k, m, y, x:  with top = (out_height - height) / 2 + shifts[k][0], left likewise:
//     out[k][m][y][x] = value(images[order[k]][m][y - top][x - left]) inside the image, else background
//   out_labels[k] = labels[order[k]]
//
// value(byte) = background + byte * step for uint8 images; images of reals are taken as they are. One
// thread per pixel, any number of blocks of THREADS threads, no shared memory. `shifts` may be null, and
// `labels` with `out_labels`.

#include "constants.h"
#include "gather.cuh"

template <typename Pixel, typename Value>
__device__ void gather(const Pixel *images, const int *labels, const int *order, const int *shifts, real *out,
                       int *out_labels, int samples, int maps, int height, int width, int out_height,
                       int out_width, real background, Value value) {
    const int pixels = maps * out_height * out_width;
    const long long count = (long long)samples * pixels;
    for (long long i = blockIdx.x * (long long)THREADS + threadIdx.x; i < count;
         i += gridDim.x * (long long)THREADS) {
        const int k = i / pixels, pixel = i % pixels;
        const int x = pixel % out_width, y = pixel / out_width % out_height;
        const int m = pixel / (out_width * out_height);
        const Placement placement(height, width, out_height, out_width, shifts ? shifts + 2 * k : nullptr);
        out[i] = placed_pixel(images + ((size_t)order[k] * maps + m) * height * width, height, width, placement, y,
                              x, background, value);
        if (pixel == 0 && labels) out_labels[k] = labels[order[k]];
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
gather_bytes(const unsigned char *__restrict__ images, const int *__restrict__ labels,
             const int *__restrict__ order, const int *__restrict__ shifts, real *__restrict__ out,
             int *__restrict__ out_labels, int samples, int maps, int height, int width, int out_height,
             int out_width, real background, real step) {
    gather(images, labels, order, shifts, out, out_labels, samples, maps, height, width, out_height,
           out_width, background, [=](unsigned char byte) { return background + real(byte) * step; });
}

extern "C" __global__ void __launch_bounds__(THREADS)
gather_reals(const real *__restrict__ images, const int *__restrict__ labels,
             const int *__restrict__ order, const int *__restrict__ shifts, real *__restrict__ out,
             int *__restrict__ out_labels, int samples, int maps, int height, int width, int out_height,
             int out_width, real background) {
    gather(images, labels, order, shifts, out, out_labels, samples, maps, height, width, out_height,
           out_width, background, [](real pixel) { return pixel; });
}
