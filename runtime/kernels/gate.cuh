// Gated activations, activation(gate) * up, and rows that are quantised without a norm. See normfuse_ir::fused::Gated for the
// semantics.
#pragma once
#include "quant.cuh"
#include "wide.cuh"

enum Function { SIGMOID, SILU, SIGMOID_PRODUCT, GELU, GELU_TANH };

template <Function F> __device__ float exact(float x) {
    if constexpr (F == SIGMOID) return sigmoid_f(x);
    else if constexpr (F == SILU) return silu_f(x);
    else if constexpr (F == SIGMOID_PRODUCT) return x * sigmoid_f(x);
    else if constexpr (F == GELU) return gelu_f(x);
    else return gelu_tanh_f(x);
}

// ---- rounded to 16 bits, by f32 where that decides ----

// 1 / (1 + 2^(t + rest)), where `rest` is what t has no bits for. Within 2^-20.8: the hardware's power is within 2 units of the last
// place, its reciprocal within 1, and three more roundings are half of one each.
__device__ __forceinline__ float logistic(float t, float rest) {
    float power, result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(t));
    power = __fmaf_rn(power * 0.693147181f, rest, power);
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(1.0f + power));
    return result;
}
__device__ __forceinline__ float quick_sigmoid(float x) {
    // log2(e) in two numbers: the first one's product is exact with its remainder.
    constexpr float HIGH = 1.44269502f, LOW = 1.92596303e-8f;
    const float t = x * -HIGH;
    return logistic(t, __fmaf_rn(x, -LOW, __fmaf_rn(x, -HIGH, -t)));
}
template <Function F> __device__ __forceinline__ float quick(float x) {
    if constexpr (F == SIGMOID) {
        return quick_sigmoid(x);
    } else if constexpr (F == GELU_TANH) {
        const double wide = x, t = wide * (-2.302208198144325 - 0.1029432395800235 * (wide * wide));
        const float high = (float)t;
        return x * logistic(high, (float)(t - (double)high));
    } else {
        return x * quick_sigmoid(x);
    }
}
// Out of the way: f64 takes many registers.
template <Function F> __device__ __noinline__ Two exact_two(float a, float b) { return {exact<F>(a), exact<F>(b)}; }
template <Function F, class T> __device__ __noinline__ u32 exact_pair(float a, float b) {
    return store_pair<T>(exact<F>(a), exact<F>(b));
}
// Of a bf16, to be rounded to bf16, in as few steps as there are. Below `BRIEF_FROM` powers would be flushed.
template <Function F> constexpr float BRIEF_FROM = F == GELU_TANH ? -10.0f : -87.0f;
template <Function F> __device__ __forceinline__ float brief(float x) {
    const float by = F == GELU_TANH ? __fmaf_rn(x * x, -0.102943242f, -2.30220819f) : -1.44269504f;
    float power, result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x * by));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(1.0f + power));
    return F == SIGMOID ? result : x * result;
}
#if __CUDA_ARCH__ == 900
// Hopper's power and reciprocal lead to the right rounding of every bf16: `cuda/elementary.rs` goes through them.
constexpr bool BRIEF_IS_RIGHT = true;
#else
constexpr bool BRIEF_IS_RIGHT = false;
#endif
// Two values rounded to T, of 16 bits, if that is certain. What f32 gives is within 2^-20.8 of the function, and so is what the CPU
// rounds, within three roundings: if both ends of 2^-20 around it round to the same, that is what the function rounds to.
template <class T> __device__ __forceinline__ bool decided(Two q, u32& rounded) {
    constexpr float BELOW = 1.0f - 0x1p-20f, ABOVE = 1.0f + 0x1p-20f;
    rounded = store_pair<T>(q.a * BELOW, q.b * BELOW);
    return rounded == store_pair<T>(q.a * ABOVE, q.b * ABOVE);
}
// Where none of the steps is flushed or overflows. Conditions of the way out are one, by `&`: with a branch for each, NVRTC 13.0 runs out of
// convergence barriers, and lanes come to the shuffles behind it one without the other.
__device__ __forceinline__ bool within(Two x, float most) {
    return (fminf(fabsf(x.a), fabsf(x.b)) >= LEAST) & (fmaxf(fabsf(x.a), fabsf(x.b)) <= most);
}
// Of numbers of type From. `cuda/elementary.rs` goes through every f32.
template <Function F, class T, class From> __device__ __forceinline__ u32 pair_of(Two x) {
    if constexpr (BRIEF_IS_RIGHT && F != GELU && Same<T, BF16>::value && Same<From, BF16>::value) {
        if (fminf(x.a, x.b) >= BRIEF_FROM<F>) return store_pair<T>(brief<F>(x.a), brief<F>(x.b));
    } else if constexpr (F != GELU) {
        u32 rounded;
        if (decided<T>({quick<F>(x.a), quick<F>(x.b)}, rounded) & within(x, F == GELU_TANH ? 8.0f : MOST)) return rounded;
    }
    return exact_pair<F, T>(x.a, x.b);
}
// x * sigmoid(x * alpha), each step in f32, rounded likewise.
template <class G> __device__ __noinline__ Two exact_scaled(float a, float b) {
    return {a * sigmoid_f(a * G::alpha()), b * sigmoid_f(b * G::alpha())};
}
template <class G, class T> __device__ __forceinline__ u32 scaled_pair(Two x) {
    const Two scaled = {x.a * G::alpha(), x.b * G::alpha()};
    u32 rounded;
    const bool is = decided<T>({x.a * quick_sigmoid(scaled.a), x.b * quick_sigmoid(scaled.b)}, rounded);
    if (is & within(x, MOST) & within(scaled, MOST)) return rounded;
    const Two e = exact_scaled<G>(x.a, x.b);
    return store_pair<T>(e.a, e.b);
}

