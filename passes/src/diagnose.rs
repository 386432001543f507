//! Why something that looks like a norm is none: the first precondition that fails, walked from the anchor in the order
//! in which the rule lists them. Only runs where recognition failed, so it may take its time.

use normfuse_ir::{
    DType, Graph, NodeId, Op, ValueId,
    op::{BinaryOp, ReduceOp, UnaryOp},
};

use crate::{
    candidate::Refusal,
    consts::known,
    reach::Order,
    region::{last_axis_width, producer_op, squared, typed},
    report::Outcome,
    views::is_view,
};

/// What failed: the precondition, where, and what was found there.
struct Failed {
    outcome: Outcome,
    precondition: &'static str,
    node: NodeId,
    hint: String,
}

type Step<T> = Result<T, Failed>;

/// Not a norm at all, as far as it goes.
fn rejected<T>(precondition: &'static str, node: NodeId, hint: impl Into<String>) -> Step<T> {
    Err(Failed { outcome: Outcome::Rejected, precondition, node, hint: hint.into() })
}

/// A norm but for this.
fn nearest<T>(precondition: &'static str, node: NodeId, hint: impl Into<String>) -> Step<T> {
    Err(Failed { outcome: Outcome::Nearest, precondition, node, hint: hint.into() })
}

/// The first failing precondition of the `rms_norm` rule at an anchor, and whether all the earlier ones make it a near
/// miss.
pub fn norm(graph: &Graph, order: &Order, anchor: NodeId) -> (Outcome, Refusal) {
    let walk = Walk { graph, order, anchor };
    let refusal = |rule, precondition, node, hint| Refusal { rule, precondition, node: Some(node), hint };
    if matches!(graph.node(anchor).op, Op::SkipRmsNorm { .. })
        && let Some((precondition, hint)) = skip_norm(graph, anchor)
    {
        return (Outcome::Nearest, refusal("residual_add", precondition, anchor, hint));
    }
    match walk.run() {
        Err(f) => (f.outcome, refusal("rms_norm", f.precondition, f.node, f.hint)),
        // Every step holds on its own, and yet the terms did not meet.
        Ok(node) => {
            let hint = "every step is one of a norm, but together they are none that the rule knows".into();
            (Outcome::Nearest, refusal("rms_norm", "root", node, hint))
        }
    }
}

/// What is wrong with the dtype that an anchor computes in, or with that of its rows: fused norms know three.
pub fn other_float(graph: &Graph, anchor: NodeId) -> Option<String> {
    let node = graph.node(anchor);
    let stash = match node.op {
        Op::RmsNorm { stash, .. } => Some(stash),
        _ => None,
    };
    let rows = node.input(0).and_then(|v| typed(graph, v)).map(|(d, _)| d);
    let fused = |d: &DType| matches!(d, DType::F32 | DType::F16 | DType::BF16);
    let other = stash.into_iter().chain(rows).find(|d| !fused(d))?;
    Some(format!("it is computed in {other}: fused norms are f32, f16 or bf16"))
}

struct Walk<'g> {
    graph: &'g Graph,
    order: &'g Order,
    anchor: NodeId,
}

