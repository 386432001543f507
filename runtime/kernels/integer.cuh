// Exact products of 8-bit integers, in i32. See normfuse_ir::eval::linear for the semantics.
#pragma once
#include "row.cuh"

// A block of 256 threads has a tile of 64 x 64 results, a thread 4 x 4 of them; sums are taken 16 at a time.
constexpr int TILE = 64, OWN = 4, SUMS = 16;
typedef signed char s8;

// Zero points: none, one for all, or one a line.
template <class T> struct Zeros {
    const T* of;
    u64 many;
    __device__ __forceinline__ int at(u64 line) const { return of == nullptr ? 0 : (int)of[many > 1 ? line % many : 0]; }
};

// The tile `tile` of out = (a - its zeros) * (b - its zeros): a of m x k, b of k x n, by rows. Sums wrap around, as those of the
// evaluator do.
template <class A, class B>
__device__ __forceinline__ void multiply_tile(const A* a, const B* b, int* out, Zeros<A> of_a, Zeros<B> of_b, u64 m, u64 k, u64 n,
                                              u64 tile) {
    __shared__ int left[SUMS][TILE + 1], right[SUMS][TILE];
    const u64 across = (n + TILE - 1) / TILE, row = tile / across * TILE, column = tile % across * TILE;
    const int x = threadIdx.x % (TILE / OWN), y = threadIdx.x / (TILE / OWN);
    u32 sums[OWN][OWN] = {};
    for (u64 first = 0; first < k; first += SUMS) {
        for (int i = threadIdx.x; i < TILE * SUMS; i += blockDim.x) {
            const u64 r = row + i / SUMS, from = first + i % SUMS;
            left[i % SUMS][i / SUMS] = r < m && from < k ? (int)a[r * k + from] - of_a.at(r) : 0;
            const u64 c = column + i % TILE, to = first + i / TILE;
            right[i / TILE][i % TILE] = c < n && to < k ? (int)b[to * n + c] - of_b.at(c) : 0;
        }
        __syncthreads();
#pragma unroll
        for (int s = 0; s < SUMS; ++s) {
#pragma unroll
            for (int i = 0; i < OWN; ++i) {
#pragma unroll
                for (int j = 0; j < OWN; ++j) sums[i][j] += (u32)(left[s][y * OWN + i] * right[s][x + j * (TILE / OWN)]);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < OWN; ++i) {
#pragma unroll
        for (int j = 0; j < OWN; ++j) {
            const u64 r = row + y * OWN + i, c = column + x + j * (TILE / OWN);
            if (r < m && c < n) out[r * n + c] = (int)sums[i][j];
        }
    }
}