// ---- rows ----

// The activations of two gates in the dtype that computes them, of 16 bits.
template <class G> __device__ __forceinline__ u32 computed_pair(Two x) {
    typedef typename G::Compute C;
    x = rnd_from<C, typename G::Rows>(x);
    if constexpr (G::FUNCTION == SIGMOID_PRODUCT) {
        Two s = x;
        if constexpr (G::SCALED) s = rnd<C>(Two{x.a * G::alpha(), x.b * G::alpha()});
        return multiply_pairs<C>(store_pair<C>(x.a, x.b), pair_of<SIGMOID, C, C>(s));
    } else {
        return pair_of<G::FUNCTION, C, C>(x);
    }
}
// The same rounded to 16 bits as the product reads them.
template <class G> __device__ __forceinline__ u32 activated_pair(Two x) {
    typedef typename G::Compute C;
    typedef typename G::Activated A;
    if constexpr (Same<C, F32>::value && G::SCALED) {
        return scaled_pair<G, A>(x);
    } else if constexpr (Same<C, F32>::value) {
        return pair_of<G::FUNCTION, A, typename G::Rows>(x);
    } else {
        const u32 a = computed_pair<G>(x);
        return Same<A, C>::value ? a : store_pair<A>(low_of<C>(a), high_of<C>(a));
    }
}
template <class G> __device__ __forceinline__ Two activated(Two x) {
    typedef typename G::Compute C;
    typedef typename G::Activated A;
    if constexpr (!Same<A, F32>::value) {
        const u32 a = activated_pair<G>(x);
        return {low_of<A>(a), high_of<A>(a)};
    } else if constexpr (!Same<C, F32>::value) {
        const u32 a = computed_pair<G>(x);
        return {low_of<C>(a), high_of<C>(a)};
    } else if constexpr (G::SCALED) {
        return exact_scaled<G>(x.a, x.b);
    } else {
        return exact_two<G::FUNCTION>(x.a, x.b);
    }
}

// Gates as the function takes them, rounded to Compute and bounded from above; NaN passes.
template <class B, class R>
__device__ __forceinline__ void bounded_gates(Vector<typename B::Compute> (&to)[R::USED], const Vector<typename B::From> (&gate)[R::USED]) {
#pragma unroll
    for (int j = 0; j < R::USED; ++j) {
#pragma unroll
        for (int i = 0; i < VECTOR; i += 2) {
            Two x = rnd_from<typename B::Compute, typename B::From>(gate[j].pair(i));
            if constexpr (B::HAS_MOST) x = {min_nan(x.a, B::most()), min_nan(x.b, B::most())};
            to[j].set_pair(i, x);
        }
    }
}
// The other factor: between two bounds, and one more where that is added.
template <class B, class R>
__device__ __forceinline__ void bounded_factors(Vector<typename B::Factor> (&to)[R::USED], const Vector<typename B::Up> (&up)[R::USED]) {
    auto bounded = [](float v) { return B::HAS_LIMIT ? min_nan(max_nan(v, -B::limit()), B::limit()) : v; };
#pragma unroll
    for (int j = 0; j < R::USED; ++j) {
#pragma unroll
        for (int i = 0; i < VECTOR; i += 2) {
            Two u = up[j].pair(i);
            u = {bounded(u.a), bounded(u.b)};
            if constexpr (B::SHIFTED) u = {u.a + 1.0f, u.b + 1.0f};
            to[j].set_pair(i, u);
        }
    }
}

// h = round[Product](activated(gate) * up).
template <class G, class R>
__device__ __forceinline__ void gate_rows(Vector<typename G::Product> (&h)[R::USED], const Vector<typename G::Rows> (&gate)[R::USED],
                                          const Vector<typename G::Up> (&up)[R::USED]) {
    typedef typename G::Product P;
    constexpr bool PAIRS = !Same<P, F32>::value && Same<P, typename G::Activated>::value && Same<P, typename G::Up>::value;
#pragma unroll
    for (int j = 0; j < R::USED; ++j) {
#pragma unroll
        for (int i = 0; i < VECTOR; i += 2) {
            if constexpr (PAIRS) {
                h[j].w[i / 2] = multiply_pairs<P>(activated_pair<G>(gate[j].pair(i)), up[j].w[i / 2]);
            } else {
                const Two a = activated<G>(gate[j].pair(i)), u = up[j].pair(i);
                h[j].set_pair(i, {a.a * u.a, a.b * u.b});
            }
        }
    }
}

// y = the row as it is, or times the weight.
template <class S, class H, class R, bool ALIGNED>
__device__ __forceinline__ void undivided(Vector<typename S::Output> (&y)[R::USED], const Vector<H> (&h)[R::USED],
                                          const Weights<typename S::Weight, R>& weights, const Place& at) {
    if constexpr (!S::WEIGHTED && Same<typename S::Normed, H>::value && Same<typename S::Output, H>::value) {
#pragma unroll
        for (int j = 0; j < R::USED; ++j) y[j] = h[j];
    } else {
        normalise<S, H, R, ALIGNED>(y, h, 0.0f, weights, at);
    }
}