impl Walk<'_> {
    fn run(&self) -> Step<NodeId> {
        let dtype = self.last_axis()?;
        let node = self.graph.node(self.anchor);
        if matches!(node.op, Op::RmsNorm { .. } | Op::SkipRmsNorm { .. }) {
            return nearest("weight_vector", self.anchor, "the scale is not a vector as long as the row");
        }
        let row = self.square(dtype)?;
        let mean = self.mean(dtype)?;
        self.squares_keep_their_bits()?;
        let (at, v) = self.plus_eps(mean)?;
        let (at, factor, divides) = self.root(at, v)?;
        self.product(at, factor, divides, row)
    }

    fn name(&self, node: NodeId) -> String {
        self.graph.node(node).op.name()
    }

    fn output(&self, node: NodeId) -> ValueId {
        self.graph.node(node).outputs[0]
    }

    /// Who reads a value, through views and expansions.
    fn readers(&self, value: ValueId) -> Vec<(NodeId, usize)> {
        let mut all = Vec::new();
        let mut queue = vec![value];
        while let Some(v) = queue.pop() {
            for (user, port) in self.graph.users(v) {
                let op = &self.graph.node(user).op;
                if port == 0 && (is_view(self.graph, user) || matches!(op, Op::Expand)) {
                    queue.push(self.output(user));
                } else if !matches!(op, Op::Shape { .. }) {
                    all.push((user, port));
                }
            }
        }
        all.sort_unstable_by_key(|(n, port)| (self.order.position(*n), *port));
        all
    }

    fn reader(&self, value: ValueId, fits: impl Fn(&Op) -> bool) -> Option<(NodeId, usize)> {
        self.readers(value).into_iter().find(|(n, _)| fits(&self.graph.node(*n).op))
    }

    /// `it` is read by this and that.
    fn read_by(&self, value: ValueId) -> String {
        let names: Vec<String> = self.readers(value).iter().map(|(n, _)| format!("`{}`", self.name(*n))).collect();
        if names.is_empty() { "nothing in the graph".into() } else { names.join(", ") }
    }

    /// The other operand of a node of two.
    fn other(&self, node: NodeId, port: usize) -> Option<ValueId> {
        self.graph.node(node).input(1 - port.min(1))
    }

    /// A cast between the statistics.
    fn cast<T>(&self, value: ValueId, what: &str, otherwise: impl FnOnce() -> Step<T>) -> Step<T> {
        match self.reader(value, |op| matches!(op, Op::Cast { .. })) {
            Some((n, _)) => {
                let to = match self.graph.node(n).op {
                    Op::Cast { to, .. } => to.to_string(),
                    _ => String::new(),
                };
                nearest("one_dtype", n, format!("{what} is cast to {to} on its way"))
            }
            None => otherwise(),
        }
    }

    fn last_axis(&self) -> Step<DType> {
        let node = self.graph.node(self.anchor);
        let Some((dtype, shape)) = node.input(0).and_then(|v| typed(self.graph, v)) else {
            let hint = "the operand's dtype or shape is unknown: it comes from an op that the IR does not know";
            return rejected("last_axis", self.anchor, hint);
        };
        if let Some(hint) = other_float(self.graph, self.anchor) {
            return rejected("float", self.anchor, hint);
        }
        if last_axis_width(self.graph, self.anchor).is_some() {
            return Ok(dtype);
        }
        let rank = shape.rank() as i64;
        let axes = match &node.op {
            Op::Reduce { axes, .. } => axes.clone().unwrap_or_else(|| (0..rank).collect()),
            // A native norm begins at its axis.
            Op::RmsNorm { axis, .. } => (if *axis < 0 { axis + rank } else { *axis }..rank).collect(),
            _ => vec![-1],
        };
        let hint = match axes.as_slice() {
            [a] if *a == -1 || *a == rank - 1 => {
                let last = shape.last().map_or_else(String::new, ToString::to_string);
                format!("the row's size `{last}` is not a known number")
            }
            [a] => format!("it runs over axis {a} of {rank}, not over the last one"),
            many => format!("it runs over {} axes at once, not over the last one alone", many.len()),
        };
        rejected("last_axis", self.anchor, hint)
    }

    /// The row that is squared.
    fn square(&self, dtype: DType) -> Step<ValueId> {
        let node = self.graph.node(self.anchor);
        let Some(operand) = node.input(0) else {
            return rejected("square", self.anchor, "it has no operand");
        };
        let row = match node.op {
            Op::Reduce { op: ReduceOp::L2, .. } => {
                let hint = "the root of the sum is rounded before the row's size comes in; that of a mean is not";
                return rejected("square", self.anchor, hint);
            }
            Op::Reduce { op: ReduceOp::SumSquare, .. } if dtype != DType::F32 => {
                let hint = format!("its squares are added before they are rounded to {dtype}; a norm's are not");
                return rejected("square", self.anchor, hint);
            }
            Op::Reduce { op: ReduceOp::SumSquare, .. } => operand,
            _ => match squared(self.graph, operand) {
                Some((_, row)) => row,
                None => return rejected("square", self.anchor, self.no_square(operand)),
            },
        };
        match centred(self.graph, row) {
            Some(sub) => {
                let hint = "the row's own mean is subtracted first, so this is a LayerNorm's variance";
                rejected("not_centred", sub, hint)
            }
            None => Ok(row),
        }
    }

    fn no_square(&self, operand: ValueId) -> String {
        match producer_op(self.graph, operand) {
            Some((n, Op::Binary(BinaryOp::Pow))) => {
                match self.graph.node(n).input(1).and_then(|v| known(self.graph, v)) {
                    Some(e) => format!("the power {} is averaged, not the square", e.value()),
                    None => "a power is averaged whose exponent is not one constant number".into(),
                }
            }
            Some((_, Op::Binary(BinaryOp::Mul))) => "the product of two different values is averaged".into(),
            Some((_, op)) => format!("what is averaged is made by `{}`, which is no square", op.name()),
            None => "what is averaged is no square of anything".into(),
        }
    }

    /// The value that is the mean.
    fn mean(&self, dtype: DType) -> Step<ValueId> {
        let node = self.graph.node(self.anchor);
        let sum = self.output(self.anchor);
        if matches!(node.op, Op::Reduce { op: ReduceOp::Mean, .. }) {
            return Ok(sum);
        }
        let width = last_axis_width(self.graph, self.anchor).unwrap_or(0);
        let scales = |op: &Op| matches!(op, Op::Binary(BinaryOp::Div | BinaryOp::Mul));
        let Some((at, port)) = self.reader(sum, scales) else {
            let hint = format!("the sum is not divided by {width}; it is read by {}", self.read_by(sum));
            return nearest("mean", self.anchor, hint);
        };
        let divides = self.graph.node(at).op == Op::Binary(BinaryOp::Div);
        let by = self.other(at, port).and_then(|v| known(self.graph, v)).map(crate::term::Num::value);
        let Some(by) = by.filter(|_| port == 0 || !divides) else {
            return nearest("mean", at, format!("the sum is not divided by the constant {width}"));
        };
        let exact = width > 0 && width & (width - 1) == 0;
        let inverse = 1.0 / width as f64;
        match divides {
            true if by != width as f64 => nearest("mean", at, format!("the sum of {width} squares is divided by {by}")),
            false if f64::from(inverse as f32) != f64::from(by as f32) => {
                nearest("mean", at, format!("the sum of {width} squares is multiplied by {by}"))
            }
            false if !exact => {
                let hint = format!("a product with 1/{width} is rounded otherwise than a division by {width}");
                nearest("mean", at, hint)
            }
            _ if dtype != DType::F32 => {
                let hint = format!("the sum is rounded to {dtype} before it is divided; a mean is not");
                nearest("mean", at, hint)
            }
            _ => Ok(self.output(at)),
        }
    }

    /// Nothing narrower lies between the squares and the mean.
    fn squares_keep_their_bits(&self) -> Step<()> {
        let mut value = self.graph.node(self.anchor).input(0);
        let dtype = |v| typed(self.graph, v).map(|(d, _)| d);
        let square = value.and_then(|v| squared(self.graph, v)).map(|(n, _)| self.output(n));
        while let (Some(v), Some(square)) = (value, square)
            && v != square
        {
            let Some((at, _)) = producer_op(self.graph, v) else { break };
            if let (Some(from), Some(to)) = (dtype(square), dtype(v))
                && !from.embeds_in(to)
            {
                return nearest("one_dtype", at, format!("the squares, which are {from}, are cast to {to}"));
            }
            value = self.graph.node(at).input(0);
        }
        Ok(())
    }

    /// The mean and what is added to it.
    fn plus_eps(&self, mean: ValueId) -> Step<(NodeId, ValueId)> {
        let at = self.graph.producer(mean).map_or(self.anchor, |(n, _)| n);
        if let Some((add, port)) = self.reader(mean, |op| *op == Op::Binary(BinaryOp::Add)) {
            let Some(eps) = self.other(add, port).and_then(|v| known(self.graph, v)) else {
                let hint = "what is added to the mean of squares is not one constant number";
                return nearest("eps_constant", add, hint);
            };
            let eps = eps.value();
            if !eps.is_finite() || f64::from(eps as f32) != eps {
                let hint = format!("{eps} is added to the mean of squares, which is no finite number that f32 holds");
                return nearest("eps_constant", add, hint);
            }
            if eps < 0.0 {
                return nearest(
                    "eps_constant",
                    add,
                    format!("{eps} is added to the mean of squares, which is negative"),
                );
            }
            return Ok((add, self.output(add)));
        }
        if self.reader(mean, is_root).is_some() {
            return Ok((at, mean));
        }
        if let Some((n, _)) = self.reader(mean, |op| *op == Op::Binary(BinaryOp::Sub)) {
            return nearest("eps_constant", n, "the mean of squares goes into a subtraction");
        }
        self.cast(mean, "the mean of squares", || {
            let hint = format!("no root of the mean of squares is taken; it is read by {}", self.read_by(mean));
            rejected("root", at, hint)
        })
    }

    /// The factor of the row and the node that makes it, or the root by which the row is divided.
    fn root(&self, at: NodeId, v: ValueId) -> Step<(NodeId, ValueId, bool)> {
        let Some((root, _)) = self.reader(v, is_root) else {
            if let Some((n, _)) = self.reader(v, |op| *op == Op::Unary(UnaryOp::Reciprocal)) {
                return nearest(
                    "root",
                    n,
                    "the root of a reciprocal is rounded otherwise than the reciprocal of a root",
                );
            }
            return self.cast(v, "the mean plus eps", || {
                let hint = format!("no root of the mean plus eps is taken; it is read by {}", self.read_by(v));
                nearest("root", at, hint)
            });
        };
        let r = self.output(root);
        let exponent = |n: NodeId| self.graph.node(n).input(1).and_then(|v| known(self.graph, v));
        match self.graph.node(root).op {
            Op::Unary(UnaryOp::Rsqrt) => return Ok((root, r, false)),
            Op::Unary(_) => {}
            _ => match exponent(root).map(crate::term::Num::value) {
                Some(-0.5) => return Ok((root, r, false)),
                Some(0.5) => {}
                Some(e) => return nearest("root", root, format!("the power {e} is taken, not -1/2")),
                None => return nearest("root", root, "a power is taken whose exponent is not one constant number"),
            },
        }
        if let Some((n, _)) = self.reader(r, |op| *op == Op::Unary(UnaryOp::Reciprocal)) {
            return Ok((n, self.output(n), false));
        }
        if let Some((n, port)) = self.reader(r, |op| *op == Op::Binary(BinaryOp::Div)) {
            let numerator = self.graph.node(n).input(0).and_then(|v| known(self.graph, v));
            return match numerator.map(crate::term::Num::value) {
                _ if port == 0 => nearest("root", n, "the root is divided, and divides nothing"),
                Some(1.0) => Ok((n, self.output(n), false)),
                Some(c) => nearest("root", n, format!("{c} over the root is not the reciprocal of the root")),
                None => Ok((root, r, true)),
            };
        }
        if let Some((n, _)) = self.reader(r, |op| *op == Op::Binary(BinaryOp::Pow)) {
            return match exponent(n).map(crate::term::Num::value) {
                Some(-1.0) => Ok((n, self.output(n), false)),
                _ => nearest("root", n, "a power other than -1 of the root is taken"),
            };
        }
        if let Some((n, _)) = self.reader(r, |op| matches!(op, Op::Binary(BinaryOp::Add | BinaryOp::Sub))) {
            return nearest("root", n, "something is added after the root is taken: eps belongs under it");
        }
        if let Some((n, _)) = self.reader(r, |op| *op == Op::Binary(BinaryOp::Mul)) {
            return nearest("root", n, "the root is multiplied with, not divided by");
        }
        self.cast(r, "the root", || {
            nearest("root", root, format!("nothing is divided by the root; it is read by {}", self.read_by(r)))
        })
    }

    /// The row times the factor, or over the root.
    fn product(&self, at: NodeId, factor: ValueId, divides: bool, row: ValueId) -> Step<NodeId> {
        let wanted = if divides { BinaryOp::Div } else { BinaryOp::Mul };
        let Some((n, port)) = self.reader(factor, |op| *op == Op::Binary(wanted)) else {
            if let Some((n, _)) = self.reader(factor, |op| *op == Op::Binary(BinaryOp::Div)) {
                return nearest("root", n, "the reciprocal of the root is divided by or divided, not multiplied with");
            }
            return self.cast(factor, "the factor of the row", || {
                let hint = format!("it scales no row; it is read by {}", self.read_by(factor));
                nearest("root", at, hint)
            });
        };
        let Some(scaled) = self.other(n, port) else { return Ok(n) };
        let operand = self.graph.node(n).input(port).unwrap_or(factor);
        let name = |v: ValueId| &self.graph.value(v).name;
        if origin(self.graph, scaled) != origin(self.graph, row) {
            let has_row = |n: NodeId| {
                self.graph.node(n).operands().any(|(_, v)| origin(self.graph, v) == origin(self.graph, row))
            };
            let hint = match producer_op(self.graph, scaled) {
                Some((n, Op::Binary(BinaryOp::Mul))) if has_row(n) => {
                    "the row is multiplied by something before the factor; after it, it would be rounded otherwise"
                        .into()
                }
                _ if is_vector(self.graph, scaled) => format!(
                    "the factor is multiplied by `{}` before the row is: x * (r * w) is rounded otherwise than (x * r) * w",
                    name(scaled)
                ),
                _ => format!("`{}` was squared, but another value is scaled", name(row)),
            };
            return nearest("same_row", n, hint);
        }
        let shapes = [operand, scaled].map(|v| typed(self.graph, v));
        if let [Some((_, f)), Some((dtype, s))] = shapes {
            let mean = typed(self.graph, self.output(self.anchor)).map(|(d, _)| d);
            if f.last().is_some_and(|d| d.as_const() != Some(1)) && f != s {
                let hint = format!("the factor has shape {f} against {s}: it is not one number a row");
                return nearest("same_row", n, hint);
            }
            if let Some(mean) = mean.filter(|m| *m != dtype) {
                let hint = format!("the row is scaled in {dtype}, but its squares are averaged in {mean}");
                return nearest("one_dtype", n, hint);
            }
        }
        if scaled != row && typed(self.graph, scaled).map(|t| t.0) == typed(self.graph, row).map(|t| t.0) {
            let hint = if [row, scaled].into_iter().any(|v| loses_bits(self.graph, v)) {
                format!("`{}` was squared, and `{}` is scaled: a cast between them loses bits", name(row), name(scaled))
            } else {
                format!("`{}` was squared, and `{}` is scaled, which is it in another shape", name(row), name(scaled))
            };
            return nearest("same_row", n, hint);
        }
        Ok(n)
    }
}

