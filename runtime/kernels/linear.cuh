// QuantizeLinear and its kin, and the softmax of attention. See normfuse_ir::eval::{quantise, attention} for the semantics.
#pragma once
#include "move.cuh"

// To nearest even, plus the zero point, saturated; NaN is the zero point. Of integers of at most 32 bits.
template <class T> __device__ __forceinline__ Raw<T> to_int(float v, i64 zero) {
    // Far outside of every such dtype, so that the sum does not overflow.
    constexpr i64 FAR = 1ll << 40;
    i64 whole = to_i64((double)rintf(v));
    whole = whole < -FAR ? -FAR : whole > FAR ? FAR : whole;
    return limited<T>(whole + zero, (i64)lowest<T>(), (i64)highest<T>());
}
// Scale and zero point of a whole f32 tensor in u8, from its extremes and 0.
__device__ __forceinline__ void dynamic_scale(float low, float high, float* scale, u8* zero) {
    const float range = high == low ? 1.0f : high - low;
    *scale = range / 255.0f;
    float at = 0.0f - low / *scale;
    if (at < 0.0f) at = 0.0f;
    if (at > 255.0f) at = 255.0f;
    *zero = to_int<U8>(at, 0);
}

// ---- attention's softmax ----

// Elements of floats from `at` on, a vector of them, of which `there` are; what is none is 0. WHOLE: all are, and `at` is a multiple of
// their number.
template <class T, bool WHOLE> __device__ __forceinline__ void floats_at(const void* p, u64 at, u32 there, float (&v)[VECTOR]) {
    if constexpr (WHOLE) {
        Pack<T, VECTOR> pack;
        pack.read(p, at);
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) v[i] = get<T>(pack[i]);
    } else {
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) v[i] = i < there ? get<T>(read_at<T>(p, at + i)) : 0.0f;
    }
}
template <class T, bool WHOLE> __device__ __forceinline__ void write_floats(void* p, u64 at, u32 there, const float (&v)[VECTOR]) {
    if constexpr (WHOLE) {
        Vector<T> all;
#pragma unroll
        for (int i = 0; i < VECTOR; i += 2) all.set_pair(i, {v[i], v[i + 1]});
        typedef Words<sizeof(all)> W;
        *(W*)((Raw<T>*)p + at) = *(const W*)&all;
    } else {
#pragma unroll
        for (int i = 0; i < VECTOR; ++i)
            if (i < there) ((Raw<T>*)p)[at + i] = put<T>(v[i]);
    }
}
// Hides the keys from the vector's `there`-th on.
__device__ __forceinline__ void hide_from(u32 there, float (&v)[VECTOR]) {
    if (there >= VECTOR) return;
#pragma unroll
    for (int i = 0; i < VECTOR; ++i)
        if (i >= there) v[i] = v[i] + lowest<F32>();
}
// What an element of a mask adds.
template <class T> __device__ __forceinline__ float bias_of(Raw<T> v) {
    if constexpr (Same<T, BOOL>::value) return v != 0 ? 0.0f : lowest<F32>();
    else return get<T>(v);
}
// Adds what a mask has for the keys from `first` on, from its element `at` on or one for all of them, and hides those from `seen` on.
// WHOLE: its rows are vectors.
template <class T, bool ALONG, bool WHOLE>
__device__ __forceinline__ void add_mask(const void* p, u64 at, u32 first, u32 seen, float (&v)[VECTOR]) {
    const u32 there = first < seen ? seen - first : 0;
    if (there > 0) {
        Pack<T, VECTOR> mask;
        if constexpr (WHOLE) mask.read(p, at + first);
        const float all = ALONG ? 0.0f : bias_of<T>(read_at<T>(p, at));
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) {
            // A key that is hidden has nothing added to it but that.
            if (i >= there) continue;
            if constexpr (WHOLE) v[i] = v[i] + bias_of<T>(mask[i]);
            else v[i] = v[i] + (ALONG ? bias_of<T>(read_at<T>(p, at + first + i)) : all);
        }
    }
    hide_from(there, v);
}

// The largest over THREADS neighbouring threads, a power of two. `shared` has a word for each of their warps. Every thread of the block
// takes part.
template <int THREADS> __device__ __forceinline__ float largest_of_threads(float v, float* shared, u32 thread) {
    constexpr int LANES = THREADS < 32 ? THREADS : 32, WARPS = THREADS / LANES;
#pragma unroll
    for (int half = LANES / 2; half > 0; half /= 2) v = max_nan(v, __shfl_xor_sync(0xffffffff, v, half));
    if constexpr (WARPS > 1) {
        if (thread % 32 == 0) shared[thread / 32] = v;
        __syncthreads();
#pragma unroll
        for (int w = 0; w < WARPS; ++w) v = max_nan(v, shared[w]);
    }
    return v;
}
__device__ __noinline__ float divided_by(float x, float y) { return x / y; }

