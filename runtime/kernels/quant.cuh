// Quantisers of a row: codes, scales, and the numbers that codes stand for. See normfuse_ir::scheme for the semantics.
#pragma once
#include "norm.cuh"

enum Origin { GIVEN, AMAX, RANGE };
enum Granularity { TENSOR, TOKEN, GROUP, CHANNEL };
enum Encode { CAST, SATURATE, COMPARE };
enum Packing { BYTES, NIBBLES };

struct I8 {};
struct U8 {};

template <class E, Encode HOW> struct Code {
    static __device__ __forceinline__ u32 of(float v, int) {
        if constexpr (HOW == COMPARE) {
            return E::magnitude(is_nan(v) ? 0 : __float_as_uint(v) & 0x7fffffffu) | (v < 0.0f ? 8 : 0);
        } else {
            return E::encode(v, HOW == SATURATE);
        }
    }
};
// Toward zero; NaN is 0. A sum with a zero point of a byte does not overflow from here.
__device__ __forceinline__ int toward_zero(float v) {
    return is_nan(v) ? 0 : __float2int_rz(fminf(fmaxf(v, -1048576.0f), 1048576.0f));
}
template <Encode HOW> struct Code<I8, HOW> {
    static __device__ __forceinline__ u32 of(float v, int zero) {
        const int q = toward_zero(v) + zero;
        return (u8)(q < -128 ? -128 : q > 127 ? 127 : q);
    }
};
template <Encode HOW> struct Code<U8, HOW> {
    static __device__ __forceinline__ u32 of(float v, int zero) {
        const int q = toward_zero(v) + zero;
        return (u8)(q < 0 ? 0 : q > 255 ? 255 : q);
    }
};

__device__ __forceinline__ u32 two_saturated(Two v) {
    u16 pair;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(v.b), "f"(v.a));
    return pair;
}
// Two codes, the first in the low byte, the second in the next, or where they will share a byte in the upper half.
template <class Q> constexpr int SECOND = Q::PACKING == NIBBLES ? 16 : 8;
template <class Q> __device__ __forceinline__ u32 two_codes(Two v, int za, int zb) {
    typedef Code<typename Q::Element, Q::ENCODE> C;
    if constexpr (Same<typename Q::Element, E4M3FN>::value && Q::ENCODE == SATURATE) return two_saturated(v);
    else return C::of(v.a, za) | C::of(v.b, zb) << SECOND<Q>;
}
// Of two bf16 that are no NaN, to f4e2m1.
template <class Q> __device__ __forceinline__ u32 two_codes(u32 pair) {
    const u32 codes = e2m1_pair(pair);
    return SECOND<Q> == 16 ? codes : __byte_perm(codes, 0, 0x4420);
}

// The number that a code stands for, before it meets its scale.
template <class E> __device__ __forceinline__ float number_of(u32 code, int zero) {
    if constexpr (Same<E, I8>::value) return (float)((int)(signed char)code - zero);
    else if constexpr (Same<E, U8>::value) return (float)((int)(code & 0xff) - zero);
    else return E::decode((u8)code);
}
// Those of two codes.
template <class Q> __device__ __forceinline__ Two numbers_of(u32 pair, int za, int zb) {
    typedef typename Q::Element E;
    if constexpr (Same<E, E4M3FN>::value) return E::decode_pair(pair);
    else return {number_of<E>(pair, za), number_of<E>(pair >> SECOND<Q>, zb)};
}
// What codes are multiplied with: a given scale, or one that was computed as a number of its dtype.
template <class Q> __device__ __forceinline__ float unit_of(float scale, float given) {
    typedef typename Q::Scale S;
    if constexpr (!Q::NUMBERS) return 0.0f;
    else if constexpr (Q::ORIGIN == GIVEN) return given;
    else if constexpr (Same<S, E8M0>::value) return S::decode(S::encode(scale, true));
    else return rnd<S>(scale);
}

// The scale in its dtype, at its place; the group is one of a row, or of a piece of one.
template <class Q, class R = Row<1, 1, false>>
__device__ __forceinline__ void write_scale(void* base, float scale, int group, int groups, const Place& at) {
    constexpr int P = R::PIECES;
    const i64 index = scale_index<Q::LAYOUT>(at.row / P, (int)(at.row % P) * groups + group, at.rows / P, groups * P);
    typedef typename Q::Scale S;
    if constexpr (Same<S, U8>::value) static_cast<u8*>(base)[index] = Code<U8, CAST>::of(scale, 0);
    else if constexpr (Same<S, F32>::value) static_cast<float*>(base)[index] = scale;
    else if constexpr (Same<S, F16>::value || Same<S, BF16>::value) static_cast<u16*>(base)[index] = store<S>(scale);
    else static_cast<u8*>(base)[index] = S::encode(scale, true);
}

