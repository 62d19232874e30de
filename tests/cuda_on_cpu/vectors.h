// CUDA's vector types, with its sizes and alignments, and their make_ functions.
#pragma once

#define VECTOR2(type, name, alignment)                                          \
    struct alignas(alignment) name##2 { type x, y; };                           \
    inline name##2 make_##name##2(type x, type y) { return {x, y}; }
#define VECTOR3(type, name)                                                     \
    struct name##3 { type x, y, z; };                                           \
    inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }
#define VECTOR4(type, name, alignment)                                          \
    struct alignas(alignment) name##4 { type x, y, z, w; };                     \
    inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
#define VECTORS(type, name, alignment2, alignment4) \
    VECTOR2(type, name, alignment2)                 \
    VECTOR3(type, name)                             \
    VECTOR4(type, name, alignment4)

VECTORS(signed char, char, 2, 4)
VECTORS(unsigned char, uchar, 2, 4)
VECTORS(short, short, 4, 8)
VECTORS(unsigned short, ushort, 4, 8)
VECTORS(int, int, 8, 16)
VECTOR2(unsigned int, uint, 8)
VECTOR4(unsigned int, uint, 16)
VECTORS(long long, longlong, 16, 16)
VECTORS(float, float, 8, 16)
VECTORS(double, double, 16, 16)

// uint3 itself is in launch.h
inline uint3 make_uint3(unsigned int x, unsigned int y, unsigned int z) { return {x, y, z}; }
struct dim3 {
    unsigned int x, y, z;
    constexpr dim3(unsigned int nx = 1, unsigned int ny = 1, unsigned int nz = 1)
        : x(nx), y(ny), z(nz) {}
};

#undef VECTOR2
#undef VECTOR3
#undef VECTOR4
#undef VECTORS
