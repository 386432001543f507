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

#include "power.cuh"

template <class A, class B> struct Same {
    static constexpr bool value = false;
};
template <class A> struct Same<A, A> {
    static constexpr bool value = true;
};

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
    // As one of a pair: alone it would be left to the unit that has few conversions a cycle.
    u32 r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(0.0f), "f"(v));
    return (u16)r;
}
template <> __device__ __forceinline__ u16 store<F16>(float v) {
    u32 r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(0.0f), "f"(v));
    return (u16)r;
}

// Two of 16 bits in a word, the first in its low half.
template <class T> __device__ __forceinline__ u32 store_pair(float a, float b);
template <> __device__ __forceinline__ u32 store_pair<BF16>(float a, float b) {
    u32 r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(b), "f"(a));
    return r;
}
template <> __device__ __forceinline__ u32 store_pair<F16>(float a, float b) {
    u32 r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(b), "f"(a));
    return r;
}
template <class T> __device__ __forceinline__ float low_of(u32 pair) { return load<T>((u16)pair); }
template <class T> __device__ __forceinline__ float high_of(u32 pair) { return load<T>((u16)(pair >> 16)); }
template <> __device__ __forceinline__ float high_of<BF16>(u32 pair) { return __uint_as_float(pair & 0xffff0000); }

// Products of two pairs, each rounded once: as if rounded to f32 first, which holds every one that does not round to 0 anyway.
// `runtime/tests/cuda/elementary.rs` goes through those of bf16.
template <class T> __device__ __forceinline__ u32 multiply_pairs(u32 a, u32 b);
template <> __device__ __forceinline__ u32 multiply_pairs<BF16>(u32 a, u32 b) {
    u32 r;
    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
}
template <> __device__ __forceinline__ u32 multiply_pairs<F16>(u32 a, u32 b) {
    u32 r;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
}

// Rounds to T and back.
template <class T> __device__ __forceinline__ float rnd(float v) { return load<T>(store<T>(v)); }
template <> __device__ __forceinline__ float rnd<F32>(float v) { return v; }

// A pair of numbers.
struct Two {
    float a, b;
};
// Both to T and back, with one conversion.
template <class T> __device__ __forceinline__ Two rnd(Two v) {
    const u32 pair = store_pair<T>(v.a, v.b);
    return {low_of<T>(pair), high_of<T>(pair)};
}
template <> __device__ __forceinline__ Two rnd<F32>(Two v) { return v; }
// Of numbers that are rounded to From.
template <class T, class From> __device__ __forceinline__ Two rnd_from(Two v) {
    if constexpr (Same<T, From>::value) return v;
    else return rnd<T>(v);
}

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

// True from 2^-60 to 2^60.
__device__ __forceinline__ bool is_moderate(float x) { return __float_as_uint(x) - 0x21800000u <= 0x5d800000u - 0x21800000u; }

// Correctly rounded 1 / sqrt(v): two roundings in f64, as on the CPU.
__device__ __forceinline__ float rsqrt_wide(float v) { return (float)(1.0 / sqrt((double)v)); }
// The same of a number that is neither tiny nor huge: the hardware's estimate and one step of the third order.
__device__ __forceinline__ float rsqrt_of_moderate(float v) {
    float y;
    asm("rsqrt.approx.f32 %0, %1;" : "=f"(y) : "f"(v));
#if __CUDA_ARCH__ == 900
    // In f32, from both halves of v * y. `runtime/tests/cuda/elementary.rs` goes through what Hopper's estimates give.
    const float product = v * y, low = __fmaf_rn(v, y, -product);
    const float e = __fmaf_rn(-low, y, __fmaf_rn(-product, y, 1.0f));
    return __fmaf_rn(y, __fmaf_rn(e, 0.375f, 0.5f) * e, y);
#else
    // In f64, from any estimate of 21 bits: `runtime/tests/exact.rs` goes through them.
    const double d = y;
    const double e = __fma_rn(-((double)v * d), d, 1.0);
    return (float)__fma_rn(d * e, __fma_rn(e, 0.375, 0.5), d);
#endif
}
__device__ __forceinline__ float rsqrt_exact(float v) { return is_moderate(v) ? rsqrt_of_moderate(v) : rsqrt_wide(v); }

