// Scalar numerics: the operations of normfuse_ir::num, bit for bit.
//
// Compiled without contraction, flushing or fast division, so `+ - * /` and sqrt are IEEE operations. No CUDA header is
// needed: conversions are PTX instructions, or the same integer arithmetic as on the CPU.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

// Element types, as tags.
struct F32 {
    typedef float Raw;
};
struct F16 {
    typedef u16 Raw;
};
struct BF16 {
    typedef u16 Raw;
};

template <class T> __device__ __forceinline__ float load(typename T::Raw v);
template <> __device__ __forceinline__ float load<F32>(float v) { return v; }
template <> __device__ __forceinline__ float load<BF16>(u16 v) { return __uint_as_float((u32)v << 16); }
template <> __device__ __forceinline__ float load<F16>(u16 v) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v));
    return f;
}

// To nearest even.
template <class T> __device__ __forceinline__ typename T::Raw store(float v);
template <> __device__ __forceinline__ float store<F32>(float v) { return v; }
template <> __device__ __forceinline__ u16 store<BF16>(float v) {
    u16 r;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r) : "f"(v));
    return r;
}
template <> __device__ __forceinline__ u16 store<F16>(float v) {
    u16 r;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(v));
    return r;
}

// Rounds to T and back.
template <class T> __device__ __forceinline__ float rnd(float v) { return load<T>(store<T>(v)); }
template <> __device__ __forceinline__ float rnd<F32>(float v) { return v; }

__device__ __forceinline__ bool is_nan(float v) { return v != v; }

// NaN propagates; max(-0, +0) = +0, min(-0, +0) = -0.
__device__ __forceinline__ float max_nan(float a, float b) {
    float r;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
    return r;
}
__device__ __forceinline__ float min_nan(float a, float b) {
    float r;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
    return r;
}

// Correctly rounded 1 / sqrt(v): two roundings in f64, as on the CPU.
__device__ __forceinline__ float rsqrt_exact(float v) { return (float)(1.0 / sqrt((double)v)); }

// ---- 8-bit and 4-bit floats ----

// What tells one narrow float from another; codes are magnitudes. -1: the format has none.
template <int EXP, int MAN, int BIAS, int MAX, int INF, int NAN_CODE, bool NEGATIVE_ZERO> struct Narrow {
    // The code of an f32, to nearest even, denormals included.
    static __device__ u8 encode(float v, bool saturate) {
        if (is_nan(v)) return NAN_CODE >= 0 ? NAN_CODE : MAX;
        const u32 bits = __float_as_uint(v);
        const u32 sign = (bits >> 31) << (EXP + MAN);
        const int biased = (bits >> 23) & 0xff;
        const u32 fraction = bits & 0x7fffff;
        // An f32 denormal is far below half of the smallest value of any format.
        const u32 significand = biased == 0 ? fraction : fraction | 0x800000;
        const int exponent = biased == 0 ? -126 : biased - 127;
        const int least = 1 - BIAS;
        const int scale = exponent > least ? exponent : least;
        int shift = scale - exponent + 23 - MAN;
        if (shift > 26) shift = 26;
        const u32 kept = significand >> shift;
        const u32 rest = significand & ((1u << shift) - 1);
        const u32 half = 1u << (shift - 1);
        const u32 rounded = kept + (rest > half || (rest == half && (kept & 1)));
        const u32 code = rounded + ((u32)(scale - least) << MAN);
        if (biased == 0xff || code > MAX) {
            const int over = saturate ? -1 : (INF >= 0 ? INF : NAN_CODE);
            if (over < 0) return MAX | sign;
            return NEGATIVE_ZERO || INF >= 0 ? over | sign : over;
        }
        return code == 0 && !NEGATIVE_ZERO ? 0 : code | sign;
    }
    static __device__ float decode(u8 c) {
        const u32 code = c & ((2u << (EXP + MAN)) - 1);
        const u32 magnitude = code & ((1u << (EXP + MAN)) - 1);
        const bool nan = NAN_CODE < 0 ? false
                         : !NEGATIVE_ZERO ? code == NAN_CODE
                                          : magnitude > (INF >= 0 ? INF : NAN_CODE - 1);
        if (nan) return __uint_as_float(0x7fc00000);
        float value;
        if (INF >= 0 && magnitude == INF) {
            value = __uint_as_float(0x7f800000);
        } else {
            const int exponent = magnitude >> MAN;
            const u32 fraction = magnitude & ((1u << MAN) - 1);
            const u32 significand = exponent == 0 ? fraction : fraction | (1u << MAN);
            const int unit = (exponent == 0 ? 1 : exponent) - BIAS - MAN;
            value = (float)significand * __uint_as_float((u32)(unit + 127) << 23);
        }
        return code >> (EXP + MAN) & 1 ? -value : value;
    }
};

