use normfuse_ir::{
    DType, Dim, Graph, Op, Shape, Type, ValueId, infer,
    linear::{Activation, ActivationPer, LinearScheme, ScaleKind, ScaleRule, WeightPer, WeightScheme},
    op::UnaryOp,
};

use super::{Quantised, Source, Unstacked, quantise, unstack};

/// DeepSeek's.
fn fp8() -> LinearScheme {
    let (element, columns) = (DType::F8E4M3FN, 64);
    let weight = WeightScheme {
        element,
        codes: "weight".into(),
        cut: None,
        scale: "weight_scale_inv".into(),
        per: WeightPer::Block(columns, columns),
        kind: ScaleKind::Float,
    };
    let rule = ScaleRule::FloorOnAmax(1e-4.into());
    LinearScheme { weight, activation: Some(Activation::Dynamic { element, per: ActivationPer::Group(columns), rule }) }
}

/// Layers of 64 by 64 and what they are called on.
struct Model {
    graph: Graph,
    x: ValueId,
}

impl Model {
    fn new() -> Self {
        let mut graph = Graph::new("g");
        let shape: Shape = vec![Dim::from("m"), Dim::from(64)].into();
        let x = graph.add_input("x", Type::tensor(DType::BF16, shape));
        Self { graph, x }
    }

    fn node(&mut self, op: Op, inputs: &[ValueId]) -> ValueId {
        let name = format!("v{}", self.graph.node_count());
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        let id = self.graph.add_node(name.clone(), op, &inputs, [name]).unwrap();
        self.graph.node(id).outputs[0]
    }

    fn weight(&mut self, module: &str) -> ValueId {
        let name = format!("{module}.weight");
        self.graph.add_input(name, Type::tensor(DType::BF16, Shape::from_concrete(&[64, 64])))
    }

    fn call(&mut self, weight: ValueId, x: ValueId) -> ValueId {
        let turned = self.node(Op::Transpose { perm: Some(vec![1, 0]) }, &[weight]);
        self.node(Op::MatMul, &[x, turned])
    }

    fn quantised(mut self, results: &[ValueId]) -> (Graph, Quantised) {
        for (i, v) in results.iter().enumerate() {
            self.graph.add_output(format!("y{i}"), *v);
        }
        let scheme = fp8();
        let done =
            quantise(&mut self.graph, Source { scheme: &|_, _| Some(&scheme), spared: &|_, _| false, stored: None })
                .unwrap();
        infer::infer(&mut self.graph).unwrap();
        self.graph.verify().unwrap();
        (self.graph, done)
    }
}

/// Products of the graph that read numbers of a type: what is quantised is dequantised in f32.
fn products(graph: &Graph) -> (usize, usize) {
    let of = |dtype: DType| {
        let is = |n: &normfuse_ir::Node| {
            matches!(n.op, Op::MatMul | Op::Gemm { .. })
                && n.input(0).is_some_and(|v| graph.value(v).ty.dtype == Some(dtype))
        };
        graph.nodes().filter(|(_, n)| is(n)).count()
    };
    (of(DType::F32), of(DType::BF16))
}

#[test]
fn a_layer_may_read_a_layer() {
    let mut m = Model::new();
    let (a, b) = (m.weight("a"), m.weight("b"));
    let low = m.call(a, m.x);
    let y = m.call(b, low);
    let (graph, done) = m.quantised(&[y]);
    assert_eq!((products(&graph), done.quantisers), ((2, 0), 2));
}

#[test]
fn a_layer_may_read_itself() {
    let mut m = Model::new();
    let a = m.weight("a");
    let once = m.call(a, m.x);
    let twice = m.call(a, once);
    let acted = m.node(Op::Unary(UnaryOp::Relu), &[twice]);
    let y = m.call(a, acted);
    let (graph, done) = m.quantised(&[y]);
    assert_eq!((products(&graph), done.quantisers), ((3, 0), 3));
    assert_eq!(done.schemes.values().sum::<usize>(), 1, "it is one layer");
}

#[test]
fn readers_of_a_layer_share_a_quantiser_however_late_it_is_replaced() {
    // The second call of `a` is rewritten with the first, before `b`, whose result it reads.
    let mut m = Model::new();
    let (a, b, c) = (m.weight("a"), m.weight("b"), m.weight("c"));
    let first = m.call(a, m.x);
    let middle = m.call(b, first);
    let (second, third) = (m.call(a, middle), m.call(c, middle));
    let (graph, done) = m.quantised(&[second, third]);
    assert_eq!((products(&graph), done.quantisers), ((4, 0), 3));
    let casts = graph.nodes().filter(|(_, n)| matches!(n.op, Op::Cast { to: DType::F8E4M3FN, .. })).count();
    assert_eq!(casts, 3);
}

