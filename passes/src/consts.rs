//! Constants of a graph: the ones that are stored, and the ones that nodes make of them (an eps that is expanded, a
//! row's size by way of `Shape`, `Gather` and `Cast`), computed by the reference evaluator.

use half::{bf16, f16};
use normfuse_ir::{
    DType, Dim, Graph, Op, Tensor, ValueId, eval,
    infer::{self, Operand},
};

use crate::{
    region::{producer_op, typed},
    term::Num,
    views::is_view,
};

/// Longest chain of nodes that makes a constant.
const DEPTH: usize = 12;
/// Most elements of a stored tensor that are looked at to see whether they are one number.
const MAX_UNIFORM: usize = 4096;

/// A constant of `dtype` with this value, if the dtype holds it exactly or is the dtype that the op computes in.
pub fn num(dtype: DType, value: f64) -> Option<Num> {
    match dtype {
        DType::F32 | DType::F64 => Some(Num::new(dtype, value)),
        DType::F16 => Some(Num::new(dtype, f16::from_f64(value).to_f64())),
        DType::BF16 => Some(Num::new(dtype, bf16::from_f64(value).to_f64())),
        _ => None,
    }
}

/// The value of a one-element constant whose value f64 holds exactly.
pub fn scalar(graph: &Graph, value: ValueId) -> Option<Num> {
    let t = graph.value(value).as_const()?;
    (t.len() == 1).then(|| number(t.dtype(), t.bytes())).flatten()
}

/// The one number that all elements of a value are: of a stored constant, or of one that nodes compute.
pub fn known(graph: &Graph, value: ValueId) -> Option<Num> {
    uniform(graph, value, DEPTH)
}

/// True if all elements of a value are known to be 0, of either sign.
pub fn zero(graph: &Graph, value: ValueId) -> bool {
    known(graph, value).is_some_and(|n| n.value() == 0.0)
}

/// True if two values are surely one: one value, stored constants of the same bytes, or the same op of such. What has no
/// data here, or much of it, is only itself.
pub fn same(graph: &Graph, a: ValueId, b: ValueId) -> bool {
    same_within(graph, a, b, DEPTH)
}

fn same_within(graph: &Graph, a: ValueId, b: ValueId, depth: usize) -> bool {
    if a == b {
        return true;
    }
    if let (Some(x), Some(y)) = (graph.value(a).as_const(), graph.value(b).as_const()) {
        let small = x.len() <= MAX_UNIFORM;
        return small && x.dtype() == y.dtype() && x.shape() == y.shape() && x.bytes() == y.bytes();
    }
    let (Some((m, i)), Some((n, j)), Some(depth)) = (graph.producer(a), graph.producer(b), depth.checked_sub(1)) else {
        return false;
    };
    let (m, n) = (graph.node(m), graph.node(n));
    let operands = || {
        m.inputs.iter().zip(&n.inputs).all(|(x, y)| match (x, y) {
            (Some(x), Some(y)) => same_within(graph, *x, *y, depth),
            (x, y) => x == y,
        })
    };
    let known = !matches!(m.op, Op::Foreign(_)) && m.inputs.len() == n.inputs.len();
    i == j && known && m.op == n.op && operands()
}

/// The numbers of a short vector that is stored.
pub fn numbers(graph: &Graph, value: ValueId) -> Option<Vec<f64>> {
    let t = graph.value(value).as_const().filter(|t| !t.is_empty() && t.len() <= MAX_UNIFORM)?;
    let one = |bytes| number(t.dtype(), bytes).map(Num::value);
    t.bytes().chunks(t.bytes().len() / t.len()).map(one).collect()
}

/// One element's value, if f64 holds it exactly.
fn number(dtype: DType, b: &[u8]) -> Option<Num> {
    let v = match dtype {
        DType::F32 => f64::from(f32::from_le_bytes(b.try_into().ok()?)),
        DType::F64 => f64::from_le_bytes(b.try_into().ok()?),
        DType::F16 => f16::from_le_bytes(b.try_into().ok()?).to_f64(),
        DType::BF16 => bf16::from_le_bytes(b.try_into().ok()?).to_f64(),
        DType::I8 => f64::from(i8::from_le_bytes(b.try_into().ok()?)),
        DType::U8 => f64::from(u8::from_le_bytes(b.try_into().ok()?)),
        DType::I32 => f64::from(i32::from_le_bytes(b.try_into().ok()?)),
        DType::I64 => whole(i64::from_le_bytes(b.try_into().ok()?))?,
        _ => return None,
    };
    Some(Num::new(dtype, v))
}