fn is_root(op: &Op) -> bool {
    matches!(op, Op::Unary(UnaryOp::Sqrt | UnaryOp::Rsqrt) | Op::Binary(BinaryOp::Pow))
}

/// Why the sum of a `SkipRmsNorm` is none that a fused op makes.
fn skip_norm(graph: &Graph, anchor: NodeId) -> Option<(&'static str, String)> {
    let node = graph.node(anchor);
    let shape = |port: usize| node.input(port).and_then(|v| typed(graph, v)).map(|(_, s)| s);
    if node.input(3).is_some() {
        return Some(("two_operands", "a bias is added to the sum, too".into()));
    }
    let broadcasts = shape(0)? != shape(1)?;
    broadcasts.then(|| ("same_shape", "one operand of the add broadcasts to the other".into()))
}

/// The subtraction, if a value is some row minus the mean of that row.
pub fn centred(graph: &Graph, row: ValueId) -> Option<NodeId> {
    let row = origin(graph, row);
    let (id, op) = producer_op(graph, row)?;
    if !matches!(op, Op::Binary(BinaryOp::Sub)) {
        return None;
    }
    let mean = origin(graph, graph.node(id).input(1)?);
    let (mean, op) = producer_op(graph, mean)?;
    let is_mean = matches!(op, Op::Reduce { op: ReduceOp::Mean, .. });
    let of = origin(graph, graph.node(mean).input(0)?);
    (is_mean && of == origin(graph, graph.node(id).input(0)?)).then_some(id)
}

