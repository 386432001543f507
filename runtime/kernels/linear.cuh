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

// `score(i)` is scaled, capped and masked; `give(i, v)` takes the probability of key i. Where every key is hidden all are 0. Keys from
// `seen` on are hidden: their scores are -inf, and their powers 0, unless some score is infinite or no number, and then `most` says so.
// KEPT: behind a word for each thread `shared` has room for all powers, which wait there for their sum.
template <bool KEPT, class Te, class F, class G>
__device__ __forceinline__ void softmax_of_scores(const Te& team, u64 n, u64 seen, u32 depth, float* shared, F score, G give) {
    static_assert(!Te::COLUMNS, "powers of a group lie behind one another");
    const float least = lowest<F32>();
    const float most = folded(team, n, least, shared, score, [](float a, float b) { return max_nan(a, b); });
    const u64 end = most > least && most < highest<F32>() ? seen : n;
    [[maybe_unused]] float* powers = shared + blockDim.x + (threadIdx.x - team.thread) * (VECTOR << depth);
    auto power = [&](u64 i) { return i < end ? op_exp(score(i) - most) : 0.0f; };
    const float sum = canonical_sum<float>(team, n, depth, shared, computed<float>([&](u64 i) {
                                               const float v = power(i);
                                               if constexpr (KEPT) powers[i] = v;
                                               return v;
                                           }));
    for (u64 i = team.thread; i < n; i += team.threads) {
        float v;
        if constexpr (KEPT) v = powers[i];
        else v = power(i);
        give(i, most == least ? 0.0f : v / sum);
    }
}
