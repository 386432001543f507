// Where results lie: rows with zeros behind them, and scales by the index map of normfuse_ir::scheme::ScaleLayout, and zeros in the places that no scale has.
#pragma once
#include "row.cuh"

enum Layout { ROW_MAJOR, COLUMN_MAJOR, TMA_ALIGNED, PACKED_UE8M0, SWIZZLE_128X4, SHUFFLE_32X8 };

template <Layout L> constexpr bool TILED = L == PACKED_UE8M0 || L == SWIZZLE_128X4 || L == SHUFFLE_32X8;
// Of a power of two.
template <int BY> __device__ __forceinline__ i64 up_to(i64 n) { return (n + BY - 1) & -(i64)BY; }

template <Layout L> __device__ __forceinline__ i64 scale_index(i64 m, int g, i64 rows, int groups) {
    if constexpr (L == ROW_MAJOR) return m * groups + g;
    else if constexpr (L == COLUMN_MAJOR) return (i64)g * rows + m;
    else if constexpr (L == TMA_ALIGNED) return (i64)g * up_to<4>(rows) + m;
    else if constexpr (L == PACKED_UE8M0) return ((i64)(g / 4) * up_to<4>(rows) + m) * 4 + g % 4;
    else if constexpr (L == SWIZZLE_128X4)
        return (m / 128 * ((groups + 3) / 4) + g / 4) * 512 + m % 32 * 16 + m % 128 / 32 * 4 + g % 4;
    else return m / 32 * 32 * up_to<8>(groups) + g / 8 * 256 + g % 4 * 64 + m % 16 * 4 + g % 8 / 4 * 2 + m % 32 / 16;
}

// Zeros behind each row of FROM elements, up to TO of them; of four bits, PER_BYTE is 2.
template <class Raw, int FROM, int TO, int PER_BYTE, class R>
__device__ __forceinline__ void pad_row(void* base, i64 row, int thread) {
    Raw* to = static_cast<Raw*>(base) + row * (TO / PER_BYTE);
    for (int i = FROM / PER_BYTE + thread; i < TO / PER_BYTE; i += R::THREADS) to[i] = 0;
}

// Zeros behind the scales of a row, and in the rows behind the last one, which the rows share out among them.
template <Layout L, class R> __device__ __forceinline__ void pad_scales(void* base, int groups, i64 row, i64 rows, int thread) {
    constexpr int DOWN = L == PACKED_UE8M0 ? 4 : L == SWIZZLE_128X4 ? 128 : 32, ACROSS = L == SHUFFLE_32X8 ? 8 : 4;
    u8* bytes = static_cast<u8*>(base);
    const int across = (int)up_to<ACROSS>(groups);
    for (int g = groups + thread; g < across; g += R::THREADS) bytes[scale_index<L>(row, g, rows, groups)] = 0;
    for (i64 m = rows + row; m < up_to<DOWN>(rows); m += rows) {
        for (int g = thread; g < across; g += R::THREADS) bytes[scale_index<L>(m, g, rows, groups)] = 0;
    }
}
