// The f64 cores of normfuse_ir::num::wide that `num.cuh` has not: activations, the error function, sines, tanh, logarithms and powers of
// every f64.
#pragma once
#include "num.cuh"

// ---- activations as the CPU has them: f64, rounded once ----

__device__ double sigmoid_wide(double x) {
    const double e = exp_wide(-fabs(x));
    return x < 0.0 ? e / (1.0 + e) : 1.0 / (1.0 + e);
}
// Beyond these bounds the functions are as simple as this: 1 + e^-64 is 1, and below 2^-30 what is added to 1/2 is less than half of
// the last place.
constexpr float LEAST = 0x1p-30f, MOST = 64.0f;
__device__ float sigmoid_f(float x) {
    if (fabsf(x) < LEAST) return 0.5f;
    return x > MOST ? 1.0f : (float)sigmoid_wide(x);
}
__device__ float silu_f(float x) {
    if (fabsf(x) < LEAST) return x * 0.5f;
    return x > MOST ? x : (float)((double)x * sigmoid_wide(x));
}

__device__ const double ERF[20] = {1.1283791670955126,      -0.37612638903183754,    0.11283791670955126,   -0.026866170645131252,
                                   0.005223977625442188,    -0.0008548327023450853,  0.00012055332981789664, -1.492565035840625e-5,
                                   1.6462114365889248e-6,   -1.6365844691234924e-7,  1.4807192815879218e-8, -1.2290555301717928e-9,
                                   9.422759064650411e-11,   -6.7113668551641105e-12, 4.4632242632864775e-13, -2.7835162072109215e-14,
                                   1.6342614095367152e-15,  -9.063970842808673e-17,  4.763348040515068e-18, -2.3784598852774293e-19};
__device__ const double ERFCX[23] = {
    1.1775789345674017,     -0.004590054580646478,  -0.08424913336651792,   0.05920993999819189,    -0.026658668435305753,
    0.009074997670705265,   -0.002413163540417608,  0.0004907758365258086,  -6.916973302501207e-5,  4.13902798607301e-6,
    7.74038306619849e-7,    -2.18864010492344e-7,   1.076499946567091e-8,   4.521959811218287e-9,   -7.754400208831351e-10,
    -6.318088340886684e-11, 2.86879501093067e-11,   1.9455868545777347e-13, -9.65469674843344e-13,  3.25254814814874e-14,
    3.3478119482868056e-14, -1.864562880419313e-15, -1.2507950530688648e-15};

// e^(x*x) * erfc(x) for x from 0 on: Clenshaw's recurrence.
__device__ double erfcx(double x) {
    const double y = (x - 3.75) / (x + 3.75);
    double b1 = 0.0, b2 = 0.0;
#pragma unroll 1
    for (int i = 22; i > 0; --i) {
        const double b = (ERFCX[i] + 2.0 * y * b1) - b2;
        b2 = b1;
        b1 = b;
    }
    return ((ERFCX[0] + y * b1) - b2) / (1.0 + 2.0 * x);
}
__device__ double with_sign(double magnitude, double of) {
    const u64 sign = (u64)__double_as_longlong(of) & 0x8000000000000000ull;
    return __longlong_as_double((i64)(((u64)__double_as_longlong(magnitude) & 0x7fffffffffffffffull) | sign));
}
__device__ double erf_wide(double x) {
    const double a = fabs(x);
    if (a < 1.0) return x * horner(x * x, ERF);
    if (a > 6.0) return with_sign(1.0, x);
    return with_sign(1.0 - exp_wide(-(x * x)) * erfcx(a), x);
}
__device__ float gelu_f(float v) {
    const double x = v, root = 0.7071067811865476;
    if (x < -40.0) return (float)(0.5 * x * 0.0);
    if (x < -1.0) return (float)(0.5 * x * (exp_wide(-0.5 * (x * x)) * erfcx(-x * root)));
    return (float)(0.5 * x * (1.0 + erf_wide(x * root)));
}
__device__ float gelu_tanh_f(float v) {
    if (fabsf(v) < LEAST) return v * 0.5f;
    const double x = v, u = 0.7978845608028654 * (x + 0.044715 * (x * x * x));
    return (float)(x * sigmoid_wide(2.0 * u));
}

