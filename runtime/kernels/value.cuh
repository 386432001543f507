// Elements of every dtype: how they lie in memory, the numbers that ops compute with, and casts between all of them.
// See normfuse_ir::eval::{numbers, cast} for the semantics.
#pragma once
#include "row.cuh"
#include "wide.cuh"

typedef signed char i8;
typedef short i16;
typedef int i32;

struct F64 {
    typedef double Raw;
};
struct I8 {
    typedef i8 Raw;
};
struct I16 {
    typedef i16 Raw;
};
struct I32 {
    typedef i32 Raw;
};
struct I64 {
    typedef i64 Raw;
};
struct U8 {
    typedef u8 Raw;
};
struct U16 {
    typedef u16 Raw;
};
struct U32 {
    typedef u32 Raw;
};
struct U64 {
    typedef u64 Raw;
};
struct BOOL {
    typedef u8 Raw;
};

// The number of an element and the element of a number: floats of at most 32 bits as f32, integers as those of 64 bits with the
// same sign, bools as 0 and 1.
template <class T> struct Of;
template <class T> struct OfFloat {
    typedef typename T::Raw Raw;
    typedef float Num;
    static __device__ __forceinline__ float get(Raw v) { return load<T>(v); }
    static __device__ __forceinline__ Raw put(float v) { return store<T>(v); }
};
template <> struct Of<F32> : OfFloat<F32> {};
template <> struct Of<F16> : OfFloat<F16> {};
template <> struct Of<BF16> : OfFloat<BF16> {};
template <> struct Of<F64> {
    typedef double Raw;
    typedef double Num;
    static __device__ __forceinline__ double get(double v) { return v; }
    static __device__ __forceinline__ double put(double v) { return v; }
};
template <class T, class N> struct OfInt {
    typedef typename T::Raw Raw;
    typedef N Num;
    static __device__ __forceinline__ N get(Raw v) { return (N)v; }
    static __device__ __forceinline__ Raw put(N v) { return (Raw)v; }
};
template <> struct Of<I8> : OfInt<I8, i64> {};
template <> struct Of<I16> : OfInt<I16, i64> {};
template <> struct Of<I32> : OfInt<I32, i64> {};
template <> struct Of<I64> : OfInt<I64, i64> {};
template <> struct Of<U8> : OfInt<U8, u64> {};
template <> struct Of<U16> : OfInt<U16, u64> {};
template <> struct Of<U32> : OfInt<U32, u64> {};
template <> struct Of<U64> : OfInt<U64, u64> {};
template <> struct Of<BOOL> {
    typedef u8 Raw;
    typedef u64 Num;
    static __device__ __forceinline__ u64 get(u8 v) { return v != 0; }
    static __device__ __forceinline__ u8 put(u64 v) { return v != 0; }
};
// Narrow floats are numbers when they are read; to write them is a cast.
template <class T> struct OfNarrow {
    typedef u8 Raw;
    typedef float Num;
    static __device__ __forceinline__ float get(u8 v) { return T::decode(v); }
};
template <> struct Of<E4M3FN> : OfNarrow<E4M3FN> {};
template <> struct Of<E4M3FNUZ> : OfNarrow<E4M3FNUZ> {};
template <> struct Of<E5M2> : OfNarrow<E5M2> {};
template <> struct Of<E5M2FNUZ> : OfNarrow<E5M2FNUZ> {};
template <> struct Of<E8M0> : OfNarrow<E8M0> {};
template <> struct Of<E2M1> : OfNarrow<E2M1> {};

template <class T> using Raw = typename Of<T>::Raw;
template <class T> using Num = typename Of<T>::Num;
template <class T> __device__ __forceinline__ Num<T> get(Raw<T> v) { return Of<T>::get(v); }
template <class T> __device__ __forceinline__ Raw<T> put(Num<T> v) { return Of<T>::put(v); }
template <class T> constexpr bool IS_NIBBLE = Same<T, E2M1>::value;
template <class T> constexpr bool IS_NARROW =
    Same<T, E4M3FN>::value || Same<T, E4M3FNUZ>::value || Same<T, E5M2>::value || Same<T, E5M2FNUZ>::value ||
    Same<T, E8M0>::value || IS_NIBBLE<T>;

// ---- memory ----

