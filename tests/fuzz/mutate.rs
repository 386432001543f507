//! Small changes to a graph: most make it another function, and the pass must not take one for the other.

use normfuse_ir::{
    DType, Graph, NodeId, Op, Tensor, ValueId,
    op::{BinaryOp, ReduceOp, UnaryOp},
};

use crate::{
    maker::{forget_types, number},
    tape::Tape,
};

/// Makes a change somewhere; `None` if it found no place.
type Change = fn(&mut Graph, &mut Tape) -> Option<()>;

/// Applies one change; what it was, or `None` if it found no place.
pub fn mutate(graph: &mut Graph, tape: &mut Tape) -> Option<&'static str> {
    const ALL: [(&str, Change); 17] = [
        ("another number", another_number),
        ("another number", another_number),
        ("an escaping value", escape),
        ("another axis", another_axis),
        ("another cast", another_cast),
        ("a cast more", cast_more),
        ("an op less", op_less),
        ("operands swapped", swapped),
        ("another reduction", another_reduction),
        ("another op", another_op),
        ("another integer", another_integer),
        ("another value", another_value),
        ("another value", another_value),
        ("numbers exchanged", exchanged),
        ("a weight of another shape", another_weight),
        ("an op more", op_more),
        ("a reader of its own", split_reader),
    ];
    let (name, change) = ALL[tape.below(ALL.len())];
    let done = change(graph, tape);
    forget_types(graph);
    done.map(|()| name)
}

fn nodes(graph: &Graph, fits: impl Fn(&Op) -> bool) -> Vec<NodeId> {
    graph.nodes().filter(|(_, n)| fits(&n.op)).map(|(id, _)| id).collect()
}

fn choose<T: Copy>(tape: &mut Tape, from: &[T]) -> Option<T> {
    (!from.is_empty()).then(|| tape.pick(from))
}

fn fresh(graph: &Graph, what: &str) -> String {
    format!("{what}_{}", graph.value_bound())
}

/// Node and port of every operand that is a constant which fits.
fn constants(graph: &Graph, fits: impl Fn(&Tensor) -> bool) -> Vec<(NodeId, usize, ValueId)> {
    let operands = graph.nodes().flat_map(|(id, n)| n.operands().map(move |(p, v)| (id, p, v)).collect::<Vec<_>>());
    operands.filter(|(_, _, v)| graph.value(*v).as_const().is_some_and(&fits)).collect()
}

fn replace(graph: &mut Graph, at: (NodeId, usize, ValueId), tensor: Tensor, everywhere: bool) {
    let name = fresh(graph, "k");
    let new = graph.add_const(name, tensor);
    if everywhere { graph.replace_uses(at.2, new) } else { graph.set_input(at.0, at.1, Some(new)) }
}

fn another_number(graph: &mut Graph, tape: &mut Tape) -> Option<()> {
    let at = choose(tape, &constants(graph, |t| t.len() == 1 && t.dtype().is_float()))?;
    let t = graph.value(at.2).as_const()?.clone();
    let old = normfuse_ir::eval::numbers::floats(&t).ok()?[0];
    let to = [
        old.next_up(),
        old.next_down(),
        -old,
        old * 2.0,
        old * 1.5,
        0.0,
        -0.0,
        1.0,
        -1.0,
        2.0,
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        1e-30,
        3e38,
    ];
    let to = tape.pick(&to);
    let everywhere = tape.one_in(3);
    replace(graph, at, number(t.dtype(), f64::from(to), t.shape().len()), everywhere);
    Some(())
}

fn made(graph: &Graph) -> Vec<ValueId> {
    graph.nodes().flat_map(|(_, n)| n.outputs.clone()).collect()
}

fn escape(graph: &mut Graph, tape: &mut Tape) -> Option<()> {
    let v = choose(tape, &made(graph))?;
    let name = fresh(graph, "escaped");
    graph.add_output(name, v);
    Some(())
}

