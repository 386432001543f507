// Rows: how threads share them, the canonical sum, reductions over a row and over groups of it.
#pragma once
#include "num.cuh"

// What a kernel does before it touches rows: where it was launched early (programmatic dependent launch), it waits for what the
// kernel before it writes. Otherwise it is nothing.
__device__ __forceinline__ void begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// From here the kernel after this one may come in, if it is launched early. Said before a block writes, when little is left to do:
// blocks that come sooner lie unevenly over the multiprocessors, and so do those that come in behind them.
__device__ __forceinline__ void others_may_begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}
// Asks for what all rows will need while the kernel before still runs; no further than the cache that all multiprocessors share,
// where what that one writes is seen.
template <int BYTES, int THREADS> __device__ __forceinline__ void soon(const void* from) {
    constexpr int LINE = 128, BLOCKS = 8;
    if (blockIdx.x >= BLOCKS) return;
#pragma unroll
    for (int first = 0; first < BYTES; first += THREADS * LINE) {
        const int at = first + threadIdx.x * LINE;
        if (at < BYTES) asm volatile("prefetch.global.L2 [%0];" ::"l"(static_cast<const char*>(from) + at));
    }
}

// Elements in a vector: what is added in order before the tree begins.
constexpr int VECTOR = 8;

constexpr int vectors_of(int n) { return (n + VECTOR - 1) / VECTOR; }
constexpr int power_of_two_from(int n) {
    int p = 1;
    while (p < n) p *= 2;
    return p;
}

// THREADS threads (a power of two) share a row of N elements; thread t has the vectors t, t + THREADS, ... They are those of BLOCKS
// blocks, which are a cluster: the first warp of each, then the second of each, so that what blocks tell one another is little.
// Where nothing is found of a whole row, it is one of PIECES that lie behind one another and make up a row of the tensor.
template <int N_, int THREADS_, bool AHEAD_, int BLOCKS_ = 1, int PIECES_ = 1> struct Row {
    static constexpr int N = N_, THREADS = THREADS_, BLOCKS = BLOCKS_, PIECES = PIECES_;
    // True if weights are read before the sum: sooner done, and fewer rows at a time.
    static constexpr bool AHEAD = AHEAD_;
    static constexpr int VECTORS = vectors_of(N);
    // Vectors of a thread: a power of two, so that they are the high bits of the tree.
    static constexpr int DEPTH = power_of_two_from(VECTORS) > THREADS ? power_of_two_from(VECTORS) / THREADS : 1;
    // Those of them that some thread has.
    static constexpr int USED = (VECTORS + THREADS - 1) / THREADS;
    static constexpr int WARPS = THREADS > 32 ? THREADS / 32 : 1;
    static constexpr int LANES = THREADS > 32 ? 32 : THREADS;
    // Warps of one block, and what its reductions need: words of shared memory for a sum and for a largest one.
    static constexpr int OWN_WARPS = WARPS / BLOCKS;
    static constexpr int SUM_WORDS = 32 * (OWN_WARPS + (BLOCKS > 1 ? BLOCKS : 0));
    static constexpr int LARGEST_WORDS = OWN_WARPS + (BLOCKS > 1 ? BLOCKS : 0);
};

