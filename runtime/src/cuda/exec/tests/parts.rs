//! Chains and products read parts of values where those lie, and join pieces.

use super::lying::{launched, nothing_but};

/// Halves that change places, of heads of a part of each row, as rotary embeddings have them: at offsets that are aligned to nothing.
#[test]
fn a_rotary_embedding_is_one_kernel() {
    for (before, half, heads) in [(0, 8, 2), (5, 3, 3), (16, 8, 1), (1, 4, 2)] {
        let width = before + 2 * half;
        let body = format!(
            r"
input %x: f32[2, n, {wide}]
input %cos: f32[2, 1, n, {full}]
input %sin: f32[n, {full}]
const %apart: i64[4] = [2, -1, {heads}, {width}]
const %axis: i64[1] = [3]
const %from: i64[1] = [{before}]
const %to: i64[1] = [{width}]
const %none: i64[1] = [0]
const %half: i64[1] = [{half}]
const %end: i64[1] = [9223372036854775807]
%h = reshape(%x, %apart)
%t = transpose(%h) {{perm=[0, 2, 1, 3]}}
%r = slice(%t, %from, %to, %axis)
%a = slice(%r, %none, %half, %axis)
%b = slice(%r, %half, %end, %axis)
%c = neg(%b)
%d = concat(%c, %a) {{axis=-1}}
%e = mul(%d, %sin)
%f = mul(%r, %cos)
%y = add(%f, %e)
output %y
",
            wide = heads * width,
            full = 2 * half,
        );
        for size in [1, 3, 8] {
            let (_, steps) = launched(&body, size);
            assert_eq!(steps.len(), 1, "{steps:?}: {before}, {half}, {heads}, {size}");
        }
    }
}

/// Pairs of neighbours, what is before them, and what is broadcast, as latent attention has them; and a cache behind which it all goes.
#[test]
fn pieces_of_pieces_are_joined_in_one_kernel() {
    for (nope, half, value) in [(8, 4, 8), (5, 3, 7)] {
        let body = format!(
            r"
input %q: f32[2, n, {wide}]
input %c: f32[2, 1, 1, {half}]
input %s: f32[1, {half}]
input %k: f32[2, 1, n, {turned}]
input %v: f32[2, 3, n, {value}]
input %cache: f32[2, 3, 4, {whole}]
const %apart: i64[4] = [2, -1, 3, {whole}]
const %parts: i64[2] = [{nope}, {turned}]
const %axis: i64[1] = [3]
const %zero: i64[1] = [0]
const %one: i64[1] = [1]
const %end: i64[1] = [2147483647]
const %two: i64[1] = [2]
const %heads: i64[4] = [2, 3, -1, {turned}]
const %each: i64[4] = [2, 3, 1, {turned}]
%h = reshape(%q, %apart)
%t = transpose(%h) {{perm=[0, 2, 1, 3]}}
%qn, %qr = split(%t, %parts) {{axis=3}}
%even = slice(%qr, %zero, %end, %axis, %two)
%odd = slice(%qr, %one, %end, %axis, %two)
%ec = mul(%even, %c)
%os = mul(%odd, %s)
%re = sub(%ec, %os)
%oc = mul(%odd, %c)
%es = mul(%even, %s)
%im = add(%oc, %es)
%r = concat(%re, %im) {{axis=3}}
%y = concat(%qn, %r) {{axis=3}}
%kn, %kv = split(%t, %parts) {{axis=-1}}
%kt = slice(%k, %zero, %end, %axis, %two)
%kh = slice(%k, %one, %end, %axis, %two)
%kc = mul(%kt, %c)
%ks = mul(%kh, %s)
%kr = concat(%ks, %kc) {{axis=-1}}
%ke = expand(%kr, %each)
%kk = concat(%kn, %ke) {{axis=3}}
%z = concat(%cache, %kk) {{axis=2}}
output %y
output %z
",
            wide = 3 * (nope + 2 * half),
            whole = nope + 2 * half,
            turned = 2 * half,
        );
        for size in [1, 3] {
            let (_, steps) = launched(&body, size);
            // All of the first result; the keys, and the cache with them.
            assert_eq!(steps.len(), 3, "{steps:?}: {nope}, {half}, {size}");
        }
    }
}

/// No elements, one element, one operand several times, and members that two pieces or a piece and the whole read.
#[test]
fn pieces_may_be_empty_and_may_be_the_same() {
    let body = r"
input %x: f32[n, 3, 5]
input %one: f32[1, 1, 1]
const %a: i64[1] = [1]
const %b: i64[1] = [2]
const %axis: i64[1] = [1]
const %last: i64[1] = [2]
const %five: i64[1] = [5]
%none = slice(%x, %b, %a, %axis)
%p = slice(%x, %a, %five, %last)
%t = neg(%p)
%u = abs(%p)
%n = neg(%none)
%j = concat(%t, %u, %p, %t) {axis=2}
%k = concat(%n, %x, %none, %x) {axis=1}
%l = concat(%x, %x, %n) {axis=1}
%m = add(%k, %l)
%o = slice(%p, %b, %five, %axis)
%q = slice(%o, %a, %b, %last)
%r = add(%q, %one)
%v = exp(%none)
output %j
output %m
output %r
output %none
output %v
";
    for size in [1, 2, 5] {
        launched(body, size);
    }
}

/// Chains that others read, other dtypes, and a concat that is the graph's result and a chain's operand.
#[test]
fn what_others_read_is_written_out_once() {
    let body = r"
input %x: f32[n, 12]
input %i: i8[n, 7]
const %axis: i64[1] = [1]
const %a: i64[1] = [1]
const %e: i64[1] = [8]
const %lie: i64[2] = [4, 8]
%p = slice(%x, %a, %e, %axis)
%s = softmax(%p) {axis=-1}
%m = reduce_max(%p) {axes=[1], keepdims=true}
%y = sub(%s, %m)
%l, %r = split(%x, %lie) {axis=1}
%d = concat(%r, %l) {axis=1}
%z = tanh(%d)
%w = slice(%i, %a, %e, %axis)
%c = concat(%w, %i) {axis=1}
output %y
output %d
output %z
output %l
output %c
";
    for size in [3, 4] {
        let (_, steps) = launched(body, size);
        assert_eq!(steps.iter().filter(|s| *s == "slice").count(), 1, "{steps:?}");
        assert_eq!(steps.iter().filter(|s| *s == "split").count(), 1, "{steps:?}");
    }
}

/// Products read parts that begin where a vector does; others, and what is broadcast, are written out.
#[test]
fn products_read_parts_that_are_aligned() {
    let of = |from: i64, to: i64| {
        format!(
            r"
input %x: f32[n, 24]
input %w: f32[4, 6]
const %axis: i64[1] = [1]
const %a: i64[1] = [{from}]
const %e: i64[1] = [{to}]
%p = slice(%x, %a, %e, %axis)
%y = matmul(%p, %w)
output %y
"
        )
    };
    let (_, one_row) = launched(&of(4, 8), 1);
    assert_eq!(one_row, ["matmul"]);
    nothing_but(&["matmul"], &of(8, 12));
    assert_eq!(launched(&of(6, 10), 3).1, ["slice", "matmul"]);
    let wide = r"
input %x: f32[3, 1, 4]
input %w: f32[3, 4, 6]
const %wide: i64[3] = [3, 5, 4]
%p = expand(%x, %wide)
%y = matmul(%p, %w)
output %y
";
    assert_eq!(launched(wide, 1).1, ["expand", "matmul"]);
}
