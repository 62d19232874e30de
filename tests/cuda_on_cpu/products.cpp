// The products of mma.sync.m16n8k8 in TF32, for all lanes of a warp at once.
//
// Which lane holds what is told in cuda_kernels/mma.cuh. Sums are in float, over the eight products
// of an element in order; a tensor core's may differ in the last bits.
#include "scheduler.h"

namespace cuda_on_cpu {

namespace {

constexpr int ROWS = 16, COLUMNS = 8, DEPTH = 8;

// What a tensor core reads of an operand: the bits that TF32 does not have are dropped.
float read_as_tf32(unsigned bits) {
    bits &= 0xffffe000u;
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}

void add_product(float (&d)[ROWS][COLUMNS], Product *const (&lanes)[WARP], int which) {
    float a[ROWS][DEPTH], b[DEPTH][COLUMNS];
    for (int lane = 0; lane < WARP; ++lane) {
        const int group = lane / 4, member = lane % 4;
        const Factors &held = lanes[lane]->factors[which];
        for (int i = 0; i < 4; ++i)
            a[group + i % 2 * 8][member + i / 2 * 4] = read_as_tf32(held.a[i]);
        for (int i = 0; i < 2; ++i) b[member + 4 * i][group] = read_as_tf32(held.b[i]);
    }
    for (int row = 0; row < ROWS; ++row)
        for (int k = 0; k < DEPTH; ++k)
            for (int column = 0; column < COLUMNS; ++column)
                d[row][column] += a[row][k] * b[k][column];
}

}  // namespace

void compute_products(Product *const (&lanes)[WARP]) {
    float d[ROWS][COLUMNS];
    for (int lane = 0; lane < WARP; ++lane)
        for (int i = 0; i < 4; ++i)
            d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2] = lanes[lane]->d[i];
    for (int which = 0; which < lanes[0]->count; ++which) add_product(d, lanes, which);
    for (int lane = 0; lane < WARP; ++lane)
        for (int i = 0; i < 4; ++i)
            lanes[lane]->d[i] = d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
}

}  // namespace cuda_on_cpu