typedef Narrow<4, 3, 7, 0x7e, -1, 0x7f, true> E4M3FN_;
typedef Narrow<4, 3, 8, 0x7f, -1, 0x80, false> E4M3FNUZ_;
typedef Narrow<5, 2, 15, 0x7b, 0x7c, 0x7e, true> E5M2_;
typedef Narrow<5, 2, 16, 0x7f, -1, 0x80, false> E5M2FNUZ_;
typedef Narrow<2, 1, 1, 7, -1, -1, true> E2M1_;

struct E4M3FNUZ : E4M3FNUZ_ {};
struct E5M2 : E5M2_ {};
struct E5M2FNUZ : E5M2FNUZ_ {};
struct E2M1 : E2M1_ {
    static __device__ u8 encode(float v, bool) { return E2M1_::encode(v, true); }
};
struct E4M3FN : E4M3FN_ {
    // The hardware's conversion saturates, and gives NaN the code 0x7f.
    static __device__ __forceinline__ u8 encode(float v, bool saturate) {
        u16 pair;
        asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(0.0f), "f"(v));
        // 464 lies in the middle between 448 and what would come next, and goes to 448, which is even.
        if (!saturate && fabsf(v) > 464.0f) pair |= 0x7f;
        return (u8)pair;
    }
};
struct E8M0 {
    static __device__ u8 encode(float v, bool saturate) {
        const u32 bits = __float_as_uint(v);
        if (!saturate) {
            const u32 exponent = bits >> 23 & 0xff;
            if (exponent == 0xff) return 255;
            const bool guard = bits & 0x400000, below = bits & 0x3fffff;
            return exponent + (guard && (below || exponent > 0));
        }
        if (is_nan(v)) return 255;
        // Up to the next power of two: an f32 denormal is one of at least 2^-149, all below 2^-127 or near it.
        const u32 magnitude = bits & 0x7fffffff;
        if (magnitude <= 0x400000) return 0;
        if (magnitude < 0x800000) return 1;
        const u32 up = (magnitude >> 23) + ((magnitude & 0x7fffff) != 0);
        return up > 254 ? 254 : up;
    }
    static __device__ float decode(u8 code) {
        return __uint_as_float(code == 255 ? 0x7fc00000 : code == 0 ? 0x00400000 : (u32)code << 23);
    }
};

// ---- elementary functions: the f64 cores of normfuse_ir::num::wide ----

__device__ const double ATANH[13] = {2.0,
                                     0.6666666666666666,
                                     0.4,
                                     0.2857142857142857,
                                     0.2222222222222222,
                                     0.18181818181818182,
                                     0.15384615384615385,
                                     0.13333333333333333,
                                     0.11764705882352941,
                                     0.10526315789473684,
                                     0.09523809523809523,
                                     0.08695652173913043,
                                     0.08};
__device__ const double INV_FACTORIAL[14] = {1.0,
                                             1.0,
                                             0.5,
                                             0.16666666666666666,
                                             0.041666666666666664,
                                             0.008333333333333333,
                                             0.001388888888888889,
                                             0.0001984126984126984,
                                             2.48015873015873e-5,
                                             2.7557319223985893e-6,
                                             2.755731922398589e-7,
                                             2.505210838544172e-8,
                                             2.08767569878681e-9,
                                             1.6059043836821613e-10};

