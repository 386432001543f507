//! Plans, executed step by step on the CPU in memory that is laid out as the plan says: chains, views and places are right if the
//! results are those of the graph, though scratch is overwritten and nothing is cleared.

mod lying;
mod machine;
mod parts;

use std::path::{Path, PathBuf};

use normfuse_ir::{
    DType, Graph, Op, Result, Shape, Tensor, Type, body::bits_equal, eval, infer, op::AttentionOp, scheme::F32, text,
};

use self::machine::{Machine, Notes};
use super::{Plan, executable::given, host_inputs};
use crate::cpu;

fn inputs(graph: &Graph, size: i64) -> Vec<Tensor> {
    let mut state = 0x9e37_79b9u32;
    let mut tensor = |id: &normfuse_ir::ValueId| {
        let ty = &graph.value(*id).ty;
        let sizes = ty.shape.iter().flat_map(|s| &s.0).map(|d| d.eval(&|_| Some(size)).unwrap() as usize);
        let shape: Vec<usize> = sizes.collect();
        let dtype = ty.dtype.unwrap();
        let mut number = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let n = state >> 8;
            if dtype.is_int() || dtype == DType::Bool { (n % 2) as f32 } else { n as f32 / (1 << 22) as f32 - 2.0 }
        };
        let numbers: Vec<f32> = (0..shape.iter().product()).map(|_| number()).collect();
        eval::cast(&Tensor::from_f32(&shape, &numbers), dtype, true).unwrap()
    };
    graph.inputs().iter().map(&mut tensor).collect()
}

/// The graph with what a `Gemm` turns around turned before it: the machine multiplies matrices that lie as they are said to, and the
/// order of a sum on the CPU depends on how its operands lie.
fn turned_before(graph: &Graph) -> Graph {
    let mut graph = graph.clone();
    for id in graph.nodes().map(|(id, _)| id).collect::<Vec<_>>() {
        let Op::Gemm { alpha, beta, trans_a, trans_b } = graph.node(id).op else { continue };
        for (port, _) in [trans_a, trans_b].into_iter().enumerate().filter(|(_, turned)| *turned) {
            let operand = graph.node(id).input(port);
            let name = format!("turned{}", graph.node_bound());
            let turned = graph.add_node(name.clone(), Op::Transpose { perm: None }, &[operand], [name]).unwrap();
            graph.set_input(id, port, Some(graph.node(turned).outputs[0]));
        }
        graph.set_op(id, Op::Gemm { alpha, beta, trans_a: false, trans_b: false }).unwrap();
    }
    infer::infer(&mut graph).unwrap();
    graph
}

/// Plans and executes; what differs from the graph's own results. Nothing where the graph is not of such sizes.
fn differs(graph: &Graph, size: i64) -> Option<String> {
    let inputs = inputs(graph, size);
    let want = cpu::Plan::new(&turned_before(graph)).and_then(|plan| plan.run(&inputs)).ok()?;
    let found = match executed(graph, &inputs) {
        Ok(found) => found,
        Err(e) => return Some(e.to_string()),
    };
    assert_eq!(found.len(), want.len());
    let mut pairs = want.iter().zip(&found);
    pairs.find_map(|(want, found)| bits_equal(want, found)).map(|d| d.to_string())
}

/// The results of the plan.
fn executed(graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    let notes = Notes::default();
    let given = given(&host_inputs(graph).unwrap(), inputs);
    let plan = Plan::new(graph, &given, &notes)?;
    let asked = notes.0.into_inner().unwrap();
    let mut machine = Machine::new(&plan, &asked, graph, inputs);
    for step in plan.once.iter().chain(&plan.steps) {
        machine.run(step);
    }
    Ok(plan.outputs.iter().map(|v| machine.read(*v)).collect())
}

fn graphs() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/in")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "nf") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn parsed(source: &str) -> Graph {
    let mut graph = text::parse(source, &mut |w| panic!("{}", w.name)).unwrap();
    infer::infer(&mut graph).unwrap();
    graph
}

