//! Inference of graphs written as text. A case lists the types of its results as `name: type` lines.

use super::*;
use crate::text;

mod contents;
mod fused;
mod wrong;

fn read(source: &str) -> Graph {
    let mut none = |w: &text::WeightRef| Err(Error::new(ErrorKind::Value, format!("no file {}", w.file)));
    text::parse(source, &mut none).unwrap_or_else(|e| panic!("{e}\n{source}"))
}

fn find(graph: &Graph, name: &str) -> ValueId {
    graph.values().find(|(_, v)| v.name == name).unwrap_or_else(|| panic!("no value {name}")).0
}

fn infer_text(source: &str) -> (Graph, Facts) {
    let mut graph = read(source);
    let facts = infer(&mut graph).unwrap_or_else(|e| panic!("{e}\n{source}"));
    graph.verify().unwrap_or_else(|e| panic!("{e}\n{source}"));
    (graph, facts)
}

fn show(ty: &Type) -> String {
    let dtype = ty.dtype.map_or_else(|| "?".into(), |d| d.to_string());
    let shape = ty.shape.as_ref().map_or_else(String::new, ToString::to_string);
    let strides = ty.strides.as_ref().map_or_else(String::new, |s| format!(" strides {}", Shape(s.clone())));
    untagged(&format!("{dtype}{shape}{strides}"))
}

