// The fused norm in pieces. The kernel itself is written for each descriptor by `cuda::source`: which pieces, in which
// order, on which operands. See normfuse_ir::fused for the semantics, rounding by rounding.
#pragma once
#include "layout.cuh"

enum Root { RECIPROCAL_SQRT, RSQRT, DIVIDE_BY_SQRT, UNDIVIDED };

// Where a thread stands: its row, and its place in it. Threads of rows past the end read the last row and write nothing.
struct Place {
    int thread;
    i64 row;
    i64 rows;
    bool active;
};
// The element at which a row, or a piece of one, begins where rows are so far apart.
template <class R> __device__ __forceinline__ i64 first_of(i64 row, i64 stride) {
    return R::PIECES == 1 ? row * stride : row / R::PIECES * stride + row % R::PIECES * R::N;
}

template <class T, class R, bool ALIGNED>
__device__ __forceinline__ void read_row(Vector<T> (&h)[R::USED], const void* base, i64 stride, const Place& at) {
    const typename T::Raw* row = static_cast<const typename T::Raw*>(base) + first_of<R>(at.row, stride);
#pragma unroll
    for (int j = 0; j < R::USED; ++j) h[j] = read<T, R::N, ALIGNED>(row, at.thread + j * R::THREADS);
}

// A row in shared memory, brought there by one bulk copy: rows that are asked for one after another come in that order, so that
// work on one begins while the others are on their way. Aligned rows of whole vectors.
template <class T, class R> struct alignas(32) Staged {
    static constexpr u32 BYTES = R::VECTORS * sizeof(Vector<T>);
    uint4 of[BYTES / 16];

    __device__ __forceinline__ void fetch(const void* base, i64 stride, i64 row, u32 barrier) {
        const void* from = static_cast<const typename T::Raw*>(base) + first_of<R>(row, stride);
        const u32 to = (u32)__cvta_generic_to_shared(of);
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from),
                     "r"(BYTES), "r"(barrier)
                     : "memory");
    }
    // What was fetched and has arrived.
    __device__ __forceinline__ void take(Vector<T> (&h)[R::USED], const Place& at) const {
#pragma unroll
        for (int j = 0; j < R::USED; ++j) {
            h[j] = zero_vector<T>();
            const int index = at.thread + j * R::THREADS;
            if (index < R::VECTORS) h[j] = reinterpret_cast<const Vector<T>*>(of)[index];
        }
    }
};
// A barrier that copies of so many bytes complete. All threads meet before any waits.
__device__ __forceinline__ u32 barrier_at(unsigned long long& place) { return (u32)__cvta_generic_to_shared(&place); }
__device__ __forceinline__ void expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barrier) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ void arrived(u32 barrier) {
    asm volatile("{ .reg .pred done; again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], 0; @!done bra again; }" ::"r"(barrier)
                 : "memory");
}

template <class T, class Y, class R, bool ALIGNED, int PITCH = R::N>
__device__ __forceinline__ void write_row(void* base, const Vector<Y> (&y)[R::USED], const Place& at) {
    if (!at.active) return;
    typename T::Raw* row = static_cast<typename T::Raw*>(base) + at.row * PITCH;
    if constexpr (PITCH > R::N) pad_row<typename T::Raw, R::N, PITCH, 1, R>(base, at.row, at.thread);
#pragma unroll
    for (int j = 0; j < R::USED; ++j) {
        const int index = at.thread + j * R::THREADS;
        if constexpr (Same<T, Y>::value) {
            write<T, R::N, ALIGNED>(row, index, y[j]);
        } else {
            Vector<T> v;
#pragma unroll
            for (int i = 0; i < VECTOR; i += 2) v.set_pair(i, y[j].pair(i));
            write<T, R::N, ALIGNED>(row, index, v);
        }
    }
}

