// Groups of elements along some axes, each shared by a power of two of threads: the canonical sum, extremes, and what is made of
// them. See normfuse_ir::eval::{reduce, normalise} for the semantics.
#pragma once
#include "scalar.cuh"

// A thread's place. By rows the threads of a group are neighbours; by columns groups are, 32 of them, so that what lies next to one
// another in memory is read together.
template <bool COLUMNS_> struct Team {
    static constexpr bool COLUMNS = COLUMNS_;
    u32 threads, thread, local;
    u64 group;
    __device__ __forceinline__ Team(u32 threads_) : threads(threads_) {
        if constexpr (COLUMNS) {
            local = threadIdx.x & 31;
            thread = threadIdx.x >> 5;
            group = (u64)blockIdx.x * 32 + local;
        } else {
            local = threadIdx.x / threads;
            thread = threadIdx.x % threads;
            group = (u64)blockIdx.x * (blockDim.x / threads) + local;
        }
    }
    __device__ __forceinline__ u32 slot(u32 t) const { return COLUMNS ? t * 32 + local : local * threads + t; }
};

// The extreme of a group and where it is.
template <class N> struct Best {
    N value;
    i64 index;
};
__device__ __forceinline__ float down(float v, int lanes) { return __shfl_down_sync(0xffffffff, v, lanes); }
__device__ __forceinline__ double down(double v, int lanes) { return __shfl_down_sync(0xffffffff, v, lanes); }
__device__ __forceinline__ i64 down(i64 v, int lanes) { return __shfl_down_sync(0xffffffff, v, lanes); }
__device__ __forceinline__ u64 down(u64 v, int lanes) { return __shfl_down_sync(0xffffffff, v, lanes); }
template <class N> __device__ __forceinline__ Best<N> down(Best<N> v, int lanes) {
    return {down(v.value, lanes), down(v.index, lanes)};
}

// Values of all threads of a group combined, the highest bit of the thread's number first. Every thread of the group gets it;
// every thread of the block takes part. `shared` has a value for each thread of the block.
template <class V, class T, class C> __device__ __forceinline__ V combined(V v, const T& team, V* shared, C combine) {
    u32 half = team.threads / 2;
    for (; half >= (T::COLUMNS ? 1 : 32); half /= 2) {
        shared[team.slot(team.thread)] = v;
        __syncthreads();
        if (team.thread < half) v = combine(v, shared[team.slot(team.thread + half)]);
        __syncthreads();
    }
    if constexpr (!T::COLUMNS) {
        for (; half > 0; half /= 2) v = combine(v, down(v, half));
    }
    if (team.thread == 0) shared[team.slot(0)] = v;
    __syncthreads();
    v = shared[team.slot(0)];
    __syncthreads();
    return v;
}

// The numbers of a group's elements, of which `place(i)` is where element i lies. NEXT: they are neighbours, and vectors of them lie at
// multiples of their size.
template <class T, bool NEXT_, class P> struct Numbers {
    static constexpr bool NEXT = NEXT_;
    typedef Num<T> N;
    const void* x;
    P place;
    __device__ __forceinline__ N operator()(u64 i) const { return get<T>(read_at<T>(x, place(i))); }
    __device__ __forceinline__ void vector(u64 first, N (&v)[VECTOR]) const {
        Pack<T, VECTOR> pack;
        pack.read(x, place(first));
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) v[i] = get<T>(pack[i]);
    }
};
template <class T, bool NEXT, class P> __device__ __forceinline__ Numbers<T, NEXT, P> numbers(const void* x, P place) {
    return {x, place};
}
// Those of a function, and those that a function makes of others.
template <class N_, class F> struct Computed {
    static constexpr bool NEXT = false;
    typedef N_ N;
    F f;
    __device__ __forceinline__ N operator()(u64 i) const { return f(i); }
    __device__ __forceinline__ void vector(u64, N (&)[VECTOR]) const {}
};
template <class N, class F> __device__ __forceinline__ Computed<N, F> computed(F f) { return {f}; }
template <class N_, class S, class F> struct Mapped {
    static constexpr bool NEXT = S::NEXT;
    typedef N_ N;
    S source;
    F f;
    __device__ __forceinline__ N operator()(u64 i) const { return f(source(i)); }
    __device__ __forceinline__ void vector(u64 first, N (&v)[VECTOR]) const {
        typename S::N from[VECTOR];
        source.vector(first, from);
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) v[i] = f(from[i]);
    }
};
template <class N, class S, class F> __device__ __forceinline__ Mapped<N, S, F> mapped(S source, F f) { return {source, f}; }

