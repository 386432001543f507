//! Graphs that no run could get through: the error names node, port, what was expected and what was found.

use super::*;

fn fails(line: &str) -> String {
    let mut graph = read(&format!(
        "graph \"g\"\ninput %x: f32[batch, 256]\ninput %h: bf16[batch, 256]\ninput %u: u8[4]\ninput %i: i8[4]\n\
         input %w: f32[128, 64]\ninput %b: bool[4]\ninput %n: i64[3]\nconst %big: i64[2] = [4611686018427387904, 4]\n\
         const %neg: i64[2] = [-5, 4]\nconst %two: i64[2] = [-1, -1]\nconst %odd: i64[2] = [3, -1]\n\
         const %s1: i64[1] = [1]\nconst %s0: i64[1] = [0]\nconst %five: i64[] = 5\ninput %c: f32[4, 4]\n{line}"
    ));
    infer(&mut graph).expect_err(line).to_string()
}

#[test]
fn dtypes() {
    assert_eq!(fails("%y = mul(%h, %x)"), "node `y`, operand 1 (b): expected bf16 as operand 0 (a) has, found f32");
    assert_eq!(fails("%y = shift_left(%u, %i)"), "node `y`, operand 1 (b): expected an unsigned integer, found i8");
    assert_eq!(fails("%y = bitwise_or(%u, %i)"), "node `y`, operand 1 (b): expected u8 as operand 0 (a) has, found i8");
    assert_eq!(fails("%y = sqrt(%u)"), "node `y`, operand 0 (x): expected f32, f16, bf16 or f64, found u8");
    assert_eq!(fails("%y = where(%x, %x, %x)"), "node `y`, operand 0 (condition): expected bool, found f32");
    assert_eq!(fails("%y = reshape(%x, %u)"), "node `y`, operand 1 (shape): expected i64, found u8");
    assert_eq!(
        fails("%y = dequantize_linear(%x, %x) {axis=0, block_size=0}"),
        "node `y`, operand 0 (q): expected an 8-bit or 4-bit type, i16, u16 or i32, found f32"
    );
    assert!(fails("%y = matmul(%h, %w)").contains("found f32"));
    assert!(fails("%y = concat(%u, %i) {axis=0}").contains("operand 1: expected u8"));
    assert!(fails("%y = not(%u)").contains("expected bool, found u8"));
    assert!(fails("%y = rms_norm(%h, %x) {axis=-1, eps=1e-6, stash=f32}").contains("operand 1 (scale): expected bf16"));
}

#[test]
fn quantisers_and_norms_of_other_tools() {
    let quantise =
        |attrs: &str| fails(&format!("%s = cast(%two) {{to=f32}}\n%y = quantize_linear(%x, %s) {{{attrs}}}"));
    assert!(quantise("to=i8, precision=i8").contains("precision: expected f32, f16, bf16 or f64, found i8"));
    assert!(quantise("to=f8e5m2, dialect=tensor_rt").contains("to: expected f8e4m3fn in this dialect"));
    let dequantise = |attrs: &str| {
        fails(&format!("%s = cast(%five) {{to=f8e8m0}}\n%y = dequantize_linear(%u, %s) {{{attrs}}}\n%z = not(%y)"))
    };
    assert!(dequantise("axis=0").contains("operand 1 (scale): expected f32, f16, bf16 or f64, found f8e8m0"));
    assert!(dequantise("to=f16").contains("expected bool, found f16"));
    assert!(dequantise("to=u8").contains("to: expected f32, f16, bf16 or f64, found u8"));
    let skip = "operand 2 (scale): expected bf16 as operand 0 (x) has, found f32";
    assert!(fails("%y, %s = skip_rms_norm(%h, %h, %x)").contains(skip));
    assert!(
        fails("%y, %s = skip_rms_norm(%c, %c, %c, %w)").contains("operand 3 (bias): expected a shape that broadcasts")
    );
    // Cast last, a norm takes any scale and has its dtype.
    assert!(fails("%y = rms_norm(%h, %x) {cast=after_scale}\n%z = not(%y)").contains("expected bool, found f32"));
}