#[test]
fn every_small_graph_is_itself_when_its_plan_is_executed() {
    let graphs = graphs();
    assert!(graphs.len() > 100);
    for path in graphs {
        let source = std::fs::read_to_string(&path).unwrap();
        let graph = parsed(&source);
        if graph.nodes().any(|(_, n)| matches!(n.op, Op::Foreign(_))) {
            continue;
        }
        for size in [1, 5] {
            if let Some(differs) = differs(&graph, size) {
                panic!("{} at {size}: {differs}", path.display());
            }
        }
    }
}

/// Views of views, results that are views, constants and inputs, one value twice, weights that are turned once, chains between
/// products.
#[test]
fn views_results_and_weights_lie_where_the_plan_says() {
    let graph = parsed(
        r#"graph "g"
opset "" 20
input %x: f32[n, 64]
input %ids: i64[n]
const %w: f32[96, 64] = fill(0.125)
const %bias: f32[96] = fill(0.5)
const %parts: i64[2] = [32, 64]
const %first: i64[1] = [0]
const %two: i64[1] = [2]
const %flat: i64[1] = [-1]
const %back: i64[2] = [-1, 32]
const %table: f32[4, 96] = fill(1.5)
%wt = transpose(%w) {perm=[1, 0]}
%h = matmul(%x, %wt)
%hb = add(%h, %bias)
%act = tanh(%hb)
%turned = transpose(%act) {perm=[1, 0]}
%a, %b = split(%turned, %parts) {axis=0, outputs=2}
%at = transpose(%a) {perm=[1, 0]}
%rows = gather(%table, %ids) {axis=0}
%sum = add(%rows, %act)
%long = reshape(%sum, %flat)
%short = reshape(%long, %back)
%top = slice(%short, %first, %two, %first)
%e = exp(%at)
output %long
output %top
output %e
output %b
output %x
output %w
output %e
"#,
    );
    for size in [1, 3, 8] {
        assert_eq!(differs(&graph, size), None, "{size}");
    }
}

/// Scales that a fused op writes by columns, read as they lie and row by row; twice, as a result, and of rows that are no multiple of 4.
#[test]
fn scales_that_lie_by_columns_are_read_row_by_row() {
    for (layout, dtype, steps, across) in [
        ("column_major", "f32", "", 2),
        ("tma_aligned", "f32", "", 2),
        ("packed_ue8m0", "i32", ", log2, ceil, exp2", 1),
    ] {
        let scale = if layout == "packed_ue8m0" { "f8e8m0" } else { "f32" };
        let graph = parsed(&format!(
            r#"scheme !s = {{element=f8e4m3fn, granularity={{group=128}}, compute=f32, origin=amax, factor=[{{div=448.0}}, {{max=4.359654e-6}}{steps}], apply=divide, post=[{{max=-448.0}}, {{min=448.0}}], encode=saturate, scale={{steps=[{{div=448.0}}, {{max=4.359654e-6}}{steps}], dtype={scale}}}, layout={layout}}}
graph "g"
opset "" 20
input %x: f32[n, 3, 256]
%q: f8e4m3fn[n, 3, 256] scheme !s, %s: {dtype}[n, 3, {across}] scheme !s = quantize(%x) !s
%across = transpose(%s) {{perm=[2, 0, 1]}}
%back = transpose(%across) {{perm=[1, 2, 0]}}
%other = transpose(%s) {{perm=[1, 0, 2]}}
output %q
output %s
output %across
output %back
output %other
"#
        ));
        for size in [1, 4, 5] {
            assert_eq!(differs(&graph, size), None, "{layout}, {size}");
        }
    }
}

/// Scales that are written as the products of those codes read them. The quantisers have no bodies: this is no file for a reader.
#[test]
fn scales_go_to_products_by_columns() {
    let graph = parsed(include_str!("tests/quantised_for_two.nf"));
    for size in [1, 5] {
        assert_eq!(differs(&graph, size), None, "{size}");
        // Those of the quantiser that others read alone are laid out, for its product.
        let given = given(&host_inputs(&graph).unwrap(), &inputs(&graph, size));
        let steps = Plan::new(&graph, &given, &Notes::default()).unwrap().list();
        let laid: Vec<&str> = steps.iter().filter(|s| s.op == "transpose").map(|s| &*s.name).collect();
        assert_eq!(laid, if size == 1 { vec![] } else { vec!["u"] }, "{size}");
    }
}