#[test]
fn a_bias_may_be_what_a_layer_made() {
    let mut m = Model::new();
    let (a, b) = (m.weight("a"), m.weight("b"));
    let first = m.call(a, m.x);
    let gemm = Op::Gemm { alpha: 1.0.into(), beta: 1.0.into(), trans_a: false, trans_b: true };
    let y = m.node(gemm, &[first, b, first]);
    let (graph, done) = m.quantised(&[y]);
    assert_eq!((products(&graph), done.quantisers), ((2, 0), 2));
}

/// A program with the parameters of two experts, and what a checkpoint has.
fn experts(stored: &[&str], scheme: Option<&LinearScheme>) -> (Graph, Unstacked) {
    let mut m = Model::new();
    let shape = |sizes: &[usize]| Type::tensor(DType::BF16, Shape::from_concrete(sizes));
    let both = m.graph.add_input("mlp.experts.gate_up_proj", shape(&[2, 128, 64]));
    let down = m.graph.add_input("mlp.experts.down_proj", shape(&[2, 64, 64]));
    for stack in [both, down] {
        let turned = m.node(Op::Transpose { perm: Some(vec![0, 2, 1]) }, &[stack]);
        let y = m.node(Op::MatMul, &[m.x, turned]);
        m.graph.add_output(format!("y{y:?}"), y);
    }
    let find = |name: &str| stored.contains(&name).then(|| (Some(DType::BF16), vec![64, 64]));
    let done =
        unstack(&mut m.graph, Source { scheme: &|_, _| scheme, spared: &|_, _| false, stored: Some(&find) }).unwrap();
    (m.graph, done)
}

fn inputs(graph: &Graph) -> Vec<(&str, String)> {
    let inputs = graph.inputs().iter().map(|v| graph.value(*v));
    inputs.map(|v| (v.name.as_str(), v.ty.shape.as_ref().unwrap().to_string())).collect()
}

#[test]
fn parameters_of_all_experts_are_made_of_those_of_each() {
    // One that the checkpoint has is enough: the others are missing.
    let (mut graph, done) = experts(&["mlp.experts.1.up_proj.weight"], None);
    let names = ["0.gate_proj", "0.up_proj", "1.gate_proj", "1.up_proj"].map(|l| format!("mlp.experts.{l}.weight"));
    assert_eq!(done.parameters, [("mlp.experts.gate_up_proj".to_owned(), names.to_vec())]);
    let of_each = names.iter().map(|n| (n.as_str(), "[64, 64]".to_owned()));
    let kept = [("x", "[m, 64]".to_owned()), ("mlp.experts.down_proj", "[2, 64, 64]".into())];
    assert_eq!(inputs(&graph), kept.into_iter().chain(of_each).collect::<Vec<_>>());
    infer::infer(&mut graph).unwrap();
    graph.verify().unwrap();
    let turned = graph.nodes().find(|(_, n)| matches!(n.op, Op::Transpose { .. })).unwrap().1;
    let weight = graph.value(turned.input(0).unwrap());
    assert_eq!(
        (weight.ty.dtype, weight.ty.shape.as_ref().unwrap().to_string()),
        (Some(DType::BF16), "[2, 128, 64]".into())
    );
}

#[test]
fn experts_that_are_quantised_become_numbers() {
    let scheme = fp8();
    let (mut graph, done) = experts(&["mlp.experts.0.down_proj.weight"], Some(&scheme));
    let names =
        ["0.down_proj.weight", "0.down_proj.weight_scale_inv", "1.down_proj.weight", "1.down_proj.weight_scale_inv"];
    let names = names.map(|l| format!("mlp.experts.{l}"));
    assert_eq!(done.parameters[0].1, names);
    assert_eq!(done.scales, [names[1].clone(), names[3].clone()]);
    infer::infer(&mut graph).unwrap();
    graph.verify().unwrap();
    let codes = graph.values().find(|(_, v)| v.name == names[0]).unwrap().1;
    assert_eq!(codes.ty.dtype, Some(DType::F8E4M3FN));
}

#[test]
fn parameters_that_the_checkpoint_has_stay() {
    for stored in
        [&["mlp.experts.gate_up_proj", "mlp.experts.0.gate_proj.weight"][..], &["mlp.experts.2.gate_proj.weight"], &[]]
    {
        let (graph, done) = experts(stored, None);
        assert_eq!((done, graph.inputs().len()), (Unstacked::default(), 3), "{stored:?}");
    }
}
