//! Products read their operands as those lie.

use super::*;

/// Whole numbers, whose sums are the same in any order.
fn whole(graph: &Graph, size: i64) -> Vec<Tensor> {
    let whole = |t: Tensor| {
        if t.dtype() != DType::F32 {
            return t;
        }
        let numbers = t.bytes().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        Tensor::from_f32(t.shape(), &numbers.map(|v| (v * 8.0).floor()).collect::<Vec<_>>())
    };
    inputs(graph, size).into_iter().map(whole).collect()
}

/// What is launched for a graph at a size, and once before; the results are its own.
pub fn launched(body: &str, size: i64) -> (Vec<String>, Vec<String>) {
    let graph = parsed(&format!("graph \"g\"\nopset \"\" 20\n{body}"));
    let inputs = whole(&graph, size);
    let want = cpu::Plan::new(&graph).unwrap().run(&inputs).unwrap();
    for (want, found) in want.iter().zip(executed(&graph, &inputs).unwrap()) {
        assert_eq!(bits_equal(want, &found), None, "{size}: {body}");
    }
    let plan = Plan::new(&graph, &given(&host_inputs(&graph).unwrap(), &inputs), &Notes::default()).unwrap();
    let (once, steps): (Vec<_>, Vec<_>) = plan.list().into_iter().partition(|s| s.once);
    let names = |all: Vec<super::super::Listed>| all.into_iter().map(|s| s.op).collect();
    (names(once), names(steps))
}

pub fn nothing_but(products: &[&str], body: &str) {
    for size in [1, 3, 8] {
        let (once, steps) = launched(body, size);
        assert_eq!((once, steps), (Vec::new(), products.iter().map(ToString::to_string).collect()), "{size}: {body}");
    }
}

#[test]
fn a_weight_is_read_across_and_is_there_once() {
    let linear = r"
input %x: f32[n, 5, 64]
const %w: f32[48, 64] = fill(0.125)
input %v: f32[24, 48]
%wt = transpose(%w) {perm=[1, 0]}
%y = matmul(%x, %wt)
%vt = transpose(%v) {perm=[1, 0]}
%z = matmul(%y, %vt)
output %z
";
    nothing_but(&["matmul", "matmul"], linear);
    let graph = parsed(&format!("graph \"g\"\nopset \"\" 20\n{linear}"));
    let given = given(&host_inputs(&graph).unwrap(), &inputs(&graph, 3));
    let plan = Plan::new(&graph, &given, &Notes::default()).unwrap();
    assert_eq!(plan.weight_bytes(), 48 * 64 * 4);
}

#[test]
fn both_sides_may_lie_across_and_gemm_turns_them_again() {
    nothing_but(
        &["matmul"],
        r"
input %a: f32[6, n]
input %b: f32[5, 6]
%at = transpose(%a) {perm=[1, 0]}
%bt = transpose(%b) {perm=[1, 0]}
%y = matmul(%at, %bt)
output %y
",
    );
    for (trans_a, trans_b, a, b) in
        [(true, true, "7, 6", "6, 5"), (true, false, "7, 6", "5, 6"), (false, true, "6, 7", "6, 5")]
    {
        nothing_but(
            &["gemm"],
            &format!(
                r"
input %x: f32[n, 7]
input %a: f32[{a}]
input %b: f32[{b}]
input %c: f32[5]
%at = transpose(%a) {{perm=[1, 0]}}
%bt = transpose(%b) {{perm=[1, 0]}}
%y = gemm(%at, %bt, %c) {{alpha=1.0, beta=1.0, trans_a={trans_a}, trans_b={trans_b}}}
output %y
"
            ),
        );
    }
}

/// What the library does not add is added behind it, with the evaluator's roundings.
#[test]
fn gemm_adds_whatever_spreads_over_its_result() {
    let gemm = |dtype: &str, c: &str, beta: &str| {
        format!(
            r"
input %a: {dtype}[n, 6]
input %b: {dtype}[5, 6]
input %c: {dtype}[{c}]
%bt = transpose(%b) {{perm=[1, 0]}}
%y = gemm(%a, %bt, %c) {{alpha=0.75, beta={beta}, trans_a=false, trans_b=false}}
output %y
"
        )
    };
    for dtype in ["f32", "bf16", "f16", "f64"] {
        for (c, beta) in
            [("", "1.0"), ("1", "1.0"), ("n, 1", "1.0"), ("1, 1", "0.3"), ("5", "0.3"), ("1, 5", "-2.0"), ("5", "0.0")]
        {
            for size in [1, 4] {
                let (once, steps) = launched(&gemm(dtype, c, beta), size);
                // One row is a matrix like the result.
                let want = if (c, size) == ("1, 5", 1) { &["gemm"][..] } else { &["gemm", "gemm's sum"] };
                assert!(once.is_empty() && steps == want, "{dtype}[{c}]: {steps:?}");
            }
        }
        for (c, beta) in [("5", "1.0"), ("n, 5", "0.3")] {
            assert_eq!(launched(&gemm(dtype, c, beta), 4).1, ["gemm"], "{dtype}[{c}]");
        }
    }
}

