//! What is an RMSNorm, and what it means.

use std::collections::BTreeMap;

use normfuse_ir::{
    DType, FusedNorm, Graph, Op,
    fused::{Prologue, Source},
};
use normfuse_passes::{Options, Outcome};

use super::{
    ALL, F32, NARROW,
    common::bits::{parse, same_bits},
    distinct, each, graph,
};

/// A spelling.
struct Legal {
    name: &'static str,
    dtypes: &'static [DType],
    /// Where the fused op means something else than Llama's norm: `field=value`, see [`meaning`].
    means: &'static str,
    lines: &'static str,
}

const fn legal(name: &'static str, dtypes: &'static [DType], means: &'static str, lines: &'static str) -> Legal {
    Legal { name, dtypes, means, lines }
}

/// The spellings. Llama's norm is: rows of T, statistics in f32, eps 1e-6, times `1 / sqrt`, rounded to T, times a weight
/// of T in T.
const LEGAL: &[Legal] = &[
    // Exporters.
    legal(
        "torchscript",
        ALL,
        "",
        "@x32
        %sq = pow(%x32, %two)
        @ms @ve @rt
        %r = div(%one, %rt)
        @n @y",
    ),
    legal(
        "dynamo",
        ALL,
        "",
        "@x32
        %sq = pow(%x32, %two)
        @ms @ve @rt @r @n
        %nc = cast(%n) {to=T}
        %y = mul(%w, %nc)",
    ),
    legal(
        "pt2",
        ALL,
        "root=rsqrt",
        "@x32
        %sq = pow(%x32, %two)
        @ms @ve
        %r = rsqrt(%ve)
        @n @y",
    ),
    legal(
        "native_axis_last",
        ALL,
        "root=divide_by_sqrt add=T",
        "%h = add(%x, %res)
        %y = rms_norm(%h, %w) {eps=1e-6}",
    ),
    legal(
        "native_axis_positive",
        ALL,
        "root=divide_by_sqrt add=T",
        "%h = add(%x, %res)
        %y = rms_norm(%h, %w) {eps=1e-6, axis=2}",
    ),
    legal("native_quantised", ALL, "root=divide_by_sqrt", "%y = rms_norm(%x, %w) {eps=1e-6}\n@quant"),
    // A native norm multiplies in the dtype of stage one where the scale's dtype is another: it has no f32 form of its own.
    legal(
        "native_f32_scale",
        NARROW,
        "root=divide_by_sqrt normed=f32 weight=f32 output=f32 add=T",
        "%h = add(%x, %res)
        %y = rms_norm(%h, %w32) {eps=1e-6, cast=after_scale}",
    ),
    legal(
        "simplified_layer_norm",
        ALL,
        "root=reciprocal_sqrt normed=f32 add=T",
        "%h = add(%x, %res)
        %y = rms_norm(%h, %w) {eps=1e-6, root=reciprocal_sqrt, cast=after_scale}",
    ),
    legal(
        "skip_simplified_layer_norm",
        ALL,
        "root=divide_by_sqrt normed=f32 input=f32 add=T,T:f32>T",
        "%y, %sum = skip_rms_norm(%x, %res, %w) {eps=1e-6}
        @quant
        output %sum",
    ),
    legal(
        "skip_simplified_layer_norm_without_sum",
        ALL,
        "root=divide_by_sqrt normed=f32 input=f32 add=T,T:f32",
        "%y, %sum = skip_rms_norm(%x, %res, %w) {eps=1e-6}
        @quant",
    ),
    // Roots.
    legal(
        "power_of_minus_a_half",
        ALL,
        "root=rsqrt",
        "const %e: f32[] = -0.5
        @x32 @sq @ms @ve
        %r = pow(%ve, %e)
        @n @y",
    ),
    legal(
        "power_of_minus_a_half_as_f64",
        ALL,
        "root=rsqrt",
        "const %e: f64[1] = [-0.5]
        @x32 @sq @ms @ve
        %r = pow(%ve, %e)
        @n @y",
    ),
    legal(
        "power_of_a_half",
        ALL,
        "",
        "const %e: f32[] = 0.5
        @x32 @sq @ms @ve
        %rt = pow(%ve, %e)
        @r @n @y",
    ),
    legal(
        "power_of_minus_one_of_the_root",
        ALL,
        "",
        "const %e: f32[] = -1.0
        @x32 @sq @ms @ve @rt
        %r = pow(%rt, %e)
        @n @y",
    ),
    legal(
        "division_by_root",
        ALL,
        "root=divide_by_sqrt",
        "@x32 @sq @ms @ve @rt
        %n = div(%x32, %rt)
        @y",
    ),
    legal(
        "one_over_root_on_the_left",
        ALL,
        "",
        "@x32 @sq @ms @ve @rt
        %r = div(%one, %rt)
        %n = mul(%r, %x32)
        @y",
    ),
    // Squares and means.
    legal(
        "every_operand_swapped",
        ALL,
        "",
        "@x32 @sq @ms
        %ve = add(%eps, %ms)
        @rt @r
        %n = mul(%r, %x32)
        %nc = cast(%n) {to=T}
        %y = mul(%w, %nc)",
    ),
    legal(
        "power_two_of_another_dtype",
        ALL,
        "",
        "const %e: i64[] = 2
        @x32
        %sq = pow(%x32, %e)
        @ms @ve @rt @r @n @y",
    ),
    legal(
        "square_before_the_cast",
        ALL,
        "squares=T",
        "%s = mul(%x, %x)
        %sq = cast(%s) {to=f32}
        @x32 @ms @ve @rt @r @n @y",
    ),
    legal(
        "power_before_the_cast",
        ALL,
        "squares=T",
        "const %e: T[] = 2.0
        %s = pow(%x, %e)
        %sq = cast(%s) {to=f32}
        @x32 @ms @ve @rt @r @n @y",
    ),
    legal(
        "sum_square_over_count",
        ALL,
        "",
        "@x32
        %sm = reduce_sum_square(%x32) {axes=[-1]}
        %ms = div(%sm, %n24)
        @ve @rt @r @n @y",
    ),
    legal(
        "sum_over_count",
        ALL,
        "",
        "@x32 @sq
        %sm = reduce_sum(%sq) {axes=[-1]}
        %ms = div(%sm, %n24)
        @ve @rt @r @n @y",
    ),
    legal(
        "sum_times_inverse_of_a_power_of_two",
        ALL,
        "width=32",
        "input %x: T[batch, seq, 32]
        const %w: T[32] = fill(1.25)
        const %n: f32[] = 0.03125
        @x32 @sq
        %sm = reduce_sum(%sq) {axes=[-1]}
        %ms = mul(%n, %sm)
        @ve @rt @r
        %nn = mul(%x32, %r)
        %nc = cast(%nn) {to=T}
        %y = mul(%nc, %w)",
    ),
    legal(
        "count_from_the_shape",
        ALL,
        "",
        "const %i: i64[] = -1
        %shape = shape(%x)
        %last = gather(%shape, %i)
        %count = cast(%last) {to=f32}
        @x32 @sq
        %sm = reduce_sum(%sq) {axes=[-1]}
        %ms = div(%sm, %count)
        @ve @rt @r @n @y",
    ),
    legal(
        "count_from_the_shape_of_what_comes_before",
        ALL,
        "",
        "const %i: i64[1] = [2]
        %z = neg(%x)
        %shape = shape(%x)
        %last = gather(%shape, %i)
        %one_axis = squeeze(%last)
        %count = cast(%one_axis) {to=f32}
        %x32 = cast(%z) {to=f32}
        @sq
        %sm = reduce_sum(%sq) {axes=[-1]}
        %ms = div(%sm, %count)
        @ve @rt @r @n @y",
    ),
    legal(
        "inverse_count_from_the_shape",
        ALL,
        "width=32",
        "input %x: T[batch, seq, 32]
        const %w: T[32] = fill(1.25)
        const %i: i64[] = 2
        %shape = shape(%x)
        %last = gather(%shape, %i)
        %count = cast(%last) {to=f32}
        %inverse = reciprocal(%count)
        @x32 @sq
        %sm = reduce_sum(%sq) {axes=[-1]}
        %ms = mul(%sm, %inverse)
        @ve @rt @r @n @y",
    ),
    legal(
        "positive_axis",
        ALL,
        "",
        "@x32 @sq
        %ms = reduce_mean(%sq) {axes=[2]}
        @ve @rt @r @n @y",
    ),
    legal(
        "no_kept_axis_and_unsqueeze",
        ALL,
        "",
        "@x32 @sq
        %m = reduce_mean(%sq) {axes=[-1], keepdims=false}
        %ms = unsqueeze(%m) {axes=[-1]}
        @ve @rt @r @n @y",
    ),
    legal(
        "no_kept_axis_and_unsqueeze_at_the_end",
        ALL,
        "",
        "@x32 @sq
        %ms = reduce_mean(%sq) {axes=[-1], keepdims=false}
        @ve @rt
        %r0 = reciprocal(%rt)
        %r = unsqueeze(%r0) {axes=[2]}
        @n @y",
    ),
    legal(
        "mean_expanded_to_the_row",
        ALL,
        "",
        "@x32 @sq
        %m = reduce_mean(%sq) {axes=[-1]}
        %shape = shape(%x)
        %ms = expand(%m, %shape)
        @ve @rt @r @n @y",
    ),
    legal(
        "factor_expanded_to_the_row",
        ALL,
        "",
        "@x32 @sq @ms @ve @rt
        %r0 = reciprocal(%rt)
        %shape = shape(%x)
        %r = expand(%r0, %shape)
        @n @y",
    ),
    // What is added.
    legal("eps_1e-12", ALL, "eps=1e-12", "const %eps: f32[] = 1e-12\n@x32 @sq @ms @ve @rt @r @n @y"),
    legal("eps_1e-5", ALL, "eps=1e-5", "const %eps: f32[] = 1e-5\n@x32 @sq @ms @ve @rt @r @n @y"),
    legal("eps_0", ALL, "eps=0.0", "const %eps: f32[] = 0.0\n@x32 @sq @ms @ve @rt @r @n @y"),
    legal(
        "no_eps",
        ALL,
        "eps=0.0",
        "@x32 @sq @ms
        %rt = sqrt(%ms)
        @r @n @y",
    ),
    legal("eps_with_axes_of_one", ALL, "", "const %eps: f32[1, 1, 1] = fill(1e-6)\n@x32 @sq @ms @ve @rt @r @n @y"),
    legal(
        "eps_from_f64",
        ALL,
        "",
        "const %e: f64[] = 1e-6
        %eps = cast(%e) {to=f32}
        @x32 @sq @ms @ve @rt @r @n @y",
    ),
    // 2^-20 is one number in all three dtypes.
    legal(
        "eps_from_the_dtype_of_the_rows",
        ALL,
        "eps=9.536743e-7",
        "const %e: T[] = 9.5367431640625e-7
        %eps = cast(%e) {to=f32}
        @x32 @sq @ms @ve @rt @r @n @y",
    ),
    legal(
        "eps_through_views",
        ALL,
        "",
        "const %e: f32[1] = [1e-6]
        const %to: i64[2] = [1, 1]
        %e0 = squeeze(%e)
        %e1 = reshape(%e0, %to)
        %e2 = unsqueeze(%e1) {axes=[0]}
        %eps = identity(%e2)
        @x32 @sq @ms @ve @rt @r @n @y",
    ),
    legal(
        "eps_expanded_like_the_mean",
        ALL,
        "",
        "const %e: f32[] = 1e-6
        @x32 @sq @ms
        %shape = shape(%ms)
        %eps = expand(%e, %shape)
        @ve @rt @r @n @y",
    ),
    legal(
        "eps_expanded_by_a_constant",
        ALL,
        "",
        "const %e: f32[] = 1e-6
        const %to: i64[3] = [1, 1, 1]
        %eps = expand(%e, %to)
        @x32 @sq @ms @ve @rt @r @n @y",
    ),
    legal(
        "eps_as_constant_of_shape",
        ALL,
        "eps=0.25",
        "const %to: i64[1] = [1]
        %eps = constant_of_shape(%to) {dtype=f32, value=0.25}
        @x32 @sq @ms @ve @rt @r @n @y",
    ),
    legal(
        "eps_one_a_token_and_all_equal",
        ALL,
        "eps=0.5",
        "input %x: T[batch, 3, 24]
        const %eps: f32[3, 1] = fill(0.5)
        @x32 @sq @ms @ve @rt @r @n @y",
    ),
    // Weights and roundings.
    legal(
        "product_in_f32",
        ALL,
        "normed=f32",
        "@x32 @sq @ms @ve @rt @r @n
        %wc = cast(%w) {to=f32}
        %p = mul(%wc, %n)
        %y = cast(%p) {to=T}",
    ),
    legal(
        "product_in_f32_by_f32_weight",
        ALL,
        "normed=f32 weight=f32",
        "@x32 @sq @ms @ve @rt @r @n
        %p = mul(%n, %w32)
        %y = cast(%p) {to=T}",
    ),
    legal(
        "product_left_in_f32",
        ALL,
        "normed=f32 weight=f32 output=f32",
        "@x32 @sq @ms @ve @rt @r @n
        %y = mul(%n, %w32)",
    ),
    legal(
        "rounded_and_f32_weight",
        NARROW,
        "product=f32 weight=f32 output=f32",
        "@x32 @sq @ms @ve @rt @r @n
        %nc = cast(%n) {to=T}
        %back = cast(%nc) {to=f32}
        %y = mul(%back, %w32)",
    ),
    legal(
        "rounded_and_f32_weight_and_rounded",
        NARROW,
        "product=f32 weight=f32",
        "@x32 @sq @ms @ve @rt @r @n
        %nc = cast(%n) {to=T}
        %back = cast(%nc) {to=f32}
        %p = mul(%w32, %back)
        %y = cast(%p) {to=T}",
    ),
    // The product of 16-bit operands in f32, rounded, is the 16-bit product; either says the same.
    legal(
        "product_in_f32_of_narrow_operands",
        NARROW,
        "product=f32",
        "@x32 @sq @ms @ve @rt @r @n
        %nc = cast(%n) {to=T}
        %back = cast(%nc) {to=f32}
        %wc = cast(%w) {to=f32}
        %p = mul(%back, %wc)
        %y = cast(%p) {to=T}",
    ),
    legal(
        "rounded_twice",
        &[DType::F32],
        "normed=f16 product=f32",
        "@x32 @sq @ms @ve @rt @r @n
        %h16 = cast(%n) {to=f16}
        %nc = cast(%h16) {to=f32}
        %y = mul(%nc, %w)",
    ),
    legal(
        "rounded_to_another_narrow_dtype",
        &[DType::BF16],
        "normed=f16 product=bf16",
        "@x32 @sq @ms @ve @rt @r @n
        %h16 = cast(%n) {to=f16}
        %nc = cast(%h16) {to=bf16}
        %y = mul(%nc, %w)",
    ),
    legal(
        "one_plus_weight_in_f32",
        ALL,
        "normed=f32 plus_one=yes",
        "@x32 @sq @ms @ve @rt @r @n
        %wc = cast(%w) {to=f32}
        %w1 = add(%one, %wc)
        %p = mul(%n, %w1)
        %y = cast(%p) {to=T}",
    ),
    legal(
        "weight_plus_one_in_f32",
        ALL,
        "normed=f32 plus_one=yes",
        "@x32 @sq @ms @ve @rt @r @n
        %wc = cast(%w) {to=f32}
        %w1 = add(%wc, %one)
        %p = mul(%w1, %n)
        %y = cast(%p) {to=T}",
    ),
    legal(
        "one_plus_weight_in_the_dtype_of_the_rows",
        ALL,
        "plus_one=yes",
        "const %one: T[] = 1.0
        @x32 @sq @ms @ve @rt @r @n
        %nc = cast(%n) {to=T}
        %w1 = add(%one, %w)
        %y = mul(%nc, %w1)",
    ),
    // One plus the weight was rounded to 16 bits: the sum is the weight.
    legal(
        "one_plus_weight_cast_after",
        NARROW,
        "normed=f32",
        "const %one: T[] = 1.0
        @x32 @sq @ms @ve @rt @r @n
        %w1 = add(%one, %w)
        %wc = cast(%w1) {to=f32}
        %p = mul(%n, %wc)
        %y = cast(%p) {to=T}",
    ),
    legal(
        "one_plus_weight_folded",
        ALL,
        "normed=f32 weight=f32",
        "const %w1: f32[24] = fill(2.25)
        @x32 @sq @ms @ve @rt @r @n
        %p = mul(%w1, %n)
        %y = cast(%p) {to=T}",
    ),
    legal(
        "power_and_f32_product",
        ALL,
        "root=rsqrt normed=f32",
        "const %e: f32[] = -0.5
        @x32 @sq @ms @ve
        %r = pow(%ve, %e)
        @n
        %wc = cast(%w) {to=f32}
        %p = mul(%n, %wc)
        %y = cast(%p) {to=T}",
    ),
    legal(
        "no_weight",
        ALL,
        "normed=f32 weight=none",
        "@x32 @sq @ms @ve @rt @r @n
        %y = cast(%n) {to=T}",
    ),
    legal(
        "no_weight_by_power",
        ALL,
        "root=rsqrt normed=f32 weight=none",
        "const %e: f32[] = -0.5
        @x32 @sq @ms @ve
        %r = pow(%ve, %e)
        @n
        %y = cast(%n) {to=T}",
    ),
    legal("weight_with_axes_of_one", ALL, "", "const %w: T[1, 1, 24] = fill(1.25)\n@x32 @sq @ms @ve @rt @r @n @y"),
    legal(
        "weight_reshaped",
        ALL,
        "",
        "const %w0: T[24] = fill(1.25)
        const %to: i64[3] = [1, 1, -1]
        %w = reshape(%w0, %to)
        @x32 @sq @ms @ve @rt @r @n @y",
    ),
    legal(
        "weight_unsqueezed",
        ALL,
        "",
        "const %w0: T[24] = fill(1.25)
        %w = unsqueeze(%w0) {axes=[0]}
        @x32 @sq @ms @ve @rt @r @n @y",
    ),
    legal(
        "weight_expanded_to_the_row",
        ALL,
        "",
        "const %w0: T[24] = fill(1.25)
        %shape = shape(%x)
        %w = expand(%w0, %shape)
        @x32 @sq @ms @ve @rt @r @n @y",
    ),
    legal(
        "weight_expanded_by_axes_of_one",
        ALL,
        "",
        "const %w0: T[24] = fill(1.25)
        const %to: i64[3] = [1, 1, 24]
        %w = expand(%w0, %to)
        @x32 @sq @ms @ve @rt @r @n @y",
    ),
    legal(
        "weight_identity",
        ALL,
        "",
        "const %w0: T[24] = fill(1.25)
        %w = identity(%w0)
        @x32 @sq @ms @ve @rt @r @n @y",
    ),
    legal(
        "weight_cast_down",
        NARROW,
        "",
        "const %w0: f32[24] = fill(1.2000000477)
        %w = cast(%w0) {to=T}
        @x32 @sq @ms @ve @rt @r @n @y",
    ),
    legal("weight_as_input", ALL, "", "input %w: T[24]\n@x32 @sq @ms @ve @rt @r @n @y"),
    legal(
        "weight_of_one_number_expanded",
        ALL,
        "",
        "const %w0: T[] = 1.25
        const %to: i64[1] = [24]
        %w = expand(%w0, %to)
        @x32 @sq @ms @ve @rt @r @n @y",
    ),
    legal(
        "two_weights_over_one_row",
        ALL,
        "norms=2",
        "const %v: T[24] = fill(0.75)
        @x32 @sq @ms @ve @rt @r @n @y
        %z = mul(%nc, %v)
        output %y
        output %z",
    ),
    // Shapes.
    legal("a_vector", ALL, "", "input %x: T[24]\n@x32 @sq @ms @ve @rt @r @n @y"),
    legal(
        "a_vector_and_all_axes",
        ALL,
        "",
        "input %x: T[24]
        @x32 @sq
        %ms = reduce_mean(%sq)
        @ve @rt @r @n @y",
    ),
    legal(
        "a_vector_and_a_weight_that_is_an_input",
        ALL,
        "",
        "input %x: T[24]
        input %w: T[24]
        @x32 @sq @ms @ve @rt @r @n @y",
    ),
    legal("a_matrix", ALL, "", "input %x: T[seq, 24]\n@x32 @sq @ms @ve @rt @r @n @y"),
    legal("four_axes", ALL, "", "input %x: T[batch, 2, seq, 24]\n@x32 @sq @ms @ve @rt @r @n @y"),
    legal("one_row", ALL, "", "input %x: T[1, 1, 24]\n@x32 @sq @ms @ve @rt @r @n @y"),
    legal(
        "one_row_and_weight_of_its_shape",
        ALL,
        "",
        "input %x: T[1, 1, 24]
        const %w: T[1, 1, 24] = fill(1.25)
        @x32 @sq @ms @ve @rt @r @n @y",
    ),
    legal(
        "one_row_and_one_plus_weight",
        ALL,
        "normed=f32 plus_one=yes",
        "input %x: T[1, 1, 24]
        const %w0: T[24] = fill(1.25)
        const %to: i64[3] = [1, 1, 24]
        %w = expand(%w0, %to)
        @x32 @sq @ms @ve @rt @r @n
        %wc = cast(%w) {to=f32}
        %w1 = add(%wc, %one)
        %p = mul(%n, %w1)
        %y = cast(%p) {to=T}",
    ),
    legal(
        "heads_of_a_view",
        ALL,
        "width=6",
        "const %to: i64[4] = [0, 0, 4, 6]
        const %w: T[6] = fill(1.25)
        %v = reshape(%x, %to)
        %x32 = cast(%v) {to=f32}
        @sq @ms @ve @rt @r @n @y",
    ),
    legal(
        "heads_after_a_transpose",
        ALL,
        "width=6",
        "input %x: T[batch, seq, 4, 6]
        const %w: T[6] = fill(1.25)
        %v = transpose(%x) {perm=[0, 2, 1, 3]}
        %x32 = cast(%v) {to=f32}
        @sq @ms @ve @rt @r @n @y",
    ),
    legal(
        "groups_of_a_row",
        ALL,
        "width=8 normed=f32 weight=none",
        "const %to: i64[4] = [0, 0, 3, 8]
        const %back: i64[3] = [0, 0, 24]
        %v = reshape(%x, %to)
        %x32 = cast(%v) {to=f32}
        @sq @ms @ve @rt @r @n
        %nc = cast(%n) {to=T}
        %y = reshape(%nc, %back)",
    ),
    // Casts that do nothing, and 16 bits throughout.
    legal(
        "casts_to_the_own_dtype",
        ALL,
        "",
        "%x0 = cast(%x) {to=T}
        %x1 = cast(%x0) {to=f32}
        %x32 = cast(%x1) {to=f32}
        @sq @ms
        %ms1 = cast(%ms) {to=f32}
        %ve = add(%ms1, %eps)
        @rt @r @n @y",
    ),
    legal(
        "everything_in_one_dtype",
        ALL,
        "compute=T squares=T eps=9.536743e-7",
        "const %eps: T[] = 9.5367431640625e-7
        const %two: T[] = 2.0
        %sq = pow(%x, %two)
        @ms @ve @rt @r
        %n = mul(%x, %r)
        %y = mul(%n, %w)",
    ),
    legal(
        "squares_in_f32_rounded_to_the_dtype_of_the_rows",
        NARROW,
        "compute=T squares=T eps=9.536743e-7",
        "const %eps: T[] = 9.5367431640625e-7
        @x32
        %s = mul(%x32, %x32)
        %sq = cast(%s) {to=T}
        @ms @ve @rt @r
        %n = mul(%x, %r)
        %y = mul(%n, %w)",
    ),
    legal(
        "everything_in_f32",
        F32,
        "",
        "%sq = mul(%x, %x)
        @ms @ve @rt @r
        %n = mul(%x, %r)
        %y = mul(%n, %w)",
    ),
    // Residual sums.
    legal(
        "residual",
        ALL,
        "add=T",
        "%x1 = add(%x, %res)
        %x32 = cast(%x1) {to=f32}
        @sq @ms @ve @rt @r @n @y
        output %y
        output %x1",
    ),
    legal(
        "residual_rounded_before_the_variance",
        ALL,
        "add=T",
        "%a = cast(%x) {to=f32}
        %b = cast(%res) {to=f32}
        %s = add(%a, %b)
        %h = cast(%s) {to=T}
        %x32 = cast(%h) {to=f32}
        @sq @ms @ve @rt @r @n @y
        output %y
        output %h",
    ),
    legal(
        "residual_in_f32_through_the_variance",
        ALL,
        "input=f32 add=T,T:f32>T",
        "%a = cast(%x) {to=f32}
        %b = cast(%res) {to=f32}
        %x32 = add(%a, %b)
        %h = cast(%x32) {to=T}
        @sq @ms @ve @rt @r @n @y
        output %y
        output %h",
    ),
    legal(
        "residual_in_f32_handed_out_in_f32",
        ALL,
        "input=f32 add=T,T:f32",
        "%a = cast(%x) {to=f32}
        %b = cast(%res) {to=f32}
        %x32 = add(%a, %b)
        @sq @ms @ve @rt @r @n @y
        output %y
        output %x32",
    ),
    legal(
        "f32_residual_stream",
        ALL,
        "input=f32 add=T,f32:f32",
        "input %res: f32[batch, seq, 24]
        %a = cast(%x) {to=f32}
        %x32 = add(%a, %res)
        @sq @ms @ve @rt @r @n @y
        output %y
        output %x32",
    ),
    legal(
        "residual_in_f32_and_quantised",
        ALL,
        "input=f32 normed=f32 add=T,T:f32>T",
        "%a = cast(%x) {to=f32}
        %b = cast(%res) {to=f32}
        %x32 = add(%a, %b)
        %h = cast(%x32) {to=T}
        @sq @ms @ve @rt @r @n
        %wc = cast(%w) {to=f32}
        %p = mul(%n, %wc)
        %y = cast(%p) {to=T}
        @quant
        output %h",
    ),
    // What is around it.
    legal(
        "gate_after",
        ALL,
        "",
        "input %gate: T[batch, seq, 24]
        @x32 @sq @ms @ve @rt @r @n @y
        %g = silu(%gate)
        %z = mul(%y, %g)
        output %z",
    ),
    legal(
        "gate_before",
        ALL,
        "",
        "input %gate: T[batch, seq, 24]
        %g = silu(%gate)
        %h = mul(%x, %g)
        %x32 = cast(%h) {to=f32}
        @sq @ms @ve @rt @r @n @y",
    ),
    legal(
        "rows_that_are_squares",
        ALL,
        "",
        "%h = mul(%x, %x)
        %x32 = cast(%h) {to=f32}
        @sq @ms @ve @rt @r @n @y",
    ),
    // The scale of an adaptive norm is made for each token: the norm has no weight, and the product stays.
    legal(
        "scale_made_for_each_row",
        ALL,
        "normed=f32 weight=none",
        "input %scale: T[batch, 1, 24]
        @x32 @sq @ms @ve @rt @r @n
        %nc = cast(%n) {to=T}
        %y = mul(%nc, %scale)",
    ),
    legal(
        "read_through_a_view",
        ALL,
        "",
        "const %to: i64[2] = [-1, 24]
        @x32 @sq @ms @ve @rt @r @n @y
        %v = reshape(%y, %to)
        %z = neg(%v)
        output %z",
    ),
];

