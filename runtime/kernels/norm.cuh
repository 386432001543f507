// The fused norm in pieces. The kernel itself is written for each descriptor by `cuda::source`: which pieces, in which
// order, on which operands. See normfuse_ir::fused for the semantics, rounding by rounding.
#pragma once
#include "row.cuh"

enum Root { RECIPROCAL_SQRT, RSQRT, DIVIDE_BY_SQRT };
enum Origin { GIVEN, AMAX };
enum Granularity { TENSOR, TOKEN, GROUP, CHANNEL };
enum Encode { CAST, SATURATE, COMPARE };
enum Packing { BYTES, NIBBLES };
enum Layout { ROW_MAJOR, COLUMN_MAJOR, TMA_ALIGNED };

// Where a thread stands: its row, and its place in it. Threads of rows past the end read the last row and write nothing.
struct Place {
    int thread;
    i64 row;
    i64 rows;
    bool active;
};

template <class T, class R, bool ALIGNED>
__device__ __forceinline__ void read_row(Vector<T> (&h)[R::USED], const void* base, i64 stride, const Place& at) {
    const typename T::Raw* row = static_cast<const typename T::Raw*>(base) + at.row * stride;
#pragma unroll
    for (int j = 0; j < R::USED; ++j) h[j] = read<T, R::N, ALIGNED>(row, at.thread + j * R::THREADS);
}

template <class T, class Y, class R, bool ALIGNED>
__device__ __forceinline__ void write_row(void* base, const Vector<Y> (&y)[R::USED], const Place& at) {
    if (!at.active) return;
    typename T::Raw* row = static_cast<typename T::Raw*>(base) + at.row * R::N;
#pragma unroll
    for (int j = 0; j < R::USED; ++j) {
        Vector<T> v;
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) v.set(i, y[j][i]);
        write<T, R::N, ALIGNED>(row, at.thread + j * R::THREADS, v);
    }
}

// h = round[Sum](a + b).
template <class A, class B, class Sum, class R>
__device__ __forceinline__ void add_rows(Vector<Sum> (&h)[R::USED], const Vector<A> (&a)[R::USED],
                                         const Vector<B> (&b)[R::USED]) {
#pragma unroll
    for (int j = 0; j < R::USED; ++j) {
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) h[j].set(i, a[j][i] + b[j][i]);
    }
}

// The canonical sum of the squares, each rounded to Squares.
template <class Compute, class Squares, class H, class R>
__device__ __forceinline__ float sum_of_squares(const Vector<H> (&h)[R::USED], float* shared, const Place& at) {
    float partial[R::DEPTH];
#pragma unroll
    for (int j = 0; j < R::DEPTH; ++j) {
        partial[j] = 0.0f;
        if (j < R::USED) {
#pragma unroll
            for (int i = 0; i < VECTOR; ++i) {
                const float x = rnd<Compute>(h[j < R::USED ? j : 0][i]);
                const float square = rnd<Squares>(x * x);
                partial[j] = i == 0 ? square : partial[j] + square;
            }
        }
    }
    return sum_of_threads<R>(tree(partial), shared, at.thread);
}

// What the row is multiplied with, or divided by.
template <class S, int N> __device__ __forceinline__ float root_of(float sum) {
    typedef typename S::Compute C;
    const float mean = rnd<C>(sum / (float)N);
    const float v = rnd<C>(mean + rnd<C>(S::eps()));
    if constexpr (S::ROOT == RSQRT) return rnd<C>(rsqrt_exact(v));
    const float root = rnd<C>(sqrtf(v));
    if constexpr (S::ROOT == RECIPROCAL_SQRT) return rnd<C>(1.0f / root);
    return root;
}