/// Heads side by side, keys of each across, and heads and batches as one axis.
#[test]
fn heads_are_read_where_they_lie() {
    nothing_but(
        &["matmul", "matmul"],
        r"
input %q: f32[1, n, 32]
input %k: f32[1, 7, 32]
const %apart: i64[4] = [1, -1, 4, 8]
const %each: i64[3] = [4, -1, 8]
const %across: i64[3] = [4, 8, -1]
%qs = reshape(%q, %apart)
%ks = reshape(%k, %apart)
%qh = transpose(%qs) {perm=[0, 2, 1, 3]}
%kh = transpose(%ks) {perm=[0, 2, 1, 3]}
%kt = transpose(%kh) {perm=[0, 1, 3, 2]}
%qe = reshape(%qh, %each)
%ke = reshape(%kt, %across)
%s = matmul(%qe, %ke)
%k2 = transpose(%ks) {perm=[0, 2, 3, 1]}
%t = matmul(%qh, %k2)
output %s
output %t
",
    );
    // Batches of heads are as many products, so those are written one behind the other; what only turns matrices is not.
    let (_, steps) = launched(
        r"
input %q: f32[2, 4, n, 8]
input %k: f32[2, 7, 4, 8]
input %l: f32[2, 4, 7, 8]
%kh = transpose(%k) {perm=[0, 2, 3, 1]}
%s = matmul(%q, %kh)
%lt = transpose(%l) {perm=[0, 1, 3, 2]}
%t = matmul(%q, %lt)
output %s
output %t
",
        5,
    );
    assert_eq!(steps, ["transpose", "matmul", "matmul"]);
}

/// Who cannot read it as it lies has it written out, once; a product beside that one does not.
#[test]
fn other_readers_have_it_written_out() {
    let (once, steps) = launched(
        r"
input %x: f32[n, 6]
input %v: f32[9, 6]
const %w: f32[64, 6] = fill(0.5)
const %big: f32[64, 66] = fill(0.25)
const %flat: i64[1] = [-1]
%vt = transpose(%v) {perm=[1, 0]}
%y = matmul(%x, %vt)
%e = exp(%vt)
%f = reshape(%vt, %flat)
%z = matmul(%x, %e)
%bt = transpose(%big) {perm=[1, 0]}
%p = matmul(%bt, %w)
%tt = transpose(%vt) {perm=[1, 0]}
%u = tanh(%tt)
output %y
output %f
output %z
output %vt
output %p
output %u
",
        5,
    );
    assert_eq!(steps.iter().filter(|s| *s == "transpose").count(), 1, "{steps:?}");
    assert_eq!(steps.iter().filter(|s| *s == "matmul").count(), 2, "{steps:?}");
    assert_eq!(once, ["matmul"]);
}

/// Integers go through the library where it has such a product; elsewhere, and with zero points, there is a kernel.
#[test]
fn products_of_integers_are_the_library_s_where_it_has_them() {
    let of = |size: i64, columns: usize, left: &str, zero: &str| {
        let body = format!(
            r"
input %x: {left}[n, 32]
input %w: i8[{columns}, 32]
const %none: {left}[] = {zero}
%wt = transpose(%w) {{perm=[1, 0]}}
%y = matmul_integer(%x, %wt, %none)
output %y
"
        );
        launched(&body, size).1
    };
    assert_eq!(of(17, 48, "i8", "0"), ["matmul_integer by tensor cores"]);
    for (size, columns, left, zero) in
        [(16, 48, "i8", "0"), (17, 44, "i8", "0"), (17, 48, "i8", "3"), (17, 48, "u8", "0")]
    {
        assert_eq!(of(size, columns, left, zero), ["transpose", "matmul_integer"], "{size}, {columns}, {left}, {zero}");
    }
}
