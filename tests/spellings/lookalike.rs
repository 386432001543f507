//! What looks like an RMSNorm and is none, or may not be fused, and the precondition that the report names.

use normfuse_ir::{DType, Op};
use normfuse_passes::{Kind, Options, Outcome};

use super::{ALL, F32, NARROW, common::bits::parse, distinct, each, graph};

/// A lookalike.
struct Lookalike {
    name: &'static str,
    dtypes: &'static [DType],
    /// The precondition that fails, and words of the hint.
    fails: (&'static str, &'static str),
    lines: &'static str,
}

const fn fails(
    name: &'static str,
    dtypes: &'static [DType],
    precondition: &'static str,
    says: &'static str,
    lines: &'static str,
) -> Lookalike {
    Lookalike { name, dtypes, fails: (precondition, says), lines }
}

const LOOKALIKES: &[Lookalike] = &[
    // Other dtypes.
    fails(
        "f64",
        &[DType::F64],
        "float",
        "f64",
        "const %eps: f64[] = 1e-6
        %sq = mul(%x, %x)
        @ms @ve @rt @r
        %n = mul(%x, %r)
        %y = mul(%n, %w)",
    ),
    fails(
        "statistics_in_f64",
        ALL,
        "float",
        "f64",
        "const %eps: f64[] = 1e-6
        %x32 = cast(%x) {to=f64}
        @sq @ms @ve @rt @r @n @y",
    ),
    fails("native_in_f64", ALL, "supported", "found f64", "%y = rms_norm(%x, %w) {eps=1e-6, stash=f64}"),
    // LayerNorms.
    fails(
        "layer_norm",
        ALL,
        "not_centred",
        "LayerNorm",
        "%x0 = cast(%x) {to=f32}
        %mu = reduce_mean(%x0) {axes=[-1]}
        %x32 = sub(%x0, %mu)
        @sq @ms @ve @rt @r @n @y",
    ),
    fails(
        "layer_norm_centred_in_the_dtype_of_the_rows",
        ALL,
        "not_centred",
        "LayerNorm",
        "%mu = reduce_mean(%x) {axes=[-1]}
        %d = sub(%x, %mu)
        %x32 = cast(%d) {to=f32}
        @sq @ms @ve @rt @r @n @y",
    ),
    fails(
        "layer_norm_with_mean_through_a_view",
        ALL,
        "not_centred",
        "LayerNorm",
        "%x0 = cast(%x) {to=f32}
        %m = reduce_mean(%x0) {axes=[-1], keepdims=false}
        %mu = unsqueeze(%m) {axes=[-1]}
        %x32 = sub(%x0, %mu)
        %sq = mul(%x32, %x32)
        @ms @ve @rt
        %n = div(%x32, %rt)
        @y",
    ),
    fails(
        "layer_norm_of_x_by_centred_statistics",
        ALL,
        "not_centred",
        "LayerNorm",
        "@x32
        %mu = reduce_mean(%x32) {axes=[-1]}
        %d = sub(%x32, %mu)
        %sq = mul(%d, %d)
        @ms @ve @rt @r @n @y",
    ),
    fails(
        "layer_norm_by_sums",
        ALL,
        "not_centred",
        "LayerNorm",
        "%x0 = cast(%x) {to=f32}
        %mu = reduce_mean(%x0) {axes=[-1]}
        %x32 = sub(%x0, %mu)
        %sm = reduce_sum_square(%x32) {axes=[-1]}
        %ms = div(%sm, %n24)
        @ve @rt @r @n @y",
    ),
    fails(
        "variance_as_a_difference_of_means",
        ALL,
        "eps_constant",
        "subtraction",
        "@x32 @sq
        %mu = reduce_mean(%x32) {axes=[-1]}
        %mu2 = mul(%mu, %mu)
        %m = reduce_mean(%sq) {axes=[-1]}
        %ms = sub(%m, %mu2)
        @ve @rt @r @n @y",
    ),
    // Axes.
    fails(
        "another_axis",
        ALL,
        "last_axis",
        "axis 1 of 3",
        "input %x: T[batch, 3, 24]
        @x32 @sq
        %ms = reduce_mean(%sq) {axes=[1]}
        @ve @rt @r @n @y",
    ),
    fails(
        "the_first_axis_from_the_end",
        ALL,
        "last_axis",
        "axis -3 of 3",
        "@x32 @sq
        %ms = reduce_mean(%sq) {axes=[-3]}
        @ve @rt @r @n @y",
    ),
    fails(
        "all_axes",
        ALL,
        "last_axis",
        "3 axes",
        "@x32 @sq
        %ms = reduce_mean(%sq)
        @ve @rt @r @n @y",
    ),
    fails(
        "the_last_two_axes",
        ALL,
        "last_axis",
        "2 axes",
        "input %x: T[batch, 3, 24]
        @x32 @sq
        %ms = reduce_mean(%sq) {axes=[1, 2]}
        @ve @rt @r @n @y",
    ),
    fails(
        "native_over_two_axes",
        ALL,
        "last_axis",
        "2 axes",
        "input %x: T[batch, 3, 24]
        %h = neg(%x)
        %y = rms_norm(%h, %w) {eps=1e-6, axis=1}",
    ),
    fails(
        "a_row_of_unknown_size",
        ALL,
        "last_axis",
        "known",
        "input %x: T[batch, seq]
        input %w: T[seq]
        @x32 @sq @ms @ve @rt @r @n @y",
    ),
    fails(
        "means_along_columns",
        ALL,
        "same_row",
        "one number a row",
        "input %x: T[24, 24]
        @x32 @sq
        %ms = reduce_mean(%sq) {axes=[-1], keepdims=false}
        @ve @rt @r @n @y",
    ),
    // Not a mean of squares.
    fails(
        "cubes",
        ALL,
        "square",
        "power 3",
        "const %e: f32[] = 3.0
        @x32
        %sq = pow(%x32, %e)
        @ms @ve @rt @r @n @y",
    ),
    fails(
        "exponent_one_and_a_half",
        ALL,
        "square",
        "power 1.5",
        "const %e: f32[] = 1.5
        @x32
        %sq = pow(%x32, %e)
        @ms @ve @rt @r @n @y",
    ),
    fails(
        "exponent_that_is_an_input",
        ALL,
        "square",
        "not one constant",
        "input %e: f32[]
        @x32
        %sq = pow(%x32, %e)
        @ms @ve @rt @r @n @y",
    ),
    fails(
        "magnitudes",
        ALL,
        "square",
        "`abs`",
        "@x32
        %sq = abs(%x32)
        @ms @ve @rt @r @n @y",
    ),
    fails(
        "the_row_itself",
        ALL,
        "square",
        "`exp`",
        "@x32
        %sq = exp(%x32)
        @ms @ve @rt @r @n @y",
    ),
    fails(
        "product_of_two_rows",
        ALL,
        "square",
        "two different values",
        "%a = cast(%res) {to=f32}
        @x32
        %sq = mul(%x32, %a)
        @ms @ve @rt @r @n @y",
    ),
    fails(
        "l2_norm",
        ALL,
        "square",
        "rounded before",
        "const %root: f32[] = 4.898979
        @x32
        %l2 = reduce_l2(%x32) {axes=[-1]}
        %rt = div(%l2, %root)
        %n = div(%x32, %rt)
        @y",
    ),
    fails(
        "l2_norm_of_four_to_a_power",
        ALL,
        "square",
        "rounded before",
        "input %x: T[batch, seq, 16]
        const %w: T[16] = fill(1.25)
        const %root: f32[] = 4.0
        @x32
        %l2 = reduce_l2(%x32) {axes=[-1]}
        %rt = div(%l2, %root)
        %n = div(%x32, %rt)
        @y",
    ),
    fails(
        "l2_norm_without_count",
        ALL,
        "square",
        "rounded before",
        "@x32
        %rt = reduce_l2(%x32) {axes=[-1]}
        %n = div(%x32, %rt)
        @y",
    ),
    fails(
        "sum_square_in_16_bits",
        NARROW,
        "square",
        "before they are rounded",
        "const %n: T[] = 24.0
        const %eps: T[] = 1e-3
        %sm = reduce_sum_square(%x) {axes=[-1]}
        %ms = div(%sm, %n)
        @ve @rt @r
        %nn = mul(%x, %r)
        %y = mul(%nn, %w)",
    ),
    fails(
        "sum_in_16_bits",
        NARROW,
        "mean",
        "before it is divided",
        "const %n: T[] = 24.0
        const %eps: T[] = 1e-3
        %sq = mul(%x, %x)
        %sm = reduce_sum(%sq) {axes=[-1]}
        %ms = div(%sm, %n)
        @ve @rt @r
        %nn = mul(%x, %r)
        %y = mul(%nn, %w)",
    ),
    fails(
        "sum_without_count",
        ALL,
        "mean",
        "not divided",
        "@x32 @sq
        %ms = reduce_sum(%sq) {axes=[-1]}
        @ve @rt @r @n @y",
    ),
    fails(
        "sum_over_another_number",
        ALL,
        "mean",
        "divided by 23",
        "const %n: f32[] = 23.0
        @x32 @sq
        %sm = reduce_sum(%sq) {axes=[-1]}
        %ms = div(%sm, %n)
        @ve @rt @r
        %n1 = mul(%x32, %r)
        %nc = cast(%n1) {to=T}
        %y = mul(%nc, %w)",
    ),
    fails(
        "sum_over_the_wrong_size",
        ALL,
        "mean",
        "divided by 3",
        "input %x: T[batch, 3, 24]
        const %i: i64[] = 1
        %shape = shape(%x)
        %other = gather(%shape, %i)
        %count = cast(%other) {to=f32}
        @x32 @sq
        %sm = reduce_sum(%sq) {axes=[-1]}
        %ms = div(%sm, %count)
        @ve @rt @r @n @y",
    ),
    fails(
        "sum_over_a_size_that_varies",
        ALL,
        "mean",
        "constant 24",
        "const %i: i64[] = 1
        %shape = shape(%x)
        %other = gather(%shape, %i)
        %count = cast(%other) {to=f32}
        @x32 @sq
        %sm = reduce_sum(%sq) {axes=[-1]}
        %ms = div(%sm, %count)
        @ve @rt @r @n @y",
    ),
    fails(
        "sum_times_inverse_count",
        ALL,
        "mean",
        "rounded otherwise",
        "const %k: f32[] = 0.041666668
        @x32 @sq
        %sm = reduce_sum(%sq) {axes=[-1]}
        %ms = mul(%sm, %k)
        @ve @rt @r @n @y",
    ),
    fails(
        "count_over_sum",
        ALL,
        "mean",
        "constant 24",
        "@x32 @sq
        %sm = reduce_sum(%sq) {axes=[-1]}
        %ms = div(%n24, %sm)
        @ve @rt @r @n @y",
    ),
    fails(
        "sum_less_one",
        ALL,
        "mean",
        "divided by 23",
        "const %k: f32[] = 23.0
        @x32
        %sm = reduce_sum_square(%x32) {axes=[-1]}
        %ms = div(%sm, %k)
        @ve @rt @r @n @y",
    ),
    // What is added.
    fails(
        "eps_after_the_root",
        ALL,
        "root",
        "after the root",
        "@x32 @sq @ms
        %rt0 = sqrt(%ms)
        %rt = add(%rt0, %eps)
        @r @n @y",
    ),
    fails(
        "eps_subtracted",
        ALL,
        "eps_constant",
        "subtraction",
        "@x32 @sq @ms
        %ve = sub(%ms, %eps)
        @rt @r @n @y",
    ),
    fails(
        "eps_negative",
        ALL,
        "eps_constant",
        "negative",
        "const %eps: f32[] = -1e-6
        @x32 @sq @ms @ve @rt @r @n @y",
    ),
    fails(
        "eps_nan",
        ALL,
        "eps_constant",
        "no finite number",
        "const %eps: f32[] = nan
        @x32 @sq @ms @ve @rt @r @n @y",
    ),
    fails(
        "eps_infinite",
        ALL,
        "eps_constant",
        "no finite number",
        "const %eps: f32[] = inf
        @x32 @sq @ms @ve @rt @r @n @y",
    ),
    fails(
        "eps_that_is_an_input",
        ALL,
        "eps_constant",
        "not one constant",
        "input %eps: f32[]
        @x32 @sq @ms @ve @rt @r @n @y",
    ),
    fails(
        "eps_one_a_token",
        ALL,
        "eps_constant",
        "not one constant",
        "input %x: T[batch, 3, 24]
        const %eps: f32[3, 1] = [1e-6, 1e-5, 1e-4]
        @x32 @sq @ms @ve @rt @r @n @y",
    ),
    fails(
        "another_mean_is_added",
        ALL,
        "eps_constant",
        "not one constant",
        "%z = cast(%res) {to=f32}
        %zs = mul(%z, %z)
        %more = reduce_max(%zs) {axes=[-1]}
        @x32 @sq @ms
        %ve = add(%ms, %more)
        @rt @r @n @y",
    ),
    // Roots.
    fails(
        "no_root",
        ALL,
        "root",
        "no root of the mean plus eps",
        "@x32 @sq @ms @ve
        %n = div(%x32, %ve)
        @y",
    ),
    fails(
        "root_of_the_reciprocal",
        ALL,
        "root",
        "root of a reciprocal",
        "@x32 @sq @ms @ve
        %i = reciprocal(%ve)
        %r = sqrt(%i)
        @n @y",
    ),
    fails(
        "power_of_minus_a_third",
        ALL,
        "root",
        "power -0.33",
        "const %e: f32[] = -0.33333334
        @x32 @sq @ms @ve
        %r = pow(%ve, %e)
        @n @y",
    ),
    fails(
        "one_and_a_half_over_the_root",
        ALL,
        "root",
        "1.5 over the root",
        "const %c: f32[] = 1.5
        @x32 @sq @ms @ve @rt
        %r = div(%c, %rt)
        @n @y",
    ),
    fails(
        "times_the_root",
        ALL,
        "root",
        "multiplied with",
        "@x32 @sq @ms @ve @rt
        %n = mul(%x32, %rt)
        @y",
    ),
    fails(
        "over_the_reciprocal_of_the_root",
        ALL,
        "root",
        "divided",
        "@x32 @sq @ms @ve @rt @r
        %n = div(%x32, %r)
        @y",
    ),
    fails(
        "the_root_over_the_row",
        ALL,
        "root",
        "divides nothing",
        "@x32 @sq @ms @ve @rt
        %n = div(%rt, %x32)
        @y",
    ),
    // Casts in the statistics.
    fails(
        "mean_cast_to_16_bits",
        NARROW,
        "one_dtype",
        "the mean of squares is cast",
        "@x32 @sq @ms
        %mc = cast(%ms) {to=T}
        const %e: T[] = 1e-6
        %ve = add(%mc, %e)
        @rt @r
        %n = mul(%x, %r)
        %y = mul(%n, %w)",
    ),
    fails(
        "mean_cast_to_an_integer",
        ALL,
        "one_dtype",
        "cast to i32",
        "@x32 @sq @ms
        %i = cast(%ms) {to=i32}
        %f = cast(%i) {to=f32}
        %ve = add(%f, %eps)
        @rt @r @n @y",
    ),
    fails(
        "factor_cast_to_16_bits",
        NARROW,
        "one_dtype",
        "the factor of the row is cast",
        "@x32 @sq @ms @ve @rt @r
        %rc = cast(%r) {to=T}
        %n = mul(%x, %rc)
        %y = mul(%n, %w)",
    ),
    fails(
        "root_cast_to_16_bits",
        NARROW,
        "one_dtype",
        "the root is cast",
        "@x32 @sq @ms @ve @rt
        %rc = cast(%rt) {to=T}
        %n = div(%x, %rc)
        %y = mul(%n, %w)",
    ),
    fails(
        "squares_cast_to_bf16",
        F32,
        "one_dtype",
        "are f32, are cast to bf16",
        "@x32
        %s = mul(%x32, %x32)
        %sb = cast(%s) {to=bf16}
        %mb = reduce_mean(%sb) {axes=[-1]}
        %ms = cast(%mb) {to=f32}
        @ve @rt @r @n @y",
    ),
    fails(
        "squares_cast_to_bf16_and_back",
        F32,
        "one_dtype",
        "are f32, are cast to bf16",
        "@x32
        %s = mul(%x32, %x32)
        %sb = cast(%s) {to=bf16}
        %sq = cast(%sb) {to=f32}
        @ms @ve @rt @r @n @y",
    ),
    // Rows.
    fails(
        "another_row",
        ALL,
        "same_row",
        "another value is scaled",
        "%z = cast(%res) {to=f32}
        @x32 @sq @ms @ve @rt @r
        %n = mul(%z, %r)
        @y",
    ),
    fails(
        "row_weighted_before_the_factor",
        ALL,
        "same_row",
        "before the factor",
        "@x32 @sq @ms @ve @rt @r
        %wx = mul(%x32, %w32)
        %n = mul(%wx, %r)
        %y = cast(%n) {to=T}",
    ),
    fails(
        "factor_weighted_before_the_row",
        ALL,
        "same_row",
        "another value is scaled",
        "@x32 @sq @ms @ve @rt @r
        %wr = mul(%w32, %r)
        %n = mul(%x32, %wr)
        %y = cast(%n) {to=T}",
    ),
    fails(
        "row_before_the_sum",
        ALL,
        "same_row",
        "another value is scaled",
        "%h = add(%x, %res)
        %x32 = cast(%h) {to=f32}
        %z = cast(%x) {to=f32}
        @sq @ms @ve @rt @r
        %n = mul(%z, %r)
        @y",
    ),
    fails(
        "row_rounded_after_the_squares",
        ALL,
        "same_row",
        "loses bits",
        "@x32 @sq @ms @ve @rt @r
        %low = cast(%x32) {to=f8e5m2}
        %up = cast(%low) {to=f32}
        %n = mul(%up, %r)
        @y",
    ),
    fails(
        "row_rounded_to_f16_after_the_squares",
        &[DType::BF16],
        "same_row",
        "loses bits",
        "@x32 @sq @ms @ve @rt @r
        %low = cast(%x) {to=f16}
        %up = cast(%low) {to=f32}
        %n = mul(%up, %r)
        @y",
    ),
    // Weights.
    fails(
        "weight_of_tokens",
        ALL,
        "weight_vector",
        "not a vector as long",
        "input %x: T[batch, 3, 24]
        const %w: T[3, 1] = fill(2.0)
        @x32 @sq @ms @ve @rt @r @n @y",
    ),
    fails(
        "weight_of_tokens_as_many_as_the_row_is_long",
        ALL,
        "weight_vector",
        "not a vector as long",
        "input %x: T[24, 24]
        const %w: T[24, 1] = fill(2.0)
        @x32 @sq @ms @ve @rt @r @n @y",
    ),
    fails(
        "weight_of_tokens_and_elements",
        ALL,
        "weight_vector",
        "not a vector as long",
        "input %x: T[batch, 3, 24]
        const %w: T[3, 24] = fill(2.0)
        @x32 @sq @ms @ve @rt @r @n @y",
    ),
    fails(
        "native_with_a_scale_of_tokens",
        ALL,
        "weight_vector",
        "not a vector as long",
        "input %x: T[batch, 3, 24]
        const %w: T[3, 24] = fill(2.0)
        %h = neg(%x)
        %y = rms_norm(%h, %w) {eps=1e-6}",
    ),
    // Escapes.
    fails(
        "normalised_row_is_an_output",
        ALL,
        "no_escape",
        "graph output",
        "@x32 @sq @ms @ve @rt @r @n @y
        output %y
        output %n",
    ),
    fails(
        "factor_is_an_output",
        ALL,
        "no_escape",
        "graph output",
        "@x32 @sq @ms @ve @rt @r @n @y
        output %y
        output %r",
    ),
    fails(
        "mean_is_an_output",
        ALL,
        "no_escape",
        "graph output",
        "@x32 @sq @ms @ve @rt @r @n @y
        output %y
        output %ms",
    ),
    fails(
        "squares_are_read_elsewhere",
        ALL,
        "no_escape",
        "graph output",
        "@x32 @sq @ms @ve @rt @r @n @y
        output %y
        output %ve",
    ),
    fails(
        "factor_scales_another_row_too",
        ALL,
        "no_escape",
        "is read by",
        "@x32 @sq @ms @ve @rt @r @n @y
        %z = cast(%res) {to=f32}
        %other = mul(%z, %r)
        output %y
        output %other",
    ),
    fails(
        "mean_is_read_elsewhere",
        ALL,
        "no_escape",
        "is read by",
        "@x32 @sq @ms @ve @rt @r @n @y
        %l = log(%ms)
        %s = exp(%l)
        %t = reduce_max(%s) {axes=[0]}
        output %y
        output %t",
    ),
    // Nothing to win.
    fails(
        "native_alone",
        ALL,
        "saves_something",
        "one op already",
        "%h = neg(%x)
        %y = rms_norm(%h, %w) {eps=1e-6}",
    ),
    fails(
        "native_skip_alone",
        ALL,
        "saves_something",
        "one op already",
        "%y, %sum = skip_rms_norm(%x, %res, %w) {eps=1e-6}
        output %y
        output %sum",
    ),
    fails(
        "native_skip_with_bias",
        ALL,
        "two_operands",
        "bias",
        "const %b: T[24] = fill(0.25)
        %y, %sum = skip_rms_norm(%x, %res, %w, %b) {eps=1e-6}
        @quant
        output %sum",
    ),
    fails(
        "native_skip_that_broadcasts",
        ALL,
        "same_shape",
        "broadcasts",
        "input %res: T[24]
        %y, %sum = skip_rms_norm(%x, %res, %w) {eps=1e-6}
        @quant
        output %sum",
    ),
];