// h = round[Sum](a + b).
template <class A, class B, class Sum, class R>
__device__ __forceinline__ void add_rows(Vector<Sum> (&h)[R::USED], const Vector<A> (&a)[R::USED],
                                         const Vector<B> (&b)[R::USED]) {
#pragma unroll
    for (int j = 0; j < R::USED; ++j) {
#pragma unroll
        for (int i = 0; i < VECTOR; i += 2) h[j].set_pair(i, {a[j][i] + b[j][i], a[j][i + 1] + b[j][i + 1]});
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

template <int N> constexpr bool POWER_OF_TWO = (N & (N - 1)) == 0;
// The correctly rounded sum / N; unless that is a power of two, of a moderate sum.
template <int N> __device__ __forceinline__ float over(float sum) {
    constexpr float inverse = 1.0f / (float)N;
    if constexpr (POWER_OF_TWO<N>) return sum * inverse;
    else return quotient<24, false>(sum, {(float)N, inverse, 0.0f, 0.0f});
}
// What the row is multiplied with, or divided by.
template <class S, int N> __device__ __forceinline__ float root_of(float sum) {
    typedef typename S::Compute C;
    if constexpr (S::ROOT == RSQRT && Same<C, F32>::value) {
        // One question for the mean and its root: neither has another way, by a sum that is neither tiny nor huge.
        const float eps = S::eps();
        if (eps >= 0x1p-60f && eps <= 1.0f && sum <= 0x1p59f && (POWER_OF_TWO<N> || sum >= 0x1p-60f)) {
            return rsqrt_of_moderate(over<N>(sum) + eps);
        }
    }
    const float mean = rnd<C>(sum / (float)N);
    const float v = rnd<C>(mean + rnd<C>(S::eps()));
    if constexpr (S::ROOT == RSQRT) return rnd<C>(rsqrt_exact(v));
    const float root = rnd<C>(sqrtf(v));
    if constexpr (S::ROOT == RECIPROCAL_SQRT) return rnd<C>(1.0f / root);
    return root;
}

// Two numbers of the row over its root, or as they are.
template <class S, class H> __device__ __forceinline__ Two normed(const Vector<H>& h, int i, float r) {
    const Two x = rnd_from<typename S::Compute, H>(h.pair(i));
    if constexpr (S::ROOT == UNDIVIDED) return x;
    else if constexpr (S::ROOT == DIVIDE_BY_SQRT) return {x.a / r, x.b / r};
    else return {x.a * r, x.b * r};
}

// The weight's vectors of a thread, read ahead where that is asked for and there are registers for them.
template <class W, class R> struct Weights {
    static constexpr bool EARLY = R::AHEAD && R::USED * sizeof(Vector<W>) <= 128;
    const void* base;
    Vector<W> w[EARLY ? R::USED : 1];
};
template <class S, class R, bool ALIGNED>
__device__ __forceinline__ Vector<typename S::Weight> weight_at(const void* base, int j, const Place& at) {
    typedef typename S::Weight W;
    return read<W, R::N, ALIGNED>(static_cast<const typename W::Raw*>(base), at.thread + j * R::THREADS);
}
template <class S, class R, bool ALIGNED>
__device__ __forceinline__ Weights<typename S::Weight, R> read_weights(const void* base, const Place& at) {
    typedef Weights<typename S::Weight, R> All;
    All all;
    all.base = base;
    if constexpr (S::WEIGHTED && All::EARLY) {
#pragma unroll
        for (int j = 0; j < R::USED; ++j) all.w[j] = weight_at<S, R, ALIGNED>(base, j, at);
    }
    return all;
}

// y = the normed row.
template <class S, class H, class R, bool ALIGNED>
__device__ __forceinline__ void normalise(Vector<typename S::Output> (&y)[R::USED], const Vector<H> (&h)[R::USED],
                                          float sum, const Weights<typename S::Weight, R>& weights, const Place& at) {
    typedef typename S::Compute C;
    typedef typename S::Product P;
    typedef typename S::Weight W;
    // Products of two 16-bit numbers of one dtype, rounded to it.
    constexpr bool PAIRS = S::WEIGHTED && !S::PLUS_ONE && !Same<P, F32>::value && Same<P, typename S::Normed>::value &&
                           Same<P, W>::value && Same<P, typename S::Output>::value;
    const float r = root_of<S, R::N>(sum);
#pragma unroll
    for (int j = 0; j < R::USED; ++j) {
        Vector<W> w;
        if constexpr (S::WEIGHTED) {
            if constexpr (Weights<W, R>::EARLY) w = weights.w[j];
            else w = weight_at<S, R, ALIGNED>(weights.base, j, at);
        }
#pragma unroll
        for (int i = 0; i < VECTOR; i += 2) {
            Two n = rnd<C>(normed<S, H>(h[j], i, r));
            if constexpr (PAIRS) {
                y[j].w[i / 2] = multiply_pairs<P>(store_pair<P>(n.a, n.b), w.w[i / 2]);
                continue;
            }
            n = rnd_from<typename S::Normed, C>(n);
            if constexpr (S::WEIGHTED) {
                Two factor = rnd_from<P, W>(w.pair(i));
                if constexpr (S::PLUS_ONE) factor = rnd<P>(Two{factor.a + 1.0f, factor.b + 1.0f});
                n = rnd_from<P, typename S::Normed>(n);
                n = {n.a * factor.a, n.b * factor.b};
                // Where the result is of that dtype, storing it rounds.
                if constexpr (!Same<P, typename S::Output>::value) n = rnd<P>(n);
            }
            y[j].set_pair(i, n);
        }
    }
}
