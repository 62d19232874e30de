// The mathematical functions that CUDA C++ knows without a header, declared here one by one: the
// standard library's <cmath> takes longer to read than most kernels take to compile.
#pragma once

// name(double), name(float) and namef(float)
#define FUNCTION1(name)                   \
    extern "C" double name(double);       \
    extern "C" float name##f(float);      \
    inline float name(float x) { return name##f(x); }
#define FUNCTION2(name)                        \
    extern "C" double name(double, double);    \
    extern "C" float name##f(float, float);    \
    inline float name(float x, float y) { return name##f(x, y); }
FUNCTION1(acos) FUNCTION1(asin) FUNCTION1(atan) FUNCTION1(cbrt) FUNCTION1(ceil) FUNCTION1(cos)
FUNCTION1(cosh) FUNCTION1(erf) FUNCTION1(erfc) FUNCTION1(exp) FUNCTION1(exp2) FUNCTION1(expm1)
FUNCTION1(fabs) FUNCTION1(floor) FUNCTION1(log) FUNCTION1(log10) FUNCTION1(log1p) FUNCTION1(log2)
FUNCTION1(nearbyint) FUNCTION1(rint) FUNCTION1(round) FUNCTION1(sin) FUNCTION1(sinh)
FUNCTION1(sqrt) FUNCTION1(tan) FUNCTION1(tanh) FUNCTION1(trunc)
FUNCTION2(atan2) FUNCTION2(copysign) FUNCTION2(fdim) FUNCTION2(fmax) FUNCTION2(fmin)
FUNCTION2(fmod) FUNCTION2(hypot) FUNCTION2(pow) FUNCTION2(remainder)
#undef FUNCTION1
#undef FUNCTION2

// The cycles of a clock of 2 GHz, told every microsecond.
extern "C" long clock(void) noexcept(true);
inline long long clock64() { return 2000LL * clock(); }

extern "C" double fma(double, double, double);
extern "C" float fmaf(float, float, float);
inline float fma(float x, float y, float z) { return fmaf(x, y, z); }
extern "C" double ldexp(double, int);
extern "C" float ldexpf(float, int);
extern "C" int abs(int) noexcept(true);
inline long long abs(long long x) { return x < 0 ? -x : x; }
inline float abs(float x) { return fabsf(x); }
inline double abs(double x) { return fabs(x); }

inline double rsqrt(double x) { return 1 / sqrt(x); }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline float rsqrt(float x) { return rsqrtf(x); }

template <class T> inline bool isnan(T x) { return __builtin_isnan(x); }
template <class T> inline bool isinf(T x) { return __builtin_isinf(x); }
template <class T> inline bool isfinite(T x) { return __builtin_isfinite(x); }
template <class T> inline bool signbit(T x) { return __builtin_signbit(x); }

#define MIN_MAX(type)                                                  \
    inline constexpr type min(type a, type b) { return b < a ? b : a; } \
    inline constexpr type max(type a, type b) { return a < b ? b : a; }
MIN_MAX(int) MIN_MAX(unsigned int) MIN_MAX(long) MIN_MAX(unsigned long)
MIN_MAX(long long) MIN_MAX(unsigned long long)
#undef MIN_MAX
// like CUDA's, these take the other argument where one is NaN
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

// fast and explicitly rounded forms
inline float __expf(float x) { return expf(x); }
inline float __exp10f(float x) { return powf(10, x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __saturatef(float x) { return fminf(fmaxf(x, 0), 1); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1 / x; }
inline float __frsqrt_rn(float x) { return 1 / sqrtf(x); }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline int __float2int_rn(float x) { return int(rintf(x)); }
inline int __float2int_rz(float x) { return int(x); }
inline int __float2int_rd(float x) { return int(floorf(x)); }
inline int __float2int_ru(float x) { return int(ceilf(x)); }
inline float __int2float_rn(int x) { return float(x); }
inline float __uint2float_rn(unsigned int x) { return float(x); }

// bits
namespace cuda_on_cpu {
template <class To, class From>
inline To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
}
}  // namespace cuda_on_cpu
inline float __int_as_float(int x) { return cuda_on_cpu::bits_as<float>(x); }
inline int __float_as_int(float x) { return cuda_on_cpu::bits_as<int>(x); }
inline float __uint_as_float(unsigned int x) { return cuda_on_cpu::bits_as<float>(x); }
inline unsigned int __float_as_uint(float x) { return cuda_on_cpu::bits_as<unsigned int>(x); }
inline double __longlong_as_double(long long x) { return cuda_on_cpu::bits_as<double>(x); }
inline long long __double_as_longlong(double x) { return cuda_on_cpu::bits_as<long long>(x); }
inline int __popc(unsigned int x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __mul24(int x, int y) { return x * y; }
inline int __mulhi(int x, int y) { return int((long long)x * y >> 32); }
inline unsigned int __umulhi(unsigned int x, unsigned int y) {
    return (unsigned int)((unsigned long long)x * y >> 32);
}