// What numbers of a row, or of a group of it, meet.
template <class Q, class Y> struct Factor {
    typedef typename Q::Compute C;
    static constexpr int BITS = Same<Y, BF16>::value ? 8 : Same<Y, F16>::value ? 11 : 24;
    // Divided by products where that has the same codes.
    static constexpr bool QUOTIENT = Q::DIVIDE && Q::TOLERANT && (Same<C, F32>::value || Same<C, Y>::value);
    // To f4e2m1 in bf16 arithmetic. In products with a power of two nothing that has a code is lost; of 2^16 at most, nothing
    // that has a sign.
    static constexpr bool NARROW = (QUOTIENT ? Q::POWER || Same<C, F32>::value : !Q::DIVIDE && Same<C, F32>::value) &&
                                   Same<Y, BF16>::value && Same<typename Q::Element, E2M1>::value && !Q::POSTED;
    // What has a way of its own for plain numbers.
    static constexpr bool QUICK = QUOTIENT || NARROW;
    Divisor by;
    int zero;
    // What the codes are multiplied with, where they become numbers again.
    float unit;

    __device__ __forceinline__ Factor() {}
    __device__ __forceinline__ Factor(float factor, int zero) : zero(zero) {
        if constexpr (QUOTIENT) by = divisor<BITS, Q::POWER>(factor);
        else by = {factor, 0.0f, 0.0f, -1.0f};
        if constexpr (NARROW && QUOTIENT && Q::POWER) by.most = factor <= 65536.0f ? by.most : -1.0f;
        // No product is NaN.
        if constexpr (NARROW && !QUOTIENT) by.most = fabsf(factor) <= 3.40282347e38f ? 3.40282347e38f : -1.0f;
    }
    // Two codes, of numbers that need no other way.
    __device__ __forceinline__ u32 narrow_codes(u32 pair) const {
        // -0 has a sign unless codes are compared: added to +0 it loses it.
        const u32 zero = Q::ENCODE == COMPARE ? 0 : 0x80008000;
        const float a = low_of<BF16>(pair), b = high_of<BF16>(pair);
        u32 q;
        if constexpr (QUOTIENT && Q::POWER) {
            const u32 inverse = store_pair<BF16>(by.inverse, by.inverse);
            asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(q) : "r"(pair), "r"(inverse), "r"(zero));
        } else {
            if constexpr (QUOTIENT) q = cut_to_odd(quotient<BITS, false>(a, by), quotient<BITS, false>(b, by));
            else q = cut_to_odd(a * by.by, b * by.by);
            asm("add.rn.bf16x2 %0, %0, %1;" : "+r"(q) : "r"(zero));
        }
        return two_codes<Q>(q);
    }
    template <bool PLAIN> __device__ __forceinline__ void codes(u32 (&pairs)[VECTOR / 2], const Vector<Y>& y) const {
        const float f = by.by;
#pragma unroll
        for (int i = 0; i < VECTOR; i += 2) {
            if constexpr (PLAIN && NARROW) {
                pairs[i / 2] = narrow_codes(y.w[i / 2]);
                continue;
            }
            const Two x = rnd_from<C, Y>(y.pair(i));
            Two q;
            if constexpr (!Q::DIVIDE) q = {x.a * f, x.b * f};
            else if constexpr (PLAIN) q = {quotient<BITS, Q::POWER>(x.a, by), quotient<BITS, Q::POWER>(x.b, by)};
            else q = {x.a / f, x.b / f};
            q = rnd<C>(q);
            pairs[i / 2] = two_codes<Q>({Q::post(q.a), Q::post(q.b)}, zero, zero);
        }
    }
    // By divisions; out of the way, since it is for scales or values that are hardly there.
    static __device__ __noinline__ uint4 divided(Vector<Y> y, float factor, int zero) {
        Factor f;
        f.by = {factor, 0.0f, 0.0f, -1.0f}, f.zero = zero;
        u32 p[VECTOR / 2];
        f.template codes<false>(p, y);
        return make_uint4(p[0], p[1], p[2], p[3]);
    }
    // True if no number of at most this magnitude, as bits, needs a division.
    __device__ __forceinline__ bool plain(u32 largest) const { return QUICK && __uint_as_float(largest) <= by.most; }
    // The codes of a vector, two in a word.
    template <bool PLAIN> __device__ __forceinline__ void of(u32 (&pairs)[VECTOR / 2], const Vector<Y>& y) const {
        if constexpr (PLAIN || !QUICK) {
            codes<PLAIN>(pairs, y);
        } else {
            const uint4 p = divided(y, by.by, zero);
            pairs[0] = p.x, pairs[1] = p.y, pairs[2] = p.z, pairs[3] = p.w;
        }
    }
};