// y = the normed row.
template <class S, class H, class R, bool ALIGNED>
__device__ __forceinline__ void normalise(Vector<typename S::Output> (&y)[R::USED], const Vector<H> (&h)[R::USED],
                                          float sum, const void* weight, const Place& at) {
    typedef typename S::Compute C;
    typedef typename S::Product P;
    typedef typename S::Weight W;
    const float r = root_of<S, R::N>(sum);
#pragma unroll
    for (int j = 0; j < R::USED; ++j) {
        Vector<W> w;
        if constexpr (S::WEIGHTED) {
            w = read<W, R::N, ALIGNED>(static_cast<const typename W::Raw*>(weight), at.thread + j * R::THREADS);
        }
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) {
            const float x = rnd<C>(h[j][i]);
            float n = rnd<typename S::Normed>(rnd<C>(S::ROOT == DIVIDE_BY_SQRT ? x / r : x * r));
            if constexpr (S::WEIGHTED) {
                float factor = rnd<P>(w[i]);
                if constexpr (S::PLUS_ONE) factor = rnd<P>(factor + 1.0f);
                n = rnd<P>(rnd<P>(n) * factor);
            }
            y[j].set(i, n);
        }
    }
}

// ---- quantisers ----

struct I8 {};
struct U8 {};

template <class E, Encode HOW> struct Code {
    static __device__ __forceinline__ u8 of(float v, int) {
        if constexpr (HOW == COMPARE) {
            return E::encode(is_nan(v) ? 0.0f : fabsf(v), true) | (v < 0.0f ? 8 : 0);
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
    static __device__ __forceinline__ u8 of(float v, int zero) {
        const int q = toward_zero(v) + zero;
        return (u8)(q < -128 ? -128 : q > 127 ? 127 : q);
    }
};
template <Encode HOW> struct Code<U8, HOW> {
    static __device__ __forceinline__ u8 of(float v, int zero) {
        const int q = toward_zero(v) + zero;
        return (u8)(q < 0 ? 0 : q > 255 ? 255 : q);
    }
};

// Two codes, the first in the low byte.
template <class Q> __device__ __forceinline__ u32 two_codes(float a, float b, int za, int zb) {
    typedef Code<typename Q::Element, Q::ENCODE> C;
    return C::of(a, za) | (u32)C::of(b, zb) << 8;
}
template <class Q> __device__ __forceinline__ u32 two_saturated(float a, float b) {
    u16 pair;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(b), "f"(a));
    return pair;
}
template <class A, class B> struct Same {
    static constexpr bool value = false;
};
template <class A> struct Same<A, A> {
    static constexpr bool value = true;
};

// The scale in its dtype, at its place.
template <class Q> __device__ __forceinline__ void write_scale(void* base, float scale, int group, int groups, const Place& at) {
    i64 index;
    if constexpr (Q::LAYOUT == ROW_MAJOR) index = at.row * groups + group;
    else if constexpr (Q::LAYOUT == COLUMN_MAJOR) index = (i64)group * at.rows + at.row;
    else index = (i64)group * ((at.rows + 3) & ~3ll) + at.row;
    typedef typename Q::Scale S;
    if constexpr (Same<S, U8>::value) static_cast<u8*>(base)[index] = Code<U8, CAST>::of(scale, 0);
    else if constexpr (Same<S, F32>::value) static_cast<float*>(base)[index] = scale;
    else if constexpr (Same<S, F16>::value || Same<S, BF16>::value) static_cast<u16*>(base)[index] = store<S>(scale);
    else static_cast<u8*>(base)[index] = S::encode(scale, true);
}

template <class Q> __device__ __forceinline__ float met(float v, float factor) {
    typedef typename Q::Compute C;
    const float x = rnd<C>(v);
    return Q::post(rnd<C>(Q::DIVIDE ? x / factor : x * factor));
}

// The codes of one vector.
template <class Q, class Y, int N, bool ALIGNED, class F>
__device__ __forceinline__ void write_codes(u8* row, int index, const Vector<Y>& y, F factor_and_zero) {
    u32 pairs[VECTOR / 2];
#pragma unroll
    for (int i = 0; i < VECTOR; i += 2) {
        float fa, fb;
        int za, zb;
        factor_and_zero(i, fa, za);
        factor_and_zero(i + 1, fb, zb);
        const float a = met<Q>(y[i], fa), b = met<Q>(y[i + 1], fb);
        if constexpr (Same<typename Q::Element, E4M3FN>::value && Q::ENCODE == SATURATE) {
            pairs[i / 2] = two_saturated<Q>(a, b);
        } else {
            pairs[i / 2] = two_codes<Q>(a, b, za, zb);
        }
    }
    if constexpr (Q::PACKING == NIBBLES) {
        u32 word = 0;
#pragma unroll
        for (int i = 0; i < VECTOR / 2; ++i) word |= ((pairs[i] & 15) | (pairs[i] >> 4 & 0xf0)) << (8 * i);
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

template <class Y> __device__ __forceinline__ u32 largest_of_vector(const Vector<Y>& y) {
    u32 bits = 0;
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
        const u32 magnitude = __float_as_uint(y[i]) & 0x7fffffff;
        bits = bits > magnitude ? bits : magnitude;
    }
    return bits;
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

// Quantises the row. `shared` has R::WARPS words for the row.
template <class Q, class Y, class R, bool ALIGNED>
__device__ __forceinline__ void quantise(const Vector<Y> (&y)[R::USED], void* codes, void* scales, const void* given,
                                         const void* zero, u32* shared, const Place& at) {
    constexpr int WIDTH = Q::PACKING == NIBBLES ? R::N / 2 : R::N;
    u8* row = static_cast<u8*>(codes) + at.row * WIDTH;
    const float one = Q::HAS_GIVEN && Q::GRANULARITY != CHANNEL ? given_at<Q>(given, 0) : 0.0f;
    const int zero_one = Q::GRANULARITY != CHANNEL ? zero_at<Q>(zero, 0) : 0;
    if constexpr (Q::GRANULARITY == CHANNEL) {
#pragma unroll
        for (int j = 0; j < R::USED; ++j) {
            const int index = at.thread + j * R::THREADS;
            auto of = [&](int i, float& factor, int& z) {
                const int channel = index * VECTOR + i < R::N ? index * VECTOR + i : 0;
                const float g = given_at<Q>(given, channel);
                factor = Q::factor(g, g);
                z = zero_at<Q>(zero, channel);
            };
            if (at.active) write_codes<Q, Y, R::N, ALIGNED>(row, index, y[j], of);
        }
    } else if constexpr (Q::GRANULARITY == GROUP && Q::ORIGIN == AMAX) {
        constexpr int LANES = Q::GROUP_SIZE / VECTOR, GROUPS = R::N / Q::GROUP_SIZE;
#pragma unroll
        for (int j = 0; j < R::USED; ++j) {
            const int index = at.thread + j * R::THREADS;
            const float amax = __uint_as_float(largest_of_lanes<LANES>(largest_of_vector(y[j])));
            const float factor = Q::factor(amax, one);
            auto of = [&](int, float& f, int& z) { f = factor, z = zero_one; };
            if (at.active) {
                if (index % LANES == 0 && index / LANES < GROUPS) {
                    write_scale<Q>(scales, Q::scale(amax, one, factor), index / LANES, GROUPS, at);
                }
                write_codes<Q, Y, R::N, ALIGNED>(row, index, y[j], of);
            }
        }
    } else {
        float origin = one;
        if constexpr (Q::ORIGIN == AMAX) {
            u32 bits = 0;
#pragma unroll
            for (int j = 0; j < R::USED; ++j) {
                const u32 other = largest_of_vector(y[j]);
                bits = bits > other ? bits : other;
            }
            origin = __uint_as_float(largest_of_row<R>(bits, shared, at.thread));
        }
        const float factor = Q::factor(origin, one);
        auto of = [&](int, float& f, int& z) { f = factor, z = zero_one; };
        if (at.active) {
            if constexpr (Q::HAS_SCALE) {
                if (at.thread == 0) write_scale<Q>(scales, Q::scale(origin, one, factor), 0, 1, at);
            }
#pragma unroll
            for (int j = 0; j < R::USED; ++j) {
                write_codes<Q, Y, R::N, ALIGNED>(row, at.thread + j * R::THREADS, y[j], of);
            }
        }
    }
}
