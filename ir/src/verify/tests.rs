use std::sync::Arc;

use super::*;
use crate::{DType, Data, Dim, Op, Region, Scheme, Tensor, op::UnaryOp, text};

fn read(source: &str) -> Graph {
    let mut none = |w: &text::WeightRef| Err(Error::new(ErrorKind::Value, format!("no file {}", w.file)));
    text::parse(source, &mut none).unwrap_or_else(|e| panic!("{e}\n{source}"))
}

fn fails(source: &str) -> String {
    read(source).verify().expect_err(source).to_string()
}

const SCHEME: &str = "scheme !token = {element=f8e4m3fn, granularity=token, compute=f32, origin=amax, \
    factor=[{div=448.0}], apply=divide, post=[], encode=saturate, scale={steps=[{div=448.0}], dtype=f32}, layout=row_major}\n\
    scheme !other = {element=f8e4m3fn, granularity=token, compute=f32, origin=amax, \
    factor=[{div=448.0}, {over=1.0}], apply=multiply, post=[], encode=saturate, scale={steps=[{div=448.0}], dtype=f32}, \
    layout=row_major}\n";

const FUSED: &str = "body &norm
input %x: bf16[rows, 256]
const %two: f32[] = 2.0
%h = cast(%x) {to=f32, saturate=true}
%p = pow(%h, %two)
%m = reduce_mean(%p) {axes=[-1], keepdims=true}
%r = rsqrt(%m)
%n = mul(%h, %r)
%y = cast(%n) {to=bf16, saturate=true}
output %y
end
graph \"g\"
input %x: bf16[m, 256]
%y: bf16[m, 256] = fused_norm(%x) {prologue=none, source=shared, emit_sum=false, siblings=[{width=256, input=bf16, \
compute=f32, eps=0.0, root=rsqrt, normed=bf16, weight=null, output=bf16, emit_normed=true, epilogues=[]}]} body &norm
output %y
";

#[test]
fn whole_graphs_pass() {
    read(FUSED).verify().unwrap();
    read("graph \"g\"\ninput %x\n%y = abs(%x)\noutput %y").verify().unwrap();
}

#[test]
fn names_are_unique() {
    assert_eq!(fails("graph \"g\"\ninput %x: f32[2]\n%x~2 = abs(%x)"), "two values have the name `x`");
    assert_eq!(fails("graph \"g\"\ninput %\"\": f32[2]"), "value #0 has no name");
    let twice = fails("graph \"g\"\ninput %x: f32[2]\n%y = abs(%x)\noutput %x as \"a\"\noutput %y as \"a\"");
    assert_eq!(twice, "two results of the graph have the name `a`");
}

#[test]
fn stored_types_are_what_the_ops_give() {
    let at = |line: &str| fails(&format!("graph \"g\"\ninput %x: f32[batch, 256]\n{line}"));
    assert_eq!(
        at("%y: f32[batch, 128] = abs(%x)"),
        "node `y`, result 0 (y): the op gives shape [batch, 256], but [batch, 128] is declared"
    );
    assert_eq!(at("%y: f16[batch, 256] = abs(%x)"), "node `y`, result 0 (y): the op gives f32, but f16 is declared");
    assert!(at("%y: i64[3] = shape(%x) {start=0, end=null}").contains("gives shape [2]"));
    assert!(at("%y = not(%x)").contains("expected bool, found f32"));
    // Where no type is stored, the inferred one is what users go by.
    assert!(at("%y = cast(%x) {to=f16, saturate=true}\n%z = add(%y, %x)").contains("node `z`, operand 1 (b)"));
}

#[test]
fn results_declared_otherwise_are_refused() {
    let found = fails(
        "graph \"g\"\ninput %x: f32[batch, 256]\n%y: f32[batch, 256] = abs(%x)\noutput %y as \"r\": f16[batch, 256]",
    );
    assert_eq!(found, "result `r` of the graph: the op gives f32, but f16 is declared");
}

