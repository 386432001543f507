// Powers of e in f32: the f64 core of normfuse_ir::num::wide, and fewer steps to the same bits. Quotients of powers by their sum.
// Without PTX, so that `runtime/tests/powers.rs` goes through every f32 on a CPU.
#pragma once

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
// e^x.
__device__ double exp_wide(double x) {
    if (x != x) return x;
    if (x > 710.0) return __longlong_as_double(0x7ff0000000000000ll);
    if (x < -746.0) return 0.0;
    const double k = nearest(x * 1.4426950408889634);
    const double r = (x - k * 0.6931471803691238) - k * 1.9082149292705877e-10;
    return scale_by(horner(r, INV_FACTORIAL), (i64)k);
}

// The core, rounded once. Out of the way of what a thread holds.
__device__ __noinline__ float exp_by_core(float v) { return (float)exp_wide(v); }

// e^x of an |x| of at most 87, unless `sure` is false, and then it is any number.
//
// x is k * ln 2 + r with r from 0 to ln 2, both by one rounding down, so that e^r has the exponent of 1 and the last place of its f32 is
// 2^-23. The polynomial is within 2^-39.7 of e^r there, and with what its steps, k * ln 2 and the core round (each less than
// 2^-45) e^r is known within NEAR * 2^-50. It is computed plus 4, which leaves 50 bits of fraction whatever r is, and plus half of that
// last place: above the 27 bits that an f32 has not are its significand's, rounded to nearest, and unless those 27 are within NEAR of
// 0, the core's value lies on the same side of the number half way. 4 in the sum is 1 << 25 in the bits that are kept: 4 exponents.
__device__ __forceinline__ float exp_quick(float x, bool* sure) {
    constexpr u32 NEAR = 1400;
    constexpr double WHOLE_PLUS = 6755399441055744.0 + (126 - 4);
    const double d = x;
    const double k = __fma_rd(d, 1.4426950408889634, WHOLE_PLUS);
    const double r = __fma_rn(k - WHOLE_PLUS, -0.6931471805599453, d);
    double p = __fma_rn(r, 3.5203682216116866e-05, 0.00018404758713696446);
    p = __fma_rn(r, p, 0.00139927212135041);
    p = __fma_rn(r, p, 0.00832900984904668);
    p = __fma_rn(r, p, 0.0416677181977331);
    p = __fma_rn(r, p, 0.166666523446766);
    p = __fma_rn(r, p, 0.5000000097546591);
    p = __fma_rn(r, p, 0.9999999997444393);
    p = __fma_rn(r, p, 5.000000059605747);
    const u32 low = (u32)__double2loint(p);
    *sure = (low + NEAR) << 5 >= 2 * NEAR << 5;
    return __uint_as_float(__funnelshift_r(low, (u32)__double2hiint(p), 27) + ((u32)__double2loint(k) << 23));
}
__device__ __forceinline__ float exp_f(float v) {
    bool sure;
    const float power = exp_quick(v, &sure);
    return sure && fabsf(v) <= 87.0f ? power : exp_by_core(v);
}

// e^x in the place of numbers of at most 0, or none, with one question for all of them. Unless it is true, each is 0 or at least
// LEAST_POWER.
constexpr float LEAST_POWER = 0x1p-96f;
template <int N> __device__ __forceinline__ bool powers_of(float (&x)[N]) {
    float powers[N];
    bool unsure = false, small = false;
#pragma unroll
    for (int i = 0; i < N; ++i) {
        // Below half of the least f32.
        const bool none = x[i] < -104.0f;
        const float held = none ? 0.0f : x[i];
        bool sure;
        const float power = exp_quick(held, &sure);
        powers[i] = none ? 0.0f : power;
        unsure |= !sure;
        // e^-66 is 2^-95.2.
        small |= !(held >= -66.0f);
    }
    if (unsure || small) {
#pragma unroll
        for (int i = 0; i < N; ++i) powers[i] = exp_by_core(x[i]);
    }
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] = powers[i];
    return small;
}

// A sum of powers, with the correctly rounded 1 / sum and what that lacks.
struct Sum {
    float sum, inverse, rest;
};
__device__ __forceinline__ Sum sum_of_powers(float sum, float inverse) {
    return {sum, inverse, __fmaf_rn(-inverse, sum, 1.0f) * inverse};
}
// The correctly rounded x / sum of 0, or of an x from LEAST_POWER to 1, where the sum is from 2^-1 to 2^28 and its significand is not all
// ones. The product with both parts of the inverse is within 2^-47 before it is rounded, and so is one of the two numbers around the
// quotient: its remainder is exact, and a correction by it gives the nearest (Markstein, 1990). Nothing on the way is a denormal
// that would have to be more than one: the quotient is at least 2^-124, and the last place of the remainder 2^-143.
__device__ __forceinline__ float quotient_by(float x, const Sum& s) {
    const float q = __fmaf_rn(x, s.inverse, x * s.rest);
    return __fmaf_rn(__fmaf_rn(-q, s.sum, x), s.inverse, q);
}