// Vectors of a thread at most: 2^16, so that one block's threads have rows of 2^28 elements.
constexpr int LEVELS = 16;
// The canonical sum of `partial(v)` over the vectors of a group, of which a thread has 2^depth, those that are none included.
template <class N, class T, class F>
__device__ __forceinline__ N sum_of_group(const T& team, u64 vectors, u32 depth, N* shared, F partial_of) {
    N stack[LEVELS];
    N partial = 0;
    for (u32 k = 0; k < 1u << depth; ++k) {
        // In this order the highest bit of the vector's number comes first, and what is added lies in registers.
        const u32 j = depth == 0 ? 0 : __brev(k) >> (32 - depth);
        const u64 v = (u64)j * team.threads + team.thread;
        partial = v < vectors ? partial_of(v) : (N)0;
        bool open = true;
#pragma unroll
        for (int l = 0; l < LEVELS; ++l) {
            if (open) {
                if (k >> l & 1) {
                    partial = stack[l] + partial;
                } else {
                    stack[l] = partial;
                    open = false;
                }
            }
        }
    }
    return combined(partial, team, shared, [](N a, N b) { return a + b; });
}
// The sum of a vector's elements in order; those past the end are 0.
template <class N, class F> __device__ __forceinline__ N sum_of_vector(u64 v, u64 n, const F& value) {
    const u64 first = v * VECTOR;
    if constexpr (F::NEXT) {
        N all[VECTOR];
        value.vector(first, all);
        N sum = all[0];
#pragma unroll
        for (int i = 1; i < VECTOR; ++i) sum = sum + all[i];
        return sum;
    } else {
        N sum = value(first);
#pragma unroll
        for (int i = 1; i < VECTOR; ++i) sum = sum + (first + i < n ? value(first + i) : (N)0);
        return sum;
    }
}
template <class N, class T, class F>
__device__ __forceinline__ N canonical_sum(const T& team, u64 n, u32 depth, N* shared, const F& value) {
    const u64 vectors = (n + VECTOR - 1) / VECTOR;
    return sum_of_group<N>(team, vectors, depth, shared, [&](u64 v) { return sum_of_vector<N>(v, n, value); });
}
// Of what may be combined in any order.
template <class N, class T, class F, class C>
__device__ __forceinline__ N folded(const T& team, u64 n, N start, N* shared, const F& value, C combine) {
    N all = start;
    if constexpr (F::NEXT) {
        for (u64 v = team.thread; v < n / VECTOR; v += team.threads) {
            N some[VECTOR];
            value.vector(v * VECTOR, some);
#pragma unroll
            for (int i = 0; i < VECTOR; ++i) all = combine(all, some[i]);
        }
    } else {
        for (u64 i = team.thread; i < n; i += team.threads) all = combine(all, value(i));
    }
    return combined(all, team, shared, combine);
}

// The lowest and the highest number of a dtype.
template <class T> __device__ __forceinline__ Num<T> lowest() {
    if constexpr (Same<T, F64>::value) return __longlong_as_double(0xfff0000000000000ll);
    else if constexpr (Same<Num<T>, float>::value) return __uint_as_float(0xff800000u);
    else if constexpr (Same<Num<T>, i64>::value) return (i64)(~0ull << (8 * sizeof(Raw<T>) - 1));
    else return 0;
}
template <class T> __device__ __forceinline__ Num<T> highest() {
    if constexpr (Same<T, F64>::value) return __longlong_as_double(0x7ff0000000000000ll);
    else if constexpr (Same<Num<T>, float>::value) return __uint_as_float(0x7f800000u);
    else if constexpr (Same<T, BOOL>::value) return 1;
    else if constexpr (Same<Num<T>, i64>::value) return (i64)((1ull << (8 * sizeof(Raw<T>) - 1)) - 1);
    else return ~0ull >> (64 - 8 * sizeof(Raw<T>));
}