// Element `i` of a tensor.
template <class T> __device__ __forceinline__ Raw<T> read_at(const void* p, u64 i) {
    if constexpr (IS_NIBBLE<T>) return ((const u8*)p)[i >> 1] >> (i & 1) * 4 & 15;
    else return ((const Raw<T>*)p)[i];
}
// N neighbouring elements as they lie in memory, in words of up to 16 bytes.
constexpr int unit_of(int bytes) { return bytes % 16 == 0 ? 16 : bytes % 8 == 0 ? 8 : bytes % 4 == 0 ? 4 : bytes % 2 == 0 ? 2 : 1; }
template <int BYTES> struct UnitOf;
template <> struct UnitOf<1> {
    typedef u8 Type;
};
template <> struct UnitOf<2> {
    typedef u16 Type;
};
template <> struct UnitOf<4> {
    typedef u32 Type;
};
template <> struct UnitOf<8> {
    typedef u64 Type;
};
template <> struct UnitOf<16> {
    typedef uint4 Type;
};
template <int BYTES> using Unit = typename UnitOf<BYTES>::Type;
template <class T, int N> struct alignas(16) Pack {
    static constexpr int BYTES = IS_NIBBLE<T> ? (N + 1) / 2 : N * (int)sizeof(Raw<T>);
    typedef Unit<unit_of(BYTES)> Moved;
    Raw<T> v[IS_NIBBLE<T> ? BYTES : N];
    static __device__ __forceinline__ u64 offset(u64 i) { return IS_NIBBLE<T> ? i / 2 : i * sizeof(Raw<T>); }
    // From element `i`, a multiple of N.
    __device__ __forceinline__ void read(const void* p, u64 i) {
        const Moved* at = (const Moved*)((const u8*)p + offset(i));
#pragma unroll
        for (int k = 0; k < BYTES / (int)sizeof(Moved); ++k) ((Moved*)v)[k] = at[k];
    }
    __device__ __forceinline__ void write(void* p, u64 i) const {
        Moved* at = (Moved*)((u8*)p + offset(i));
#pragma unroll
        for (int k = 0; k < BYTES / (int)sizeof(Moved); ++k) at[k] = ((const Moved*)v)[k];
    }
    __device__ __forceinline__ Raw<T> operator[](int i) const {
        if constexpr (IS_NIBBLE<T>) return v[i / 2] >> i % 2 * 4 & 15;
        else return v[i];
    }
    // In order of i.
    __device__ __forceinline__ void set(int i, Raw<T> x) {
        if constexpr (IS_NIBBLE<T>) v[i / 2] = i % 2 ? v[i / 2] | x << 4 : x;
        else v[i] = x;
    }
    // The first `count` elements alone; the other half of a last byte of nibbles is 0.
    __device__ __forceinline__ void write_some(void* p, u64 i, int count) const {
#pragma unroll
        for (int k = 0; k < N; ++k) {
            if (k < count) {
                if constexpr (IS_NIBBLE<T>) {
                    if (k % 2 == 0) ((u8*)p)[(i + k) / 2] = k + 1 < count ? v[k / 2] : v[k / 2] & 15;
                } else {
                    ((Raw<T>*)p)[i + k] = v[k];
                }
            }
        }
    }
};

// Where a kernel says that data are not what its op is defined for.
enum Fault { INDEX = 1, DIVISION = 2, ZERO_POINT = 3 };
__device__ __noinline__ void report(u32* fault, u32 what) { atomicMax(fault, what); }

// ---- casts ----

