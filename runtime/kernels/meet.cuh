// Scales of whole tensors: where the blocks of a launch meet.
#pragma once
#include "quant.cuh"

// Of `scratch`: how many blocks have arrived, how many have left, and what was found so far.
constexpr int ARRIVED = 0, LEFT = 1, LARGEST = 2;

__device__ __forceinline__ u32 peek(const u32* p) {
    u32 v;
    asm volatile("ld.relaxed.gpu.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}

// What was found of a tensor is at least what was found of a row of it; most rows have nothing to add.
__device__ __forceinline__ void at_least(u32* found, u32 largest, const Place& at) {
    if (at.thread == 0 && peek(found) < largest) {
        asm volatile("red.relaxed.gpu.max.u32 [%0], %1;" ::"l"(found), "r"(largest) : "memory");
    }
}
// The largest magnitude; or of a range, the largest on either side of 0. `shared` has 2 * R::LARGEST_WORDS for the row.
template <class Q, class Y, class R>
__device__ __forceinline__ void raise(u32* scratch, int place, const Vector<Y> (&y)[R::USED], u32* shared, const Place& at) {
    u32* found = scratch + LARGEST + place;
    if constexpr (Q::ORIGIN == RANGE) {
        float high = 0.0f, low = 0.0f;
#pragma unroll
        for (int j = 0; j < R::USED; ++j) {
#pragma unroll
            for (int i = 0; i < VECTOR; ++i) high = max_nan(high, y[j][i]), low = min_nan(low, y[j][i]);
        }
        at_least(found, largest_of_row<R>(__float_as_uint(high) & 0x7fffffff, shared, at.thread), at);
        at_least(found + 1, largest_of_row<R>(__float_as_uint(low) & 0x7fffffff, shared + R::LARGEST_WORDS, at.thread), at);
    } else {
        u32 largest = 0;
#pragma unroll
        for (int j = 0; j < R::USED; ++j) largest = larger<Y>(largest, largest_of_vector(y[j]));
        at_least(found, largest_of_row<R>(largest_of_magnitudes<Y>(largest), shared, at.thread), at);
    }
}

// What all blocks of this launch, or of the one before it, have found.
template <int N> __device__ __forceinline__ void recall(const u32* scratch, u32 (&met)[N]) {
    if (threadIdx.x == 0) {
#pragma unroll
        for (int i = 0; i < N; ++i) met[i] = peek(scratch + LARGEST + i);
    }
    __syncthreads();
}
// Waits for all blocks of this launch, which run at the same time.
template <int N> __device__ __forceinline__ void meet(u32* scratch, u32 (&met)[N]) {
    __syncthreads();
    if (threadIdx.x == 0) {
        asm volatile("red.release.gpu.add.u32 [%0], 1;" ::"l"(scratch + ARRIVED) : "memory");
        u32 arrived;
        do {
            asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(arrived) : "l"(scratch + ARRIVED) : "memory");
        } while (arrived != gridDim.x);
    }
    recall<N>(scratch, met);
}
// The last block to leave makes zeros of it all, for the next launch. What thread 0 has recalled comes before.
template <int N> __device__ __forceinline__ void leave(u32* scratch) {
    if (threadIdx.x != 0) return;
    u32 left;
    asm volatile("atom.acq_rel.gpu.add.u32 %0, [%1], 1;" : "=r"(left) : "l"(scratch + LEFT) : "memory");
    if (left != gridDim.x - 1) return;
#pragma unroll
    for (int i = 0; i < LARGEST + N; ++i) scratch[i] = 0;
}
// The scale of a tensor that has no rows, and its zero point.
template <class Q> __device__ __forceinline__ void scale_of_nothing(void* scales, const void* given, void* zero) {
    if (threadIdx.x != 0) return;
    const float one = Q::HAS_GIVEN ? given_at<Q>(given, 0) : 0.0f, origin = Q::ORIGIN == RANGE ? range_of(0, 0) : 0.0f;
    const float factor = Q::factor(origin, one);
    if constexpr (Q::HAS_SCALE) write_scale<Q>(scales, Q::scale(origin, one, factor), 0, 1, {0, 0, 1, true});
    if constexpr (Q::ZERO_OF_RANGE) *static_cast<u8*>(zero) = (u8)zero_of_range(0.0f, factor);
}
