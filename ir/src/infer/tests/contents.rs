//! Shapes that graphs compute.

use super::*;

/// The contents of `%k` as text.
fn known(body: &str) -> String {
    let (graph, facts) = infer_text(&format!("graph \"g\"\ninput %x: f32[batch, seq, 256]\n{body}"));
    facts
        .known(find(&graph, "k"))
        .map_or_else(|| "nothing".into(), |k| untagged(&Shape(k.to_vec()).to_string().replace("?#", "?")))
}

#[test]
fn torchscript_spells_a_view() {
    check(
        "input %x: f32[batch, seq, 256]\nconst %i0: i64[] = 0\nconst %i1: i64[] = 1\nconst %rest: i64[2] = [4, 64]\n\
         const %m1: i64[1] = [-1]\nconst %copy: i64[3] = [0, 4, -1]",
        "%s = shape(%x) {start=0, end=null} => i64[3]
         %b = gather(%s, %i0) {axis=0} => i64[]
         %n = gather(%s, %i1) {axis=0} => i64[]
         %bu = unsqueeze(%b) {axes=[0]} => i64[1]
         %nu = unsqueeze(%n) {axes=[0]} => i64[1]
         %to = concat(%bu, %nu, %rest) {axis=0} => i64[4]
         %h = reshape(%x, %to) {allow_zero=false} => f32[batch, seq, 4, 64]
         %t = transpose(%h) {perm=[0, 2, 1, 3]} => f32[batch, 4, seq, 64]
         %bn = mul(%bu, %nu) => i64[1]
         %flat = concat(%bn, %m1) {axis=0} => i64[2]
         %f = reshape(%t, %flat) {allow_zero=false} => f32[batch*seq, 256]
         %g = reshape(%f, %copy) {allow_zero=false} => f32[batch*seq, 4, 64]",
    );
}

#[test]
fn minus_one_divides() {
    let view = |shape: &str, target: &str| {
        let (graph, _) = infer_text(&format!("graph \"g\"\ninput %x: f32{shape}\n{target}\n%v = reshape(%x, %t)"));
        show(&graph.value(find(&graph, "v")).ty)
    };
    assert_eq!(view("[batch, seq, 256]", "const %t: i64[2] = [-1, 128]"), "f32[2*batch*seq, 128]");
    assert_eq!(view("[batch, past + seq, 4, 8]", "const %t: i64[4] = [0, 0, -1, 16]"), "f32[batch, past + seq, 2, 16]");
    assert_eq!(view("[seq]", "const %t: i64[2] = [-1, 4]"), "f32[floordiv(seq, 4), 4]");
    assert_eq!(view("[?a, 8]", "const %t: i64[3] = [0, -1, 4]"), "f32[?a, 2, 4]");
    // One element that is not known follows from the others, whether it is a size or -1.
    assert_eq!(
        view("[batch, 8]", "input %n: i64[1]\nconst %f: i64[1] = [4]\n%t = concat(%n, %f) {axis=0}"),
        "f32[2*batch, 4]"
    );
    assert_eq!(view("[batch, 8]", "input %t: i64[2]"), "f32[?, ?]");
    assert_eq!(view("[batch, 8]", "input %t: i64[n]"), "f32");
    assert_eq!(view("[0, 8]", "const %t: i64[2] = [0, -1]"), "f32[0, ?]");
}

