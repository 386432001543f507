// Ops of single elements: one function an op of each kind of number, f32, f64, i64 and u64. Integers wrap when they are put.
// See normfuse_ir::eval::elementwise for the semantics.
#pragma once
#include "value.cuh"

__device__ __forceinline__ double max_nan(double a, double b) {
    if (a != a || b != b) return __longlong_as_double(0x7ff8000000000000ll);
    if (a == b) return __longlong_as_double(__double_as_longlong(a) & __double_as_longlong(b));
    return a > b ? a : b;
}
__device__ __forceinline__ double min_nan(double a, double b) {
    if (a != a || b != b) return __longlong_as_double(0x7ff8000000000000ll);
    if (a == b) return __longlong_as_double(__double_as_longlong(a) | __double_as_longlong(b));
    return a < b ? a : b;
}
__device__ __forceinline__ i64 max_nan(i64 a, i64 b) { return a > b ? a : b; }
__device__ __forceinline__ i64 min_nan(i64 a, i64 b) { return a < b ? a : b; }
__device__ __forceinline__ u64 max_nan(u64 a, u64 b) { return a > b ? a : b; }
__device__ __forceinline__ u64 min_nan(u64 a, u64 b) { return a < b ? a : b; }
__device__ __forceinline__ bool is_nan(double v) { return v != v; }
__device__ __forceinline__ bool is_nan(i64) { return false; }
__device__ __forceinline__ bool is_nan(u64) { return false; }

// ---- one operand ----

#define OF_FLOATS(NAME, SINGLE, DOUBLE)                                                                                          \
    __device__ __forceinline__ float NAME(float x) { return SINGLE; }                                                            \
    __device__ __forceinline__ double NAME(double x) { return DOUBLE; }
OF_FLOATS(op_sqrt, sqrtf(x), sqrt(x))
OF_FLOATS(op_reciprocal, 1.0f / x, 1.0 / x)
OF_FLOATS(op_rsqrt, rsqrt_exact(x), rsqrt_of_f64(x))
OF_FLOATS(op_exp, exp_f(x), exp_wide(x))
OF_FLOATS(op_exp2, exp2_f(x), exp2_wide(x))
OF_FLOATS(op_log, log_f(x), log_any(x))
OF_FLOATS(op_log2, log2_f(x), log2_any(x))
OF_FLOATS(op_sin, (float)sin_wide((double)x), sin_wide(x))
OF_FLOATS(op_cos, (float)cos_wide((double)x), cos_wide(x))
OF_FLOATS(op_tanh, (float)tanh_wide((double)x), tanh_wide(x))
OF_FLOATS(op_erf, (float)erf_wide((double)x), erf_wide(x))
OF_FLOATS(op_sigmoid, sigmoid_f(x), sigmoid_wide(x))
OF_FLOATS(op_silu, silu_f(x), silu_wide(x))
OF_FLOATS(op_gelu, gelu_f(x), gelu_wide(x))
OF_FLOATS(op_gelu_tanh, gelu_tanh_f(x), gelu_tanh_wide(x))
OF_FLOATS(op_softplus, (float)softplus_wide((double)x), softplus_wide(x))
OF_FLOATS(op_floor, floorf(x), floor(x))
OF_FLOATS(op_ceil, ceilf(x), ceil(x))
OF_FLOATS(op_round, rintf(x), rint(x))
OF_FLOATS(op_abs, fabsf(x), fabs(x))
OF_FLOATS(op_neg, -x, -x)
OF_FLOATS(op_relu, max_nan(x, 0.0f), max_nan(x, 0.0))
OF_FLOATS(op_sign, x == 0.0f ? 0.0f : x != x ? x : x < 0.0f ? -1.0f : 1.0f, x == 0.0 ? 0.0 : x != x ? x : x < 0.0 ? -1.0 : 1.0)
#undef OF_FLOATS
#define OF_INTS(NAME, SIGNED, UNSIGNED)                                                                                          \
    __device__ __forceinline__ i64 NAME(i64 x) { return SIGNED; }                                                                \
    __device__ __forceinline__ u64 NAME(u64 x) { return UNSIGNED; }
OF_INTS(op_floor, x, x)
OF_INTS(op_ceil, x, x)
OF_INTS(op_round, x, x)
OF_INTS(op_abs, x < 0 ? (i64)(0 - (u64)x) : x, x)
OF_INTS(op_neg, (i64)(0 - (u64)x), 0 - x)
OF_INTS(op_sign, (x > 0) - (x < 0), x != 0)
OF_INTS(op_relu, x > 0 ? x : 0, x)
OF_INTS(op_bitwise_not, ~x, ~x)
#undef OF_INTS
__device__ __forceinline__ u64 op_not(u64 x) { return x == 0; }
__device__ __forceinline__ bool op_is_nan(float x) { return x != x; }
__device__ __forceinline__ bool op_is_nan(double x) { return x != x; }
__device__ __forceinline__ bool op_is_inf(float x) { return fabsf(x) == __uint_as_float(0x7f800000); }
__device__ __forceinline__ bool op_is_inf(double x) { return fabs(x) == __longlong_as_double(0x7ff0000000000000ll); }

// ---- two operands ----

#define OF_FLOATS(NAME, SINGLE, DOUBLE)                                                                                          \
    __device__ __forceinline__ float NAME(float a, float b, u32*) { return SINGLE; }                                             \
    __device__ __forceinline__ double NAME(double a, double b, u32*) { return DOUBLE; }