/// Unknowns without the ids and ports that name them.
fn untagged(text: &str) -> String {
    let mut parts = text.split('?');
    let first = parts.next().unwrap_or("").to_owned();
    parts.fold(first, |out, part| out + "?" + part.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.'))
}

/// Every node of `body` gets the type that the comment at the end of its line says (one a result, split by `;`).
fn check(header: &str, body: &str) {
    let plain: Vec<&str> = body.lines().map(|l| l.split(" => ").next().unwrap_or("")).collect();
    let plain = plain.join(
        "
",
    );
    let (graph, _) = infer_text(&format!("graph \"g\"\n{header}\n{plain}"));
    let lines = body.lines().map(str::trim).filter(|l| l.starts_with('%'));
    for (line, (_, node)) in lines.zip(graph.nodes()) {
        let Some((_, want)) = line.split_once(" => ") else { continue };
        let found: Vec<String> = node.outputs.iter().map(|v| show(&graph.value(*v).ty)).collect();
        assert_eq!(found.join("; "), want, "{line}");
    }
}

#[test]
fn elementwise_and_reductions() {
    check(
        "input %x: bf16[batch, seq, 256]\ninput %w: bf16[256]\ninput %i: i32[seq, 1]\ninput %c: bool[1, 1, seq, 1]\n\
         const %two: f32[] = 2.0\nconst %k: i64[1] = [8]\nconst %ax: i64[] = 1",
        "%f = cast(%x) {to=f32, saturate=true} => f32[batch, seq, 256]
         %p = pow(%f, %two) => f32[batch, seq, 256]
         %m = reduce_mean(%p) {axes=[-1], keepdims=true} => f32[batch, seq, 1]
         %s = reduce_sum(%p) {axes=[0, -1], keepdims=false} => f32[seq]
         %a = reduce_max(%p) {axes=null, keepdims=false} => f32[]
         %am = reduce_max(%p) {axes=[], keepdims=false} => f32[batch, seq, 256]
         %y = mul(%x, %w) => bf16[batch, seq, 256]
         %e = equal(%y, %x) => bool[batch, seq, 256]
         %n = is_nan(%f) => bool[batch, seq, 256]
         %t = add(%i, %i) => i32[seq, 1]
         %wh = where(%c, %x, %w) => bf16[1, batch, seq, 256]
         %v, %j = top_k(%x, %k) {axis=-1, largest=true, sorted=true} => bf16[batch, seq, 8]; i64[batch, seq, 8]
         %am2 = arg_reduce(%x) {max=true, axis=1, keepdims=false, select_last=false} => i64[batch, 256]
         %cs = cum_sum(%f, %ax) {exclusive=false, reverse=false} => f32[batch, seq, 256]
         %sm = softmax(%f) {axis=-1, log=false} => f32[batch, seq, 256]
         %rn = rms_norm(%x, %w) {axis=-1, eps=1e-6, stash=f32} => bf16[batch, seq, 256]
         %cl = clip(%p, _, %two) => f32[batch, seq, 256]",
    );
}

#[test]
fn broadcasting_is_sound() {
    check(
        "input %a: f32[a, 1, 4]\ninput %b: f32[b, c, d]\ninput %u: f32[?u, 1, 4]\ninput %z: f32[0, 1, 1]",
        "%ab = add(%a, %b) => f32[max(a, b), c, 4]
         %aa = add(%a, %a) => f32[a, 1, 4]
         %au = add(%a, %u) => f32[?, 1, 4]
         %uu = add(%u, %u) => f32[?u, 1, 4]
         %az = add(%a, %z) => f32[0, 1, 4]",
    );
}

#[test]
fn products_and_attention() {
    check(
        "input %x: bf16[batch, seq, 256]\ninput %w: bf16[256, n]\ninput %v: bf16[256]\ninput %q: bf16[b, 4, seq, 64]\n\
         input %kt: bf16[b, 1, 64, past + seq]\ninput %i: i8[b, 32]\ninput %u: u8[32, 16]\ninput %g: f32[k, m]\n\
         input %h: f32[n, k]\ninput %c: f32[n]\ninput %q3: f16[b, s, 512]\ninput %k3: f16[b, t, 256]\n\
         input %pk: f16[b, 4, past, 64]",
        "%a = matmul(%x, %w) => bf16[batch, seq, n]
         %b = matmul(%x, %v) => bf16[batch, seq]
         %d = matmul(%v, %w) => bf16[n]
         %e = matmul(%q, %kt) => bf16[b, 4, seq, past + seq]
         %f = matmul_integer(%i, %u) => i32[b, 16]
         %j = gemm(%g, %h, %c) {alpha=1.0, beta=1.0, trans_a=true, trans_b=true} => f32[m, n]
         %y, %pk2, %pv2, %s = attention(%q3, %k3, %k3, _, %pk, %pk) {is_causal=true, scale=null, softcap=0.0, \
q_num_heads=8, kv_num_heads=4, qk_matmul_output_mode=0, softmax_dtype=null, outputs=4} \
=> f16[b, s, 512]; f16[b, 4, past + t, 64]; f16[b, 4, past + t, 64]; f16[b, 8, s, past + t]",
    );
}

#[test]
fn movement() {
    check(
        "input %x: f32[batch, seq, 256]\ninput %o: f32[batch, 1, 4, 1]\nconst %r: i64[3] = [1, 2, 3]\n\
         const %p: i64[6] = [0, 1, 2, 0, 1, -2]\nconst %s2: i64[2] = [100, 156]\nconst %z: f32[] = 0.0\n\
         const %p2: i64[2] = [3, -1]\nconst %one: i64[1] = [1]",
        "%a = unsqueeze(%x) {axes=[0, -1]} => f32[1, batch, seq, 256, 1]
         %b = squeeze(%o) {axes=[1, -1]} => f32[batch, 4]
         %c = squeeze(%o) => f32
         %d = flatten(%x) {axis=2} => f32[batch*seq, 256]
         %d0 = flatten(%x) {axis=0} => f32[1, 256*batch*seq]
         %e = transpose(%x) {perm=[0, -1, 1]} => f32[batch, 256, seq]
         %f = transpose(%x) => f32[256, seq, batch]
         %g = tile(%x, %r) => f32[batch, 2*seq, 768]
         %h = concat(%x, %x, %x) {axis=1} => f32[batch, 3*seq, 256]
         %i, %i2 = split(%x, %s2) {axis=-1} => f32[batch, seq, 100]; f32[batch, seq, 156]
         %j, %j2, %j3 = split(%x) {axis=2} => f32[batch, seq, 86]; f32[batch, seq, 86]; f32[batch, seq, 84]
         %k, %k2 = split(%h) {axis=1} => f32[batch, seq + floordiv(seq + 1, 2), 256]; f32[batch, ?, 256]
         %l = pad(%x, %p) => f32[batch, seq + 2, 256]
         %m = pad(%x, %p2, %z, %one) => f32[batch, seq + 2, 256]
         %n = trilu(%x) {upper=true} => f32[batch, seq, 256]",
    );
}

#[test]
fn indexing() {
    check(
        "input %x: f32[vocab, 256]\ninput %ids: i64[batch, seq]\ninput %nd: i64[batch, 7, 1]\ninput %e: f32[256]\n\
         const %depth: i64[] = 8\nconst %onoff: bf16[2] = [0.0, 1.0]\ninput %u: f32[batch, seq]\ninput %xs: f32[batch, 9]\n\
         input %un: f32[batch, 7, 256]",
        "%a = gather(%x, %ids) {axis=0} => f32[batch, seq, 256]
         %b = gather(%x, %ids) {axis=-1} => f32[vocab, batch, seq]
         %c = gather_elements(%xs, %ids) {axis=1} => f32[batch, seq]
         %d = gather_nd(%x, %nd) {batch_dims=0} => f32[batch, 7, 256]
         %f = scatter_elements(%xs, %ids, %u) {axis=1, reduction=add} => f32[batch, 9]
         %g = scatter_nd(%x, %nd, %un) {reduction=none} => f32[vocab, 256]
         %h = one_hot(%ids, %depth, %onoff) {axis=-1} => bf16[batch, seq, 8]
         %i = non_zero(%ids) => i64[2, ?]
         %j = shape(%x) {start=0, end=null} => i64[2]
         %k = shape(%x) {start=-1, end=null} => i64[1]
         %l = size(%x) => i64[]",
    );
}

#[test]
fn quantisers_of_onnx() {
    check(
        "input %x: f32[batch, 256]\nconst %s: f32[] = 0.5\ninput %sb: f32[batch, 8]\ninput %z: i8[256]\ninput %sv: f32[256]",
        "%q = quantize_linear(%x, %s) {axis=1, block_size=0, to=f8e4m3fn, saturate=true} => f8e4m3fn[batch, 256]
         %d = dequantize_linear(%q, %s) {axis=1, block_size=0} => f32[batch, 256]
         %qb = quantize_linear(%x, %sb) {axis=1, block_size=32, to=i8, saturate=true} => i8[batch, 256]
         %qv = quantize_linear(%x, %sv, %z) {axis=1, block_size=0, to=i8, saturate=true} => i8[batch, 256]
         %dq, %ds, %dz = dynamic_quantize_linear(%x) => u8[batch, 256]; f32[]; u8[]",
    );
}

#[test]
fn nothing_follows_from_an_unknown() {
    check(
        "input %x: f32[batch, 256]\ninput %any",
        "%f = \"com.acme\".\"Magic\"(%x) => ?
         %g: bf16[n, 256] = \"com.acme\".\"Magic\"(%x) => bf16[n, 256]
         %a = add(%f, %x) => f32
         %m = matmul(%f, %any) => ?
         %r = reduce_mean(%f) {axes=[-1], keepdims=true} => ?
         %s = shape(%f) {start=0, end=null} => i64[?]
         %e = reshape(%x, %s) => f32
         %c = concat(%f, %x) {axis=0} => f32[?, 256]
         %z = equal(%f, %x) => bool",
    );
}

#[test]
fn declared_types_fill_gaps_and_must_not_contradict() {
    check(
        "input %x: f32[batch, 256]",
        "%n: i64[2, hits] = non_zero(%x) => i64[2, hits]
         %a: f32[wrong_name, 256] = abs(%x) => f32[batch, 256]
         %f: ?[3] = \"\".\"Foreign\"(%x) => ?[3]
         %g: f16[3] = identity(%f) => f16[3]",
    );
    let fails = |line: &str| {
        let mut g = read(&format!("graph \"g\"\ninput %x: f32[batch, 256]\n{line}"));
        infer(&mut g).expect_err(line).to_string()
    };
    assert_eq!(
        fails("%a: f32[batch, 128] = abs(%x)"),
        "node `a`, result 0 (y): the op gives shape [batch, 256], but [batch, 128] is declared"
    );
    assert_eq!(fails("%a: f16[batch, 256] = abs(%x)"), "node `a`, result 0 (y): the op gives f32, but f16 is declared");
    assert!(fails("%a: f32[256] = abs(%x)").contains("but [256] is declared"));
}

#[test]
fn a_node_that_a_rewrite_adds_is_inferred_alone() {
    let (mut graph, mut facts) = infer_text("graph \"g\"\ninput %x: f32[batch, seq, 256]\n%y = abs(%x)\noutput %y");
    let x = find(&graph, "x");
    let shape = Op::Shape { start: 0, end: Some(2) };
    let shape = graph.add_node("s", shape, &[Some(x)], ["s"]).unwrap();
    facts.infer_new(&mut graph, shape).unwrap();
    let rest = graph.add_const("rest", Tensor::from_i64(&[2], &[2, -1]));
    let s = graph.node(shape).outputs[0];
    let cat = graph.add_node("c", Op::Concat { axis: 0 }, &[Some(s), Some(rest)], ["c"]).unwrap();
    facts.infer_new(&mut graph, cat).unwrap();
    let c = graph.node(cat).outputs[0];
    assert_eq!(Shape(facts.known(c).unwrap().to_vec()).to_string(), "[batch, seq, 2, -1]");
    let view = graph.add_node("v", Op::Reshape { allow_zero: false }, &[Some(x), Some(c)], ["v"]).unwrap();
    facts.infer_new(&mut graph, view).unwrap();
    let v = graph.node(view).outputs[0];
    assert_eq!(show(&graph.value(v).ty), "f32[batch, seq, 2, 128]");
    assert_eq!(facts.same_shape(&graph, x, find(&graph, "y")), Some(true));
    assert_eq!(facts.same_shape(&graph, x, v), Some(false));
    let again = Facts::of(&graph).unwrap();
    assert_eq!(again.known(c), facts.known(c));
}

#[test]
fn long_chains_take_linear_time_and_no_stack() {
    let mut graph = Graph::new("chain");
    let mut v = graph.add_input("x", Type::tensor(DType::F32, vec![Dim::from("n"), Dim::from(4)]));
    for i in 0..3_000 {
        // Sizes that grow with every node, by sums, products and maxima.
        let other =
            graph.add_input(format!("i{i}"), Type::tensor(DType::F32, vec![Dim::sym(format!("d{i}")), 4.into()]));
        let op = if i % 2 == 0 { Op::Concat { axis: 0 } } else { Op::Binary(crate::op::BinaryOp::Add) };
        let node = graph.add_node(format!("n{i}"), op, &[Some(v), Some(other)], [format!("v{i}")]).unwrap();
        v = graph.node(node).outputs[0];
    }
    infer(&mut graph).unwrap();
    assert_eq!(graph.value(v).ty.shape.as_ref().unwrap().rank(), 2);
    graph.verify().unwrap();
}