#[test]
fn both_ends_of_a_quantised_edge_agree() {
    let quantise = |q: &str| {
        format!(
            "{SCHEME}graph \"g\"\ninput %x: f32[m, 256]\n%q: {q}, %s: f32[m, 1] scheme !token = quantize(%x) !token"
        )
    };
    read(&quantise("f8e4m3fn[m, 256] scheme !token")).verify().unwrap();
    assert!(fails(&quantise("f8e4m3fn[m, 256] scheme !other")).contains("Multiply"));
    assert!(
        fails(&quantise("i8[m, 256] scheme !token")).contains("has values of f8e4m3fn and scales of f32, found i8")
    );
    let mut graph = read(&quantise("f8e4m3fn[m, 256] scheme !token"));
    let scale = graph.values().find(|(_, v)| v.name == "s").unwrap().0;
    let column = |s: &Scheme| Scheme { layout: crate::scheme::ScaleLayout::ColumnMajor, ..s.clone() };
    let scheme = Arc::new(column(graph.value(scale).ty.scheme.as_ref().unwrap()));
    graph.type_mut(scale).scheme = Some(scheme);
    let found = graph.verify().unwrap_err();
    assert_eq!((found.kind, found.port.as_deref()), (ErrorKind::Scheme, Some("result 1 (scale)")));
}

#[test]
fn strides_are_part_of_the_type() {
    let source = format!(
        "{}graph \"g\"\ninput %x: f32[m, 256]\n%q, %s: f32[m, 1] strides [1, m] = quantize(%x) !token",
        SCHEME.replace("layout=row_major", "layout=column_major")
    );
    read(&source).verify().unwrap();
    assert!(fails(&source.replace("[1, m]", "[2, m]")).contains("one end says strides [1, m], the other [2, m]"));
}

#[test]
fn bodies_have_the_ports_of_their_node() {
    let broken = |from: &str, to: &str| fails(&FUSED.replacen(from, to, 1));
    assert!(
        broken("output %y\nend", "output %y\noutput %n\nend")
            .contains("node `y`: its body: expected 1 results, found 2")
    );
    assert!(
        broken("const %two: f32[] = 2.0\n", "const %two: f32[] = 2.0\ninput %z: f32[2]\n")
            .contains("expected 1 inputs, found 2")
    );
    assert!(
        broken("input %x: bf16[rows, 256]", "input %x: f16[rows, 256]").contains("operand 0 (x): its body disagrees")
    );
    assert!(broken("input %x: bf16[rows, 256]", "input %x: bf16[rows, 128]").contains("its body disagrees"));
    assert!(
        broken("%n = mul(%h, %r)", "%n = mul(%x, %r)").contains("its body: node `n`, operand 1 (b): expected bf16")
    );
}

#[test]
fn bodies_do_not_nest_for_ever() {
    let mut graph = read(FUSED);
    for _ in 0..8 {
        let mut outer = read(FUSED);
        let id = outer.nodes().next().unwrap().0;
        *outer.node_meta_mut(id).2 = Some(Arc::new(graph));
        graph = outer;
    }
    assert!(graph.verify().unwrap_err().to_string().contains("bodies nest more than 4 deep"));
}

#[test]
fn constants_are_as_long_as_their_type_says() {
    let region = Region { file: "w".into(), offset: 0, len: 8, data: Arc::new(vec![0u8; 6]) };
    let mut graph = Graph::new("g");
    graph.add_const("w", Tensor::new(DType::F32, vec![2], Data::External(region)).unwrap());
    assert_eq!(graph.verify().unwrap_err().to_string(), "value `w`: f32[2] takes 8 bytes, found 6");
    let mut graph = Graph::new("g");
    let w = graph.add_const("w", Tensor::from_i64(&[2], &[1, 2]));
    graph.type_mut(w).dtype = Some(DType::I32);
    assert!(graph.verify().unwrap_err().to_string().contains("value `w`"));
}