// Writes the codes of one vector.
template <class Q, int N, bool ALIGNED>
__device__ __forceinline__ void write_codes(u8* row, int index, const u32 (&pairs)[VECTOR / 2]) {
    if constexpr (Q::PACKING == NIBBLES) {
        const u32 first = pairs[0] | pairs[1] << 8, second = pairs[2] | pairs[3] << 8;
        const u32 word = __byte_perm(first, second, 0x5410) | __byte_perm(first, second, 0x7632) << 4;
        if constexpr (ALIGNED && N % VECTOR == 0) {
            if (index < vectors_of(N)) *reinterpret_cast<u32*>(row + (i64)index * (VECTOR / 2)) = word;
        } else {
#pragma unroll
            for (int i = 0; i < VECTOR / 2; ++i) {
                if (index * VECTOR + 2 * i < N) row[index * (VECTOR / 2) + i] = word >> (8 * i);
            }
        }
    } else if constexpr (ALIGNED && N % VECTOR == 0) {
        const uint2 words = make_uint2(pairs[0] | pairs[1] << 16, pairs[2] | pairs[3] << 16);
        if (index < vectors_of(N)) *reinterpret_cast<uint2*>(row + (i64)index * VECTOR) = words;
    } else {
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) {
            const int to = index * VECTOR + i;
            if (to < N) row[to] = pairs[i / 2] >> (8 * (i % 2));
        }
    }
}

// The largest of the magnitudes of a vector.
template <class Y> __device__ __forceinline__ u32 largest_of_vector(const Vector<Y>& y) {
    u32 largest = y.magnitudes(0);
#pragma unroll
    for (int i = 2; i < VECTOR; i += 2) largest = larger<Y>(largest, y.magnitudes(i));
    return largest;
}

template <class Q> __device__ __forceinline__ float given_at(const void* given, int index) {
    typedef typename Q::Given G;
    return load<G>(static_cast<const typename G::Raw*>(given)[index]);
}
template <class Q> __device__ __forceinline__ int zero_at(const void* zero, int index) {
    if constexpr (!Q::ZERO) return 0;
    else if constexpr (Same<typename Q::Element, I8>::value) return static_cast<const signed char*>(zero)[index];
    else return static_cast<const u8*>(zero)[index];
}

// What all rows meet, of a scale and a zero point that are given and no vectors.
struct Given {
    float scale;
    int zero;
};
template <class Q> __device__ __forceinline__ Given read_given(const void* scale, const void* zero) {
    if constexpr (Q::GRANULARITY == CHANNEL) return {0.0f, 0};
    else return {Q::HAS_GIVEN ? given_at<Q>(scale, 0) : 0.0f, zero_at<Q>(zero, 0)};
}

// Where the row's codes go, and the numbers that they stand for.
template <class Q> struct Written {
    u8* codes;
    typename Q::Number::Raw* numbers;

    template <int N, bool ALIGNED>
    __device__ __forceinline__ void write(int index, const u32 (&pairs)[VECTOR / 2], const float (&units)[VECTOR],
                                          const int (&zeros)[VECTOR]) const {
        if constexpr (Q::CODES) write_codes<Q, N, ALIGNED>(codes, index, pairs);
        if constexpr (Q::NUMBERS) {
            Vector<typename Q::Number> v;
#pragma unroll
            for (int i = 0; i < VECTOR; i += 2) {
                const Two n = numbers_of<Q>(pairs[i / 2], zeros[i], zeros[i + 1]);
                v.set_pair(i, {n.a * units[i], n.b * units[i + 1]});
            }
            ::write<typename Q::Number, N, ALIGNED>(numbers, index, v);
        }
    }
    template <int N, bool ALIGNED, class F>
    __device__ __forceinline__ void write(int index, const u32 (&pairs)[VECTOR / 2], const F& met) const {
        float units[VECTOR];
        int zeros[VECTOR];
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) units[i] = met.unit, zeros[i] = met.zero;
        write<N, ALIGNED>(index, pairs, units, zeros);
    }
};

