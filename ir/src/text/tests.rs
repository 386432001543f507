use std::sync::Arc;

use super::*;
use crate::{
    DType, Data, Def, Error, ErrorKind, Op, Region, Shape, Tensor, Type,
    op::{ForeignAttr, ForeignOp, UnaryOp},
};

/// Every region is that many bytes counting up from its offset.
pub(crate) fn resolve(w: &WeightRef) -> Result<Data> {
    if w.len > 1 << 20 {
        return Err(Error::new(ErrorKind::Value, "no such bytes"));
    }
    let bytes: Vec<u8> = (0..w.len).map(|i| (w.offset.wrapping_add(i)) as u8).collect();
    Ok(Data::External(Region { file: w.file.as_str().into(), offset: w.offset, len: w.len, data: Arc::new(bytes) }))
}

fn read(text: &str) -> Graph {
    parse(text, &mut resolve).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn fails(text: &str) -> String {
    parse(text, &mut resolve).expect_err(text).to_string()
}

/// Printed text of everything that the form has.
pub(crate) const ALL: &str = r#"scheme !f8e4m3fn_token = {element=f8e4m3fn, granularity=token, compute=f32, origin=amax, factor=[{max=1e-12}, {div=448.0}], apply=divide, post=[], encode=saturate, scale={steps=[{max=1e-12}, {div=448.0}], dtype=f32}, layout=row_major}
scheme !f8e4m3fn_group128_pow2 = {element=f8e4m3fn, granularity={group=128}, compute=f32, origin=amax, factor=[{div=448.0}, log2, ceil, exp2], apply=multiply, post=[{max=-448.0}, {min=448.0}, {cast={to=bf16, saturate=true}}], encode=cast, scale={steps=[{div=448.0}], dtype=f32}, layout=row_major}
body &norm
  opset "" 20
  input %x: bf16[rows, 256]
  const %eps: f32[] = 1e-6
  %x32 = cast(%x) {to=f32, saturate=true}
  %y = add(%x32, %eps)
  output %y
end
graph "de\"coder"
opset "" 20
opset "com.acme" 1
field "producer" "a tool\nof two lines"
metadata "k" "v"
metadata "k" ""
note "odd, but legal"
input %x: bf16[batch, 2*batch*seq + 1, 256]
input %untyped
input %strings: ? opaque "CgQIARIA"
const %words: u8[2] opaque "KgQIARIA" = [1, 2]
input %bias: f32[n] default f32[2] = [0.5, -1.0]
input %"overridable w": bf16[256] default bf16[256] = "model.data"[0..+512]
const %axes: i64[1] = [-1]
const %e: f32[] = 1e-6
const %odd: f32[5] = [inf, -inf, nan, 0x7fc00001, -0.0]
const %b: bool[2] = [true, false]
const %none: f16[0, 3] = []
const %w8: f8e4m3fn[2] scheme !f8e4m3fn_token = [1.0, 0xff]
const %w4: f4e2m1[3] = [0.5, -6.0, 0.0]
const %many: bf16[256] = fill(1.0)
const %blob: u8[66] = base64 "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+P0BB"
weight %"layers.0 norm:weight": bf16[256] = "model.data"[1024..+512]
%/model/x32: f32[batch, "odd sym", max(batch, seq)] = cast(%x) {to=f32, saturate=true}
%ms: f32 = reduce_mean(%/model/x32) {axes=[-1], keepdims=true} from {replaced=[a, "b c"], rules=[norm], metadata=[[k, v], [k, w]], doc=text}
%all: ?[4] = reduce_sum(%ms) {axes=null, keepdims=true} @"a node"
%r: f32[2, 3] strides [1, 2] = rsqrt(%ms)
%q: f8e4m3fn[batch, 256] scheme !f8e4m3fn_token, %s = quantize(%ms) !f8e4m3fn_token
%c = clip(%r, _, %e)
%k, %k~2 = split(%c) {axis=0}
%t, %"" = top_k(%k, %axes) {axis=-1, largest=true, sorted=true}
%z = constant_of_shape(%axes) {dtype=f32, value=-0.5}
%z64 = constant_of_shape(%axes) {dtype=f64, value="9.999999974752427e-7"}
%zn = constant_of_shape(%axes) {dtype=bf16, value="0x7fc1"}
%n, %nq: f8e4m3fn, %ns = fused_norm(%x) {prologue=none, source=shared, emit_sum=false, siblings=[{width=256, input=bf16, compute=f32, eps=1e-6, root=reciprocal_sqrt, normed=bf16, weight=null, output=bf16, emit_normed=true, epilogues=[!f8e4m3fn_group128_pow2]}]} body &norm
%n~2 = identity(%k~2)
%fo, %fp = "com.acme"."Ma gic"(%n, _, %"") {encoding=onnx, attributes=[{name=alpha, payload="AAEC/w=="}], captures=0, reason="unknown op"}
""."Print"(%fo) {encoding=onnx, attributes=[], captures=0, reason="unknown op"} @p
output %q as "logits": f8e4m3fn[batch, 256] scheme !f8e4m3fn_token
output %n~2
"#;

#[test]
fn everything_round_trips() {
    assert_eq!(print(&read(ALL)), ALL);
}

#[test]
fn an_outline_keeps_what_computes() {
    let outline = print_outline(&read(ALL));
    for gone in ["metadata", "field ", "note ", "doc=", "from {", "decoder", "model.data", "base64", "fill("] {
        assert!(!outline.contains(gone), "`{gone}` in {outline}");
    }
    for kept in [
        "opset \"com.acme\" 1\n",
        "body &body\n",
        "\ngraph\n",
        "const %axes: i64[1] = [-1]\n",
        "const %e: f32[] = 1e-6\n",
        "weight %odd: f32[5]\n",
        "weight %w8: f8e4m3fn[2] scheme !f8e4m3fn_token\n",
        "weight %\"layers.0 norm:weight\": bf16[256]\n",
        "%ms: f32 = reduce_mean(%/model/x32) {axes=[-1], keepdims=true}\n",
    ] {
        assert!(outline.contains(kept), "no `{kept}` in {outline}");
    }
}

#[test]
fn ids_names_and_contents_survive() {
    let (a, b) = (read(ALL), read(&print(&read(ALL))));
    assert_eq!((a.value_bound(), a.node_bound(), a.inputs()), (b.value_bound(), b.node_bound(), b.inputs()));
    assert_eq!((&a.info, &a.name, a.outputs()), (&b.info, &b.name, b.outputs()));
    for ((i, x), (j, y)) in a.values().zip(b.values()) {
        assert_eq!((i, &x.name, &x.ty), (j, &y.name, &y.ty));
        assert_eq!(x.stored().map(Tensor::bytes), y.stored().map(Tensor::bytes));
        match (&x.def, &y.def) {
            (Def::Node { node: n, port: p }, Def::Node { node: m, port: q }) => assert_eq!((n, p), (m, q)),
            (Def::Const(_), Def::Const(_)) | (Def::Input { .. }, Def::Input { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    for ((i, x), (j, y)) in a.nodes().zip(b.nodes()) {
        assert_eq!((i, &x.name, &x.op, &x.inputs, &x.outputs), (j, &y.name, &y.op, &y.inputs, &y.outputs));
        assert_eq!(x.provenance, y.provenance);
        assert_eq!(x.body.as_ref().map(|b| print(b)), y.body.as_ref().map(|b| print(b)));
    }
}

#[test]
fn little_suffices_by_hand() {
    let graph = read(
        "# a comment\n\
         input %x: bf16[rows, 8]   # and another\n\
         const %e: f32[] = 1e-6\n\
         const %w: bf16[8] = fill(0.5)\n\
         %y = rms_norm(%x, %w)\n\
         %m = reduce_mean(%y) {axes=[-1]}\n\
         %s = reshape(%m,\n   %e)\n\
         %a, %b, %c = split(%s)\n\
         %z = \"acme\".\"Magic\"(%a, %b, %c)\n\
         output %z as \"out\"",
    );
    let text = print(&graph);
    assert!(text.contains("%y = rms_norm(%x, %w) {axis=-1, eps=1e-5, stash=f32}\n"), "{text}");
    assert!(text.contains("%m = reduce_mean(%y) {axes=[-1], keepdims=true}\n"), "{text}");
    assert_eq!(graph.nodes().nth(3).unwrap().1.op, Op::Split { axis: 0, outputs: 3 });
    assert_eq!(print(&read(&text)), text);
    assert_eq!(print(&read("")), "graph \"\"\n");
}

#[test]
fn files_reach_the_resolver() {
    let text = "file \"w.data\" size 4096 hash \"ab12\"\ngraph \"\"\nweight %w: f32[2] = \"w.data\"[16..+8]\n\
                weight %v: f32[2] = \"other\"[0..+8]\n";
    let mut seen = Vec::new();
    let graph = parse(text, &mut |w| {
        seen.push(w.clone());
        resolve(w)
    })
    .unwrap();
    let id = FileId { size: 4096, hash: "ab12".into() };
    assert_eq!((seen[0].file.as_str(), seen[0].offset, seen[0].len, seen[0].id.as_ref()), ("w.data", 16, 8, Some(&id)));
    assert_eq!(seen[1].id, None);
    let mut asked = Vec::new();
    let printed = print_with(&graph, &mut |file| {
        asked.push(file.to_owned());
        (file == "w.data").then(|| id.clone())
    });
    assert_eq!(printed, text);
    assert_eq!(asked, ["w.data", "other"]);
}

#[test]
fn rewritten_graphs_print_in_topological_order() {
    let mut g = read("graph \"g\"\ninput %x\n%a = neg(%x)\n%b = exp(%a)\noutput %b\n");
    let (a, b) = (g.nodes().next().unwrap().0, g.nodes().nth(1).unwrap().0);
    let x = g.inputs()[0];
    let new = g.add_node("abs", Op::Unary(UnaryOp::Abs), &[Some(x)], ["new"]).unwrap();
    let c = g.add_const("c", Tensor::from_f32(&[], &[2.0]));
    let pow =
        g.add_node("p", Op::Binary(crate::op::BinaryOp::Pow), &[Some(g.node(new).outputs[0]), Some(c)], ["p"]).unwrap();
    g.set_input(b, 0, Some(g.node(pow).outputs[0]));
    g.remove_node(a).unwrap();
    let text = print(&g);
    assert_eq!(
        text,
        "graph \"g\"\ninput %x\n%new = abs(%x) @abs\nconst %c: f32[] = 2.0\n%p = pow(%new, %c)\n%b = exp(%p)\noutput %b\n"
    );
    assert_eq!(print(&read(&text)), text);
}

#[test]
fn equal_bodies_print_once_and_are_shared_when_read() {
    let body = || Arc::new(read("graph \"b\"\ninput %x\n%y = neg(%x)\noutput %y\n"));
    let mut g = Graph::new("g");
    let mut v = g.add_input("x", Type::tensor(DType::F32, Shape(vec!["n".into()])));
    for i in 0..3 {
        let n = g.add_node("", Op::Unary(UnaryOp::Neg), &[Some(v)], [format!("y{i}")]).unwrap();
        let named = if i == 2 { read("graph \"b\"\ninput %x\noutput %x\n").into() } else { body() };
        *g.node_meta_mut(n).2 = Some(named);
        v = g.node(n).outputs[0];
    }
    let text = print(&g);
    assert_eq!(text.matches("body &b\n").count(), 3, "one definition and two uses:\n{text}");
    assert_eq!(text.matches("body &b~2\n").count(), 2, "{text}");
    let back = read(&text);
    assert_eq!(print(&back), text);
    let bodies: Vec<_> = back.nodes().filter_map(|(_, n)| n.body.clone()).collect();
    assert!(Arc::ptr_eq(&bodies[0], &bodies[1]) && !Arc::ptr_eq(&bodies[0], &bodies[2]));
}

#[test]
fn hostile_names_round_trip() {
    let names = ["", "", "a\"b\\c", "x\ny", "naïve", "~2", "a b", "%", "true", "\u{0}\u{7f}\u{85}", "x~2", "-", "0"];
    let mut g = Graph::new("g\u{1}\n");
    for name in names {
        g.add_input(name, Type::tensor(DType::F32, Shape(vec![crate::Dim::sym(name)])));
    }
    let ids = g.inputs().to_vec();
    for (id, name) in ids.iter().zip(names) {
        let op = Op::Foreign(Arc::new(ForeignOp {
            domain: name.into(),
            op_type: name.into(),
            overload: name.into(),
            encoding: name.into(),
            attributes: vec![ForeignAttr { name: name.into(), payload: name.as_bytes().into() }],
            captures: 0,
            outputs: 1,
            reason: name.into(),
        }));
        g.add_node(name, op, &[Some(*id), None], [name]).unwrap();
        g.add_output(name, *id);
    }
    let text = print(&g);
    let back = read(&text);
    assert_eq!(print(&back), text);
    for ((_, x), (_, y)) in g.values().zip(back.values()) {
        assert_eq!((&x.name, &x.ty), (&y.name, &y.ty));
    }
    for ((_, x), (_, y)) in g.nodes().zip(back.nodes()) {
        assert_eq!((&x.name, &x.op), (&y.name, &y.op));
    }
}

#[test]
fn errors_say_where_what_was_expected_and_what_was_found() {
    let cases = [
        ("input x", "line 1, column 7: expected a value, `%name`, found `x`"),
        ("\n  nope %x", "line 2, column 3: expected a line that starts with graph"),
        ("input %x: f33", "line 1, column 11: `f33` is not an element type"),
        ("input %x: f32[a", "line 1, column 15: expected `]`, found the end of the line"),
        ("input %x: f32[a +]", "line 1, column 15: expected a size"),
        ("input %x\ninput %x", "line 2, column 7: expected a new name, found `%x`"),
        ("input %x~2", "expected `%x~1` before `%x~2`, found none"),
        ("%y = neg(%x)", "line 1, column 10: expected a value that is defined above, found `%x`"),
        ("%y = neg(%y)", "line 1, column 10: expected a value that is defined above, found `%y`"),
        ("input %x\n%y = nag(%x)", "line 2, column 1: expected an op, found `nag`"),
        ("input %x\n%y = neg(%x, %x)", "line 2, column 1: `neg` takes 1 operands, found 2"),
        ("input %x\n%y, %z = neg(%x)", "`neg` has 1 results, found 2"),
        ("input %x\n%y = neg(%x) {a=1}", "`neg` has no attributes, found `a`"),
        ("input %x\n%y = cast(%x)", "`cast`: missing field `to`"),
        ("input %x\n%y = cast(%x) {to=f32, two=1}", "`cast`: there is no attribute `two`"),
        ("input %x\n%y = cast(%x) {to=f32, to=f16}", "expected each attribute once, found `to` again"),
        ("input %x\n%y = cast(%x) {to=f32", "expected `,` or `}`, found the end of the text"),
        (
            "input %x\n%y = softmax(%x) {axis=9999999999999999999999}",
            "expected a number, found `9999999999999999999999`",
        ),
        ("input %x\n%y = quantize(%x) !s", "expected a name that a `scheme` line defines, found `!s`"),
        ("scheme !s = {element=f32}", "expected a scheme: missing field"),
        ("const %c: f32[2] = [1.0]", "line 1, column 20: expected 2 elements, found 1"),
        ("const %c: f32[1] = [x]", "expected an element of f32, found `x`"),
        ("const %c: f32[n] = [1.0]", "expected an element type and a shape of numbers"),
        ("const %c: f32[1000000000000] = fill(1.0)", "expected at most 67108864 bytes"),
        ("const %c: f32[4611686018427387904, 4] = []", "too large to address"),
        ("const %c: f32[2] = base64 \"AA==\"", "takes 8 bytes, found 1"),
        ("const %c: f32[2] = base64 \"!\"", "this is not base64"),
        ("weight %c: f32[2] = \"f\"[0..+4]", "expected 8 bytes as the type says, found 4"),
        ("weight %c: f32[2] = \"f\"[0..4]", "expected `offset..+length`, found `0..4`"),
        ("graph \"a", "line 1, column 7: expected a closing `\"`"),
        ("graph \"a\\x\"", "expected one of the escapes"),
        ("graph \"a\"\ngraph \"b\"", "line 2, column 1: expected one `graph` line"),
        ("body &b\ninput %x", "expected the `end` of this body"),
        ("input %x\n%y = neg(%x) body &b", "expected a body that is defined above"),
        ("input %x\n%y = neg(%x) from {a=1}", "there is no attribute `a`"),
        ("input %x; 2", "expected a token, found ';'"),
        ("input %x junk", "expected the end of the line, found `junk`"),
    ];
    for (text, want) in cases {
        let found = fails(text);
        assert!(found.contains(want), "{text}\n  wanted {want}\n  found  {found}");
    }
}

#[test]
fn depth_is_limited() {
    let deep = format!("input %x\n%y = cast(%x) {{to={}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(fails(&deep).contains("expected at most 64 levels of brackets"));
    let dims = format!("input %x: f32[{}a{}]", "(".repeat(100_000), ")".repeat(100_000));
    assert!(fails(&dims).contains("nested too deeply"));
    let chain: Vec<String> = (0..1000)
        .map(|i| {
            let body = if i > 0 { format!(" body &b{}", i - 1) } else { String::new() };
            format!("body &b{i}\ninput %x\n%y = neg(%x){body}\noutput %y\nend\n")
        })
        .collect();
    assert!(fails(&chain.concat()).contains("nested more than 16 deep"));
}

/// Calls `check` with `rounds` damaged copies of a text.
pub(crate) fn mutate(text: &str, rounds: usize, mut check: impl FnMut(&str)) {
    let mut seed = 1u64;
    let mut random = move |n: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % n
    };
    let pieces = [
        "\"",
        "{",
        "}",
        "[",
        "(",
        "\n",
        "%x",
        "~2",
        "_",
        "-",
        "0x",
        "9999999999999",
        "1e400",
        "&norm",
        "!",
        "é",
        "\\u{",
        "?",
        "null",
        ",",
        ":",
    ];
    for _ in 0..rounds {
        let mut bytes: Vec<u8> = text.as_bytes().to_vec();
        for _ in 0..=random(3) {
            let at = random(bytes.len());
            match random(4) {
                0 => bytes.truncate(at),
                1 => drop(bytes.drain(at..(at + 1 + random(20)).min(bytes.len()))),
                2 => drop(bytes.splice(at..at, pieces[random(pieces.len())].bytes())),
                _ => bytes[at] = bytes[random(bytes.len())],
            }
            if bytes.is_empty() {
                bytes.push(b'#');
            }
        }
        check(&String::from_utf8_lossy(&bytes));
    }
}

/// Any text gives a graph or an error, and a graph that it gives prints and reads back.
#[test]
fn mutations_never_panic() {
    let mut parsed = 0;
    mutate(ALL, 3000, |text| match parse(text, &mut resolve) {
        Ok(graph) => {
            parsed += 1;
            let printed = print(&graph);
            assert_eq!(print(&read(&printed)), printed);
        }
        Err(e) => assert!(!e.to_string().is_empty()),
    });
    assert!(parsed > 30, "only {parsed} mutations still parse: the loop tests too little");
}