#[test]
fn impossible_sizes_are_refused() {
    let sized = |dims: Vec<Dim>| {
        let mut graph = Graph::new("g");
        graph.add_input("x", Type::tensor(DType::F32, dims));
        graph.verify().map_err(|e| e.to_string())
    };
    assert!(sized(vec![Dim::from(-1)]).unwrap_err().contains("expected a size, found -1"));
    assert!(sized(vec![Dim::from(1 << 40), Dim::from(1 << 40)]).unwrap_err().contains("too large"));
    assert!(sized(vec![Dim::from(0), Dim::from(1 << 40), Dim::from(1 << 40)]).is_err());
    sized(vec![Dim::from(1 << 40), Dim::from("n")]).unwrap();
}

#[test]
fn results_of_removed_nodes_are_not_results() {
    let mut graph = Graph::new("g");
    let x = graph.add_input("x", Type::tensor(DType::F32, vec![Dim::from(2)]));
    let node = graph.add_node("n", Op::Unary(UnaryOp::Abs), &[Some(x)], ["y"]).unwrap();
    let y = graph.node(node).outputs[0];
    graph.remove_node(node).unwrap();
    graph.add_output("r", y);
    assert_eq!(graph.verify().unwrap_err().to_string(), "result `r` of the graph: its value does not exist");
}

#[test]
fn a_change_is_found_where_it_matters() {
    // The target shape of a reshape comes from the sizes of x; then from those of another value.
    let mut g = read(
        "graph \"g\"\ninput %x: f32[4, 2]\ninput %z: f32[2, 2]\n%s = shape(%x)\nconst %flat: i64[1] = [8]\n\
         %f = reshape(%x, %flat)\n%y = reshape(%f, %s)\noutput %y",
    );
    let facts = infer::infer(&mut g).unwrap();
    let bound = g.node_bound();
    g.verify_changed(facts.clone(), bound, BTreeSet::new()).unwrap();
    let named = |g: &Graph, name: &str| g.values().find(|(_, v)| v.name == name).unwrap().0;
    let (x, z, s) = (named(&g, "x"), named(&g, "z"), named(&g, "s"));
    let (shape, _) = g.producer(s).unwrap();
    g.set_input(shape, 0, Some(z));
    // Nobody said that the node was touched; once it is, what it says of its reader is followed.
    g.verify_changed(facts.clone(), bound, BTreeSet::new()).unwrap();
    let found = g.verify_changed(facts.clone(), bound, BTreeSet::from([shape])).unwrap_err().to_string();
    assert!(found.contains("node `y`"), "{found}");
    g.set_input(shape, 0, Some(x));
    // A new node whose result is typed wrongly.
    let new = g.add_node("new", Op::Unary(UnaryOp::Abs), &[Some(x)], ["new"]).unwrap();
    *g.type_mut(g.node(new).outputs[0]) = Type::tensor(DType::F32, vec![3.into()]);
    assert!(g.verify_changed(facts, bound, BTreeSet::new()).unwrap_err().to_string().contains("`new`"));
}

#[test]
fn who_was_removed_reads_nothing() {
    let mut g = read("graph \"g\"\ninput %x: f32[4]\n%h = abs(%x)\n%a = neg(%h)\n%b = exp(%h)\noutput %b");
    let named = |g: &Graph, name: &str| g.values().find(|(_, v)| v.name == name).unwrap().0;
    let (h, a, b) = (named(&g, "h"), named(&g, "a"), named(&g, "b"));
    let (neg, exp) = (g.producer(a).unwrap().0, g.producer(b).unwrap().0);
    assert_eq!(g.users(h).len(), 2);
    g.remove_node(neg).unwrap();
    assert_eq!(g.users(h), [(exp, 0)]);
    // A node that is younger than its reader makes the order a matter of edges.
    let late = g.add_node("late", Op::Unary(UnaryOp::Abs), &[Some(named(&g, "x"))], ["late"]).unwrap();
    g.set_input(exp, 0, Some(g.node(late).outputs[0]));
    assert!(!g.is_read(h));
    let order = g.topo_order().unwrap();
    assert_eq!(order.iter().position(|n| *n == late).unwrap() + 1, order.iter().position(|n| *n == exp).unwrap());
    g.verify().unwrap();
}