// ---- reductions ----

enum Reduction { MEAN, SUM, SUM_SQUARE, L2, PROD, MAX, MIN };

// The exact sum of integers, of 128 bits in two's complement, divided toward zero.
struct Wide {
    u64 low;
    u64 high;
};
__device__ __forceinline__ Wide down(Wide v, int lanes) { return {down(v.low, lanes), down(v.high, lanes)}; }
__device__ __forceinline__ Wide wide_of(i64 v) { return {(u64)v, v < 0 ? ~0ull : 0}; }
__device__ __forceinline__ Wide wide_of(u64 v) { return {v, 0}; }
__device__ __forceinline__ Wide added(Wide a, Wide b) {
    const u64 low = a.low + b.low;
    return {low, a.high + b.high + (low < a.low)};
}
__device__ __noinline__ u64 divided(Wide v, u64 by) {
    const bool negative = (i64)v.high < 0;
    if (negative) v = added({~v.low, ~v.high}, {1, 0});
    u64 quotient = 0, rest = 0;
    for (int bit = 127; bit >= 0; --bit) {
        // The rest is below 2^63, since no tensor has as many elements.
        rest = rest << 1 | ((bit < 64 ? v.low >> bit : v.high >> (bit - 64)) & 1);
        quotient <<= 1;
        if (rest >= by) {
            rest -= by;
            quotient |= 1;
        }
    }
    return negative ? 0 - quotient : quotient;
}

// `value(i)` is the number of element i of the group.
template <class T, Reduction R, class Te, class F>
__device__ __forceinline__ Raw<T> reduced(const Te& team, u64 n, u32 depth, void* shared, F value) {
    typedef Num<T> N;
    constexpr bool WHOLE = Same<N, i64>::value || Same<N, u64>::value;
    if constexpr (R == MAX) {
        return put<T>(folded(team, n, lowest<T>(), (N*)shared, value, [](N a, N b) { return max_nan(a, b); }));
    } else if constexpr (R == MIN) {
        return put<T>(folded(team, n, highest<T>(), (N*)shared, value, [](N a, N b) { return min_nan(a, b); }));
    } else if constexpr (WHOLE && R == MEAN) {
        const Wide sum = folded(team, n, Wide{0, 0}, (Wide*)shared, mapped<Wide>(value, [](N v) { return wide_of(v); }),
                                [](Wide a, Wide b) { return added(a, b); });
        return put<T>((N)divided(sum, n));
    } else if constexpr (WHOLE) {
        const u64 all = folded(team, n, (u64)(R == PROD), (u64*)shared,
                               mapped<u64>(value, [](N v) { return R == SUM_SQUARE ? (u64)v * (u64)v : (u64)v; }),
                               [](u64 a, u64 b) { return R == PROD ? a * b : a + b; });
        return put<T>((N)all);
    } else if constexpr (R == PROD) {
        // In order.
        N all = 1;
        if (team.thread == 0)
            for (u64 i = 0; i < n; ++i) all = all * value(i);
        return put<T>(all);
    } else if constexpr (R == SUM || R == MEAN) {
        const N sum = canonical_sum<N>(team, n, depth, (N*)shared, value);
        return put<T>(R == MEAN ? sum / (N)n : sum);
    } else {
        const N sum = canonical_sum<N>(team, n, depth, (N*)shared, mapped<N>(value, [](N v) { return v * v; }));
        return put<T>(R == L2 ? op_sqrt(sum) : sum);
    }
}

// ---- extremes and their places ----