OF_FLOATS(op_add, a + b, a + b)
OF_FLOATS(op_sub, a - b, a - b)
OF_FLOATS(op_mul, a* b, a* b)
OF_FLOATS(op_div, a / b, a / b)
OF_FLOATS(op_max, max_nan(a, b), max_nan(a, b))
OF_FLOATS(op_min, min_nan(a, b), min_nan(a, b))
OF_FLOATS(op_fmod, fmodf(a, b), fmod(a, b))
#undef OF_FLOATS
template <class N> __device__ __forceinline__ N with_sign_of_divisor(N r, N b) { return r != 0 && (r < 0) != (b < 0) ? r + b : r; }
__device__ __forceinline__ float op_mod(float a, float b, u32*) { return with_sign_of_divisor(fmodf(a, b), b); }
__device__ __forceinline__ double op_mod(double a, double b, u32*) { return with_sign_of_divisor(fmod(a, b), b); }

#define OF_INTS(NAME, SIGNED, UNSIGNED)                                                                                          \
    __device__ __forceinline__ i64 NAME(i64 a, i64 b, u32* fault) { return SIGNED; }                                             \
    __device__ __forceinline__ u64 NAME(u64 a, u64 b, u32* fault) { return UNSIGNED; }
OF_INTS(op_add, (i64)((u64)a + (u64)b), a + b)
OF_INTS(op_sub, (i64)((u64)a - (u64)b), a - b)
OF_INTS(op_mul, (i64)((u64)a * (u64)b), a* b)
OF_INTS(op_max, max_nan(a, b), max_nan(a, b))
OF_INTS(op_min, min_nan(a, b), min_nan(a, b))
OF_INTS(op_bitwise_and, a& b, a& b)
OF_INTS(op_bitwise_or, a | b, a | b)
OF_INTS(op_bitwise_xor, a ^ b, a ^ b)
OF_INTS(op_shift_left, (u64)b < 64 ? (i64)((u64)a << b) : 0, b < 64 ? a << b : 0)
OF_INTS(op_shift_right, a >> ((u64)b < 64 ? b : 63), b < 64 ? a >> b : 0)
#undef OF_INTS
template <class N> __device__ __forceinline__ bool divides(N b, u32* fault) {
    if (b == 0) report(fault, DIVISION);
    return b != 0;
}
// The lowest number over -1 wraps.
__device__ __forceinline__ i64 op_div(i64 a, i64 b, u32* fault) {
    return !divides(b, fault) ? 0 : b == -1 ? (i64)(0 - (u64)a) : a / b;
}
__device__ __forceinline__ u64 op_div(u64 a, u64 b, u32* fault) { return divides(b, fault) ? a / b : 0; }
__device__ __forceinline__ i64 op_fmod(i64 a, i64 b, u32* fault) { return !divides(b, fault) || b == -1 ? 0 : a % b; }
__device__ __forceinline__ u64 op_fmod(u64 a, u64 b, u32* fault) { return divides(b, fault) ? a % b : 0; }
__device__ __forceinline__ i64 op_mod(i64 a, i64 b, u32* fault) { return with_sign_of_divisor(op_fmod(a, b, fault), b); }
__device__ __forceinline__ u64 op_mod(u64 a, u64 b, u32* fault) { return op_fmod(a, b, fault); }

#define COMPARISON(NAME, HOW)                                                                                                    \
    template <class N> __device__ __forceinline__ bool NAME(N a, N b, u32*) { return a HOW b; }
COMPARISON(op_equal, ==)
COMPARISON(op_less, <)
COMPARISON(op_less_or_equal, <=)
COMPARISON(op_greater, >)
COMPARISON(op_greater_or_equal, >=)
#undef COMPARISON
__device__ __forceinline__ u64 op_and(u64 a, u64 b, u32*) { return a & b; }
__device__ __forceinline__ u64 op_or(u64 a, u64 b, u32*) { return a | b; }
__device__ __forceinline__ u64 op_xor(u64 a, u64 b, u32*) { return a ^ b; }

// ---- powers: the exponent may be of another dtype ----

__device__ __forceinline__ u64 int_power(u64 base, u64 e) {
    u64 result = 1;
    while (e > 0) {
        if (e & 1) result *= base;
        base *= base;
        e >>= 1;
    }
    return result;
}
// A negative exponent truncates the fraction, and 0^-n is 0.
template <class N> __device__ __forceinline__ N integer_power(N a, u64 b) { return (N)int_power((u64)a, b); }
template <class N> __device__ __forceinline__ N integer_power(N a, i64 b) {
    if (b >= 0) return (N)int_power((u64)a, (u64)b);
    if (a == 1) return 1;
    return a < 0 && a == (N)-1 ? (N)(1 - 2 * (b & 1)) : (N)0;
}
template <class A, class B> __device__ __forceinline__ Raw<A> power(Raw<A> base, Raw<B> exponent) {
    const Num<A> a = get<A>(base);
    const Num<B> b = get<B>(exponent);
    if constexpr (Same<A, F64>::value) return pow_wide(a, (double)b);
    else if constexpr (Same<A, F32>::value || IS_SIXTEEN<A>) return put<A>((float)pow_wide((double)a, (double)b));
    else if constexpr (Same<Num<B>, i64>::value || Same<Num<B>, u64>::value) return put<A>(integer_power(a, b));
    else return truncate<A>(pow_wide((double)a, (double)b));
}

// The bits of an element in another dtype of as many.
template <class To, class From> __device__ __forceinline__ Raw<To> bits_as(Raw<From> v) {
    union {
        Raw<From> from;
        Raw<To> to;
    } both;
    both.from = v;
    return both.to;
}
template <class T> __device__ __forceinline__ Raw<T> number_of_bool(bool v) { return (Raw<T>)v; }
