// Elements that move by indices. See normfuse_ir::eval::movement for the semantics.
#pragma once
#include "group.cuh"

// Element i of indices, below n; those below 0 count from the end. False if it is out of range.
template <class I> __device__ __forceinline__ bool index_at(const void* indices, u64 i, u64 n, u64* index) {
    const Num<I> v = get<I>(read_at<I>(indices, i));
    u64 at = (u64)v;
    if constexpr (Same<Num<I>, i64>::value) {
        if (v < 0) at += n;
    }
    *index = at;
    return at < n;
}

// What a scatter makes of an element and an update, each an operation of its own.
enum Combine { REPLACE, ADD, MUL, LARGER, SMALLER };
template <class T, Combine R> __device__ __forceinline__ Raw<T> scattered(Raw<T> old, Raw<T> update) {
    if constexpr (R == REPLACE) {
        return update;
    } else {
        const Num<T> a = get<T>(old), b = get<T>(update);
        if constexpr (R == ADD) return put<T>(op_add(a, b, nullptr));
        else if constexpr (R == MUL) return put<T>(op_mul(a, b, nullptr));
        else if constexpr (R == LARGER) return put<T>(max_nan(a, b));
        else return put<T>(min_nan(a, b));
    }
}