// Writes the codes of the row, whose vector j meets `of(j)`.
template <class Q, class Y, class R, bool ALIGNED, class F>
__device__ __forceinline__ void write_rows(const Written<Q>& row, const Vector<Y> (&y)[R::USED], bool plain, F of, const Place& at) {
    u32 pairs[VECTOR / 2];
    others_may_begin();
    if constexpr (Factor<Q, Y>::QUICK) {
        if (plain) {
#pragma unroll
            for (int j = 0; j < R::USED; ++j) {
                const Factor<Q, Y> f = of(j);
                f.template of<true>(pairs, y[j]);
                if (at.active) row.template write<R::N, ALIGNED>(at.thread + j * R::THREADS, pairs, f);
            }
            return;
        }
    }
#pragma unroll
    for (int j = 0; j < R::USED; ++j) {
        const Factor<Q, Y> f = of(j);
        f.template of<false>(pairs, y[j]);
        if (at.active) row.template write<R::N, ALIGNED>(at.thread + j * R::THREADS, pairs, f);
    }
}

// From the bits of the largest magnitudes on either side of 0; 1 where there is nothing else than 0.
__device__ __forceinline__ float range_of(u32 high, u32 low) {
    return (high | low) == 0 ? 1.0f : __uint_as_float(high) + __uint_as_float(low);
}
// The zero point of a range whose least value is `low`, to nearest even.
__device__ __forceinline__ int zero_of_range(float low, float factor) {
    const float v = 0.0f - low / factor;
    return is_nan(v) ? 0 : __float2int_rn(fminf(fmaxf(v, 0.0f), 255.0f));
}