#[test]
fn integer_arithmetic() {
    let s = "%s = shape(%x) {start=0, end=null}\nconst %c: i64[3] = [2, 3, 4]\n";
    assert_eq!(known(&format!("{s}%k = mul(%s, %c)")), "[2*batch, 3*seq, 1024]");
    assert_eq!(known(&format!("{s}%k = div(%s, %c)")), "[floordiv(batch, 2), floordiv(seq, 3), 64]");
    assert_eq!(known(&format!("{s}%k = mod(%s, %c)")), "[mod(batch, 2), mod(seq, 3), 0]");
    assert_eq!(known(&format!("{s}%k = max(%s, %c)")), "[max(2, batch), max(3, seq), 256]");
    assert_eq!(known(&format!("{s}%k = sub(%s, %s)")), "[0, 0, 0]");
    assert_eq!(known(&format!("{s}%k = reduce_prod(%s) {{axes=null, keepdims=false}}")), "[256*batch*seq]");
    assert_eq!(known(&format!("{s}%k = cast(%s) {{to=i32, saturate=true}}")), "[batch, seq, 256]");
    assert_eq!(known(&format!("{s}%k = cast(%s) {{to=i8, saturate=true}}")), "nothing");
    assert_eq!(known(&format!("{s}%k = cast(%s) {{to=f32, saturate=true}}")), "nothing");
    assert_eq!(known("const %a: i64[2] = [-7, 7]\nconst %b: i64[2] = [2, -2]\n%k = div(%a, %b)"), "[-3, -3]");
    assert_eq!(known("const %a: i64[2] = [-7, 7]\nconst %b: i64[2] = [2, -2]\n%k = mod(%a, %b)"), "[1, -1]");
    assert_eq!(known("const %a: i64[2] = [-7, 7]\nconst %b: i64[2] = [2, -2]\n%k = fmod(%a, %b)"), "[-1, 1]");
    assert_eq!(known("const %a: i32[1] = [2147483647]\n%k = add(%a, %a)"), "nothing");
    assert_eq!(known("const %a: i64[1] = [9223372036854775807]\n%k = add(%a, %a)"), "nothing");
    assert_eq!(known("const %a: i8[2] = [-1, 5]\n%k = identity(%a)"), "[-1, 5]");
}

#[test]
fn selecting_and_moving() {
    let s = "%s = shape(%x) {start=0, end=null}\nconst %m: i64[3] = [-1, -1, -1]\nconst %o: i64[3] = [1, 1, 1]\n";
    // TorchScript's expand: -1 in the target means 1.
    assert_eq!(known(&format!("{s}%e = equal(%s, %m)\n%k = where(%e, %o, %s)")), "[batch, seq, 256]");
    assert_eq!(known(&format!("{s}%e = equal(%s, %o)\n%k = where(%e, %m, %s)")), "[\"?\", \"?\", 256]");
    assert_eq!(
        known(&format!("{s}const %a: i64[1] = [1]\nconst %b: i64[1] = [9223372036854775807]\n%k = slice(%s, %a, %b)")),
        "[seq, 256]"
    );
    let bounds = "const %z: i64[1] = [0]\nconst %a: i64[1] = [-1]\nconst %b: i64[1] = [-9]\n";
    assert_eq!(known(&format!("{s}{bounds}%k = slice(%s, %a, %b, %z, %a)")), "[256, seq, batch]");
    assert_eq!(known("const %two: i64[1] = [2]\n%k = constant_of_shape(%two) {dtype=i64, value=7}"), "[7, 7]");
    assert_eq!(
        known("const %a: i64[] = 3\nconst %b: i64[] = 9\nconst %c: i64[] = 2\n%k = range(%a, %b, %c)"),
        "[3, 5, 7]"
    );
    assert_eq!(known(&format!("{s}%p, %k = split(%s) {{axis=0}}")), "[256]");
    assert_eq!(known(&format!("{s}const %w: i64[2] = [1, 2]\n%p, %k = split(%s, %w) {{axis=0}}")), "[seq, 256]");
    assert_eq!(known("%k = size(%x)"), "[256*batch*seq]");
    assert_eq!(
        known("input %n: i64[1]\n%s = shape(%x) {start=1, end=2}\n%k = concat(%s, %n) {axis=0}"),
        "[seq, \"?\"]"
    );
}