#[test]
fn shapes() {
    assert_eq!(
        fails("%y = matmul(%x, %w)"),
        "node `y`, operand 1 (b): inner size of [batch, 256] x [128, 64]: expected 256, found 128"
    );
    assert_eq!(
        fails("%y = add(%x, %w)"),
        "node `y`, operand 1 (b): shapes [batch, 256] and [128, 64] do not broadcast: expected 256 or 1, found 64"
    );
    assert_eq!(
        fails("%y = reduce_sum(%x) {axes=[2], keepdims=true}"),
        "node `y`, operand 0 (x): axis 2 is not an axis of rank 2: expected -2 to 1"
    );
    assert!(fails("%y = reduce_sum(%x) {axes=[1, -1], keepdims=true}").contains("axis 1 is given twice"));
    assert!(fails("%y = transpose(%x) {perm=[0, 0]}").contains("axis 0 is given twice"));
    assert!(fails("%y = transpose(%x) {perm=[0]}").contains("expected a permutation of 2 axes"));
    assert!(fails("%y = squeeze(%x) {axes=[1]}").contains("expected size 1 at axis 1, found [batch, 256]"));
    assert!(fails("%y = concat(%x, %w) {axis=0}").contains("axis 1 of [128, 64]: expected 256, found 64"));
    assert!(fails("%y = reshape(%c, %odd)").contains("[4, 4] does not reshape to [3, -1]"));
    assert!(fails("%y = reshape(%w, %s1)").contains("expected 8192 elements as [128, 64] has, found [1] with 1"));
    assert!(fails("%y = gather(%w, %x) {axis=0}").contains("expected i32 or i64"));
    assert!(fails("%y = gather(%c, %five) {axis=0}").contains("expected an index from -4 to 3, found 5"));
    assert!(
        fails("%y, %z, %a = split(%x, %n) {axis=0}\n%e, %f = split(%x, %n) {axis=0}")
            .is_empty()
            .then_some(())
            .is_none()
    );
    assert!(fails("%y = gemm(%x, %w) {alpha=1.0, beta=1.0, trans_a=false, trans_b=false}").contains("inner size"));
    assert!(
        fails("%v, %j = top_k(%c, %five) {axis=0, largest=true, sorted=true}").contains("expected 0 to 4, found 5")
    );
}

#[test]
fn values_and_sizes() {
    assert!(fails("%y = reshape(%x, %two)").contains("expected at most one -1"));
    assert!(fails("%y = reshape(%x, %neg)").contains("expected a size, 0 or -1 at 0, found -5"));
    assert!(fails("%y = expand(%x, %neg)").contains("expected a size at 0, found -5"));
    assert!(fails("%y = constant_of_shape(%neg) {dtype=f32, value=0.0}").contains("found -5"));
    assert!(fails("%y = constant_of_shape(%big) {dtype=f32, value=0.0}").contains("too large"));
    assert!(fails("%y = tile(%c, %big)").contains("axis 0 is too large"));
    assert!(fails("%y = slice(%x, %s0, %s1, %s0, %s0)").contains("expected a step that is not 0"));
    assert!(fails("%y = slice(%x, %s0, %big)").contains("operand 2 (ends): expected 1 bounds, found 2"));
    assert!(
        fails(
            "const %none: i64[] = 0
%y = range(%five, %five, %none)"
        )
        .contains("expected a step that is not 0")
    );
    let mut negative = read("graph \"g\"\ninput %x: f32[-3]");
    assert!(infer(&mut negative).unwrap_err().to_string().contains("expected a size, found -3"));
}

#[test]
fn attributes() {
    assert!(fails("%y = gather_nd(%x, %n) {batch_dims=-1}").contains("batch_dims: expected 0 or more, found -1"));
    assert!(
        fails("%y = quantize_linear(%x, %x) {axis=0, block_size=0, to=f32, saturate=true}").contains("to: expected")
    );
    assert!(fails("%y = rms_norm(%x, %x) {axis=-1, eps=1e-6, stash=i8}").contains("stash: expected"));
    let attention = "%y = attention(%x, %x, %x) {is_causal=true, scale=null, softcap=0.0, q_num_heads=null, \
                     kv_num_heads=null, qk_matmul_output_mode=7, softmax_dtype=null, outputs=1}";
    assert!(fails(attention).contains("qk_matmul_output_mode: expected 0 to 3, found 7"));
}