// ---- sine and cosine: normfuse_ir::num::trig ----

__device__ const u64 TWO_OVER_PI[20] = {
    0xa2f9836e4e441529ull, 0xfc2757d1f534ddc0ull, 0xdb6295993c439041ull, 0xfe5163abdebbc561ull, 0xb7246e3a424dd2e0ull,
    0x06492eea09d1921cull, 0xfe1deb1cb129a73eull, 0xe88235f52ebb4484ull, 0xe99c7026b45f7e41ull, 0x3991d639835339f4ull,
    0x9c845f8bbdf9283bull, 0x1ff897ffde05980full, 0xef2f118b5a0a6d1full, 0x6d367ecf27cb09b7ull, 0x4f463f669e5fea2dull,
    0x7527bac7ebe5f17bull, 0x3d0739f78a5292eaull, 0x6bfb5fb11f8d5d08ull, 0x56033046fc7b6babull, 0xf0cfbc209af4361dull};
__device__ const double SIN[9] = {1.0,
                                  -0.16666666666666666,
                                  0.008333333333333333,
                                  -0.0001984126984126984,
                                  2.7557319223985893e-6,
                                  -2.505210838544172e-8,
                                  1.6059043836821613e-10,
                                  -7.647163731819816e-13,
                                  2.8114572543455206e-15};
__device__ const double COS[10] = {1.0,
                                   -0.5,
                                   0.041666666666666664,
                                   -0.001388888888888889,
                                   2.48015873015873e-5,
                                   -2.755731922398589e-7,
                                   2.08767569878681e-9,
                                   -1.1470745597729725e-11,
                                   4.779477332387385e-14,
                                   -1.5619206968586226e-16};

__device__ __forceinline__ u64 two_over_pi_word(i64 i) { return i >= 0 && i < 20 ? TWO_OVER_PI[i] : 0; }
// 64 bits of 2/pi that start at a bit index after the binary point; bits before it are zero.
__device__ u64 bits_of_two_over_pi(i64 start) {
    const i64 i = start >> 6, shift = start & 63;
    if (shift == 0) return two_over_pi_word(i);
    return two_over_pi_word(i) << shift | two_over_pi_word(i + 1) >> (64 - shift);
}
// A finite a >= pi/4 as q quadrants and r, |r| <= pi/4.
__device__ double reduce_quadrants(double a, u64* q) {
    const u64 bits = (u64)__double_as_longlong(a);
    const u64 m = (bits & 0xfffffffffffffull) | 1ull << 52;
    const i64 start = (i64)(bits >> 52) - 1023 - 52 + 190 - 192;
    const u64 b0 = bits_of_two_over_pi(start), b1 = bits_of_two_over_pi(start + 64), b2 = bits_of_two_over_pi(start + 128);
    const u64 low_high = __umul64hi(m, b2);
    const u64 mid = m * b1 + low_high;
    const u64 mid_high = __umul64hi(m, b1) + (mid < low_high);
    const u64 high = m * b0 + mid_high;
    *q = (high + (1ull << 61)) >> 62;
    const i64 rest = (i64)(high - (*q << 62));
    const double fraction = (double)rest * 0x1p-62 + (double)mid * 0x1p-126;
    return fraction * 1.5707963267948966;
}
// sin(x + turns * pi/2).
__device__ __noinline__ double sin_turned(double x, u64 turns) {
    const double a = fabs(x);
    if (!(a < __longlong_as_double(0x7ff0000000000000ll))) return __longlong_as_double(0x7ff8000000000000ll);
    u64 q = 0;
    const double r = a < 0.7853981633974483 ? a : reduce_quadrants(a, &q);
    const u64 quadrant = (q + turns) & 3;
    const double z = r * r;
    double v;
    if ((quadrant & 1) == 0) v = r * horner(z, SIN);
    else v = horner(z, COS);
    if (quadrant & 2) v = -v;
    return turns == 0 && __double_as_longlong(x) < 0 ? -v : v;
}
__device__ double sin_wide(double x) { return sin_turned(x, 0); }
__device__ double cos_wide(double x) { return sin_turned(x, 1); }