#[test]
fn slices_and_ranges_by_expressions() {
    check(
        "input %x: f32[batch, seq + 1, 96]\nconst %z: i64[1] = [0]\nconst %far: i64[1] = [9223372036854775807]\n\
         const %one: i64[1] = [1]\nconst %m1: i64[1] = [-1]\nconst %ax1: i64[1] = [1]\nconst %i0: i64[] = 0\nconst %i1: i64[] = 1\n\
         const %two: i64[1] = [2]\nconst %ax2: i64[1] = [2]\nconst %least: i64[1] = [-9223372036854775807]\ninput %n: i64[1]",
        "%s1 = shape(%x) {start=1, end=2} => i64[1]
         %a = slice(%x, %z, %far, %ax1) => f32[batch, seq + 1, 96]
         %b = slice(%x, %one, %far, %ax1) => f32[batch, seq, 96]
         %c = slice(%x, %z, %m1, %ax1) => f32[batch, seq, 96]
         %d = slice(%x, %m1, %far, %ax1) => f32[batch, 1, 96]
         %e = slice(%x, %z, %s1, %ax1) => f32[batch, seq + 1, 96]
         %f = slice(%x, %one, %far, %ax2, %two) => f32[batch, seq + 1, 48]
         %g = slice(%x, %m1, %least, %ax1, %m1) => f32[batch, seq + 1, 96]
         %h = slice(%x, %z, %n, %ax1) => f32[batch, ?, 96]
         %l = gather(%s1, %i0) {axis=0} => i64[]
         %r = range(%i0, %l, %i1) => i64[seq + 1]
         %q = range(%l, %i0, %i1) => i64[0]
         %cs = constant_of_shape(%s1) {dtype=f32, value=0.0} => f32[seq + 1]",
    );
}

#[test]
fn expand_broadcasts() {
    check(
        "input %x: f32[batch, 1, 96]\ninput %y: f32[b2, seq, 1]\nconst %one: i64[3] = [1, 5, 1]\ninput %n: i64[3]",
        "%s = shape(%y) {start=0, end=null} => i64[3]
         %a = expand(%x, %one) => f32[batch, 5, 96]
         %b = expand(%x, %s) => f32[max(b2, batch), seq, 96]
         %c = expand(%x, %n) => f32[?, ?, 96]",
    );
}

#[test]
fn matrices_on_the_way() {
    // TorchScript's pad: the pads of torch, last axis first, become those of ONNX through a reversed transposed matrix.
    let pads = "const %p: i64[4] = [1, 2, 3, 4]\nconst %two: i64[2] = [-1, 2]\nconst %flat: i64[1] = [-1]\n\
                const %z: i64[1] = [0]\nconst %m1: i64[1] = [-1]\nconst %far: i64[1] = [-9223372036854775807]\n\
                %m = reshape(%p, %two)\n%s = slice(%m, %m1, %far, %z, %m1)\n%t = transpose(%s) {perm=[1, 0]}\n\
                %k = reshape(%t, %flat)\n";
    assert_eq!(known(pads), "[3, 1, 4, 2]");
    check(
        "input %x: f32[batch, seq, 256]\nconst %p: i64[4] = [1, 2, 3, 4]\nconst %two: i64[2] = [-1, 2]",
        "%m = reshape(%p, %two) => i64[2, 2]
         %s = size(%m) => i64[]",
    );
    // TorchScript's repeat_interleave.
    let hot =
        "const %i: i64[1] = [1]\nconst %d: i64[] = 3\nconst %v: i64[2] = [1, 4]\n%h = one_hot(%i, %d, %v) {axis=-1}\n";
    assert_eq!(known(&format!("{hot}const %f: i64[1] = [-1]\n%k = reshape(%h, %f)")), "[1, 4, 1]");
    assert_eq!(known(&format!("{hot}const %f: i64[] = 0\n%k = gather(%h, %f) {{axis=0}}")), "nothing");
    assert_eq!(known("const %m: i64[2, 3] = [1, 2, 3, 4, 5, 6]\n%k = transpose(%m)"), "[1, 4, 2, 5, 3, 6]");
    assert_eq!(known("const %m: i64[2, 2] = [1, 2, 3, 4]\n%k = add(%m, %m)"), "nothing");
}