fn another_axis(graph: &mut Graph, tape: &mut Tape) -> Option<()> {
    let has = |op: &Op| {
        matches!(
            op,
            Op::Reduce { .. }
                | Op::RmsNorm { .. }
                | Op::Unsqueeze { .. }
                | Op::Squeeze { .. }
                | Op::QuantizeLinear { .. }
                | Op::Gather { .. }
                | Op::Split { .. }
                | Op::Transpose { .. }
        )
    };
    let id = choose(tape, &nodes(graph, has))?;
    let to = tape.pick(&[-2, 0, 1, -1, 2]);
    let mut op = graph.node(id).op.clone();
    match &mut op {
        Op::Reduce { axes, keepdims, .. } => match tape.below(4) {
            0 => *axes = None,
            1 => *axes = Some(vec![-2, -1]),
            2 => *keepdims = !*keepdims,
            _ => *axes = Some(vec![to]),
        },
        Op::RmsNorm { axis, .. } | Op::Gather { axis } | Op::Split { axis, .. } => *axis = to,
        Op::QuantizeLinear { axis, block_size, .. } => {
            if tape.one_in(2) {
                *axis = to;
            } else {
                *block_size = tape.pick(&[16, 8, 0]);
            }
        }
        Op::Unsqueeze { axes } => *axes = vec![to],
        Op::Squeeze { axes } => *axes = if tape.one_in(3) { None } else { Some(vec![to]) },
        Op::Transpose { perm } => perm.as_mut()?.swap(0, 1),
        _ => return None,
    }
    graph.set_op(id, op).ok()
}

const CASTS: [DType; 10] = [
    DType::BF16,
    DType::F16,
    DType::F32,
    DType::F64,
    DType::F8E4M3FN,
    DType::F8E5M2,
    DType::F8E4M3FNUZ,
    DType::I8,
    DType::U8,
    DType::I32,
];

fn another_cast(graph: &mut Graph, tape: &mut Tape) -> Option<()> {
    let id = choose(tape, &nodes(graph, |op| matches!(op, Op::Cast { .. } | Op::QuantizeLinear { .. })))?;
    let mut op = graph.node(id).op.clone();
    let other = tape.pick(&CASTS);
    match &mut op {
        Op::Cast { to, saturate } => match tape.below(4) {
            0 => *saturate = !*saturate,
            _ => *to = other,
        },
        Op::QuantizeLinear { to, saturate, precision, .. } => match tape.below(3) {
            0 => *saturate = !*saturate,
            1 => *precision = Some(tape.pick(&[DType::F16, DType::BF16, DType::F32])),
            _ => *to = other,
        },
        _ => return None,
    }
    graph.set_op(id, op).ok()
}

/// A value is cast, and perhaps back, on its way to one reader or to all.
fn cast_more(graph: &mut Graph, tape: &mut Tape) -> Option<()> {
    let (id, port, v) = operand(graph, tape)?;
    let (to, back) = (tape.pick(&CASTS), tape.pick(&[None, Some(DType::F32), Some(DType::BF16), Some(DType::F16)]));
    let mut new = insert(graph, Op::Cast { to, saturate: true }, &[v])?;
    if let Some(to) = back {
        new = insert(graph, Op::Cast { to, saturate: true }, &[new])?;
    }
    graph.set_input(id, port, Some(new));
    Some(())
}

/// An operand that a node makes or an input is.
fn operand(graph: &Graph, tape: &mut Tape) -> Option<(NodeId, usize, ValueId)> {
    let all: Vec<_> = graph
        .nodes()
        .flat_map(|(id, n)| n.operands().map(move |(p, v)| (id, p, v)).collect::<Vec<_>>())
        .filter(|(_, _, v)| graph.value(*v).as_const().is_none())
        .collect();
    choose(tape, &all)
}

fn insert(graph: &mut Graph, op: Op, inputs: &[ValueId]) -> Option<ValueId> {
    let name = fresh(graph, "m");
    let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
    let id = graph.add_node(name.clone(), op, &inputs, [name]).ok()?;
    Some(graph.node(id).outputs[0])
}

/// A node is passed by.
fn op_less(graph: &mut Graph, tape: &mut Tape) -> Option<()> {
    let id = choose(tape, &nodes(graph, |op| op.num_outputs() == 1))?;
    let (out, inputs) = (graph.node(id).outputs[0], graph.node(id).inputs.clone());
    let port = if tape.one_in(4) { inputs.len() - 1 } else { 0 };
    let x = inputs[port]?;
    graph.replace_uses(out, x);
    Some(())
}

