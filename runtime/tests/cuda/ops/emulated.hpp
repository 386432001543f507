// What texts of chains need of kernels/scalar.cuh, for a CPU: threads run one after another, and sanitizers watch what they read.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int64_t i64;
#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

struct Number {
    u32 x;
};
static Number blockIdx, threadIdx;
static void begin() {}
static void others_may_begin() {}

struct F32 {
    typedef float Raw;
    static float get(float v) { return v; }
    static float put(float v) { return v; }
};
struct BF16 {
    typedef u16 Raw;
    static float get(u16 v) {
        const u32 bits = (u32)v << 16;
        float f;
        memcpy(&f, &bits, 4);
        return f;
    }
    static u16 put(float v) {
        u32 bits;
        memcpy(&bits, &v, 4);
        return (u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
};
struct E2M1 {
    typedef u8 Raw;
};
template <class T> using Raw = typename T::Raw;
template <class T> constexpr bool IS_NIBBLE = false;
template <> constexpr bool IS_NIBBLE<E2M1> = true;
template <class T> static float get(Raw<T> v) { return T::get(v); }
template <class T> static Raw<T> put(float v) { return T::put(v); }
static float op_add(float a, float b, u32*) { return a + b; }
static float op_mul(float a, float b, u32*) { return a * b; }
static float op_neg(float a) { return -a; }

template <class T> static Raw<T> read_at(const void* p, u64 i) {
    if constexpr (IS_NIBBLE<T>) return ((const u8*)p)[i >> 1] >> (i & 1) * 4 & 15;
    else return ((const Raw<T>*)p)[i];
}
template <class T, int N> struct Pack {
    Raw<T> v[N];
    static void check(bool holds) {
        if (!holds) abort();
    }
    void read(const void* p, u64 i) {
        check(i % N == 0);
        for (int k = 0; k < N; ++k) v[k] = read_at<T>(p, i + k);
    }
    Raw<T> operator[](int k) const { return v[k]; }
    void set(int k, Raw<T> x) { v[k] = x; }
    void write(void* p, u64 i) const {
        check(i % N == 0);
        write_some(p, i, N);
    }
    void write_some(void* p, u64 i, int count) const {
        for (int k = 0; k < count; ++k) {
            if constexpr (IS_NIBBLE<T>) {
                u8* at = (u8*)p + (i + k) / 2;
                *at = (i + k) % 2 ? *at | v[k] << 4 : v[k];
            } else {
                ((Raw<T>*)p)[i + k] = v[k];
            }
        }
    }
};

static u64 next() {
    u64 n;
    if (fread(&n, 8, 1, stdin) != 1) abort();
    return n;
}
// Words of a launch, by kind: numbers, operands with what they hold, sizes of results. Then its blocks and threads.
template <class Params> static void launch(void (*kernel)(Params)) {
    std::vector<u64> words;
    std::vector<void*> held;
    std::vector<std::pair<void*, u64>> results;
    for (u64 left = next(); left > 0; --left) {
        const u64 kind = next(), n = next();
        void* p = nullptr;
        if (kind > 0 && posix_memalign(&p, 16, n) != 0) abort();
        held.push_back(p);
        if (kind == 1 && n > 0 && fread(p, n, 1, stdin) != 1) abort();
        if (kind == 2) {
            memset(p, 0xff, n);
            results.push_back({p, n});
        }
        words.push_back(kind == 0 ? n : (u64)p);
    }
    Params params;
    if (sizeof params != words.size() * 8) abort();
    memcpy((void*)&params, words.data(), sizeof params);
    const u64 blocks = next(), threads = next();
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x) kernel(params);
    for (const auto& [p, n] : results) fwrite(p, 1, n, stdout);
    for (void* p : held) free(p);
}