/// A step of the past's length decides sizes: the host reads it.
#[test]
fn inputs_that_decide_sizes_are_read_by_the_host() {
    let graph = parsed(
        r#"graph "g"
opset "" 20
input %x: f32[8]
input %n: i64[1]
const %zero: i64[1] = [0]
%y = slice(%x, %zero, %n)
%z = abs(%y)
output %z
"#,
    );
    assert_eq!(host_inputs(&graph).unwrap().into_iter().collect::<Vec<_>>(), [1]);
    assert_eq!(differs(&graph, 1), None);
}

/// Attention in all its forms, in parts and at once: heads side by side and apart, heads that share keys, a past, masks of each head
/// and of all, causal ones, scores that are handed out.
#[test]
fn attention_is_products_and_a_softmax() {
    let op = |causal: bool, heads: Option<u64>, kv_heads: Option<u64>, outputs: usize| {
        Op::Attention(AttentionOp {
            is_causal: causal,
            scale: None,
            softcap: F32::new(0.0),
            q_num_heads: heads,
            kv_num_heads: kv_heads,
            qk_matmul_output_mode: 2,
            softmax_dtype: None,
            outputs,
        })
    };
    let f32s = |shape: &[usize]| (DType::F32, shape.to_vec());
    let (q, kv) = (f32s(&[2, 4, 5, 8]), f32s(&[2, 2, 12, 8]));
    let past = f32s(&[2, 2, 4, 8]);
    let side = |heads: usize, sequence: usize| f32s(&[2, sequence, heads * 8]);
    let none = None;
    let cases = [
        (op(false, None, None, 1), vec![Some(q.clone()), Some(kv.clone()), Some(kv.clone())]),
        (op(true, None, None, 1), vec![Some(q.clone()), Some(kv.clone()), Some(kv.clone())]),
        (
            op(false, None, None, 4),
            vec![
                Some(q.clone()),
                Some(kv.clone()),
                Some(kv.clone()),
                Some(f32s(&[2, 4, 5, 16])),
                Some(past.clone()),
                Some(past.clone()),
            ],
        ),
        (
            op(true, None, None, 3),
            vec![Some(q.clone()), Some(kv.clone()), Some(kv.clone()), none, Some(past.clone()), Some(past)],
        ),
        (
            op(false, Some(4), Some(2), 1),
            vec![Some(side(4, 5)), Some(side(2, 12)), Some(side(2, 12)), Some((DType::F32, vec![5, 12]))],
        ),
        (op(true, Some(4), Some(4), 1), vec![Some(side(4, 1)), Some(side(4, 1)), Some(side(4, 1))]),
    ];
    for (i, (op, operands)) in cases.into_iter().enumerate() {
        let mut graph = Graph::new("g");
        let mut inputs = Vec::new();
        for (port, operand) in operands.iter().enumerate() {
            let value = operand.clone().map(|(dtype, shape)| {
                graph.add_input(format!("x{port}"), Type::tensor(dtype, Shape::from_concrete(&shape)))
            });
            inputs.push(value);
        }
        let names: Vec<String> = (0..op.num_outputs()).map(|o| format!("y{o}")).collect();
        let node = graph.add_node("a", op, &inputs, names.clone()).unwrap();
        for (name, value) in names.into_iter().zip(graph.node(node).outputs.clone()) {
            graph.add_output(name, value);
        }
        infer::infer(&mut graph).unwrap();
        let given = self::inputs(&graph, 1);
        let want = cpu::Plan::new(&graph).unwrap().run(&given).unwrap();
        let found = executed(&graph, &given).unwrap();
        for (want, found) in want.iter().zip(&found) {
            assert_eq!(want.shape(), found.shape());
            let numbers = |t: &Tensor| -> Vec<f32> {
                t.bytes().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
            };
            for (a, b) in numbers(want).iter().zip(numbers(found)) {
                assert!((a - b).abs() < 1e-5 || *a == b, "case {i}: {a} and {b}");
            }
        }
    }
}

#[test]
fn graphs_on_a_gpu_may_be_used_from_any_thread() {
    fn shared<T: Send + Sync>() {}
    shared::<super::Executable>();
    shared::<super::Bound>();
    shared::<Plan>();
}
