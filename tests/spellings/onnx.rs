//! Norms as the opsets of ONNX spell them: axes as attribute and as operand, constants as nodes, defaults left off.

use std::path::Path;

use normfuse_ir::DType;
use normfuse_passes::{Options, Outcome};

use super::{
    common::{bits::same_bits, onnx::*},
    each, folder,
    legal::{expected, fused, meaning},
};

/// A spelling at an opset; rows are 8 f32 wide, eps is 1e-6 unless the row says otherwise.
struct Row {
    name: &'static str,
    opset: i64,
    means: &'static str,
    nodes: fn() -> Vec<NodeProto>,
}

fn float(name: &str, value: f32) -> AttributeProto {
    let kind = Some(attribute_proto::AttributeType::Float as i32);
    AttributeProto { name: Some(name.into()), r#type: kind, f: Some(value), ..AttributeProto::default() }
}

fn int(name: &str, value: i64) -> AttributeProto {
    let kind = Some(attribute_proto::AttributeType::Int as i32);
    AttributeProto { name: Some(name.into()), r#type: kind, i: Some(value), ..AttributeProto::default() }
}

fn held(name: &str, t: TensorProto) -> AttributeProto {
    let kind = Some(attribute_proto::AttributeType::Tensor as i32);
    AttributeProto { name: Some(name.into()), r#type: kind, t: Some(t), ..AttributeProto::default() }
}

fn with(mut n: NodeProto, attributes: impl IntoIterator<Item = AttributeProto>) -> NodeProto {
    n.attribute.extend(attributes);
    n
}

fn microsoft(n: NodeProto) -> NodeProto {
    NodeProto { domain: Some("com.microsoft".into()), ..n }
}

/// A constant as a node.
fn constant(name: &str, attribute: AttributeProto) -> NodeProto {
    with(node("Constant", &[], &[name]), [attribute])
}

fn i64s(dims: &[i64], values: &[i64]) -> TensorProto {
    tensor("", INT64, dims, values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

/// From the mean `ms` on.
fn tail() -> Vec<NodeProto> {
    vec![
        node("Add", &["ms", "eps"], &["ve"]),
        node("Sqrt", &["ve"], &["rt"]),
        node("Reciprocal", &["rt"], &["r"]),
        node("Mul", &["x", "r"], &["n"]),
        node("Mul", &["n", "w"], &["y"]),
    ]
}

fn square() -> NodeProto {
    node("Mul", &["x", "x"], &["sq"])
}

fn then(head: impl IntoIterator<Item = NodeProto>) -> Vec<NodeProto> {
    head.into_iter().chain(tail()).collect()
}

const fn row(name: &'static str, opset: i64, means: &'static str, nodes: fn() -> Vec<NodeProto>) -> Row {
    Row { name, opset, means, nodes }
}

const ROWS: &[Row] = &[
    row("axes_attribute_and_constant_nodes", 11, "eps=1e-5", || {
        vec![
            constant("c2", held("value", floats("", &[], &[2.0]))),
            constant("c1", held("value", floats("", &[1], &[1.0]))),
            constant("ce", held("value", floats("", &[], &[1e-5]))),
            node("Pow", &["x", "c2"], &["sq"]),
            with(node("ReduceMean", &["sq"], &["ms"]), [ints("axes", &[-1])]),
            node("Add", &["ms", "ce"], &["ve"]),
            node("Sqrt", &["ve"], &["rt"]),
            node("Div", &["c1", "rt"], &["r"]),
            node("Mul", &["x", "r"], &["n"]),
            node("Mul", &["n", "w"], &["y"]),
        ]
    }),
    row("sum_by_attribute_without_kept_axis", 11, "", || {
        then([
            square(),
            with(node("ReduceSum", &["sq"], &["s"]), [ints("axes", &[2]), int("keepdims", 0)]),
            node("Div", &["s", "eight"], &["m"]),
            with(node("Unsqueeze", &["m"], &["ms"]), [ints("axes", &[2])]),
        ])
    }),
    row("sum_by_operand_and_variadic_sum", 13, "root=divide_by_sqrt", || {
        vec![
            square(),
            node("ReduceSum", &["sq", "axis"], &["s"]),
            node("Div", &["s", "eight"], &["ms"]),
            node("Sum", &["ms", "eps"], &["ve"]),
            node("Sqrt", &["ve"], &["rt"]),
            node("Div", &["x", "rt"], &["n"]),
            node("Mul", &["w", "n"], &["y"]),
        ]
    }),
    row("unsqueeze_by_operand", 13, "", || {
        then([
            square(),
            with(node("ReduceMean", &["sq"], &["m"]), [ints("axes", &[-1]), int("keepdims", 0)]),
            node("Unsqueeze", &["m", "axis"], &["ms"]),
        ])
    }),
    row("sum_square_by_attribute", 13, "", || {
        then([
            with(node("ReduceSumSquare", &["x"], &["s"]), [ints("axes", &[-1])]),
            node("Div", &["s", "eight"], &["ms"]),
        ])
    }),
    row("integer_exponent", 17, "", || {
        then([
            constant("c2", held("value", i64s(&[], &[2]))),
            node("Pow", &["x", "c2"], &["sq"]),
            with(node("ReduceMean", &["sq"], &["ms"]), [ints("axes", &[2]), int("keepdims", 1)]),
        ])
    }),
    row("constants_by_value_float", 17, "eps=0.001 root=rsqrt", || {
        vec![
            constant("ce", float("value_float", 1e-3)),
            constant("half", float("value_float", -0.5)),
            square(),
            with(node("ReduceMean", &["sq"], &["ms"]), [ints("axes", &[-1])]),
            node("Add", &["ce", "ms"], &["ve"]),
            node("Pow", &["ve", "half"], &["r"]),
            node("Mul", &["r", "x"], &["n"]),
            node("Mul", &["w", "n"], &["y"]),
        ]
    }),
    row("axes_operand", 18, "", || then([square(), node("ReduceMean", &["sq", "axis"], &["ms"])])),
    row("axes_operand_by_node", 18, "", || {
        then([
            constant("a", ints("value_ints", &[-1])),
            square(),
            with(node("ReduceMean", &["sq", "a"], &["ms"]), [int("noop_with_empty_axes", 0)]),
        ])
    }),
    row("sum_square_by_operand_and_power_of_two", 18, "", || {
        then([node("ReduceSumSquare", &["x", "axis"], &["s"]), node("Mul", &["s", "eighth"], &["ms"])])
    }),
    row("count_of_the_shape", 20, "", || {
        then([
            with(node("Shape", &["x"], &["size"]), [int("start", -1)]),
            with(node("Cast", &["size"], &["count"]), [int("to", i64::from(FLOAT))]),
            square(),
            node("ReduceSum", &["sq", "axis"], &["s"]),
            node("Div", &["s", "count"], &["ms"]),
        ])
    }),
    row("eps_by_constant_of_shape", 20, "eps=0.25", || {
        let mut nodes = then([
            constant("one", ints("value_ints", &[1])),
            with(node("ConstantOfShape", &["one"], &["e"]), [held("value", floats("", &[1], &[0.25]))]),
            square(),
            node("ReduceMean", &["sq", "axis"], &["ms"]),
        ]);
        nodes[4].input[1] = "e".into();
        nodes
    }),
    row("eps_cast_like_the_mean", 20, "eps=0.5", || {
        let mut nodes = then([
            constant("d", held("value", tensor("", 11, &[], 0.5f64.to_le_bytes().to_vec()))),
            square(),
            node("ReduceMean", &["sq", "axis"], &["ms"]),
            node("CastLike", &["d", "ms"], &["e"]),
        ]);
        nodes[4].input[1] = "e".into();
        nodes
    }),
    row("native_with_every_default", 23, "add=f32 root=divide_by_sqrt eps=1e-5", || {
        vec![node("Add", &["x", "res"], &["h"]), node("RMSNormalization", &["h", "w"], &["y"])]
    }),
    row("native_with_everything_said", 23, "add=f32 root=divide_by_sqrt", || {
        let said = [float("epsilon", 1e-6), int("axis", 2), int("stash_type", 1)];
        vec![node("Add", &["x", "res"], &["h"]), with(node("RMSNormalization", &["h", "w"], &["y"]), said)]
    }),
    row("simplified_layer_normalization", 17, "add=f32 root=reciprocal_sqrt eps=1e-5", || {
        vec![node("Add", &["x", "res"], &["h"]), node("SimplifiedLayerNormalization", &["h", "w"], &["y"])]
    }),
    row("skip_simplified_layer_normalization", 17, "add=f32 root=divide_by_sqrt eps=1e-12", || {
        vec![
            microsoft(node("SkipSimplifiedLayerNormalization", &["x", "res", "w"], &["n"])),
            // One op is one launch already: a quantiser makes it worth its while.
            node("QuantizeLinear", &["n", "scale", "zero"], &["y"]),
        ]
    }),
];

fn model_of(row: &Row) -> ModelProto {
    let quantised = row.name.starts_with("skip");
    let graph = GraphProto {
        node: (row.nodes)(),
        input: vec![value("x", FLOAT, &[0, 3, 8]), value("res", FLOAT, &[0, 3, 8])],
        output: vec![value("y", if quantised { 3 } else { FLOAT }, &[0, 3, 8])],
        initializer: vec![
            floats("w", &[8], &[1.5, 0.7, -1.1, 0.3, 1.0, 2.2, 0.9, 1.3]),
            floats("eps", &[], &[1e-6]),
            floats("eight", &[], &[8.0]),
            floats("eighth", &[], &[0.125]),
            floats("scale", &[], &[0.03]),
            tensor("zero", 3, &[], vec![0]),
            tensor("axis", INT64, &[1], (-1i64).to_le_bytes().to_vec()),
        ],
        ..GraphProto::default()
    };
    let opset = |domain: Option<&str>, version| OperatorSetIdProto {
        domain: domain.map(ToString::to_string),
        version: Some(version),
    };
    ModelProto { opset_import: vec![opset(None, row.opset), opset(Some("com.microsoft"), 1)], ..model(graph) }
}

fn check(row: &Row) {
    let name = row.name;
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("spelling_{name}.onnx"));
    save(&model_of(row), &path);
    if let Some(folder) = folder() {
        std::fs::copy(&path, folder.join(format!("opset_{name}.onnx"))).unwrap();
    }
    let before = normfuse::open(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut after = before.clone();
    let options = Options { verify: true, ..Options::default() };
    let report = normfuse_passes::run(&mut after, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(report.sites.iter().all(|s| s.outcome == Outcome::Fused), "{name}: {:#?}", report.sites);
    let ops = fused(&after);
    assert_eq!(ops.len(), 1, "{name}: {:#?}", report.sites);
    assert_eq!(meaning(ops[0]), expected(&format!("width=8 {}", row.means), DType::F32), "{name}");
    same_bits(name, &before, &after);
}

#[test]
fn every_opset_spells_the_same_norm() {
    each(ROWS.iter(), check);
}