// Whether a comes before b where the larger (or smaller) comes first, NaN above all numbers, and zeros are equal: -1, 0, 1.
template <class N> __device__ __forceinline__ int order(N a, N b) {
    if (a < b) return -1;
    if (a > b) return 1;
    return (int)is_nan(a) - (int)is_nan(b);
}
// Index of the extreme; a NaN is it wherever there is one.
template <class T, bool LARGEST, bool LAST, class Te, class F>
__device__ __forceinline__ i64 place_of_extreme(const Te& team, u64 n, void* shared, F value) {
    typedef Num<T> N;
    auto better = [](Best<N> a, Best<N> b) {
        if (a.index < 0) return b;
        if (b.index < 0) return a;
        const bool nan_a = is_nan(a.value), nan_b = is_nan(b.value);
        const int by = nan_a || nan_b ? (int)nan_b - (int)nan_a : LARGEST ? order(b.value, a.value) : order(a.value, b.value);
        const bool second = by != 0 ? by > 0 : LAST ? b.index > a.index : b.index < a.index;
        return second ? b : a;
    };
    return folded(team, n, Best<N>{0, -1}, (Best<N>*)shared, computed<Best<N>>([&](u64 i) { return Best<N>{value(i), (i64)i}; }), better)
        .index;
}

// ---- softmax ----

// Out of the way of what a thread holds.
__device__ __noinline__ float log_of_sum(float v) { return log_f(v); }
__device__ __forceinline__ double log_of_sum(double v) { return log_any(v); }
// `give(i, v)` takes the number of element i.
template <class N, bool LOG, class Te, class F, class G>
__device__ __forceinline__ void softmax_of(const Te& team, u64 n, u32 depth, N* shared, N least, F value, G give) {
    const N most = folded(team, n, least, shared, value, [](N a, N b) { return max_nan(a, b); });
    N sum = canonical_sum<N>(team, n, depth, shared, mapped<N>(value, [&](N v) { return op_exp(v - most); }));
    if constexpr (LOG) sum = log_of_sum(sum);
    for (u64 i = team.thread; i < n; i += team.threads) {
        const N v = value(i) - most;
        give(i, LOG ? v - sum : op_exp(v) / sum);
    }
}

// ---- norms ----

enum Root { DIVIDE_BY_SQRT, RECIPROCAL_SQRT, RSQRT };
// Of numbers of Stage, f32 rounded to it or f64.
template <class Stage> __device__ __forceinline__ Num<Stage> staged(Num<Stage> v) { return get<Stage>(put<Stage>(v)); }
// Stage one of a norm over rows whose numbers are `value(i)`, already of the stage.
template <class Stage, Root ROOT, bool CENTRE, class Te, class F, class G>
__device__ __forceinline__ void normalised(const Te& team, u64 n, u32 depth, Num<Stage>* shared, float eps, F value, G give) {
    typedef Num<Stage> N;
    N mean = 0;
    if constexpr (CENTRE) mean = staged<Stage>(canonical_sum<N>(team, n, depth, shared, value) / (N)n);
    auto centre = [&](N v) { return CENTRE ? staged<Stage>(v - mean) : v; };
    const N squares = canonical_sum<N>(team, n, depth, shared, mapped<N>(value, [&](N v) {
                                           const N c = centre(v);
                                           return staged<Stage>(c * c);
                                       }));
    const N v = staged<Stage>(staged<Stage>(squares / (N)n) + staged<Stage>((N)eps));
    const N root = staged<Stage>(op_sqrt(v));
    // f64 has no correctly rounded reciprocal root.
    const N factor = staged<Stage>(ROOT == RSQRT && !Same<Stage, F64>::value ? op_rsqrt(v) : (N)1 / root);
    for (u64 i = team.thread; i < n; i += team.threads) {
        const N c = centre(value(i));
        give(i, staged<Stage>(ROOT == DIVIDE_BY_SQRT ? c / root : c * factor));
    }
}
// Stage two: a product or a sum, in f64 where one of them is, rounded to the right one's dtype.
template <class A, class B, bool ADD> __device__ __forceinline__ Raw<B> second_stage(Raw<A> a, Raw<B> b) {
    if constexpr (Same<A, F64>::value || Same<B, F64>::value) {
        const double x = (double)get<A>(a), y = (double)get<B>(b);
        return cast_number<B>(ADD ? x + y : x * y, true);
    } else {
        const float x = get<A>(a), y = get<B>(b);
        return put<B>(ADD ? x + y : x * y);
    }
}
