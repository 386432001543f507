// What kernels/power.cuh needs for a CPU, and a program that goes through it.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int64_t i64;
#define __device__
#define __noinline__
#define __forceinline__ inline

template <class To, class From> static To bits_of(From v) {
    To r;
    static_assert(sizeof r == sizeof v, "");
    memcpy(&r, &v, sizeof r);
    return r;
}
static i64 __double_as_longlong(double v) { return bits_of<i64>(v); }
static double __longlong_as_double(i64 v) { return bits_of<double>(v); }
static u32 __float_as_uint(float v) { return bits_of<u32>(v); }
static float __uint_as_float(u32 v) { return bits_of<float>(v); }
static int __double2loint(double v) { return (int)(u32)bits_of<u64>(v); }
static int __double2hiint(double v) { return (int)(bits_of<u64>(v) >> 32); }
static u32 __funnelshift_r(u32 low, u32 high, u32 by) { return (u32)(((u64)high << 32 | low) >> by); }
static float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static double __fma_rn(double a, double b, double c) { return __builtin_fma(a, b, c); }
// Down, of a sum that is near c.
static double __fma_rd(double a, double b, double c) {
    const double nearest = __builtin_fma(a, b, c);
    // What it has more than c is exact, and so is the sign of what it has too much.
    return __builtin_fma(a, b, c - nearest) < 0 ? nextafter(nearest, -INFINITY) : nearest;
}
#include "power.cuh"

static bool same(float a, float b) { return __float_as_uint(a) == __float_as_uint(b) || (a != a && b != b); }

// Writes e^x of every STEP-th f32 from FIRST on, and goes with them through what is asked of several at a time: 8 of them, and each
// among others.
static void powers(u64 first, u64 count, u64 step) {
    static float out[1 << 16];
    for (u64 at = 0; at < count;) {
        u64 n = 0;
        for (; n < sizeof out / 4 && at < count; ++n, ++at) {
            const float x = __uint_as_float((u32)(first + at * step));
            out[n] = exp_f(x);
            if (x > 0.0f) continue;
            float several[2] = {x, -1.0f};
            const bool small = powers_of(several);
            const bool may_be_small = !(x >= -66.0f || x < -104.0f);
            const bool right = same(several[0], out[n]) && same(several[1], exp_f(-1.0f)) && small == may_be_small &&
                               (small || out[n] == 0.0f || out[n] >= LEAST_POWER);
            if (!right) {
                fprintf(stderr, "e^%a: %a, among several %a, small: %d\n", x, out[n], several[0], small);
                exit(1);
            }
        }
        fwrite(out, 4, n, stdout);
    }
}

static u64 state;
static u64 random_bits() {
    state += 0x9e3779b97f4a7c15ull;
    u64 z = state;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}
static u64 wrong;
static void divide(float x, float sum) {
    if (!(x == 0.0f || (x >= LEAST_POWER && x <= 1.0f)) || !(sum >= 0.5f && sum <= 0x1p28f)) return;
    if ((__float_as_uint(sum) & 0x7fffff) == 0x7fffff) return;
    const float q = quotient_by(x, sum_of_powers(sum, 1.0f / sum));
    if (__float_as_uint(q) == __float_as_uint(x / sum)) return;
    if (wrong++ == 0) fprintf(stderr, "%a / %a: %a, not %a\n", x, sum, q, x / sum);
}
static void quotients(u64 count, u64 seed) {
    state = seed;
    for (u64 i = 0; i < count; ++i) {
        const u64 bits = random_bits(), more = random_bits();
        // Significands at random, or near the ends of a binade.
        u32 by = (u32)bits & 0x7fffff;
        if (bits >> 60 == 0) by = by & 7;
        if (bits >> 60 == 1) by = 0x7ffff8 | by & 7;
        const float sum = __uint_as_float((u32)(126 + bits % 155 % 29 << 23) | by);
        // Any number, and those next to the product of the sum and a number half way between two quotients.
        divide(__uint_as_float((u32)(31 + more % 97 << 23) | (u32)(more >> 32) & 0x7fffff), sum);
        const double half = (double)((more >> 40 | 1ull << 23) * 2 + 1) * ldexp(1.0, -25 - (int)(more % 90));
        const u32 near = __float_as_uint((float)(half * sum));
        for (u32 k = 0; k < 5; ++k) divide(__uint_as_float(near + k - 2), sum);
        divide(0.0f, sum);
        divide(LEAST_POWER, sum);
    }
    // Every numerator of a binade.
    for (u64 i = 0; i < count >> 23; ++i) {
        const float sum = __uint_as_float(127 << 23 | (u32)random_bits() & 0x7fffff);
        for (u32 x = 126 << 23; x < 127 << 23; ++x) divide(__uint_as_float(x), sum);
    }
}

int main(int, char** words) {
    auto number = [&](int i) { return strtoull(words[i], nullptr, 10); };
    if (words[1][0] == 'p') powers(number(2), number(3), number(4));
    else quotients(number(2), number(3));
    return wrong != 0;
}