// The larger of magnitudes: of f32 their bits, by which NaN is larger than infinity; of 16 bits two pairs of numbers, of which the
// signs say nothing, and NaN is larger too.
template <class T> __device__ __forceinline__ u32 larger(u32 a, u32 b);
template <> __device__ __forceinline__ u32 larger<F32>(u32 a, u32 b) { return a > b ? a : b; }
template <> __device__ __forceinline__ u32 larger<BF16>(u32 a, u32 b) {
    u32 r;
    asm("max.NaN.xorsign.abs.bf16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
}
template <> __device__ __forceinline__ u32 larger<F16>(u32 a, u32 b) {
    u32 r;
    asm("max.NaN.xorsign.abs.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
}
// The largest of them as the bits of an f32.
template <class T> __device__ __forceinline__ u32 largest_of_magnitudes(u32 pair) {
    const u32 low = pair & 0x7fff, high = pair >> 16 & 0x7fff;
    return __float_as_uint(load<T>((u16)(low > high ? low : high)));
}
template <> __device__ __forceinline__ u32 largest_of_magnitudes<F32>(u32 bits) { return bits; }

// The 8 elements of a vector as they lie in memory.
template <class T> struct alignas(16) Vector {
    u32 w[VECTOR / 2];
    __device__ __forceinline__ float operator[](int i) const { return i % 2 ? high_of<T>(w[i / 2]) : low_of<T>(w[i / 2]); }
    // Elements i and i + 1, of an even i.
    __device__ __forceinline__ Two pair(int i) const { return {low_of<T>(w[i / 2]), high_of<T>(w[i / 2])}; }
    __device__ __forceinline__ void set_pair(int i, Two v) { w[i / 2] = store_pair<T>(v.a, v.b); }
    // Their magnitudes, for `larger`.
    __device__ __forceinline__ u32 magnitudes(int i) const { return w[i / 2]; }
    __device__ __forceinline__ typename T::Raw raw(int i) const { return (u16)(w[i / 2] >> 16 * (i % 2)); }
    __device__ __forceinline__ void set_raw(int i, u16 v) { w[i / 2] |= (u32)v << 16 * (i % 2); }
};
template <> struct alignas(32) Vector<F32> {
    float v[VECTOR];
    __device__ __forceinline__ float operator[](int i) const { return v[i]; }
    __device__ __forceinline__ Two pair(int i) const { return {v[i], v[i + 1]}; }
    __device__ __forceinline__ void set_pair(int i, Two x) { v[i] = x.a, v[i + 1] = x.b; }
    __device__ __forceinline__ u32 magnitudes(int i) const { return larger<F32>(bits(i), bits(i + 1)); }
    __device__ __forceinline__ u32 bits(int i) const { return __float_as_uint(v[i]) & 0x7fffffff; }
    __device__ __forceinline__ float raw(int i) const { return v[i]; }
    __device__ __forceinline__ void set_raw(int i, float x) { v[i] = x; }
};

// 16 bytes at a time.
template <int BYTES> struct Words;
template <> struct Words<8> {
    uint2 w;
};
template <> struct Words<16> {
    uint4 w;
};
template <> struct Words<32> {
    uint4 w[2];
};

template <class T> __device__ __forceinline__ Vector<T> zero_vector() {
    Vector<T> r;
#pragma unroll
    for (int i = 0; i < VECTOR; i += 2) r.set_pair(i, {0.0f, 0.0f});
    return r;
}

// Vector `index` of the row at `row`; what is past the end of the row is 0.
template <class T, int N, bool ALIGNED> __device__ __forceinline__ Vector<T> read(const typename T::Raw* row, int index) {
    Vector<T> r = zero_vector<T>();
    if constexpr (ALIGNED && N % VECTOR == 0) {
        if (index < vectors_of(N)) {
            typedef Words<sizeof(r)> W;
            *reinterpret_cast<W*>(&r) = *reinterpret_cast<const W*>(row + (i64)index * VECTOR);
        }
    } else {
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) {
            const int at = index * VECTOR + i;
            if (at < N) r.set_raw(i, row[at]);
        }
    }
    return r;
}

template <class T, int N, bool ALIGNED>
__device__ __forceinline__ void write(typename T::Raw* row, int index, const Vector<T>& v) {
    if constexpr (ALIGNED && N % VECTOR == 0) {
        if (index < vectors_of(N)) {
            typedef Words<sizeof(v)> W;
            *reinterpret_cast<W*>(row + (i64)index * VECTOR) = *reinterpret_cast<const W*>(&v);
        }
    } else {
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) {
            const int at = index * VECTOR + i;
            if (at < N) row[at] = v.raw(i);
        }
    }
}

// Of the first COUNT partial sums in registers, the highest index bit first. (A loop over halves is not unrolled from 16 on, and
// then they are no registers.)
template <int COUNT, int DEPTH> __device__ __forceinline__ float tree_of(float (&partial)[DEPTH]) {
    if constexpr (COUNT == 1) {
        return partial[0];
    } else {
        constexpr int HALF = COUNT / 2;
#pragma unroll
        for (int i = 0; i < HALF; ++i) partial[i] = partial[i] + partial[i + HALF];
        return tree_of<HALF>(partial);
    }
}
template <int DEPTH> __device__ __forceinline__ float tree(float (&partial)[DEPTH]) { return tree_of<DEPTH>(partial); }

