//! The fused family and its quantisers: shapes, strides, schemes.

use super::*;

const SCHEMES: &str = "scheme !group = {element=f8e4m3fn, granularity={group=128}, compute=f32, origin=amax, factor=[{div=448.0}], apply=divide, post=[], encode=saturate, scale={steps=[{div=448.0}], dtype=f32}, layout=row_major}
scheme !column = {element=f8e4m3fn, granularity={group=128}, compute=f32, origin=amax, factor=[{div=448.0}], apply=divide, post=[], encode=saturate, scale={steps=[{div=448.0}], dtype=f32}, layout=column_major}
scheme !tma = {element=f8e4m3fn, granularity={group=128}, compute=f32, origin=amax, factor=[{div=448.0}], apply=divide, post=[], encode=saturate, scale={steps=[{div=448.0}], dtype=f32}, layout=tma_aligned}
scheme !packed = {element=f8e4m3fn, granularity={group=128}, compute=f32, origin=amax, factor=[{div=448.0}], apply=divide, post=[], encode=saturate, scale={steps=[{div=448.0}], dtype=f8e8m0}, layout=packed_ue8m0}
scheme !swizzled = {element=f8e4m3fn, granularity={group=128}, compute=f32, origin=amax, factor=[{div=448.0}], apply=divide, post=[], encode=saturate, scale={steps=[{div=448.0}], dtype=f8e8m0}, layout=swizzle_128x4}
scheme !shuffled = {element=f8e4m3fn, granularity={group=128}, compute=f32, origin=amax, factor=[{div=448.0}], apply=divide, post=[], encode=saturate, scale={steps=[{div=448.0}], dtype=f8e8m0}, layout=shuffle_32x8}
scheme !token = {element=i8, granularity=token, compute=f32, origin=amax, factor=[{div=127.0}], apply=divide, post=[round], encode=cast, scale={steps=[{div=127.0}], dtype=f32}, layout=row_major}
scheme !static = {element=f8e4m3fn, granularity=tensor, compute=f32, given=f32, origin=given, factor=[], apply=multiply, post=[], encode=saturate, layout=row_major}
";

fn source(inputs: &str, line: &str) -> String {
    format!("{SCHEMES}graph \"g\"\n{inputs}\n{line}")
}

fn types(inputs: &str, line: &str) -> Vec<String> {
    let (graph, _) = infer_text(&source(inputs, line));
    graph
        .nodes()
        .flat_map(|(_, n)| n.outputs.clone())
        .map(|v| {
            let ty = &graph.value(v).ty;
            format!("{}{}", show(ty), ty.scheme.as_ref().map_or_else(String::new, |s| format!(" {s}")))
        })
        .collect()
}

fn fails(inputs: &str, line: &str) -> String {
    infer(&mut read(&source(inputs, line))).expect_err(line).to_string()
}

fn sibling(width: u32, weight: &str, normed: bool, epilogues: &str) -> String {
    format!(
        "{{width={width}, input=bf16, compute=f32, eps=1e-6, root=reciprocal_sqrt, normed=bf16, weight={weight}, \
         output=bf16, emit_normed={normed}, epilogues=[{epilogues}]}}"
    )
}

const WEIGHT: &str = "{dtype=bf16, plus_one=false}";

#[test]
fn layouts_are_strides() {
    let x = "input %x: bf16[batch, seq, 256]";
    let quantised = |scheme: &str| types(x, &format!("%q, %s = quantize(%x) {scheme}"));
    assert_eq!(
        quantised("!group"),
        ["f8e4m3fn[batch, seq, 256] f8e4m3fn/group128", "f32[batch, seq, 2] f8e4m3fn/group128"]
    );
    assert_eq!(quantised("!column")[1], "f32[batch, seq, 2] strides [seq, 1, batch*seq] f8e4m3fn/group128");
    assert_eq!(
        quantised("!tma")[1],
        "f32[batch, seq, 2] strides [seq, 1, 4*floordiv(batch*seq + 3, 4)] f8e4m3fn/group128"
    );
    assert_eq!(quantised("!token")[1], "f32[batch, seq, 1] i8/token");
    assert_eq!(
        quantised("!packed")[1],
        "i32[batch, seq, 1] strides [seq, 1, 4*floordiv(batch*seq + 3, 4)] f8e4m3fn/group128(f8e8m0)"
    );
    assert_eq!(quantised("!swizzled")[1], "f8e8m0[128*floordiv(batch*seq + 127, 128), 4] f8e4m3fn/group128(f8e8m0)");
    assert_eq!(quantised("!shuffled")[1], "f8e8m0[32*floordiv(batch*seq + 31, 32), 8] f8e4m3fn/group128(f8e8m0)");
    let given = format!("{x}\ninput %g: f32[]");
    assert_eq!(types(&given, "%q = quantize(%x, %g) !static"), ["f8e4m3fn[batch, seq, 256] f8e4m3fn/tensor(static)"]);
    assert!(
        fails("input %x: bf16[m, 200]", "%q, %s = quantize(%x) !group")
            .contains("groups of 128 divide, found [m, 200]")
    );
    assert!(
        fails("input %x: i8[m, 256]", "%q, %s = quantize(%x) !group").contains("expected f32, f16 or bf16, found i8")
    );
}