// A number that many are divided by.
struct Divisor {
    float by, inverse;
    // What the inverse lacks, where it has few bits.
    float rest;
    // The largest magnitude of which `quotient` may be asked; negative if it may be of none.
    float most;
};
// The correctly rounded 1 / x of a number that is neither tiny nor huge: the hardware's estimate and one step of Newton's, which
// `runtime/tests/cuda/elementary.rs` goes through.
__device__ __forceinline__ float inverse_of_moderate(float x) {
    float estimate;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(estimate) : "f"(x));
    return __fmaf_rn(estimate, __fmaf_rn(-x, estimate, 1.0f), estimate);
}
// For dividends of BITS significant bits: 8, 11 or 24. Quotients below 2^-40 need not be exact. Within these bounds no step of
// `quotient` overflows, or loses bits that matter.
template <int BITS, bool POWER> __device__ __forceinline__ Divisor divisor(float by) {
    const bool fits = is_moderate(by) && (BITS < 24 || (__float_as_uint(by) & 0x7fffff) != 0x7fffff);
    // The exponent of a power of two's inverse is the negative one.
    const float inverse = POWER ? __uint_as_float(0x7f000000u - __float_as_uint(by)) : inverse_of_moderate(by);
    Divisor d = {by, inverse, 0.0f, fits ? by * 0x1p40f : -1.0f};
    if constexpr (BITS == 8 && !POWER) {
        // Products with at most 16 bits are exact. The rest is positive, so that zeros keep their signs.
        const float high = __uint_as_float((__float_as_uint(d.inverse) - 1) & 0xffffff00u);
        d.rest = __fmaf_rn(-high, by, 1.0f) * d.inverse;
        d.inverse = high;
    }
    return d;
}
// x / d. Of 8 bits, x times an inverse of two parts: not always correctly rounded, but on the same side of every number of at most 11 bits
// as the correctly rounded quotient, or equal to it as that is. So it has the same code, and the same nearest integer below 2^10.
// Of more bits, correctly rounded: the product with the rounded inverse, and a correction by the exact remainder (Markstein, 1990),
// of 24 bits two. `runtime/tests/exact.rs` goes through those of 8 and 11 bits. The remainder has the sign that keeps zeros' signs.
template <int BITS, bool POWER> __device__ __forceinline__ float quotient(float x, const Divisor& d) {
    // By a power of two the product is exact.
    if constexpr (POWER) return x * d.inverse;
    if constexpr (BITS == 8) return __fmaf_rn(x, d.inverse, x * d.rest);
    const float q = x * d.inverse;
    const float once = __fmaf_rn(-__fmaf_rn(q, d.by, -x), d.inverse, q);
    return BITS == 11 ? once : __fmaf_rn(-__fmaf_rn(once, d.by, -x), d.inverse, once);
}

