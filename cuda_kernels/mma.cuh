// Products of small matrices by one warp, on tensor cores in TF32: d += a b, with a of 16 x 8,
// b of 8 x 8 and d of 16 x 8, accumulated in float.
//
// Who holds what, in the terms of the PTX ISA (mma.m16n8k8, .row.col, .tf32). All 32 lanes of a warp
// of a one-dimensional block take part, together and in the same call; each holds a part of every
// matrix. With groupID = lane / 4 and threadID_in_group = lane % 4 a lane holds
//
//     a[0]: row groupID,     column threadID_in_group
//     a[1]: row groupID + 8, column threadID_in_group
//     a[2]: row groupID,     column threadID_in_group + 4
//     a[3]: row groupID + 8, column threadID_in_group + 4
//
//     b[0]: row threadID_in_group,     column groupID
//     b[1]: row threadID_in_group + 4, column groupID
//
//     d[0]: row groupID,     column 2 threadID_in_group
//     d[1]: row groupID,     column 2 threadID_in_group + 1
//     d[2]: row groupID + 8, column 2 threadID_in_group
//     d[3]: row groupID + 8, column 2 threadID_in_group + 1
//
// The product is a meeting of the warp but, like a shuffle, no barrier for memory: lanes that
// exchange values through shared memory need __syncwarp() as well.
//
// TF32 has float's exponent and 10 bits of its mantissa; of an operand that has more the rest is
// dropped, so operands are rounded first, at a relative error of 2^-11 at most. Three products of
// operands that are split in two (a = big + small) leave out small * small alone, about 2^-22.
//
// There are no tensor cores for this before sm_80: the lanes exchange their operands by 32 shuffles.

// The nearest TF32 number, ties away from zero, as the bits of a float.
__device__ inline unsigned to_tf32(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return bits;
#else
    const unsigned bits = __float_as_uint(x);
    const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    return is_nan ? 0x7fffffffu : (bits + 0x1000u) & 0xffffe000u;
#endif
}

// A lane's part of an operand, split: x = big + small but for about 2^-22 of it. x - big is exact.
template <int N>
struct Tf32Parts {
    unsigned big[N], small[N];
    Tf32Parts() = default;
    __device__ explicit Tf32Parts(const float (&x)[N]) {
#pragma unroll
        for (int i = 0; i < N; ++i) {
            big[i] = to_tf32(x[i]);
            small[i] = to_tf32(x[i] - __uint_as_float(big[i]));
        }
    }
};

// mma_tf32: d += a b for operands in TF32.
// mma_split: d += a b for operands in float, as near as TF32 comes (PASSES = 1), with b alone as it is (2), or
// as near as float comes (3); operands
// that several products share are split once and given as parts.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800

__device__ inline void mma_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <int PASSES>
__device__ __forceinline__ void mma_split(float (&d)[4], const Tf32Parts<4> &a, const Tf32Parts<2> &b) {
    static_assert(PASSES >= 1 && PASSES <= 3, "operands are rounded once, or one or both split in two");
    if constexpr (PASSES == 3) mma_tf32(d, a.small, b.big);  // the smallest first
    if constexpr (PASSES >= 2) mma_tf32(d, a.big, b.small);
    mma_tf32(d, a.big, b.big);
}
template <int PASSES>
__device__ void mma_split(float (&d)[4], const float (&a)[4], const float (&b)[2]) {
    mma_split<PASSES>(d, Tf32Parts<4>(a), Tf32Parts<2>(b));
}

#elif defined(CUDA_ON_CPU)

// The last lane to come computes for all of them (tests/cuda_on_cpu/products.cpp), so that a
// product, or the three of a split, takes one meeting.
inline void mma_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                     cuda_on_cpu::Site site = cuda_on_cpu::here()) {
    cuda_on_cpu::warp_product(d, {{a, b}}, 1, site);
}

template <int PASSES>
void mma_split(float (&d)[4], const Tf32Parts<4> &a, const Tf32Parts<2> &b,
               cuda_on_cpu::Site site = cuda_on_cpu::here()) {
    static_assert(PASSES >= 1 && PASSES <= 3, "operands are rounded once, or one or both split in two");
    if constexpr (PASSES == 3)
        cuda_on_cpu::warp_product(d, {{a.small, b.big}, {a.big, b.small}, {a.big, b.big}}, 3, site);
    else if constexpr (PASSES == 2)
        cuda_on_cpu::warp_product(d, {{a.big, b.small}, {a.big, b.big}}, 2, site);
    else
        cuda_on_cpu::warp_product(d, {{a.big, b.big}}, 1, site);
}
template <int PASSES>
void mma_split(float (&d)[4], const float (&a)[4], const float (&b)[2],
               cuda_on_cpu::Site site = cuda_on_cpu::here()) {
    mma_split<PASSES>(d, Tf32Parts<4>(a), Tf32Parts<2>(b), site);
}

#else

__device__ inline void mma_by_shuffles(float (&d)[4], const float (&a)[4], const float (&b)[2]) {
    const int lane = threadIdx.x % 32, group = lane / 4, column = 2 * (lane % 4);
#pragma unroll
    for (int k = 0; k < 8; ++k) {
        const int member = k % 4, half = k / 4;
        const float top = __shfl_sync(0xffffffffu, a[2 * half], 4 * group + member);
        const float bottom = __shfl_sync(0xffffffffu, a[2 * half + 1], 4 * group + member);
        const float left = __shfl_sync(0xffffffffu, b[half], 4 * column + member);
        const float right = __shfl_sync(0xffffffffu, b[half], 4 * (column + 1) + member);
        d[0] += top * left;
        d[1] += top * right;
        d[2] += bottom * left;
        d[3] += bottom * right;
    }
}

// What a tensor core reads of an operand.
__device__ inline float read_as_tf32(unsigned bits) { return __uint_as_float(bits & 0xffffe000u); }

__device__ inline void mma_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    const float left[4] = {read_as_tf32(a[0]), read_as_tf32(a[1]), read_as_tf32(a[2]),
                           read_as_tf32(a[3])};
    const float right[2] = {read_as_tf32(b[0]), read_as_tf32(b[1])};
    mma_by_shuffles(d, left, right);
}

template <int N>
__device__ inline void join(float (&x)[N], const Tf32Parts<N> &parts) {
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] = __uint_as_float(parts.big[i]) + __uint_as_float(parts.small[i]);
}

template <int PASSES>
__device__ void mma_split(float (&d)[4], const float (&a)[4], const float (&b)[2]) {
    static_assert(PASSES >= 1 && PASSES <= 3, "operands are rounded once, or one or both split in two");
    if constexpr (PASSES == 1)
        mma_tf32(d, Tf32Parts<4>(a).big, Tf32Parts<2>(b).big);
    else
        mma_by_shuffles(d, a, b);  // whole floats cost no more here
}
template <int PASSES>
__device__ void mma_split(float (&d)[4], const Tf32Parts<4> &a, const Tf32Parts<2> &b) {
    if constexpr (PASSES == 1) {
        mma_tf32(d, a.big, b.big);
    } else {
        float left[4], right[2];
        join(left, a);
        join(right, b);
        mma_split<PASSES>(d, left, right);
    }
}

#endif