/// A descriptor in words: everything that decides bits.
pub fn meaning(f: &FusedNorm) -> BTreeMap<&'static str, String> {
    let s = &f.siblings[0];
    for other in &f.siblings[1..] {
        assert_eq!((other.root, other.eps, other.normed), (s.root, s.eps, s.normed), "siblings of one row");
    }
    let root = serde_json::to_value(s.root).unwrap();
    let add = match f.prologue {
        Prologue::None => "none".to_owned(),
        Prologue::ResidualAdd(a) if [a.residual(), a.sum(), a.emitted()] == [a.dtype; 3] => a.dtype.to_string(),
        Prologue::ResidualAdd(a) => {
            let emitted = if a.emitted() == a.sum() { String::new() } else { format!(">{}", a.emitted()) };
            format!("{},{}:{}{emitted}", a.dtype, a.residual(), a.sum())
        }
    };
    BTreeMap::from([
        ("norms", f.siblings.len().to_string()),
        ("add", add),
        ("width", s.width.to_string()),
        ("input", s.input.to_string()),
        ("compute", s.compute.to_string()),
        ("squares", s.squares().to_string()),
        ("eps", format!("{:?}", s.eps.get())),
        ("root", root.as_str().unwrap().to_owned()),
        ("normed", s.normed.to_string()),
        ("weight", s.weight.map_or("none".into(), |w| w.dtype.to_string())),
        ("plus_one", if s.weight.is_some_and(|w| w.plus_one) { "yes" } else { "no" }.into()),
        ("product", s.product().to_string()),
        ("output", s.output.to_string()),
    ])
}