// Quantises the row. `shared` has R::LARGEST_WORDS for the row; or, for a scale of the whole tensor, its largest magnitude, of a range
// the largest on either side of 0. `zero` is where a zero point is, or where that of a range is to be.
template <class Q, class Y, class R, bool ALIGNED, int PITCH = R::N>
__device__ __forceinline__ void quantise(const Vector<Y> (&y)[R::USED], void* codes, void* scales, const void* given,
                                         void* zero, const Given& met_by_all, u32* shared, const Place& at,
                                         void* numbers = nullptr) {
    constexpr int PER_BYTE = Q::PACKING == NIBBLES ? 2 : 1;
    typedef typename Q::Number::Raw Raw;
    const Written<Q> row = {static_cast<u8*>(codes) + at.row * (PITCH / PER_BYTE), static_cast<Raw*>(numbers) + at.row * PITCH};
    if constexpr (PITCH > R::N) {
        if (Q::CODES && at.active) pad_row<u8, R::N, PITCH, PER_BYTE, R>(codes, at.row, at.thread);
        if (Q::NUMBERS && at.active) pad_row<Raw, R::N, PITCH, 1, R>(numbers, at.row, at.thread);
    }
    const float one = met_by_all.scale;
    const int zero_one = met_by_all.zero;
    if constexpr (Q::GRANULARITY == CHANNEL) {
        others_may_begin();
        u32 pairs[VECTOR / 2];
#pragma unroll
        for (int j = 0; j < R::USED; ++j) {
            const int index = at.thread + j * R::THREADS;
            float units[VECTOR];
            int zeros[VECTOR];
#pragma unroll
            for (int i = 0; i < VECTOR; i += 2) {
                Two v = rnd<typename Q::Compute>(y[j].pair(i));
                float met[2] = {v.a, v.b};
#pragma unroll
                for (int k = 0; k < 2; ++k) {
                    const int channel = index * VECTOR + i + k < R::N ? index * VECTOR + i + k : 0;
                    const float g = given_at<Q>(given, channel), factor = Q::factor(g, g);
                    met[k] = Q::post(rnd<typename Q::Compute>(Q::DIVIDE ? met[k] / factor : met[k] * factor));
                    zeros[i + k] = zero_at<Q>(zero, channel);
                    units[i + k] = unit_of<Q>(0.0f, g);
                }
                pairs[i / 2] = two_codes<Q>({met[0], met[1]}, zeros[i], zeros[i + 1]);
            }
            if (at.active) row.template write<R::N, ALIGNED>(index, pairs, units, zeros);
        }
    } else if constexpr (Q::GRANULARITY == GROUP && Q::ORIGIN == AMAX) {
        // The groups of a thread's vectors are spread over the threads that share them: each works out the scale of its own.
        constexpr int LANES = Q::GROUP_SIZE / VECTOR, GROUPS = R::N / Q::GROUP_SIZE;
        typedef Scatter<power_of_two_from(R::USED), LANES> S;
        u32 largest[S::V];
#pragma unroll
        for (int j = 0; j < S::V; ++j) largest[j] = j < R::USED ? largest_of_vector(y[j < R::USED ? j : 0]) : 0;
        scatter_largest<Y, S::V, LANES>(largest, at.thread);
        Factor<Q, Y> own[S::HELD];
        bool plain = true;
#pragma unroll
        for (int k = 0; k < S::HELD; ++k) {
            const float amax = __uint_as_float(largest[k]), factor = Q::factor(amax, one);
            own[k] = Factor<Q, Y>(factor, zero_one);
            if constexpr (Q::NUMBERS) own[k].unit = unit_of<Q>(Q::scale(amax, one, factor), one);
            const int j = S::index(at.thread, k), group = (at.thread + j * R::THREADS) / LANES;
            // Past the end of the row there is nothing to divide.
            plain = plain && (own[k].plain(largest[k]) || j >= R::USED || group >= GROUPS);
            if (Q::HAS_SCALE && at.active && at.thread % S::REPEAT == 0 && j < R::USED && group < GROUPS) {
                write_scale<Q, R>(scales, Q::scale(amax, one, factor), group, GROUPS, at);
            }
        }
        if constexpr (Q::HAS_SCALE && TILED<Q::LAYOUT>) {
            if (at.active) pad_scales<Q::LAYOUT, R>(scales, GROUPS, at.row, at.rows, at.thread);
        }
        auto of = [&](int j) {
            Factor<Q, Y> f = own[j % S::HELD];
            const int from = S::holder(at.thread, j);
            f.by.by = __shfl_sync(0xffffffff, f.by.by, from);
            if constexpr (Factor<Q, Y>::QUOTIENT) {
                f.by.inverse = __shfl_sync(0xffffffff, f.by.inverse, from);
                if constexpr (!Q::POWER) f.by.rest = __shfl_sync(0xffffffff, f.by.rest, from);
            }
            if constexpr (Q::NUMBERS) f.unit = __shfl_sync(0xffffffff, f.unit, from);
            return f;
        };
        write_rows<Q, Y, R, ALIGNED>(row, y, __all_sync(0xffffffff, plain), of, at);
    } else {
        u32 largest = 0;
        if constexpr (Q::ORIGIN == GIVEN ? Factor<Q, Y>::QUICK : Q::GRANULARITY != TENSOR) {
#pragma unroll
            for (int j = 0; j < R::USED; ++j) largest = larger<Y>(largest, largest_of_vector(y[j]));
            largest = largest_of_magnitudes<Y>(largest);
        }
        float origin = one;
        if constexpr (Q::ORIGIN == AMAX) {
            largest = Q::GRANULARITY == TENSOR ? *shared : largest_of_row<R>(largest, shared, at.thread);
            origin = __uint_as_float(largest);
        } else if constexpr (Q::ORIGIN == RANGE) {
            largest = max(shared[0], shared[1]);
            origin = range_of(shared[0], shared[1]);
        }
        const float factor = Q::factor(origin, one);
        int offset = zero_one;
        if constexpr (Q::ZERO_OF_RANGE) {
            offset = zero_of_range(-__uint_as_float(shared[1]), factor);
            if (at.active && at.thread == 0 && at.row == 0) *static_cast<u8*>(zero) = (u8)offset;
        }
        Factor<Q, Y> meets(factor, offset);
        if constexpr (Q::NUMBERS) meets.unit = unit_of<Q>(Q::scale(origin, one, factor), one);
        if constexpr (Q::HAS_SCALE) {
            const bool first = at.thread == 0 && (Q::GRANULARITY != TENSOR || at.row == 0);
            if (at.active && first) write_scale<Q, R>(scales, Q::scale(origin, one, factor), 0, 1, at);
        }
        auto of = [&](int) { return meets; };
        write_rows<Q, Y, R, ALIGNED>(row, y, meets.plain(largest), of, at);
    }
}
