//! From codes back to the value and its factor.

use std::collections::BTreeSet;

use normfuse_ir::{
    DType, Granularity, Graph, NodeId, Op, Scheme, ValueId,
    op::BinaryOp,
    scheme::{Apply, Encode, F32, Packing, Step, ZeroPoint},
};

use super::{
    Miss, blank,
    chain::{Raw, Use, forward, step},
    e2m1,
};
use crate::{
    candidate::Refusal,
    consts::zero,
    region::{producer_op, typed},
    views::{is_view, without_leading_ones},
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
                linear(graph, anchor, (*axis, *block_size), (*to, *saturate), *precision)
            }
            Op::Cast { to, saturate } => {
                let x = node.input(0).ok_or(Miss::None)?;
                let encode = if to.is_int() || !*saturate { Encode::Cast } else { Encode::Saturate };
                let mut nodes = BTreeSet::from([anchor]);
                // By way of a wider integer.
                let (wide, x) = match whole(graph, x).filter(|_| to.is_int()) {
                    Some((cast, float)) => (Some(cast), float),
                    None => (None, x),
                };
                nodes.extend(wide);
                let (scheme, v, factor, width) = applied(graph, x, (*to, encode, Packing::None), &mut nodes)
                    .map_err(|stopped| stopped.miss(graph, anchor, *to))?;
                if to.is_int() && !rounds(&scheme.post) {
                    let whole = scheme.post.iter().rev().find(|s| matches!(s, Step::Floor | Step::Ceil));
                    let hint = match whole {
                        Some(step) => format!("it is rounded by `{step}`, not to the nearest"),
                        None => format!("the cast to {to} cuts fractions off: nothing rounds the value before it"),
                    };
                    return Err(scheme_miss(graph, v, width, (anchor, hint)));
                }
                if let Some(wide) = wide.filter(|_| !is_clipped(&scheme.post, *to)) {
                    let hint = format!("codes that no clip keeps within {to} are cut down to it bit by bit");
                    return Err(scheme_miss(graph, v, width, (wide, hint)));
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
                let (mut scheme, v, factor, width) = applied(graph, cluster.y, kind, &mut nodes)
                    .map_err(|stopped| stopped.miss(graph, anchor, DType::F4E2M1))?;
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

/// The cast and its operand, if a value is a float as an integer of at least 16 bits.
pub fn whole(graph: &Graph, value: ValueId) -> Option<(NodeId, ValueId)> {
    let (id, Op::Cast { to: DType::I16 | DType::I32 | DType::I64, .. }) = producer_op(graph, value)? else {
        return None;
    };
    let x = graph.node(id).input(0)?;
    typed(graph, x)?.0.is_arithmetic_float().then_some((id, x))
}

/// True if the steps leave no number outside of an integer type.
fn is_clipped(post: &[Step], to: DType) -> bool {
    let (least, most) = if to == DType::U8 { (0.0, 255.0) } else { (-128.0, 127.0) };
    let low = post.iter().any(|s| matches!(s, Step::Max(c) if c.get() >= least));
    let high = post.iter().any(|s| matches!(s, Step::Min(c) if c.get() <= most));
    low && high && post.iter().all(|s| matches!(s, Step::Max(_) | Step::Min(_) | Step::Round))
}

/// True if there is a rounding to the nearest among the steps: ties to even, or up as the floor of a half more.
fn rounds(post: &[Step]) -> bool {
    let up = [Step::Add(F32::new(0.5)), Step::Floor];
    post.contains(&Step::Round) || post.windows(2).any(|two| *two == up)
}

fn only_row(graph: &Graph, v: ValueId, factor_width: Option<u64>) -> Option<u64> {
    let (_, shape) = typed(graph, v)?;
    let width = shape.last()?.as_const().filter(|_| factor_width.is_none())?;
    (shape.numel().as_const() == Some(width)).then(|| width.unsigned_abs())
}

/// What looks like a quantiser of `v`, whose values meet one factor in runs of `width`, but for this.
pub fn scheme_miss(graph: &Graph, v: ValueId, width: Option<u64>, (node, hint): (NodeId, String)) -> Miss {
    let row = typed(graph, v).and_then(|(_, s)| s.last()?.as_const()).and_then(|w| u64::try_from(w).ok());
    let rule = match width {
        None => "quant_static",
        Some(_) if width == row => "quant_token",
        Some(_) => "quant_group",
    };
    Miss::Nearest(Refusal { rule, precondition: "scheme", node: Some(node), hint })
}

/// Where reading back from the codes ended without a scale.
struct Stopped {
    /// At a node that is no step, or at the edge of the graph.
    at: Option<NodeId>,
    /// True if a rounding or a clip lies between it and the codes.
    shaped: bool,
}

impl Stopped {
    fn miss(&self, graph: &Graph, anchor: NodeId, to: DType) -> Miss {
        // An integer that is neither rounded nor clipped first is a count or an index.
        if to.is_int() && !self.shaped {
            return Miss::None;
        }
        let name = |n: NodeId| graph.node(n).op.name();
        let scales = |n: NodeId| matches!(graph.node(n).op, Op::Binary(BinaryOp::Mul | BinaryOp::Div));
        let untyped = |n: NodeId| graph.node(n).operands().any(|(_, v)| typed(graph, v).is_none());
        let hint = match self.at {
            Some(n) if untyped(n) => format!(
                "the dtype or the shape of what `{}` reads is unknown: it comes from an op that the IR does not know",
                name(n)
            ),
            Some(n) if scales(n) => {
                let shape = |port| graph.node(n).input(port).and_then(|v| typed(graph, v));
                let shapes: Vec<String> = [0, 1].into_iter().filter_map(shape).map(|(_, s)| s.to_string()).collect();
                format!(
                    "before the cast to {to} comes `{}` of {}, of which neither is one scale, one for each row or group along \
                     the last axis, or a constant one for each channel",
                    name(n),
                    shapes.join(" and ")
                )
            }
            Some(n) => format!(
                "before the cast to {to} comes `{}`, which neither divides by a scale nor is a step that a quantiser takes",
                name(n)
            ),
            None => format!("a value is cast to {to} without having met a scale"),
        };
        let node = self.at.or(Some(anchor));
        Miss::Nearest(Refusal { rule: "quant_static", precondition: "scheme", node, hint })
    }
}

type Applied = (Scheme, ValueId, (ValueId, Use), Option<u64>);

/// Back over the steps behind the product or quotient of value and factor.
fn applied(
    graph: &Graph,
    x: ValueId,
    (element, encode, packing): (DType, Encode, Packing),
    nodes: &mut BTreeSet<NodeId>,
) -> Result<Applied, Stopped> {
    let mut value = x;
    let mut raws: Vec<Raw> = Vec::new();
    let stopped = |at: Option<NodeId>, raws: &[Raw]| {
        let shapes = |raw: &Raw| matches!(raw, Raw::Step(Step::Round | Step::Floor | Step::Max(_) | Step::Min(_), _));
        Err(Stopped { at, shaped: raws.iter().any(shapes) })
    };
    for _ in 0..MAX_STEPS {
        let Some((id, _)) = producer_op(graph, value) else { return stopped(None, &raws) };
        if let Some((v, factor, apply, reach)) = application(graph, id) {
            let Some((compute, _)) = typed(graph, value) else { return stopped(Some(id), &raws) };
            nodes.insert(id);
            raws.reverse();
            let post = forward_from(&raws, compute);
            let mut scheme = Scheme { apply, post, encode, packing, ..blank(element, compute) };
            let width = match reach {
                Reach::All => None,
                Reach::Row(width) => Some(width),
                Reach::Channel => {
                    scheme.granularity = Granularity::Channel;
                    None
                }
            };
            return Ok((scheme, v, factor, width));
        }
        if is_view(graph, id) {
            let Some(next) = graph.node(id).input(0) else { return stopped(Some(id), &raws) };
            nodes.insert(id);
            value = next;
            continue;
        }
        if let Some(next) = plus_zero(graph, id).filter(|_| element.is_int() && raws.iter().all(keeps_zero)) {
            nodes.insert(id);
            value = next;
            continue;
        }
        let mut given = None;
        let Some((_, found, next)) = step(graph, value, &mut given).filter(|_| given.is_none()) else {
            return stopped(Some(id), &raws);
        };
        nodes.insert(id);
        raws.extend(found.iter().rev());
        value = next;
    }
    stopped(None, &raws)
}

/// The other operand, if a node adds nothing to it but zero, be it as many zeros as there are values: a zero point of
/// symmetric integers.
fn plus_zero(graph: &Graph, id: NodeId) -> Option<ValueId> {
    let node = graph.node(id);
    let Op::Binary(BinaryOp::Add) = node.op else { return None };
    let (a, b) = (node.input(0)?, node.input(1)?);
    let of = if zero(graph, b) {
        a
    } else if zero(graph, a) {
        b
    } else {
        return None;
    };
    let whole = typed(graph, of)?;
    let out = typed(graph, node.outputs[0])?;
    (whole.0 == out.0 && whole.1.numel() == out.1.numel()).then_some(of)
}

/// True for a step after which zeros of both signs are one integer, if they were before it.
const fn keeps_zero(raw: &Raw) -> bool {
    matches!(raw, Raw::Step(Step::Round | Step::Floor | Step::Ceil | Step::Max(_) | Step::Min(_), _))
}

/// As [`forward`], for a value that is not exact in every type from the start.
fn forward_from(raws: &[Raw], compute: DType) -> Vec<Step> {
    let steps = forward(&[&[Raw::Step(Step::Round, compute)], raws].concat(), compute, compute);
    steps[1..].to_vec()
}

/// How many values meet one factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// All of them.
    All,
    /// Those of a channel: a constant vector along the last axis.
    Channel,
    /// A row, as long as this.
    Row(u64),
}

/// The value, the factor and where it is read, how they meet, and how many values meet one factor.
pub type Application = (ValueId, (ValueId, Use), Apply, Reach);

/// A product or quotient of a whole value with a factor that is smaller: one element, or one each last axis. A constant
/// vector by which a value is divided is a scale a channel; one that it is multiplied by is a weight.
pub fn application(graph: &Graph, id: NodeId) -> Option<Application> {
    let node = graph.node(id);
    let out = typed(graph, *node.outputs.first()?)?.1.clone();
    let (x, y) = (node.input(0)?, node.input(1)?);
    let apply = match node.op {
        Op::Binary(BinaryOp::Div) => Apply::Divide,
        Op::Binary(BinaryOp::Mul) => Apply::Multiply,
        _ => return None,
    };
    let width = out.last().and_then(normfuse_ir::Dim::as_const);
    let reach = |value: ValueId, factor: ValueId| -> Option<Reach> {
        let (vs, fs) = (typed(graph, value)?.1, typed(graph, factor)?.1);
        // A factor of higher rank puts axes of size 1 in front.
        if without_leading_ones(vs) != without_leading_ones(&out) || out.is_single() {
            return None;
        }
        if fs.is_single() {
            return Some(Reach::All);
        }
        let constant = || graph.value(factor).as_const().is_some();
        if apply == Apply::Divide && fs.rank() == 1 && out.rank() > 1 && fs.last() == out.last() && constant() {
            return Some(Reach::Channel);
        }
        let lead = out.rank().checked_sub(1)?;
        let repeats = fs.rank() == out.rank() && fs.0[..lead] == out.0[..lead] && fs.last()?.as_const() == Some(1);
        let width = width.and_then(|w| u64::try_from(w).ok()).filter(|w| *w > 1)?;
        repeats.then_some(Reach::Row(width))
    };
    if let Some(reach) = reach(x, y) {
        return Some((x, (y, (id, 1)), apply, reach));
    }
    if apply == Apply::Multiply
        && let Some(reach) = reach(y, x)
    {
        return Some((y, (x, (id, 0)), apply, reach));
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
) -> Result<Codes, Miss> {
    let node = graph.node(anchor);
    let operand = |port: usize| node.input(port).and_then(|v| Some((v, typed(graph, v)?)));
    let (Some((x, (_, shape))), Some((scale, (scale_dtype, scale_shape)))) = (operand(0), operand(1)) else {
        let hint = "the dtype or the shape of an operand is unknown: it comes from an op that the IR does not know";
        let (node, hint) = (Some(anchor), hint.to_owned());
        return Err(Miss::Nearest(Refusal { rule: "quant_static", precondition: "scheme", node, hint }));
    };
    let compute = precision.unwrap_or(scale_dtype);
    let rank = shape.rank() as i64;
    let axis = if axis < 0 { axis + rank } else { axis };
    let width = shape.last().and_then(normfuse_ir::Dim::as_const).and_then(|w| u64::try_from(w).ok());
    let encode = if to.is_int() || !saturate { Encode::Cast } else { Encode::Saturate };
    let mut scheme =
        Scheme { post: if to.is_int() { vec![Step::Round] } else { Vec::new() }, encode, ..blank(to, compute) };
    let miss = |width: Option<u64>, hint: String| Err(scheme_miss(graph, x, width, (anchor, hint)));
    let factor_width = match block {
        0 if scale_shape.is_single() => None,
        0 if axis == rank - 1 => {
            scheme.granularity = Granularity::Channel;
            None
        }
        // A scale a row of a matrix.
        0 if rank == 2 && width.is_some() => width,
        0 => return miss(None, format!("the scales run along axis {axis} of {rank}, not along the last one")),
        _ if axis == rank - 1 => Some(block),
        _ => {
            let hint = format!("blocks of {block} lie along axis {axis} of {rank}, not along the last one");
            return miss(Some(block), hint);
        }
    };
    let zero = node.input(2).filter(|z| !is_zero(graph, *z));
    if let Some(z) = zero {
        let one = typed(graph, z).is_some_and(|(_, s)| s.is_single());
        if !one && scheme.granularity != Granularity::Channel {
            return miss(
                factor_width,
                "an op takes one zero point, or one a channel: here each row or block has its own".into(),
            );
        }
        scheme.zero_point = ZeroPoint::Given;
    }
    Ok(Codes {
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
pub fn is_zero(graph: &Graph, value: ValueId) -> bool {
    graph.value(value).as_const().is_some_and(|t| t.len() <= 1 << 16 && t.bytes().iter().all(|b| *b == 0))
}