/// What a row says the descriptor is.
pub fn expected(means: &str, dtype: DType) -> BTreeMap<&str, String> {
    let mut fields = BTreeMap::from([
        ("norms", "1"),
        ("add", "none"),
        ("width", "24"),
        ("input", "T"),
        ("compute", "f32"),
        ("squares", "f32"),
        ("eps", "1e-6"),
        ("root", "reciprocal_sqrt"),
        ("normed", "T"),
        ("weight", "T"),
        ("plus_one", "no"),
        ("output", "T"),
    ]);
    for (field, value) in means.split_whitespace().map(|f| f.split_once('=').unwrap()) {
        fields.insert(field, value);
    }
    let normed = fields["normed"];
    fields.entry("product").or_insert(normed);
    let typed = |v: &str| {
        let v = v.replace('T', &dtype.to_string());
        // In f32 a sum that is f32 through and through is the usual one.
        match v.as_str() {
            "f32,f32:f32>f32" | "f32,f32:f32" => "f32".into(),
            _ => v.replace("f32>f32", "f32"),
        }
    };
    fields.into_iter().map(|(f, v)| (f, typed(v))).collect()
}

pub fn fused(graph: &Graph) -> Vec<&FusedNorm> {
    let ops = graph.nodes().filter_map(|(_, n)| match &n.op {
        Op::FusedNorm(f) => Some(&**f),
        _ => None,
    });
    ops.collect()
}

fn check(row: &Legal, dtype: DType) {
    let name = format!("{} in {dtype}", row.name);
    let before = parse(&graph(row.name, dtype, row.lines));
    let mut after = before.clone();
    let options = Options { verify: true, ..Options::default() };
    let report = normfuse_passes::run(&mut after, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
    let ops = fused(&after);
    assert_eq!(ops.len(), 1, "{name}: {:#?}", report.sites);
    assert!(report.sites.iter().all(|s| s.outcome == Outcome::Fused), "{name}: {:#?}", report.sites);
    assert_eq!(meaning(ops[0]), expected(row.means, dtype), "{name}");
    assert_eq!(ops[0].source, Source::Shared, "{name}");
    same_bits(&name, &before, &after);
}

#[test]
fn every_spelling_is_recognised_with_its_meaning() {
    assert!(distinct(LEGAL.iter().map(|r| r.name)) >= 40);
    each(LEGAL.iter().flat_map(|row| row.dtypes.iter().map(move |d| (row, *d))), |(row, dtype)| check(row, dtype));
}
