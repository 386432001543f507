//! From a tract model to normfuse's IR.

use std::{collections::BTreeMap, sync::Arc};

use normfuse_ir::{
    DType, Dim, Graph, Op, Shape, Tensor, Type, ValueId,
    op::{BinaryOp, ForeignOp, ReduceOp, UnaryOp},
};
use tract_onnx::{
    prelude::*,
    tract_core::ops::{
        binary::TypedBinOp,
        cast::Cast,
        change_axes::AxisOp,
        element_wise::ElementWiseOp,
        konst::Const,
        nn::{Reduce, Reducer},
        source::TypedSource,
    },
};

/// The element types that both sides have.
const DTYPES: [(DatumType, DType); 5] = [
    (DatumType::F32, DType::F32),
    (DatumType::F16, DType::F16),
    (DatumType::I64, DType::I64),
    (DatumType::I32, DType::I32),
    (DatumType::Bool, DType::Bool),
];

pub fn dtype(of: DatumType) -> Option<DType> {
    DTYPES.iter().find(|(t, _)| *t == of).map(|(_, d)| *d)
}

pub fn datum_type(of: DType) -> Option<DatumType> {
    DTYPES.iter().find(|(_, d)| *d == of).map(|(t, _)| *t)
}

/// The graph, and which value of it is which outlet of the model.
pub fn to_ir(model: &TypedModel) -> TractResult<(Graph, BTreeMap<ValueId, OutletId>)> {
    let mut graph = Graph::new("tract");
    let mut values: BTreeMap<OutletId, ValueId> = BTreeMap::new();
    for id in model.eval_order()? {
        let node = model.node(id);
        if node.op_is::<TypedSource>() {
            values.insert(id.into(), graph.add_input(&node.name, ty(&node.outputs[0].fact)));
            continue;
        }
        if let Some(tensor) = node.op_as::<Const>().and_then(|c| constant(c.val())) {
            values.insert(id.into(), graph.add_const(&node.name, tensor));
            continue;
        }
        let operands: Vec<Option<ValueId>> = node.inputs.iter().map(|o| Some(values[o])).collect();
        let names = (0..node.outputs.len()).map(|slot| match slot {
            0 => node.name.clone(),
            n => format!("{}:{n}", node.name),
        });
        let op = op(model, node)?.unwrap_or_else(|| foreign(node));
        let new = graph.add_node(&node.name, op, &operands, names)?;
        for (slot, value) in graph.node(new).outputs.clone().into_iter().enumerate() {
            *graph.type_mut(value) = ty(&node.outputs[slot].fact);
            values.insert(OutletId::new(id, slot), value);
        }
    }
    for (i, outlet) in model.output_outlets()?.iter().enumerate() {
        graph.add_output(format!("output {i}"), values[outlet]);
    }
    Ok((graph, values.into_iter().map(|(o, v)| (v, o)).collect()))
}

/// The IR's op for what matters around norms; everything else stays tract's own.
fn op(model: &TypedModel, node: &TypedNode) -> TractResult<Option<Op>> {
    if let Some(TypedBinOp(op, None)) = node.op_as() {
        return Ok(match op.name() {
            "Add" => Some(Op::Binary(BinaryOp::Add)),
            "Sub" => Some(Op::Binary(BinaryOp::Sub)),
            "Mul" => Some(Op::Binary(BinaryOp::Mul)),
            "Div" => Some(Op::Binary(BinaryOp::Div)),
            "Pow" => Some(Op::Binary(BinaryOp::Pow)),
            _ => None,
        });
    }
    if let Some(ElementWiseOp(op, None)) = node.op_as() {
        return Ok(match op.name().as_str() {
            "Sqrt" => Some(Op::Unary(UnaryOp::Sqrt)),
            "Recip" => Some(Op::Unary(UnaryOp::Reciprocal)),
            _ => None,
        });
    }
    if let Some(Reduce { axes, reducer: Reducer::Sum, .. }) = node.op_as() {
        let axes = axes.iter().map(|a| *a as i64).collect();
        return Ok(Some(Op::Reduce { op: ReduceOp::Sum, axes: Some(axes), keepdims: true }));
    }
    if let Some(Cast { to }) = node.op_as() {
        let float = model.outlet_fact(node.inputs[0])?.datum_type.is_float() && to.is_float();
        return Ok(dtype(*to).filter(|_| float).map(|to| Op::Cast { to, saturate: true }));
    }
    Ok(match node.op_as() {
        Some(AxisOp::Add(axis)) => Some(Op::Unsqueeze { axes: vec![*axis as i64] }),
        Some(AxisOp::Rm(axis)) => Some(Op::Squeeze { axes: Some(vec![*axis as i64]) }),
        _ => None,
    })
}

fn foreign(node: &TypedNode) -> Op {
    Op::Foreign(Arc::new(ForeignOp {
        domain: "tract".into(),
        op_type: node.op.name().into_owned(),
        overload: String::new(),
        encoding: String::new(),
        attributes: Vec::new(),
        captures: 0,
        outputs: node.outputs.len(),
        reason: "an op of tract".into(),
    }))
}

fn constant(tensor: &tract_onnx::prelude::Tensor) -> Option<Tensor> {
    let bytes = tensor.try_as_plain_ram().ok()?.as_bytes().to_vec();
    Tensor::from_bytes(dtype(tensor.datum_type())?, tensor.shape().to_vec(), bytes).ok()
}

fn ty(fact: &TypedFact) -> Type {
    let dims = fact.shape.iter().map(|d| match d.to_i64() {
        Ok(n) => Dim::from(n),
        // Equal expressions print alike, and that sizes are equal is all that the pass needs of them.
        Err(_) => Dim::sym(d.to_string()),
    });
    Type { dtype: dtype(fact.datum_type), shape: Some(Shape(dims.collect())), ..Type::default() }
}