fn swapped(graph: &mut Graph, tape: &mut Tape) -> Option<()> {
    let two: Vec<NodeId> = graph.nodes().filter(|(_, n)| n.inputs.len() >= 2).map(|(id, _)| id).collect();
    let id = choose(tape, &two)?;
    let inputs = graph.node(id).inputs.clone();
    let a = tape.below(inputs.len());
    let b = (a + 1) % inputs.len();
    graph.set_input(id, a, inputs[b]);
    graph.set_input(id, b, inputs[a]);
    Some(())
}

fn another_reduction(graph: &mut Graph, tape: &mut Tape) -> Option<()> {
    let id = choose(tape, &nodes(graph, |op| matches!(op, Op::Reduce { .. })))?;
    let mut changed = graph.node(id).op.clone();
    if let Op::Reduce { op, .. } = &mut changed {
        *op = tape.pick(&[
            ReduceOp::Mean,
            ReduceOp::Sum,
            ReduceOp::Max,
            ReduceOp::Min,
            ReduceOp::SumSquare,
            ReduceOp::L2,
            ReduceOp::Prod,
        ]);
    }
    graph.set_op(id, changed).ok()
}

fn another_op(graph: &mut Graph, tape: &mut Tape) -> Option<()> {
    let id = choose(tape, &nodes(graph, |op| matches!(op, Op::Unary(_) | Op::Binary(_) | Op::RmsNorm { .. })))?;
    let mut op = graph.node(id).op.clone();
    match &mut op {
        Op::Unary(u) => {
            *u = tape.pick(&[
                UnaryOp::Identity,
                UnaryOp::Abs,
                UnaryOp::Neg,
                UnaryOp::Sqrt,
                UnaryOp::Reciprocal,
                UnaryOp::Rsqrt,
                UnaryOp::Exp,
                UnaryOp::Exp2,
                UnaryOp::Log,
                UnaryOp::Log2,
                UnaryOp::Floor,
                UnaryOp::Ceil,
                UnaryOp::Round,
                UnaryOp::Relu,
            ]);
        }
        Op::Binary(b) => {
            *b = tape.pick(&[
                BinaryOp::Add,
                BinaryOp::Sub,
                BinaryOp::Mul,
                BinaryOp::Div,
                BinaryOp::Pow,
                BinaryOp::Max,
                BinaryOp::Min,
                BinaryOp::Greater,
                BinaryOp::GreaterOrEqual,
                BinaryOp::Less,
                BinaryOp::LessOrEqual,
                BinaryOp::BitwiseOr,
                BinaryOp::BitwiseXor,
                BinaryOp::ShiftLeft,
                BinaryOp::ShiftRight,
            ]);
        }
        Op::RmsNorm { eps, stash, .. } => match tape.below(2) {
            0 => *eps = tape.pick(&[0.0, -1.0, f32::NAN, f32::INFINITY]).into(),
            _ => *stash = tape.pick(&[DType::BF16, DType::F16, DType::F32]),
        },
        _ => return None,
    }
    graph.set_op(id, op).ok()
}

/// One element of a shape, a bound, an index, a byte.
fn another_integer(graph: &mut Graph, tape: &mut Tape) -> Option<()> {
    let integers =
        |t: &Tensor| matches!(t.dtype(), DType::I64 | DType::U8 | DType::I8) && t.len() <= 8 && !t.is_empty();
    let at = choose(tape, &constants(graph, integers))?;
    let t = graph.value(at.2).as_const()?.clone();
    let mut values = normfuse_ir::eval::numbers::ints(&t).ok()?;
    let i = tape.below(values.len());
    if tape.one_in(3) && values.len() > 1 {
        let other = (i + 1) % values.len();
        values.swap(i, other);
    } else {
        let old = values[i];
        values[i] = tape.pick(&[0, 1, -1, 2, old.wrapping_add(1), old / 2, old.wrapping_mul(2), 3, 4]);
    }
    let wide: Vec<i128> = values.into_iter().map(i128::from).collect();
    let new = normfuse_ir::eval::numbers::from_ints(t.dtype(), t.shape(), &wide).ok()?;
    let everywhere = tape.one_in(3);
    replace(graph, at, new, everywhere);
    Some(())
}