template <int N> __device__ double horner(double x, const double (&c)[N]) {
    double sum = 0.0;
#pragma unroll
    for (int i = N - 1; i >= 0; --i) sum = c[i] + x * sum;
    return sum;
}
__device__ __forceinline__ double nearest(double x) { return (x + 6755399441055744.0) - 6755399441055744.0; }
__device__ __forceinline__ double power_of_two(i64 k) { return __longlong_as_double((k + 1023) << 52); }
__device__ __forceinline__ double scale_by(double p, i64 k) {
    const i64 half = k / 2;
    return p * power_of_two(half) * power_of_two(k - half);
}
__device__ double exp_wide(double x) {
    if (x != x) return x;
    if (x > 710.0) return __longlong_as_double(0x7ff0000000000000ll);
    if (x < -746.0) return 0.0;
    const double k = nearest(x * 1.4426950408889634);
    const double r = (x - k * 0.6931471803691238) - k * 1.9082149292705877e-10;
    return scale_by(horner(r, INV_FACTORIAL), (i64)k);
}
__device__ double exp2_wide(double x) {
    if (x != x) return x;
    if (x > 1025.0) return __longlong_as_double(0x7ff0000000000000ll);
    if (x < -1080.0) return 0.0;
    const double k = nearest(x);
    return scale_by(horner((x - k) * 0.6931471805599453, INV_FACTORIAL), (i64)k);
}
__device__ __forceinline__ double log_kernel(double f) {
    const double s = f / (2.0 + f);
    return s * horner(s * s, ATANH);
}
// A positive finite number as m * 2^e, m between sqrt(1/2) and sqrt(2). Every f32 is a normal f64.
__device__ __forceinline__ double split(double x, double* e) {
    const i64 bits = __double_as_longlong(x);
    const i64 exponent = (bits >> 52) - 1023;
    const double m = __longlong_as_double((bits & 0xfffffffffffffll) | (1023ll << 52));
    const bool high = m > 1.4142135623730951;
    *e = (double)(exponent + high);
    return high ? m * 0.5 : m;
}
__device__ __forceinline__ bool log_special(double x, double* value) {
    if (x != x || x < 0.0) *value = __longlong_as_double(0x7ff8000000000000ll);
    else if (x == 0.0) *value = __longlong_as_double(0xfff0000000000000ll);
    else if (x == __longlong_as_double(0x7ff0000000000000ll)) *value = x;
    else return false;
    return true;
}
__device__ float log_f(float v) {
    double e, x = v;
    if (log_special(x, &e)) return (float)e;
    const double m = split(x, &e);
    return (float)(e * 0.6931471803691238 + (log_kernel(m - 1.0) + e * 1.9082149292705877e-10));
}
__device__ float log2_f(float v) {
    double e, x = v;
    if (log_special(x, &e)) return (float)e;
    const double m = split(x, &e);
    return (float)(e + log_kernel(m - 1.0) * 1.4426950408889634);
}
__device__ float exp_f(float v) { return (float)exp_wide(v); }
__device__ float exp2_f(float v) { return (float)exp2_wide(v); }
__device__ bool pow_by_products(double a, double y, double* value) {
    const double twice = fabs(y) * 2.0;
    if (!(twice <= 16.0) || twice != (double)(u32)twice) return false;
    const u32 halves = (u32)twice;
    double p = halves % 2 == 1 ? sqrt(a) : 1.0;
    for (u32 i = 0; i < halves / 2; ++i) p *= a;
    if (y > 0.0) {
        *value = p;
        return true;
    }
    // What is no normal number would lose bits as a reciprocal.
    const i64 exponent = __double_as_longlong(p) >> 52 & 0x7ff;
    if (exponent == 0 || exponent == 0x7ff) return false;
    *value = 1.0 / p;
    return true;
}
__device__ double log2_wide(double x) {
    double e;
    if (log_special(x, &e)) return e;
    const double m = split(x, &e);
    return e + log_kernel(m - 1.0) * 1.4426950408889634;
}
// x^y with the special cases of C99; both are f32.
__device__ float pow_f(float base, float exponent) {
    const double x = base, y = exponent, infinity = __longlong_as_double(0x7ff0000000000000ll);
    if (y == 0.0 || x == 1.0) return 1.0f;
    if (x != x || y != y) return __uint_as_float(0x7fc00000);
    const double a = fabs(x);
    if (fabs(y) == infinity) return a == 1.0 ? 1.0f : (a > 1.0) == (y > 0.0) ? (float)infinity : 0.0f;
    const bool integer = fabs(y) >= 9007199254740992.0 || y == (double)(i64)y;
    const bool odd = integer && fabs(y) < 9007199254740992.0 && ((i64)y & 1);
    const double sign = odd && __double_as_longlong(x) < 0 ? -1.0 : 1.0;
    if (a == 0.0 || a == infinity) return (float)(sign * ((a == 0.0) == (y > 0.0) ? 0.0 : infinity));
    if (x < 0.0 && !integer) return __uint_as_float(0x7fc00000);
    double value;
    if (!pow_by_products(a, y, &value)) value = exp2_wide(log2_wide(a) * y);
    return (float)(sign * value);
}
