// Scales of whole tensors: where the blocks of a launch meet.
#pragma once
#include "norm.cuh"

// Of `scratch`: how many blocks have arrived, how many have left, and the largest magnitudes so far.
constexpr int ARRIVED = 0, LEFT = 1, LARGEST = 2;

__device__ __forceinline__ u32 peek(const u32* p) {
    u32 v;
    asm volatile("ld.relaxed.gpu.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}

// The largest magnitude of a tensor is at least that of a row of it.
template <class Y, class R>
__device__ __forceinline__ void raise(u32* scratch, int tensor, const Vector<Y> (&y)[R::USED], u32* shared, const Place& at) {
    u32 largest = 0;
#pragma unroll
    for (int j = 0; j < R::USED; ++j) largest = larger<Y>(largest, largest_of_vector(y[j]));
    largest = largest_of_row<R>(largest_of_magnitudes<Y>(largest), shared, at.thread);
    u32* p = scratch + LARGEST + tensor;
    // Most rows have nothing to add.
    if (at.thread == 0 && peek(p) < largest) asm volatile("red.relaxed.gpu.max.u32 [%0], %1;" ::"l"(p), "r"(largest) : "memory");
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
// The scale of a tensor that has no rows.
template <class Q> __device__ __forceinline__ void scale_of_nothing(void* scales, const void* given) {
    if constexpr (Q::HAS_SCALE) {
        const float one = Q::HAS_GIVEN ? given_at<Q>(given, 0) : 0.0f;
        if (threadIdx.x == 0) write_scale<Q>(scales, Q::scale(0.0f, one, Q::factor(0.0f, one)), 0, 1, {0, 0, 1, true});
    }
}