/// An operand is another value of the graph.
fn another_value(graph: &mut Graph, tape: &mut Tape) -> Option<()> {
    let (id, port, old) = operand(graph, tape)?;
    // Typed here, to find one that has a chance to fit.
    let mut typed = graph.clone();
    let fits = |g: &Graph, v: ValueId| g.value(v).ty == g.value(old).ty && v != old;
    let all: Vec<ValueId> = if normfuse_ir::infer::infer(&mut typed).is_ok() && !tape.one_in(6) {
        typed.values().map(|(v, _)| v).filter(|v| fits(&typed, *v)).collect()
    } else {
        graph.values().map(|(v, _)| v).collect()
    };
    let new = choose(tape, &all)?;
    graph.set_input(id, port, Some(new));
    Some(())
}

/// Two constants of one dtype change places: two thresholds, a floor and a divisor.
fn exchanged(graph: &mut Graph, tape: &mut Tape) -> Option<()> {
    let all = constants(graph, |t| t.len() == 1);
    let a = choose(tape, &all)?;
    let dtype = |at: &(NodeId, usize, ValueId)| graph.value(at.2).as_const().map(Tensor::dtype);
    let same: Vec<_> = all.iter().copied().filter(|b| dtype(b) == dtype(&a) && b.2 != a.2).collect();
    let b = choose(tape, &same)?;
    graph.set_input(a.0, a.1, Some(b.2));
    graph.set_input(b.0, b.1, Some(a.2));
    Some(())
}

fn another_weight(graph: &mut Graph, tape: &mut Tape) -> Option<()> {
    let at = choose(tape, &constants(graph, |t| t.len() > 1 && t.dtype().is_arithmetic_float()))?;
    let t = graph.value(at.2).as_const()?.clone();
    let n = t.len();
    let shapes = [vec![n, 1], vec![1, n], vec![2, n / 2], vec![1, 1, n], vec![1, n, 1], vec![2, n], vec![n / 2]];
    let shape = shapes[tape.below(shapes.len())].clone();
    let (size, want) = (t.dtype().bits() / 8, shape.iter().product::<usize>());
    let bytes: Vec<u8> = t.bytes().iter().copied().cycle().take(want * size).collect();
    let new = Tensor::from_bytes(t.dtype(), shape, bytes).ok()?;
    replace(graph, at, new, false);
    Some(())
}

fn op_more(graph: &mut Graph, tape: &mut Tape) -> Option<()> {
    let (id, port, v) = operand(graph, tape)?;
    let unary = [UnaryOp::Neg, UnaryOp::Abs, UnaryOp::Identity, UnaryOp::Relu, UnaryOp::Floor, UnaryOp::Round];
    let new = match tape.below(4) {
        0 => insert(graph, Op::Transpose { perm: None }, &[v])?,
        1 => {
            let (op, c) = tape.pick(&[
                (BinaryOp::Add, 0.0),
                (BinaryOp::Mul, 1.0),
                (BinaryOp::Mul, -1.0),
                (BinaryOp::Add, -0.0),
                (BinaryOp::Max, 0.0),
                (BinaryOp::Sub, 0.0),
            ]);
            let dtype = tape.pick(&[DType::F32, DType::BF16, DType::F16]);
            let name = fresh(graph, "k");
            let c = graph.add_const(name, number(dtype, c, 0));
            insert(graph, Op::Binary(op), &[v, c])?
        }
        _ => insert(graph, Op::Unary(tape.pick(&unary)), &[v])?,
    };
    if tape.one_in(3) {
        // For all its readers.
        let readers = graph.users(v).into_iter().filter(|(n, _)| !graph.node(*n).outputs.contains(&new));
        for (user, port) in readers.collect::<Vec<_>>() {
            graph.set_input(user, port, Some(new));
        }
    } else {
        graph.set_input(id, port, Some(new));
    }
    Some(())
}

/// One reader gets a copy of the node that makes what it reads.
fn split_reader(graph: &mut Graph, tape: &mut Tape) -> Option<()> {
    let (id, port, v) = operand(graph, tape)?;
    let (made_by, _) = graph.producer(v)?;
    let node = graph.node(made_by).clone();
    if node.outputs.len() != 1 {
        return None;
    }
    let name = fresh(graph, "m");
    let copy = graph.add_node(name.clone(), node.op, &node.inputs, [name]).ok()?;
    let new = graph.node(copy).outputs[0];
    graph.set_input(id, port, Some(new));
    Some(())
}