#[test]
fn residual_add_with_two_quantisers() {
    let inputs = "input %x: bf16[m, 256]\ninput %r: bf16[m, 256]\ninput %w: bf16[256]\ninput %g: f32[1]";
    let line = format!(
        "%sum, %y, %q, %s, %q2 = fused_norm(%x, %r, %w, %g) {{prologue={{residual_add={{dtype=bf16}}}}, source=shared, \
         emit_sum=true, siblings=[{}]}}",
        sibling(256, WEIGHT, true, "!column, !static")
    );
    assert_eq!(
        types(inputs, &line),
        [
            "bf16[m, 256]",
            "bf16[m, 256]",
            "f8e4m3fn[m, 256] f8e4m3fn/group128",
            "f32[m, 2] strides [1, m] f8e4m3fn/group128",
            "f8e4m3fn[m, 256] f8e4m3fn/tensor(static)"
        ]
    );
    let broken = |from: &str, to: &str| fails(&inputs.replace(from, to), &line);
    assert!(
        broken("%r: bf16[m, 256]", "%r: bf16[m, 128]")
            .contains("operand 1 (residual): axis 1 of [m, 128]: expected 256")
    );
    assert!(broken("%r: bf16[m, 256]", "%r: f32[m, 256]").contains("operand 1 (residual): expected bf16, found f32"));
    assert!(
        broken("%w: bf16[256]", "%w: bf16[128]")
            .contains("operand 2 (weight0): axis 0 of [128]: expected 256, found 128")
    );
    assert!(broken("%w: bf16[256]", "%w: f32[256]").contains("operand 2 (weight0): expected bf16, found f32"));
    assert!(broken("%g: f32[1]", "%g: f32[2]").contains("operand 3 (given_scale0_1): expected one element, found [2]"));
    assert!(broken("%g: f32[1]", "%g: f16[1]").contains("operand 3 (given_scale0_1): expected f32, found f16"));
    let rows = broken("%x: bf16[m, 256]", "%x: bf16[m, n]");
    assert_eq!(rows, "node `sum`, operand 0 (x): expected rows of 256, found [m, n]");
    assert!(broken("%x: bf16[m, 256]", "%x: f16[m, 256]").contains("operand 0 (x): expected bf16, found f16"));
    assert!(broken("%x: bf16[m, 256]", "%x: bf16[]").contains("expected rows, found a scalar"));
}

#[test]
fn dequantised_values_have_the_shape_of_the_rows() {
    let x = "input %x: bf16[batch, seq, 256]";
    let numbers = |dtype: &str, rest: &str| {
        format!(
            "{{element=f8e4m3fn, granularity=token, compute=f32, origin=amax, factor=[], apply=divide, post=[], encode=saturate, scale={{steps=[], dtype=f32}}, layout=row_major, dequantised={{dtype={dtype}, {rest}}}}}"
        )
    };
    let both = numbers("bf16", "codes=true, scales=true");
    let none = numbers("f16", "codes=false, scales=false");
    assert_eq!(
        types(x, &format!("%q, %s, %d = quantize(%x) {both}")),
        ["f8e4m3fn[batch, seq, 256] f8e4m3fn/token", "f32[batch, seq, 1] f8e4m3fn/token", "bf16[batch, seq, 256]"]
    );
    assert_eq!(types(x, &format!("%d = quantize(%x) {none}")), ["f16[batch, seq, 256]"]);
    let one = sibling(256, "null", false, &format!("{none}, {both}")).replace("emit_normed", "padded=320, emit_normed");
    let line =
        format!("%a, %q, %s, %b = fused_norm(%x) {{prologue=none, source=shared, emit_sum=false, siblings=[{one}]}}");
    assert_eq!(
        types(x, &line),
        [
            "f16[batch, seq, 320]",
            "f8e4m3fn[batch, seq, 320] f8e4m3fn/token",
            "f32[batch, seq, 1] f8e4m3fn/token",
            "bf16[batch, seq, 320]"
        ]
    );
}

#[test]
fn siblings_of_separate_rows() {
    let inputs = "input %a: bf16[b, s, 1536]\ninput %k: bf16[b, s, 512]\ninput %w: bf16[512]";
    let line = format!(
        "%q, %s, %y = fused_norm(%a, %k, %w) {{prologue=none, source=separate, emit_sum=false, siblings=[{}, {}]}}",
        sibling(1536, "null", false, "!token"),
        sibling(512, WEIGHT, true, "")
    );
    assert_eq!(types(inputs, &line), ["i8[b, s, 1536] i8/token", "f32[b, s, 1] i8/token", "bf16[b, s, 512]"]);
}

#[test]
fn unknown_rows_and_bad_descriptors() {
    let norm =
        |sib: &str| format!("%y = fused_norm(%x) {{prologue=none, source=shared, emit_sum=false, siblings=[{sib}]}}");
    // The width is the descriptor's, even where the rows are behind an op that says nothing.
    assert_eq!(types("input %x: bf16[m, ?n]", &norm(&sibling(256, "null", true, ""))), ["bf16[m, 256]"]);
    assert_eq!(types("input %x: bf16", &norm(&sibling(256, "null", true, ""))), ["bf16"]);
    let zero = norm(&sibling(0, "null", true, ""));
    assert!(fails("input %x: bf16[m, 256]", &zero).contains("width: expected at least 1, found 0"));
}
