//! From codes back to the value and its factor.

use std::collections::BTreeSet;

use normfuse_ir::{
    DType, Granularity, Graph, NodeId, Op, Scheme, ValueId,
    op::BinaryOp,
    scheme::{Apply, Encode, Packing, Step, ZeroPoint},
};

use super::{
    Miss, blank,
    chain::{Raw, Use, forward, step},
    e2m1,
};
use crate::{
    candidate::Refusal,
    region::{producer_op, typed},
    views::is_view,
};

/// Most steps between the value that met its factor and the codes.
const MAX_STEPS: usize = 16;

/// A quantiser up to its factor.
pub struct Codes {
    /// Everything but the factor's chain.
    pub scheme: Scheme,
    /// The codes.
    pub q: ValueId,
    /// The value that meets the factor.
    pub v: ValueId,
    /// The factor, and where it meets the value.
    pub factor: Option<(ValueId, Use)>,
    /// How many consecutive values meet one factor; `None` for one factor for all, or one a channel.
    pub factor_width: Option<u64>,
    /// Size of the only row, if what is quantised has one row and one factor.
    pub only_row: Option<u64>,
    /// The given zero point.
    pub zero: Option<ValueId>,
    /// Nodes from the value to the codes.
    pub nodes: BTreeSet<NodeId>,
}

impl Codes {
    /// Reads back from the node that makes the codes.
    pub fn read(graph: &Graph, anchor: NodeId) -> Result<Self, Miss> {
        let node = graph.node(anchor);
        match &node.op {
            Op::QuantizeLinear { axis, block_size, to, saturate, precision, .. } => {
                linear(graph, anchor, (*axis, *block_size), (*to, *saturate), *precision).ok_or(Miss::None)
            }
            Op::Cast { to, saturate } => {
                let x = node.input(0).ok_or(Miss::None)?;
                let encode = if to.is_int() || !*saturate { Encode::Cast } else { Encode::Saturate };
                let mut nodes = BTreeSet::from([anchor]);
                let (scheme, v, factor, width) = applied(graph, x, (*to, encode, Packing::None), &mut nodes)
                    .map_err(|at| near(graph, anchor, *to, at))?;
                // An integer that is not rounded first is a count or an index.
                if to.is_int() && !scheme.post.contains(&Step::Round) {
                    return Err(Miss::None);
                }
                let q = node.outputs[0];
                Ok(Self {
                    scheme,
                    q,
                    v,
                    factor: Some(factor),
                    factor_width: width,
                    only_row: only_row(graph, v, width),
                    zero: None,
                    nodes,
                })
            }
            _ => {
                let packed = e2m1::packed(graph, anchor).ok_or(Miss::None)?;
                if !packed.low_first {
                    let hint = "the even index is in the high nibble".to_owned();
                    let node = Some(anchor);
                    return Err(Miss::Nearest(Refusal { rule: "quant_mx", precondition: "packing", node, hint }));
                }
                let mut nodes = packed.nodes;
                let cluster = e2m1::Cluster::read(graph, packed.codes).map_err(|(at, hint)| {
                    let node = Some(at.unwrap_or(anchor));
                    Miss::Nearest(Refusal { rule: "quant_mx", precondition: "rounding", node, hint })
                })?;
                nodes.extend(&cluster.nodes);
                let kind = (DType::F4E2M1, Encode::Compare, Packing::Nibbles);
                let (mut scheme, v, factor, width) =
                    applied(graph, cluster.y, kind, &mut nodes).map_err(|at| near(graph, anchor, DType::F4E2M1, at))?;
                scheme.encode = cluster.encode(graph, &scheme.post).ok_or_else(|| {
                    let hint = "its thresholds are not those of rounding to f4e2m1, ties to even".to_owned();
                    Miss::Nearest(Refusal { rule: "quant_mx", precondition: "rounding", node: Some(anchor), hint })
                })?;
                let q = node.outputs[0];
                Ok(Self {
                    scheme,
                    q,
                    v,
                    factor: Some(factor),
                    factor_width: width,
                    only_row: only_row(graph, v, width),
                    zero: None,
                    nodes,
                })
            }
        }
    }
}

fn only_row(graph: &Graph, v: ValueId, factor_width: Option<u64>) -> Option<u64> {
    let (_, shape) = typed(graph, v)?;
    let width = shape.last()?.as_const().filter(|_| factor_width.is_none())?;
    (shape.numel().as_const() == Some(width)).then(|| width.unsigned_abs())
}

fn near(graph: &Graph, anchor: NodeId, to: DType, at: Option<NodeId>) -> Miss {
    if to.is_int() {
        return Miss::None;
    }
    let hint = match at {
        Some(n) => format!(
            "before the cast to {to} comes `{}`, which neither divides by a scale nor is a step that a quantiser takes",
            graph.node(n).op.name()
        ),
        None => format!("a value is cast to {to} without having met a scale"),
    };
    Miss::Nearest(Refusal { rule: "quant_static", precondition: "scheme", node: at.or(Some(anchor)), hint })
}

type Applied = (Scheme, ValueId, (ValueId, Use), Option<u64>);