// To nearest even from an f64, in one rounding, saturating or not: as `Narrow`, for 16 bits too.
template <int EXP, int MAN, int BIAS, int MAX, int INF, int NAN_CODE, bool NEGATIVE_ZERO>
__device__ __forceinline__ u32 encode_wide(double v, bool saturate) {
    const u64 bits = (u64)__double_as_longlong(v);
    const u32 sign = (u32)(bits >> 63) << (EXP + MAN);
    if (v != v) return NAN_CODE >= 0 ? NAN_CODE : MAX;
    const int biased = (int)(bits >> 52 & 0x7ff);
    const u64 fraction = bits & 0xfffffffffffffull;
    const u64 significand = biased == 0 ? fraction : fraction | 1ull << 52;
    const int exponent = biased == 0 ? -1022 : biased - 1023;
    const int least = 1 - BIAS;
    const int scale = exponent > least ? exponent : least;
    int shift = scale - exponent + 52 - MAN;
    if (shift > 55) shift = 55;
    const u64 kept = significand >> shift, rest = significand & ((1ull << shift) - 1), half = 1ull << (shift - 1);
    const u64 rounded = kept + (rest > half || (rest == half && (kept & 1)));
    const u64 code = rounded + ((u64)(scale - least) << MAN);
    if (biased == 0x7ff || code > MAX) {
        const int over = saturate ? -1 : (INF >= 0 ? INF : NAN_CODE);
        if (over < 0) return MAX | sign;
        return NEGATIVE_ZERO || INF >= 0 ? over | sign : over;
    }
    return code == 0 && !NEGATIVE_ZERO ? 0 : (u32)code | sign;
}
template <class T> __device__ __forceinline__ Raw<T> round_f64(double v, bool saturate) {
    if constexpr (Same<T, F16>::value) return (u16)encode_wide<5, 10, 15, 0x7bff, 0x7c00, 0x7e00, true>(v, false);
    else if constexpr (Same<T, BF16>::value) return (u16)encode_wide<8, 7, 127, 0x7f7f, 0x7f80, 0x7fc0, true>(v, false);
    else if constexpr (Same<T, E4M3FN>::value) return (u8)encode_wide<4, 3, 7, 0x7e, -1, 0x7f, true>(v, saturate);
    else if constexpr (Same<T, E4M3FNUZ>::value) return (u8)encode_wide<4, 3, 8, 0x7f, -1, 0x80, false>(v, saturate);
    else if constexpr (Same<T, E5M2>::value) return (u8)encode_wide<5, 2, 15, 0x7b, 0x7c, 0x7e, true>(v, saturate);
    else if constexpr (Same<T, E5M2FNUZ>::value) return (u8)encode_wide<5, 2, 16, 0x7f, -1, 0x80, false>(v, saturate);
    else if constexpr (Same<T, E2M1>::value) return (u8)encode_wide<2, 1, 1, 7, -1, -1, true>(v, true);
    else if constexpr (Same<T, E8M0>::value) {
        if (!saturate) return E8M0::encode((float)v, false);
        if (v != v) return 255;
        const u64 bits = (u64)__double_as_longlong(fabs(v));
        const i64 up = (i64)(bits >> 52) - 1023 + ((bits & 0xfffffffffffffull) != 0) + 127;
        return (u8)(up < 0 ? 0 : up > 254 ? 254 : up);
    } else return (Raw<T>)v;
}
template <class T> __device__ __forceinline__ Raw<T> limited(i64 v, i64 low, i64 high) {
    return (Raw<T>)(v < low ? low : v > high ? high : v);
}
// A float as an integer: toward zero, limits at the ends, NaN is 0.
template <class T> __device__ __forceinline__ Raw<T> truncate(double v) {
    if constexpr (Same<T, U64>::value) return to_u64(v);
    else if constexpr (Same<T, I64>::value) return to_i64(v);
    else {
        constexpr int BITS = 8 * sizeof(Raw<T>);
        constexpr bool SIGNED = Same<Num<T>, i64>::value;
        constexpr i64 LOW = SIGNED ? -(1ll << (BITS - 1)) : 0, HIGH = SIGNED ? (1ll << (BITS - 1)) - 1 : (1ll << BITS) - 1;
        return limited<T>(to_i64(v), LOW, HIGH);
    }
}
// An integer as an f64, rounded to odd where it does not fit.
__device__ __forceinline__ double to_odd(u64 magnitude) {
    const int drop = 11 - __clzll((i64)magnitude);
    if (drop <= 0) return (double)magnitude;
    const u64 kept = magnitude >> drop | ((magnitude & ((1ull << drop) - 1)) != 0);
    return (double)(kept << drop);
}
__device__ __forceinline__ double to_odd(i64 v) { return v < 0 ? -to_odd((u64)0 - (u64)v) : to_odd((u64)v); }

template <class T> constexpr bool IS_SIXTEEN = Same<T, F16>::value || Same<T, BF16>::value;
template <class T> constexpr bool IS_INT =
    !Same<T, BOOL>::value && (Same<Num<T>, i64>::value || Same<Num<T>, u64>::value);

// From the number of an element of another dtype.
template <class T> __device__ __forceinline__ Raw<T> cast_number(float v, bool saturate) {
    if constexpr (Same<T, F32>::value || IS_SIXTEEN<T>) return put<T>(v);
    else if constexpr (Same<T, F64>::value) return (double)v;
    else if constexpr (Same<T, BOOL>::value) return v != 0.0f;
    else if constexpr (IS_NARROW<T>) return T::encode(v, saturate);
    else return truncate<T>((double)v);
}
template <class T> __device__ __forceinline__ Raw<T> cast_number(double v, bool saturate) {
    if constexpr (Same<T, F32>::value) return (float)v;
    else if constexpr (Same<T, F64>::value) return v;
    else if constexpr (Same<T, BOOL>::value) return v != 0.0;
    else if constexpr (IS_SIXTEEN<T> || IS_NARROW<T>) return round_f64<T>(v, saturate);
    else return truncate<T>(v);
}
template <class T, class N> __device__ __forceinline__ Raw<T> cast_integer(N v, bool saturate) {
    if constexpr (Same<T, F32>::value) return (float)v;
    else if constexpr (Same<T, F64>::value) return (double)v;
    else if constexpr (Same<T, BOOL>::value) return v != 0;
    else if constexpr (IS_SIXTEEN<T> || IS_NARROW<T>) return round_f64<T>(to_odd(v), saturate);
    else return (Raw<T>)v;
}
template <class T> __device__ __forceinline__ Raw<T> cast_number(i64 v, bool s) { return cast_integer<T, i64>(v, s); }
template <class T> __device__ __forceinline__ Raw<T> cast_number(u64 v, bool s) { return cast_integer<T, u64>(v, s); }
template <class To, class From, bool SATURATE> __device__ __forceinline__ Raw<To> cast(Raw<From> v) {
    if constexpr (Same<To, From>::value) return v;
    else return cast_number<To>(get<From>(v), SATURATE);
}