// `scores(first, v)` are the keys from `first` on, scaled, capped and masked, those that are none -inf; `give(first, v)` takes their
// probabilities. Where every key is hidden all are 0. Keys from `seen` on are hidden: their scores are -inf, and their powers 0, unless
// some score is infinite or no number, and then `most` says so. A thread holds its 2^DEPTH vectors from the first step to the last one.
// `shared` has two words for each thread.
template <int THREADS, int DEPTH, class F, class G>
__device__ __forceinline__ void softmax_of_scores(const Team<false>& team, u32 n, u32 seen, float* shared, F scores, G give) {
    constexpr int COUNT = 1 << DEPTH;
    typedef Row<VECTOR * THREADS * COUNT, THREADS, false> R;
    const float least = lowest<F32>();
    float v[COUNT][VECTOR], most = least;
#pragma unroll
    for (int j = 0; j < COUNT; ++j) {
        const u32 first = (j * THREADS + team.thread) * VECTOR;
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) v[j][i] = least;
        if (first < n) scores(first, v[j]);
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) most = max_nan(most, v[j][i]);
    }
    most = largest_of_threads<THREADS>(most, shared + blockDim.x + team.local * R::WARPS, team.thread);
    const bool hidden = most == least;
    const u32 end = hidden ? 0 : most < highest<F32>() ? seen : n;
    float partial[COUNT];
    bool small = false;
#pragma unroll
    for (int j = 0; j < COUNT; ++j) {
        const u32 first = (j * THREADS + team.thread) * VECTOR;
        if (first < end) {
#pragma unroll
            for (int i = 0; i < VECTOR; ++i) v[j][i] = v[j][i] - most;
            small |= powers_of(v[j]);
        } else {
#pragma unroll
            for (int i = 0; i < VECTOR; ++i) v[j][i] = 0.0f;
        }
        partial[j] = v[j][0];
#pragma unroll
        for (int i = 1; i < VECTOR; ++i) partial[j] = partial[j] + v[j][i];
    }
    const float all = sum_of_threads<R>(tree(partial), shared + team.local * THREADS, team.thread);
    const float sum = hidden ? 1.0f : all;
    const Divisor by = divisor<24, false>(sum);
    const Sum quick = sum_of_powers(sum, by.inverse);
    const bool fits = by.most > 0.0f && !small;
#pragma unroll
    for (int j = 0; j < COUNT; ++j) {
        const u32 first = (j * THREADS + team.thread) * VECTOR;
        if (first < n) {
            if (fits) {
#pragma unroll
                for (int i = 0; i < VECTOR; ++i) v[j][i] = quotient_by(v[j][i], quick);
            } else {
#pragma unroll
                for (int i = 0; i < VECTOR; ++i) v[j][i] = divided_by(v[j][i], sum);
            }
            give(first, v[j]);
        }
    }
}
// The same of rows of any length, vector by vector in each of three steps.
template <class F, class G>
__device__ __forceinline__ void softmax_of_many(const Team<false>& team, u32 n, u32 seen, u32 depth, float* shared, F scores, G give) {
    const float least = lowest<F32>();
    const u32 vectors = (n + VECTOR - 1) / VECTOR;
    float most = least;
    for (u32 at = team.thread; at < vectors; at += team.threads) {
        float v[VECTOR];
        scores(at * VECTOR, v);
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) most = max_nan(most, v[i]);
    }
    auto larger = [](float a, float b) { return max_nan(a, b); };
    most = combined(most, team, shared, larger);
    const u32 end = most == least ? 0 : most < highest<F32>() ? seen : n;
    auto powers = [&](u32 first, float (&v)[VECTOR]) {
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) v[i] = 0.0f;
        if (first >= end) return;
        scores(first, v);
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) v[i] = v[i] - most;
        powers_of(v);
    };
    const float sum = sum_of_group<float>(team, vectors, depth, shared, [&](u32 at) {
        float v[VECTOR];
        powers(at * VECTOR, v);
        float partial = v[0];
#pragma unroll
        for (int i = 1; i < VECTOR; ++i) partial = partial + v[i];
        return partial;
    });
    for (u32 at = team.thread; at < vectors; at += team.threads) {
        float v[VECTOR];
        powers(at * VECTOR, v);
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) v[i] = most == least ? 0.0f : v[i] / sum;
        give(at * VECTOR, v);
    }
}
