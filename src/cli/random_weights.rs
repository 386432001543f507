//! `--random-weights`: numbers in place of parameters that have none, of sizes that keep activations sane. What a
//! parameter is used for says how large they are: a matrix must not make its rows longer, a factor is near 1, an offset
//! near 0. They are inputs of runs, and no part of a graph: nothing can write them into a file.

use std::collections::{BTreeMap, BTreeSet};

use normfuse::{
    formats::parameters,
    ir::{
        DType, Graph, Node, NodeId, Op, Shape, Tensor, ValueId,
        fused::InPort,
        op::{BinaryOp, UnaryOp},
        tensor::byte_len,
    },
};

use super::{
    bits,
    dice::Dice,
    failure::{Failure, Result},
};

/// Random weights larger than this are refused: a size that a file merely claims must not fill the memory.
const MOST_BYTES: usize = 16 << 30;
/// How far a parameter is followed to what it is used for.
const STEPS: usize = 64;
/// Standard deviation of [`Dice::triangular`].
const SPREAD: f32 = 0.816_496_6;
/// How far factors are from 1 and offsets from 0.
const NEAR: f32 = 0.05;

/// What a parameter is used for, the most telling use first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    /// Products are summed along an axis of so many elements.
    Matrix(usize),
    /// Rows are looked up in it.
    Table,
    /// It is added.
    Offset,
    /// It is a factor, or nothing is known of it.
    Factor,
}

/// Weights for the parameters that are inputs of the graph, by name; the same for equal seeds, names and uses.
///
/// # Errors
/// A parameter whose type or size is not known, weights that would fill the memory.
pub fn make(graph: &Graph, seed: u64) -> Result<BTreeMap<String, Tensor>> {
    let mut left = MOST_BYTES;
    let mut made = BTreeMap::new();
    for id in parameters::without_data(graph)? {
        let value = graph.value(id);
        let at = |message: String| Failure::Usage(format!("--random-weights: parameter `{}`: {message}", value.name));
        let size = |d: &normfuse::ir::Dim| d.as_const().and_then(|n| usize::try_from(n).ok());
        let shape = value.ty.shape.as_ref().and_then(|s| s.0.iter().map(size).collect::<Option<Vec<_>>>());
        let (Some(dtype), Some(shape)) = (value.ty.dtype, shape) else {
            return Err(at("the graph does not say its type".into()));
        };
        let bytes = byte_len(dtype, &shape).map_err(|e| at(e.to_string()))?;
        left = left.checked_sub(bytes).ok_or_else(|| {
            at(format!("{dtype}{shape:?} and those before it take more than {} GiB", MOST_BYTES >> 30))
        })?;
        let mut dice = Dice::named(seed, &value.name);
        let tensor = fill(dtype, &shape, role(graph, id, &shape), &mut dice).map_err(|e| at(e.to_string()))?;
        made.insert(value.name.clone(), tensor);
    }
    Ok(made)
}

fn fill(dtype: DType, shape: &[usize], role: Role, dice: &mut Dice) -> normfuse::ir::Result<Tensor> {
    let count: usize = shape.iter().product();
    if !dtype.is_float() {
        // Codes of quantised weights are small, packed ones are any; a zero point, a mask or an index is 0.
        let matrix = shape.len() > 1;
        let mut draw = || match dtype {
            DType::I8 if matrix => dice.next() as i64 % 3,
            DType::U8 if matrix => dice.next() as i64 & 0xFF,
            _ => 0,
        };
        let values: Vec<i64> = (0..count).map(|_| draw()).collect();
        return bits::cast(&Tensor::from_i64(shape, &values), dtype);
    }
    let (centre, spread) = match role {
        // Numbers of 4 bits begin at 1/2; their scales make them small.
        Role::Matrix(_) if dtype.bits() < 8 => (0.0, 1.0),
        Role::Matrix(terms) => (0.0, 1.0 / (terms.max(1) as f32).sqrt()),
        Role::Table => (0.0, 1.0),
        Role::Offset => (0.0, NEAR),
        Role::Factor => (1.0, NEAR),
    };
    dice.floats(dtype, shape, |dice| centre + spread / SPREAD * dice.triangular())
}

/// A value on the way from a parameter to its uses, with the size of each axis where it is one of the parameter's.
type Step = (ValueId, Vec<Option<usize>>);

fn role(graph: &Graph, parameter: ValueId, shape: &[usize]) -> Role {
    let codes = graph.value(parameter).ty.dtype.is_some_and(|d| d.bits() <= 8);
    let mut roles = BTreeSet::new();
    let mut queue: Vec<Step> = vec![(parameter, shape.iter().copied().map(Some).collect())];
    let mut seen = BTreeSet::from([parameter]);
    while let Some((value, axes)) = queue.pop() {
        for (user, port) in graph.users(value) {
            let (found, next) = used(graph, user, port, &axes, codes);
            roles.extend(found);
            if let Some(axes) = next
                && seen.len() < STEPS
                && let Some(out) = graph.node(user).outputs.first().filter(|v| seen.insert(**v))
            {
                queue.push((*out, axes));
            }
        }
    }
    let unknown = shape.last().filter(|_| shape.len() > 1).map_or(Role::Factor, |n| Role::Matrix(*n));
    // A matrix that is only ever a factor is a table of scales.
    roles.first().copied().unwrap_or(unknown)
}