/// Back over the steps behind the product or quotient of value and factor.
fn applied(
    graph: &Graph,
    x: ValueId,
    (element, encode, packing): (DType, Encode, Packing),
    nodes: &mut BTreeSet<NodeId>,
) -> Result<Applied, Option<NodeId>> {
    let mut value = x;
    let mut raws: Vec<Raw> = Vec::new();
    for _ in 0..MAX_STEPS {
        let (id, _) = producer_op(graph, value).ok_or(None)?;
        if let Some((v, factor, apply, width)) = application(graph, id) {
            let (compute, _) = typed(graph, value).ok_or(Some(id))?;
            nodes.insert(id);
            raws.reverse();
            let post = forward_from(&raws, compute);
            let scheme = Scheme { apply, post, encode, packing, ..blank(element, compute) };
            return Ok((scheme, v, factor, width));
        }
        if is_view(graph, id) {
            nodes.insert(id);
            value = graph.node(id).input(0).ok_or(Some(id))?;
            continue;
        }
        let mut given = None;
        let Some((_, found, next)) = step(graph, value, &mut given).filter(|_| given.is_none()) else {
            return Err(Some(id));
        };
        nodes.insert(id);
        raws.extend(found.iter().rev());
        value = next;
    }
    Err(None)
}

/// As [`forward`], for a value that is not exact in every type from the start.
fn forward_from(raws: &[Raw], compute: DType) -> Vec<Step> {
    let steps = forward(&[&[Raw::Step(Step::Round, compute)], raws].concat(), compute, compute);
    steps[1..].to_vec()
}

/// The value, the factor and where it is read, how they meet, and how many values meet one factor.
type Application = (ValueId, (ValueId, Use), Apply, Option<u64>);

/// A product or quotient of a whole value with a factor that is smaller: one element, or one each last axis.
fn application(graph: &Graph, id: NodeId) -> Option<Application> {
    let node = graph.node(id);
    let out = typed(graph, *node.outputs.first()?)?.1.clone();
    let (x, y) = (node.input(0)?, node.input(1));
    let apply = match node.op {
        Op::Binary(BinaryOp::Div) => Apply::Divide,
        Op::Binary(BinaryOp::Mul) => Apply::Multiply,
        _ => return None,
    };
    let y = y?;
    let width = out.last().and_then(normfuse_ir::Dim::as_const);
    let reach = |value: ValueId, factor: ValueId| -> Option<Option<u64>> {
        let (vs, fs) = (typed(graph, value)?.1, typed(graph, factor)?.1);
        if *vs != out || out.is_single() {
            return None;
        }
        if fs.is_single() {
            return Some(None);
        }
        let lead = out.rank().checked_sub(1)?;
        let repeats = fs.rank() == out.rank() && fs.0[..lead] == out.0[..lead] && fs.last()?.as_const() == Some(1);
        (repeats && width? > 1).then(|| u64::try_from(width.unwrap_or(1)).ok())
    };
    if let Some(width) = reach(x, y) {
        return Some((x, (y, (id, 1)), apply, width));
    }
    if apply == Apply::Multiply
        && let Some(width) = reach(y, x)
    {
        return Some((y, (x, (id, 0)), apply, width));
    }
    None
}

/// ONNX QuantizeLinear.
fn linear(
    graph: &Graph,
    anchor: NodeId,
    (axis, block): (i64, u64),
    (to, saturate): (DType, bool),
    precision: Option<DType>,
) -> Option<Codes> {
    let node = graph.node(anchor);
    let (x, scale) = (node.input(0)?, node.input(1)?);
    let (_, shape) = typed(graph, x)?;
    let (scale_dtype, scale_shape) = typed(graph, scale)?;
    let compute = precision.unwrap_or(scale_dtype);
    let rank = shape.rank() as i64;
    let axis = if axis < 0 { axis + rank } else { axis };
    let width = shape.last().and_then(normfuse_ir::Dim::as_const).and_then(|w| u64::try_from(w).ok());
    let encode = if to.is_int() || !saturate { Encode::Cast } else { Encode::Saturate };
    let mut scheme =
        Scheme { post: if to.is_int() { vec![Step::Round] } else { Vec::new() }, encode, ..blank(to, compute) };
    let one = scale_shape.is_single();
    let factor_width = match block {
        0 if one => None,
        0 if axis == rank - 1 => {
            scheme.granularity = Granularity::Channel;
            None
        }
        // A scale a row of a matrix.
        0 if rank == 2 => Some(width?),
        0 => return None,
        _ if axis == rank - 1 => Some(block),
        _ => return None,
    };
    let zero = node.input(2).filter(|z| !is_zero(graph, *z));
    if let Some(z) = zero {
        // An op takes one zero point, or one a channel.
        let one = typed(graph, z)?.1.is_single();
        if !one && scheme.granularity != Granularity::Channel {
            return None;
        }
        scheme.zero_point = ZeroPoint::Given;
    }
    Some(Codes {
        scheme,
        q: node.outputs[0],
        v: x,
        factor: Some((scale, (anchor, 1))),
        factor_width,
        only_row: only_row(graph, x, factor_width),
        zero,
        nodes: BTreeSet::from([anchor]),
    })
}

/// True for a constant of zeros only.
fn is_zero(graph: &Graph, value: ValueId) -> bool {
    graph.value(value).as_const().is_some_and(|t| t.len() <= 1 << 16 && t.bytes().iter().all(|b| *b == 0))
}
