//! Scaled products as nodes of our domain: what the node says, and the function that spells it.
//!
//! The function has the op's own order of sums and roundings: groups of columns are products of their own, which are scaled and
//! then added one after another. So its text depends on how many groups there are, and a node says of which sizes it is.

use std::collections::BTreeMap;

use normfuse_ir::{
    DType, Graph, Node, Op, Tensor, Type, ValueId,
    op::BinaryOp,
    scaled::{ScalePer, ScaledMatMul},
};

use super::ops::SCALED;
use crate::{FormatError, Result};

/// The attribute that holds the op, as JSON.
pub const PRODUCT: &str = "product";
/// The attribute with the sizes of `b` that the function depends on; -1 for one that it does not.
pub const SIZES: &str = "sizes";
/// Names of operands.
pub const INPUTS: [&str; 5] = ["a", "b", "scale_a", "scale_b", "bias"];
/// The name of the result.
pub const OUTPUT: &str = "y";

/// More groups than that are no function that anybody wants to read.
const MOST_GROUPS: usize = 1 << 12;

/// A scaled product, and all else that its function depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Spelled {
    /// The op.
    pub op: ScaledMatMul,
    /// `[N, K]`.
    pub sizes: [i64; 2],
    /// There is one.
    pub bias: bool,
}

impl Spelled {
    /// Of a node in a graph.
    ///
    /// # Errors
    /// A size that is not known and decides what the function is.
    pub fn of(graph: &Graph, node: &Node, op: ScaledMatMul) -> Result<Self> {
        let needs = [matches!(op.b, ScalePer::Block(r, _) if r > 1), op.group().is_some()];
        let shape = node.input(1).and_then(|b| graph.value(b).ty.shape.as_ref());
        let mut sizes = [-1; 2];
        for (axis, size) in sizes.iter_mut().enumerate().filter(|(axis, _)| needs[*axis]) {
            let known = shape.and_then(|s| s.0.get(axis)?.as_const()).filter(|n| *n > 0);
            *size = known.ok_or_else(|| {
                FormatError::invalid(format!(
                    "ONNX has no op that is exactly a `{SCALED}` of blocks whose sizes are not known"
                ))
                .hint("write .nf or .json instead")
            })?;
        }
        Ok(Self { op, sizes, bias: node.input(4).is_some() })
    }

    /// What a function says that a node claims to call: `None` where the text is none of ours.
    pub fn parse(product: &str, sizes: &[i64], bias: bool) -> Option<Self> {
        let op: ScaledMatMul = serde_json::from_str(product).ok()?;
        op.check().ok()?;
        Some(Self { op, sizes: sizes.try_into().ok()?, bias })
    }

    /// Groups of columns that are products of their own.
    pub fn groups(&self) -> usize {
        let group = self.op.group().and_then(|g| i64::try_from(g).ok()).filter(|g| *g > 0);
        let [_, k] = self.sizes;
        group.map_or(1, |g| usize::try_from((k.max(1) - 1) / g + 1).unwrap_or(usize::MAX))
    }

    /// The op, as text.
    pub fn text(&self) -> Result<String> {
        serde_json::to_string(&self.op).map_err(|e| FormatError::invalid(format!("the op does not serialise: {e}")))
    }

    /// The names of the operands.
    pub fn inputs(&self) -> Vec<String> {
        INPUTS.iter().take(4 + usize::from(self.bias)).map(|s| (*s).to_owned()).collect()
    }

    /// What it computes, in plain ops.
    ///
    /// # Errors
    /// Sizes that are not as the op needs them.
    pub fn body(&self) -> Result<Graph> {
        let mut s = Speller { graph: Graph::new(SCALED), constants: BTreeMap::new() };
        let ins: Vec<ValueId> = self.inputs().iter().map(|n| s.graph.add_input(n, Type::default())).collect();
        let y = s.product(self, &ins)?;
        s.graph.add_output(OUTPUT, y);
        Ok(s.graph)
    }
}

/// A body while it grows.
struct Speller {
    graph: Graph,
    /// Lists of integers that are constants.
    constants: BTreeMap<Vec<i64>, ValueId>,
}