fn check(row: &Lookalike, dtype: DType) {
    let name = format!("{} in {dtype}", row.name);
    let before = parse(&graph(row.name, dtype, row.lines));
    let mut after = before.clone();
    let report = normfuse_passes::run(&mut after, &Options::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
    let fused = after.nodes().find(|(_, n)| matches!(n.op, Op::FusedNorm(_))).map(|(_, n)| &n.op);
    assert!(fused.is_none(), "{name}: {fused:?}");
    assert_eq!(after.node_count(), before.node_count(), "{name}");
    let (precondition, says) = row.fails;
    let norms: Vec<_> = report.sites.iter().filter(|s| s.kind != Kind::Quant).collect();
    let named = |s: &&&normfuse_passes::Site| {
        s.outcome != Outcome::Fused
            && s.precondition.as_deref() == Some(precondition)
            && s.hint.as_deref().is_some_and(|h| h.contains(says))
    };
    assert!(norms.iter().any(|s| named(&s)), "{name}: {precondition} {says:?}: {norms:#?}");
}

#[test]
fn no_lookalike_is_taken_for_a_norm_and_the_report_says_why() {
    assert!(distinct(LOOKALIKES.iter().map(|r| r.name)) >= 40);
    each(LOOKALIKES.iter().flat_map(|row| row.dtypes.iter().map(move |d| (row, *d))), |(row, dtype)| check(row, dtype));
}