/// Back through views and casts: each such node, and what it reads.
fn back(graph: &Graph, value: ValueId) -> impl Iterator<Item = (NodeId, ValueId)> + '_ {
    let before = |value: ValueId| {
        let (id, op) = producer_op(graph, value)?;
        let through = is_view(graph, id) || matches!(op, Op::Cast { .. } | Op::Expand);
        Some((id, graph.node(id).input(0).filter(|_| through)?))
    };
    std::iter::successors(before(value), move |(_, read)| before(*read)).take(16)
}

/// What a value is, back through views and casts.
fn origin(graph: &Graph, value: ValueId) -> ValueId {
    back(graph, value).last().map_or(value, |(_, read)| read)
}

/// True if a cast on the way back to the origin does not hold every number that it is given.
fn loses_bits(graph: &Graph, value: ValueId) -> bool {
    back(graph, value).any(|(id, read)| match &graph.node(id).op {
        Op::Cast { to, .. } => typed(graph, read).is_some_and(|(from, _)| !from.embeds_in(*to)),
        _ => false,
    })
}

/// True for a weight as it comes: a stored or passed vector.
fn is_vector(graph: &Graph, value: ValueId) -> bool {
    let long = |s: &normfuse_ir::Shape| s.last().is_some_and(|last| *last == s.numel()) && !s.is_single();
    graph.producer(value).is_none() && typed(graph, value).is_some_and(|(_, s)| long(s))
}

/// The subtraction, if what the anchor squares is a row minus its own mean.
pub fn centred_row(graph: &Graph, anchor: NodeId) -> Option<NodeId> {
    let node = graph.node(anchor);
    let operand = node.input(0)?;
    let row = match node.op {
        Op::Reduce { op: ReduceOp::Mean | ReduceOp::Sum, .. } => squared(graph, operand)?.1,
        Op::Reduce { .. } => operand,
        _ => return None,
    };
    centred(graph, row)
}