/// What an op uses its operand for, and the axes of its result where that is the operand in another form.
fn used(
    graph: &Graph,
    user: NodeId,
    port: usize,
    axes: &[Option<usize>],
    codes: bool,
) -> (Option<Role>, Option<Vec<Option<usize>>>) {
    let node = graph.node(user);
    let from_end = |n: usize| axes.len().checked_sub(n).and_then(|i| axes[i]);
    let matrix = |terms: Option<usize>| (terms.map(Role::Matrix), None);
    match (&node.op, port) {
        (Op::MatMul | Op::MatMulInteger, 0) | (Op::ScaledMatMul(_), 0 | 1) => matrix(from_end(1)),
        (Op::MatMul | Op::MatMulInteger, 1) => matrix(from_end(2).or(from_end(1))),
        (Op::Gemm { trans_a, .. }, 0) => matrix(from_end(if *trans_a { 2 } else { 1 })),
        (Op::Gemm { trans_b, .. }, 1) => matrix(from_end(if *trans_b { 1 } else { 2 })),
        (Op::Gemm { .. }, 2) | (Op::ScaledMatMul(_), 4) | (Op::Binary(BinaryOp::Add | BinaryOp::Sub), _) => {
            (Some(Role::Offset), None)
        }
        (Op::DequantizeLinear { .. }, 1) | (Op::ScaledMatMul(_), 2 | 3) => (Some(Role::Factor), None),
        (Op::Gather { .. }, 0) if all_scales(graph, node) => (Some(Role::Factor), None),
        (Op::DequantizeLinear { .. }, 0) | (Op::Cast { .. } | Op::Unary(UnaryOp::Identity), _) => {
            (None, Some(axes.to_vec()))
        }
        (Op::Binary(BinaryOp::Mul | BinaryOp::Div), _) => {
            // Codes are a matrix behind their scales, too.
            let next = codes.then(|| axes.to_vec());
            (Some(Role::Factor), next)
        }
        (Op::FusedNorm(fused), _) => {
            let plus_one = match fused.in_ports().get(port) {
                Some(InPort::Weight(k)) => fused.siblings[*k].weight.as_ref().is_some_and(|w| w.plus_one),
                _ => false,
            };
            (Some(if plus_one { Role::Offset } else { Role::Factor }), None)
        }
        (Op::Gather { axis: 0 }, 0) => {
            let index = node.input(1).and_then(|v| graph.value(v).ty.shape.as_ref().map(Shape::rank));
            let rest = axes.iter().skip(1).copied();
            let next = index.map(|rank| std::iter::repeat_n(None, rank).chain(rest).collect::<Vec<_>>());
            ((axes.len() == 2).then_some(Role::Table), next.filter(|_| axes.len() > 2))
        }
        (Op::Transpose { perm }, _) => {
            let order = perm.clone().unwrap_or_else(|| (0..axes.len() as i64).rev().collect());
            let axis = |i: &i64| usize::try_from(*i).ok().and_then(|i| axes.get(i).copied()).flatten();
            (None, Some(order.iter().map(axis).collect()))
        }
        (Op::Unsqueeze { .. } | Op::Squeeze { .. } | Op::Reshape { .. } | Op::Expand | Op::Slice, 0) => {
            let sizes = node.outputs.first().and_then(|v| graph.value(*v).ty.shape.as_ref());
            let size = |d: &normfuse::ir::Dim| d.as_const().and_then(|n| usize::try_from(n).ok());
            (None, sizes.map(|s| s.0.iter().map(size).collect()))
        }
        _ => (None, None),
    }
}

/// True if what a node makes is read as scales of codes and as nothing else.
fn all_scales(graph: &Graph, node: &Node) -> bool {
    let is_scale = |(user, port): (NodeId, usize)| match graph.node(user).op {
        Op::DequantizeLinear { .. } => port == 1,
        Op::ScaledMatMul(_) => matches!(port, 2 | 3),
        _ => false,
    };
    node.outputs.iter().all(|v| !graph.is_output(*v) && graph.uses(*v).next().is_some() && graph.uses(*v).all(is_scale))
}

#[cfg(test)]
mod tests {
    use normfuse::ir::text;

    use super::*;

    fn made(lines: &str) -> BTreeMap<String, Tensor> {
        let text = format!("graph \"g\"\ninput %x: f32[2, 64]\ninput %ids: i64[2]\n{lines}");
        let mut graph = text::parse(&text, &mut |_| unreachable!("no weights")).unwrap();
        normfuse::ir::infer::infer(&mut graph).unwrap();
        make(&graph, 3).unwrap()
    }