impl Speller {
    fn product(&mut self, of: &Spelled, ins: &[ValueId]) -> Result<ValueId> {
        let [a, b, scale_a, scale_b, bias @ ..] = ins else { return Err(FormatError::invalid("too few operands")) };
        let a = self.wide(*a)?;
        let b = self.wide(*b)?;
        let b = self.turned(b)?;
        let scale_a = if of.op.a == ScalePer::Tensor { self.single(*scale_a)? } else { *scale_a };
        let scale_b = self.of_columns(of, *scale_b)?;
        let [_, k] = of.sizes;
        let group = of.op.group().and_then(|g| i64::try_from(g).ok());
        let (group, count) = match group {
            Some(g) if k > 0 && of.groups() <= MOST_GROUPS => (g, of.groups() as i64),
            Some(_) => return Err(FormatError::invalid("a product of too many groups to be spelled")),
            None => (0, 1),
        };
        let mut sum: Option<ValueId> = None;
        for i in 0..count {
            let part = |s: &mut Self, x: ValueId, axis: i64, (from, to): (i64, i64)| {
                if count == 1 { Ok(x) } else { s.slice(x, axis, from, to) }
            };
            let columns = (i * group, (i + 1).saturating_mul(group).min(k));
            let (x, w) = (part(self, a, -1, columns)?, part(self, b, 0, columns)?);
            let y = self.node(Op::MatMul, &[x, w])?;
            let in_blocks = |per: ScalePer| matches!(per, ScalePer::Block(..));
            let sa = if in_blocks(of.op.a) { part(self, scale_a, -1, (i, i + 1))? } else { scale_a };
            let sb = if in_blocks(of.op.b) { part(self, scale_b, 0, (i, i + 1))? } else { scale_b };
            let y = self.node(Op::Binary(BinaryOp::Mul), &[y, sa])?;
            let y = self.node(Op::Binary(BinaryOp::Mul), &[y, sb])?;
            sum = Some(match sum {
                None => y,
                Some(sum) => self.node(Op::Binary(BinaryOp::Add), &[sum, y])?,
            });
        }
        let mut y = sum.ok_or_else(|| FormatError::invalid("a product of no groups"))?;
        if let [bias] = bias {
            let bias = self.wide(*bias)?;
            y = self.node(Op::Binary(BinaryOp::Add), &[y, bias])?;
        }
        if of.op.to == DType::F32 { Ok(y) } else { self.node(Op::Cast { to: of.op.to, saturate: true }, &[y]) }
    }

    /// The scales of `b` as they meet columns of the product: `[groups, N]`, or one.
    fn of_columns(&mut self, of: &Spelled, scale: ValueId) -> Result<ValueId> {
        let scale = match of.op.b {
            ScalePer::Tensor => return self.single(scale),
            ScalePer::Row | ScalePer::Block(1, _) => scale,
            // A row of scales for each row of the matrix.
            ScalePer::Block(r, c) => {
                let (Ok(r), Ok(c)) = (i64::try_from(r), i64::try_from(c)) else {
                    return Err(FormatError::invalid("blocks that are too large"));
                };
                let [n, k] = of.sizes;
                if n <= 0 || k <= 0 {
                    return Err(FormatError::invalid("blocks of a matrix whose sizes are not known"));
                }
                let apart = self.node(Op::Unsqueeze { axes: vec![1] }, &[scale])?;
                let of_rows = self.ints(&[1, r.min(n), 1]);
                let repeated = self.node(Op::Expand, &[apart, of_rows])?;
                let flat = self.ints(&[-1, (k - 1) / c + 1]);
                let all = self.node(Op::Reshape { allow_zero: false }, &[repeated, flat])?;
                if n % r.min(n) == 0 { all } else { self.slice(all, 0, 0, n)? }
            }
        };
        self.turned(scale)
    }

    fn node(&mut self, op: Op, ins: &[ValueId]) -> Result<ValueId> {
        let ins: Vec<Option<ValueId>> = ins.iter().copied().map(Some).collect();
        let name = format!("v{}", self.graph.node_bound());
        let id = self.graph.add_node(name.clone(), op, &ins, [name])?;
        Ok(self.graph.node(id).outputs[0])
    }

    fn ints(&mut self, values: &[i64]) -> ValueId {
        if let Some(known) = self.constants.get(values) {
            return *known;
        }
        let name = format!("ints{}", self.constants.len());
        let made = self.graph.add_const(name, Tensor::from_i64(&[values.len()], values));
        self.constants.insert(values.to_vec(), made);
        made
    }

    fn wide(&mut self, x: ValueId) -> Result<ValueId> {
        self.node(Op::Cast { to: DType::F32, saturate: true }, &[x])
    }

    fn turned(&mut self, x: ValueId) -> Result<ValueId> {
        self.node(Op::Transpose { perm: Some(vec![1, 0]) }, &[x])
    }

    /// One element, of whatever rank, as a vector.
    fn single(&mut self, x: ValueId) -> Result<ValueId> {
        let one = self.ints(&[1]);
        self.node(Op::Reshape { allow_zero: false }, &[x, one])
    }

    fn slice(&mut self, x: ValueId, axis: i64, from: i64, to: i64) -> Result<ValueId> {
        let [from, to, axis] = [from, to, axis].map(|i| self.ints(&[i]));
        self.node(Op::Slice, &[x, from, to, axis])
    }
}