fn whole(i: i64) -> Option<f64> {
    (i.unsigned_abs() <= 1 << 53).then_some(i as f64)
}

/// The number as a scalar tensor.
pub fn tensor(n: Num) -> Option<Tensor> {
    let v = n.value();
    let bytes = match n.dtype {
        DType::F32 => (v as f32).to_le_bytes().to_vec(),
        DType::F64 => v.to_le_bytes().to_vec(),
        DType::F16 => f16::from_f64(v).to_le_bytes().to_vec(),
        DType::BF16 => bf16::from_f64(v).to_le_bytes().to_vec(),
        DType::I8 => (v as i8).to_le_bytes().to_vec(),
        DType::U8 => (v as u8).to_le_bytes().to_vec(),
        DType::I32 => (v as i32).to_le_bytes().to_vec(),
        DType::I64 => (v as i64).to_le_bytes().to_vec(),
        _ => return None,
    };
    Tensor::from_bytes(n.dtype, Vec::new(), bytes).ok()
}

fn uniform(graph: &Graph, value: ValueId, depth: usize) -> Option<Num> {
    if let Some(t) = graph.value(value).as_const() {
        let size = t.dtype().bits() / 8;
        if t.is_empty() || t.len() > MAX_UNIFORM || size == 0 {
            return None;
        }
        let (first, rest) = t.bytes().split_at_checked(size)?;
        return rest.chunks(size).all(|e| e == first).then(|| number(t.dtype(), first)).flatten();
    }
    let (id, op) = producer_op(graph, value)?;
    let depth = depth.checked_sub(1)?;
    let node = graph.node(id);
    let operand = |port: usize| uniform(graph, node.input(port)?, depth);
    let computed = match op {
        Op::Expand => operand(0),
        _ if is_view(graph, id) => operand(0),
        Op::ConstantOfShape { dtype, value } => number(*dtype, value),
        Op::Unary(_) | Op::Cast { .. } | Op::Binary(_) => {
            let mut operands = Vec::with_capacity(2);
            for port in 0..node.inputs.len() {
                // The first operand that is no constant ends it, so activations cost nothing.
                operands.push(operand(port).and_then(tensor));
                operands.last()?.as_ref()?;
            }
            let refs: Vec<Option<&Tensor>> = operands.iter().map(Option::as_ref).collect();
            let result = eval::eval_node(op, &refs).ok()?.into_iter().next()?;
            number(result.dtype(), result.bytes())
        }
        _ => None,
    };
    computed.or_else(|| match &*integers_within(graph, value, depth)? {
        [one] => Some(Num::new(typed(graph, value)?.0, whole(one.as_const()?)?)),
        _ => None,
    })
}

/// The elements of a small integer tensor, as inference tells them: sizes, and what is picked and computed of them.
pub fn integers(graph: &Graph, value: ValueId) -> Option<Box<[Dim]>> {
    integers_within(graph, value, DEPTH)
}

fn integers_within(graph: &Graph, value: ValueId, depth: usize) -> Option<Box<[Dim]>> {
    let (dtype, _) = typed(graph, value)?;
    if !matches!(dtype, DType::I32 | DType::I64) {
        return None;
    }
    if let Some(t) = graph.value(value).as_const() {
        let element = |b| number(dtype, b).map(|n| Dim::from(n.value() as i64));
        return (t.len() <= 16).then(|| t.bytes().chunks(dtype.bits() / 8).map(element).collect()).flatten();
    }
    let (id, port) = graph.producer(value)?;
    let depth = depth.checked_sub(1)?;
    let node = graph.node(id);
    let operands: Vec<_> = node
        .inputs
        .iter()
        .map(|v| {
            let v = (*v)?;
            let known = if matches!(node.op, Op::Shape { .. }) { None } else { integers_within(graph, v, depth) };
            Some((&graph.value(v).ty, known))
        })
        .collect();
    let refs: Vec<Option<Operand<'_>>> =
        operands.iter().map(|o| o.as_ref().map(|(ty, known)| Operand { ty, known: known.as_deref() })).collect();
    infer::infer_node(&node.op, &refs, &"").ok()?.into_iter().nth(port)?.known
}