// The correctly rounded x / c of a constant that is no power of two's neighbour.
template <u32 C> __device__ __forceinline__ float divide_by(float x) {
    const float c = __uint_as_float(C);
    if (!is_moderate(x)) return x / c;
    return quotient<24, false>(x, {c, 1.0f / c, 0.0f, 0.0f});
}

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
struct E5M2 : E5M2_ {
    // The upper half of an f16.
    static __device__ __forceinline__ float decode(u8 code) { return load<F16>((u16)(code << 8)); }
};
struct E5M2FNUZ : E5M2FNUZ_ {};
struct E2M1 : E2M1_ {
    // The code of a magnitude, of which these are the bits. Added to a power of two whose last bit is half of the magnitude's own
    // power of two, or of 1, it is rounded to that many halves, to nearest even: 0 to 4 of them, and two more codes a binade.
    static __device__ __forceinline__ u32 magnitude(u32 bits) {
        const u32 v = min(bits, 0x40c00000u);
        const u32 power = max(v & 0x7f800000u, 0x3f800000u) + (22u << 23);
        const u32 sum = __float_as_uint(__uint_as_float(v) + __uint_as_float(power));
        return sum - power + (power >> 22) - 2 * (127 + 22);
    }
    // NaN has the code of the largest magnitude, and no sign.
    static __device__ __forceinline__ u32 encode(float v, bool) {
        const u32 bits = __float_as_uint(v);
        return magnitude(bits & 0x7fffffffu) | (is_nan(v) ? 0 : bits >> 28 & 8);
    }
    // With the exponent of f16 the number is 2^14 times as large.
    static __device__ __forceinline__ float decode(u8 code) {
        return load<F16>((u16)((code & 8) << 12 | (code & 7) << 9)) * 16384.0f;
    }
};
// The codes of two bf16 of magnitudes that are no NaN, in the low bits of each half: `E2M1::magnitude` in bf16 arithmetic.
__device__ __forceinline__ u32 e2m1_pair(u32 pair) {
    u32 v, power, sum;
    asm("{ .reg .b32 a; abs.bf16x2 a, %1; min.bf16x2 %0, a, %2; }" : "=r"(v) : "r"(pair), "r"(0x40c040c0));
    asm("max.u16x2 %0, %1, %2;" : "=r"(power) : "r"(v & 0x7f807f80), "r"(0x3f803f80));
    // The last bit of 64 times as much is half of it.
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(power), "r"(0x42804280), "r"(v));
    return (sum - power + (power >> 6) - 0x00010001 * (0x300 - 12 + 2 * (127 + 6))) | (pair >> 12 & 0x00080008);
}
// Two numbers as bf16 that lie on the same side of every number of at most 7 bits: cut off, and odd where something was.
__device__ __forceinline__ u32 cut_to_odd(float a, float b) {
    const u32 x = __float_as_uint(a), y = __float_as_uint(b);
    u32 cut;
    asm("min.u16x2 %0, %1, %2;" : "=r"(cut) : "r"(__byte_perm(x, y, 0x5410)), "r"(0x00010001));
    return __byte_perm(x, y, 0x7632) | cut;
}
struct E4M3FN : E4M3FN_ {
    // The hardware's conversion saturates, and gives NaN the code 0x7f.
    static __device__ __forceinline__ u8 encode(float v, bool saturate) {
        u16 pair;
        asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(0.0f), "f"(v));
        // 464 lies in the middle between 448 and what would come next, and goes to 448, which is even.
        if (!saturate && fabsf(v) > 464.0f) pair |= 0x7f;
        return (u8)pair;
    }
    // Two codes in the low bytes, by f16, which has all of their values.
    static __device__ __forceinline__ Two decode_pair(u32 codes) {
        u32 halves;
        asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"((u16)codes));
        return {low_of<F16>(halves), high_of<F16>(halves)};
    }
    static __device__ __forceinline__ float decode(u8 code) { return decode_pair(code).a; }
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
__device__ __noinline__ float log2_f(float v) {
    double e, x = v;
    if (log_special(x, &e)) return (float)e;
    const double m = split(x, &e);
    return (float)(e + log_kernel(m - 1.0) * 1.4426950408889634);
}
__device__ __noinline__ float exp2_of_fraction(float v) { return (float)exp2_wide(v); }
// Whole numbers up to 2^21 by a sum, whose last bits are they: conversions have few units.
constexpr float WHOLE = 12582912.0f;
constexpr u32 WHOLE_BITS = 0x4b400000u;
__device__ __forceinline__ float float_of(u32 whole) { return __uint_as_float(WHOLE_BITS + whole) - WHOLE; }
// Of a whole number the power is its exponent.
__device__ __forceinline__ float exp2_f(float v) {
    const float sum = v + WHOLE;
    if (fabsf(v) <= 126.0f && sum - WHOLE == v) return __uint_as_float((__float_as_uint(sum) << 23) + 0x3f800000u);
    return exp2_of_fraction(v);
}
// ceilf(log2_f(v)) and floorf(log2_f(v)). Away from a power of two the logarithm is that far from a whole number that no rounding
// reaches it: by 2^-12 at least, where half of an f32's last place is at most 2^-18.
__device__ __forceinline__ bool is_normal(float v) { return v >= 1.17549435e-38f && v <= 3.40282347e38f; }
__device__ __forceinline__ float ceil_log2_f(float v) {
    const u32 bits = __float_as_uint(v), fraction = bits & 0x7fffff;
    const u32 exponent = bits >> 23;
    if (is_normal(v) && fraction == 0) return float_of(exponent - 127);
    // Between 1/2 and 1 it is -0.
    if (is_normal(v) && fraction >= 0x1000) return -float_of(126 - exponent);
    return ceilf(log2_f(v));
}
__device__ __forceinline__ float floor_log2_f(float v) {
    const u32 bits = __float_as_uint(v), fraction = bits & 0x7fffff;
    if (is_normal(v) && fraction <= 0x7ff000) return float_of((bits >> 23) - 127);
    return floorf(log2_f(v));
}
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