// The blocks of a row have begun, and so has their shared memory: said first, and waited for before it is written to.
template <class R> __device__ __forceinline__ void begun() {
    if constexpr (R::BLOCKS > 1) asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
template <class R> __device__ __forceinline__ void all_begun() {
    if constexpr (R::BLOCKS > 1) asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
}
// A word in the shared memory of each block of a row.
template <class R> __device__ __forceinline__ void share(u32* shared, u32 word) {
    const u32 own = (u32)__cvta_generic_to_shared(shared);
#pragma unroll
    for (int block = 0; block < R::BLOCKS; ++block) {
        u32 there;
        asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(own), "r"(block));
        asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(there), "r"(word) : "memory");
    }
}
__device__ __forceinline__ void all_shared() {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// Where a thread of a row stands in its block, and its block in the cluster.
template <class R> __device__ __forceinline__ int own_warp(int thread) { return thread / 32 / R::BLOCKS; }
template <class R> __device__ __forceinline__ int own_block(int thread) { return thread / 32 % R::BLOCKS; }

// The canonical sum over the threads of a row: warps first, which are the higher bits of the index, then blocks, then lanes. All
// threads of the row get it. `shared` has R::SUM_WORDS for the row. Every thread of its blocks takes part.
template <class R> __device__ __forceinline__ float sum_of_threads(float partial, float* shared, int thread) {
    const int lane = thread & 31;
    if constexpr (R::OWN_WARPS > 1) {
        shared[own_warp<R>(thread) * 32 + lane] = partial;
        __syncthreads();
        float column[R::OWN_WARPS];
#pragma unroll
        for (int w = 0; w < R::OWN_WARPS; ++w) column[w] = shared[w * 32 + lane];
        partial = tree(column);
    }
    if constexpr (R::BLOCKS > 1) {
        float* blocks = shared + R::OWN_WARPS * 32;
        if (own_warp<R>(thread) == 0) {
            share<R>(reinterpret_cast<u32*>(blocks + own_block<R>(thread) * 32 + lane), __float_as_uint(partial));
        }
        all_shared();
        float column[R::BLOCKS];
#pragma unroll
        for (int b = 0; b < R::BLOCKS; ++b) column[b] = blocks[b * 32 + lane];
        partial = tree(column);
    }
#pragma unroll
    for (int half = R::LANES / 2; half > 0; half /= 2) partial = partial + __shfl_xor_sync(0xffffffff, partial, half);
    return partial;
}

// The largest of magnitudes as bits: NaN is larger than infinity. Over LANES neighbouring threads.
template <int LANES> __device__ __forceinline__ u32 largest_of_lanes(u32 bits) {
    if constexpr (LANES == 1) {
        return bits;
    } else if constexpr (LANES == 32) {
        return __reduce_max_sync(0xffffffff, bits);
    } else {
#pragma unroll
        for (int lane = LANES / 2; lane > 0; lane /= 2) {
            const u32 other = __shfl_xor_sync(0xffffffff, bits, lane);
            bits = bits > other ? bits : other;
        }
        return bits;
    }
}

// The largest of each of V values (a power of two) over LANES neighbouring threads, each in some of them: a thread ends with
// HELD of the V, and REPEAT threads with the same.
template <int V_, int LANES> struct Scatter {
    static constexpr int V = V_;
    static constexpr int HELD = V > LANES ? V / LANES : 1, REPEAT = LANES > V ? LANES / V : 1;
    // Which value a thread's held one is.
    static __device__ __forceinline__ int index(int thread, int held) { return thread % LANES / REPEAT * HELD + held; }
    // The first of the threads that hold a value.
    static __device__ __forceinline__ int holder(int thread, int value) { return thread / LANES * LANES + value / HELD * REPEAT; }
};
// From magnitudes as `larger` has them to the bits of an f32.
template <class T, int V, int LANES> __device__ __forceinline__ void scatter_largest(u32* v, int thread) {
    if constexpr (V == 1) {
        v[0] = largest_of_lanes<LANES>(largest_of_magnitudes<T>(v[0]));
    } else if constexpr (LANES > 1) {
        constexpr int HALF = V / 2, LANE = LANES / 2;
        const bool upper = thread & LANE;
#pragma unroll
        for (int i = 0; i < HALF; ++i) {
            const u32 sent = upper ? v[i] : v[i + HALF], kept = upper ? v[i + HALF] : v[i];
            v[i] = larger<T>(kept, __shfl_xor_sync(0xffffffff, sent, LANE));
        }
        scatter_largest<T, HALF, LANE>(v, thread);
    } else {
#pragma unroll
        for (int i = 0; i < V; ++i) v[i] = largest_of_magnitudes<T>(v[i]);
    }
}

// Over all threads of a row. `shared` has R::LARGEST_WORDS for the row.
template <class R> __device__ __forceinline__ u32 largest_of_row(u32 bits, u32* shared, int thread) {
    bits = largest_of_lanes<R::LANES>(bits);
    if constexpr (R::OWN_WARPS > 1) {
        if ((thread & 31) == 0) shared[own_warp<R>(thread)] = bits;
        __syncthreads();
#pragma unroll
        for (int w = 0; w < R::OWN_WARPS; ++w) bits = max(bits, shared[w]);
    }
    if constexpr (R::BLOCKS > 1) {
        u32* blocks = shared + R::OWN_WARPS;
        if (own_warp<R>(thread) == 0 && (thread & 31) == 0) share<R>(blocks + own_block<R>(thread), bits);
        all_shared();
#pragma unroll
        for (int b = 0; b < R::BLOCKS; ++b) bits = max(bits, blocks[b]);
    }
    return bits;
}