    fn spread(t: &Tensor) -> (f64, f64) {
        let v = bits::numbers(t).unwrap();
        let mean = v.iter().sum::<f64>() / v.len() as f64;
        (mean, (v.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / v.len() as f64).sqrt())
    }

    #[track_caller]
    fn assert_spread(t: &Tensor, centre: f64, width: f64) {
        let (mean, found) = spread(t);
        assert!((mean - centre).abs() < 0.3 * width.max(0.01) && (found / width - 1.0).abs() < 0.1, "{mean} {found}");
    }

    #[test]
    fn sizes_follow_from_what_a_parameter_is_used_for() {
        let w = made(
            "input %m.linear.weight: bf16[256, 64]\ninput %m.up.weight: f32[64, 256]\ninput %m.embed.weight: f32[128, 64]\n\
             input %m.norm.weight: f32[4096]\ninput %m.gemma.weight: f32[4096]\ninput %m.f8.weight: f8e4m3fn[64, 64]\n\
             input %m.f8.scale: f32[64, 64]\ninput %m.q.weight: i8[64, 64]\nconst %one: f32[] = 1\n\
             input %row: f32[4096]\n\
             %c = cast(%x) {to=bf16}\n%t = transpose(%m.linear.weight) {perm=[1, 0]}\n%y = matmul(%c, %t)\n\
             %z = matmul(%x, %m.up.weight)\n%e = gather(%m.embed.weight, %ids) {axis=0}\n%n = mul(%row, %m.norm.weight)\n\
             %g = add(%m.gemma.weight, %one)\n%h = mul(%row, %g)\n%d = cast(%m.f8.weight) {to=f32}\n\
             %s = mul(%d, %m.f8.scale)\n%p = matmul(%x, %s)\n%q = cast(%m.q.weight) {to=f32}\n%r = matmul(%x, %q)\n\
             output %y\noutput %z\noutput %e\noutput %n\noutput %h\noutput %p\noutput %r\n",
        );
        assert_eq!(w.len(), 8, "the rows are the caller's");
        assert_spread(&w["m.linear.weight"], 0.0, 1.0 / 8.0);
        assert_spread(&w["m.up.weight"], 0.0, 1.0 / 8.0);
        assert_spread(&w["m.embed.weight"], 0.0, 1.0);
        assert_spread(&w["m.norm.weight"], 1.0, 0.05);
        assert_spread(&w["m.gemma.weight"], 0.0, 0.05);
        assert_spread(&w["m.f8.weight"], 0.0, 1.0 / 8.0);
        assert_spread(&w["m.f8.scale"], 1.0, 0.05);
        assert!(bits::numbers(&w["m.q.weight"]).unwrap().iter().all(|v| v.abs() <= 2.0));
    }

    #[test]
    fn products_of_codes_have_a_matrix_its_scales_and_an_offset() {
        let w = made(
            "input %one: f32[]\ninput %m.w: f8e4m3fn[4096, 64]\ninput %m.scale: f32[4096, 1]\ninput %m.bias: f32[4096]\n\
             %c = cast(%x) {to=f8e4m3fn}\n\
             %y = scaled_matmul(%c, %m.w, %one, %m.scale, %m.bias) {a=tensor, b=row, to=f32}\noutput %y\n",
        );
        assert_spread(&w["m.w"], 0.0, 1.0 / 8.0);
        assert_spread(&w["m.scale"], 1.0, 0.05);
        assert_spread(&w["m.bias"], 0.0, 0.05);
    }

    #[test]
    fn a_table_that_is_a_matrix_too_is_as_large_as_a_matrix() {
        let w = made(
            "input %m.w: f32[128, 64]\n%e = gather(%m.w, %ids) {axis=0}\n%t = transpose(%m.w) {perm=[1, 0]}\n\
             %y = matmul(%e, %t)\noutput %y\n",
        );
        assert_spread(&w["m.w"], 0.0, 1.0 / 8.0);
    }

    #[test]
    fn numbers_depend_on_seed_and_name_alone() {
        let one =
            |name: &str| made(&format!("input %{name}: f32[64]\n%y = mul(%x, %{name})\noutput %y\n")).remove(name);
        let (a, b) = (one("m.a").unwrap(), one("m.b").unwrap());
        assert_eq!(a.bytes(), one("m.a").unwrap().bytes());
        assert_ne!(a.bytes(), b.bytes());
    }

    #[test]
    fn sizes_that_fill_the_memory_are_refused() {
        let text = "graph \"g\"\ninput %m.w: f32[1099511627776]\n%y = abs(%m.w)\noutput %y\n";
        let graph = text::parse(text, &mut |_| unreachable!("no weights")).unwrap();
        assert!(make(&graph, 0).unwrap_err().to_string().contains("parameter `m.w`"));
    }
}