// ---- exponentials and logarithms of every f64 ----

// 1/n! from n = 1 on.
__device__ const double EXP_M1[15] = {1.0,
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
                                      1.6059043836821613e-10,
                                      1.1470745597729725e-11,
                                      7.647163731819816e-13};
__device__ double exp_m1(double x) { return fabs(x) < 0.5 ? x * horner(x, EXP_M1) : exp_wide(x) - 1.0; }
__device__ __noinline__ double tanh_wide(double x) {
    if (fabs(x) > 22.0) return with_sign(1.0, x);
    const double e = exp_m1(2.0 * x);
    return e / (e + 2.0);
}
// `split` of every positive finite number: denormals are first made normal.
__device__ double split_any(double x, double* e) {
    const bool tiny = x < 2.2250738585072014e-308;
    const double m = split(tiny ? x * 18014398509481984.0 : x, e);
    if (tiny) *e -= 54.0;
    return m;
}
__device__ __noinline__ double log_any(double x) {
    double e;
    if (log_special(x, &e)) return e;
    const double m = split_any(x, &e);
    return e * 0.6931471803691238 + (log_kernel(m - 1.0) + e * 1.9082149292705877e-10);
}
__device__ __noinline__ double log2_any(double x) {
    double e;
    if (log_special(x, &e)) return e;
    const double m = split_any(x, &e);
    return e + log_kernel(m - 1.0) * 1.4426950408889634;
}
__device__ __noinline__ double softplus_wide(double x) {
    if (x != x) return x;
    const double y = exp_wide(-fabs(x));
    const double tail = y < 0.41 ? log_kernel(y) : log_any(1.0 + y);
    return x > 0.0 ? x + tail : tail;
}
__device__ double rsqrt_of_f64(double x) { return 1.0 / sqrt(x); }
__device__ double silu_wide(double x) { return x * sigmoid_wide(x); }
__device__ __noinline__ double gelu_wide(double x) {
    const double root = 0.7071067811865476;
    if (x < -40.0) return 0.5 * x * 0.0;
    if (x < -1.0) return 0.5 * x * (exp_wide(-0.5 * (x * x)) * erfcx(-x * root));
    return 0.5 * x * (1.0 + erf_wide(x * root));
}
__device__ double gelu_tanh_wide(double x) {
    const double u = 0.7978845608028654 * (x + 0.044715 * (x * x * x));
    return x * sigmoid_wide(2.0 * u);
}
// A float as an i64: toward zero, limits at the ends, NaN is 0.
__device__ __forceinline__ i64 to_i64(double v) {
    if (v != v) return 0;
    if (v >= 9223372036854775808.0) return 0x7fffffffffffffffll;
    if (v <= -9223372036854775808.0) return (i64)0x8000000000000000ull;
    return (i64)v;
}
__device__ __forceinline__ u64 to_u64(double v) {
    if (!(v > 0.0)) return 0;
    if (v >= 18446744073709551616.0) return 0xffffffffffffffffull;
    return (u64)v;
}
// x^y with the special cases of C99.
__device__ __noinline__ double pow_wide(double x, double y) {
    const double infinity = __longlong_as_double(0x7ff0000000000000ll), nan = __longlong_as_double(0x7ff8000000000000ll);
    if (y == 0.0 || x == 1.0) return 1.0;
    if (x != x || y != y) return nan;
    const double a = fabs(x);
    if (fabs(y) == infinity) return a == 1.0 ? 1.0 : (a > 1.0) == (y > 0.0) ? infinity : 0.0;
    const bool integer = fabs(y) >= 9007199254740992.0 || y == (double)(i64)y;
    const bool odd = integer && fabs(y) < 9007199254740992.0 && ((i64)y & 1);
    const double sign = odd && __double_as_longlong(x) < 0 ? -1.0 : 1.0;
    if (a == 0.0 || a == infinity) return sign * ((a == 0.0) == (y > 0.0) ? 0.0 : infinity);
    if (x < 0.0 && !integer) return nan;
    double value;
    if (!pow_by_products(a, y, &value)) value = exp2_wide(log2_any(a) * y);
    return sign * value;
}
