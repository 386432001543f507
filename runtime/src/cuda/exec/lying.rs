//! Values that are others in another order, or parts of them. A transpose, a slice, a split or an expand is not launched where who reads
//! its result reads it as it lies: products, by rows and by columns with whatever lies between them, and chains. Who else reads it has it
//! written out, then and only then.
//!
//! What a product reads as it lies depends on its operands alone, not on who else reads them, so that a graph before and after fusion
//! has the same products.

use normfuse_ir::{DType, Node, NodeId, Op, Result, ValueId};

use super::{
    super::{
        ops::{Call, Typed},
        product::{Plain, Strided},
    },
    builder::Builder,
    concrete::bytes_of,
    step::Work,
    views,
};

/// Bytes from one element to the next from which on a chain does not read them as they lie.
const APART: usize = 32;

/// Elements of another value, in another order.
#[derive(Debug, Clone)]
pub struct Lying {
    /// The other value, which lies in its order.
    pub base: ValueId,
    /// This value's axes, in the elements of the other one.
    pub strided: Strided,
}

impl Lying {
    /// True if neighbours lie so near to one another that a chain reads few bytes in vain.
    pub fn is_near(&self, dtype: DType) -> bool {
        let mut axes = self.strided.shape.iter().zip(&self.strided.strides).rev();
        axes.find(|(n, _)| **n > 1).is_none_or(|(_, step)| step * dtype.bits() <= APART * 8)
    }

    /// True if the library's products may read it: vectors begin where it does, and every element is one of its own.
    fn is_matrices(&self, dtype: DType) -> bool {
        let begins = (self.strided.offset * dtype.bits()).is_multiple_of(8 * views::VIEW_ALIGNMENT as usize);
        begins && self.strided.shape.iter().zip(&self.strided.strides).all(|(n, step)| *n <= 1 || *step > 0)
    }
}

impl Builder<'_> {
    /// Plans a node that changes nothing but the order of elements, and what is seen of such a result, without a launch; false if it has
    /// to be launched.
    pub(super) fn is_laid(&mut self, id: NodeId) -> Result<bool> {
        let node = self.graph.node(id);
        let Some(x) = node.input(0) else { return Ok(false) };
        let of_x = self.concrete.typed(x)?.clone();
        let of_y = node.outputs.iter().map(|y| self.concrete.typed(*y).cloned()).collect::<Result<Vec<Typed>>>()?;
        if let (Op::Transpose { perm: Some(perm) }, Some(columns), [y]) =
            (&node.op, self.columns.get(&x).copied(), &of_y[..])
            && let Some(value) = self.across(columns, perm, y)
        {
            self.name(node.outputs[0], value);
            return Ok(true);
        }
        let Some(all) = self.lying_of(id, x, &of_x, &of_y) else { return Ok(false) };
        for ((y, typed), lying) in node.outputs.iter().zip(of_y).zip(all) {
            let begins = lying.strided.offset as u64 * typed.dtype.bits() as u64;
            let from_there = Strided { offset: 0, ..lying.strided.clone() };
            if from_there.is_dense() && begins.is_multiple_of(8 * views::VIEW_ALIGNMENT) {
                let base = self.operand(lying.base)?;
                let value = self.part(base, typed, begins / 8);
                self.name(*y, value);
                continue;
            }
            self.lying.insert(*y, lying);
            if self.graph.is_output(*y) {
                self.operand(*y)?;
            }
        }
        Ok(true)
    }

    /// How the results of a node lie in another value, if they do.
    fn lying_of(&self, id: NodeId, x: ValueId, of_x: &Typed, of_y: &[Typed]) -> Option<Vec<Lying>> {
        let node = self.graph.node(id);
        let known = self.lying.get(&x);
        let base = known.map_or(x, |lying| lying.base);
        let strided = || known.map_or_else(|| Strided::dense(&of_x.shape), |lying| lying.strided.clone());
        let one = |strided| Some(vec![Lying { base, strided }]);
        let rank = of_x.shape.len();
        if let Op::Transpose { perm } = &node.op {
            let axes: Vec<usize> = match perm {
                Some(perm) => perm.iter().map(|a| views::axis_of(*a, rank)).collect::<Option<_>>()?,
                None => (0..rank).rev().collect(),
            };
            return if axes.len() == rank { one(strided().permuted(&axes)) } else { None };
        }
        let host: Vec<_> = node.inputs.iter().map(|v| v.and_then(|v| self.concrete.host(v).cloned())).collect();
        let at = views::offsets(&node.op, of_x, of_y, &host);
        if known.is_none() && at.is_some() {
            // A view of what lies in its order.
            return None;
        }
        match &node.op {
            // What is kept of a weight is less than the weight; halves of bytes are not moved one by one.
            Op::Slice | Op::Split { .. } | Op::Expand if self.concrete.is_once(id) || of_x.dtype.bits() < 8 => None,
            Op::Slice => one(views::cut(of_x, &of_y[0], &host, strided())?),
            Op::Expand => one(strided().broadcast(&of_y[0].shape)?),
            Op::Split { axis, .. } => {
                let (axis, whole) = (views::axis_of(*axis, rank)?, strided());
                let mut first = 0;
                let parts = of_y.iter().map(|y| {
                    let len = *y.shape.get(axis)?;
                    first += len;
                    Some(Lying { base, strided: whole.clone().cut(axis, first - len, 1, len) })
                });
                parts.collect()
            }
            _ => {
                let [y] = of_y else { return None };
                let whole = of_x.dtype == y.dtype && bytes_of(of_x) == bytes_of(y) && at.as_deref() == Some(&[0][..]);
                one(known.filter(|_| whole)?.strided.reshaped(&y.shape)?)
            }
        }
    }

    /// Plans a product of floats.
    pub(super) fn product(&mut self, id: NodeId, node: &Node, call: &Call<'_>) -> Result<()> {
        if let Op::Gemm { beta, .. } = node.op
            && !self.concrete.is_once(id)
            && Plain::adds_apart(call)
        {
            return self.sum_behind(node, call, beta.get());
        }
        let (plain, inputs) = self.as_it_lies(node, call)?;
        let product = self.backend.product(&plain)?;
        let scratch = product.scratch();
        self.push(id, node.op.name(), vec![node.name.clone()], &inputs, Work::Product(product), scratch)
    }

    /// Plans a product of 8-bit integers, if the library has it: zero points are zeros, and operands lie as it reads them.
    pub(super) fn integers(&mut self, id: NodeId, node: &Node, call: &Call<'_>) -> Result<bool> {
        let zeros = |port: usize| match call.known.get(port) {
            Some(Some(known)) => known.bytes().iter().all(|b| *b == 0),
            _ => node.input(port).is_none(),
        };
        if !zeros(2) || !zeros(3) {
            return Ok(false);
        }
        let Ok((plain, inputs)) = self.as_it_lies(node, call) else { return Ok(false) };
        // Sums are exact either way: where the library has none after all, there is the kernel.
        let Ok(product) = self.backend.product(&plain) else { return Ok(false) };
        let scratch = product.scratch();
        self.push(
            id,
            "matmul_integer by tensor cores".into(),
            vec![node.name.clone()],
            &inputs[..2],
            Work::Product(product),
            scratch,
        )?;
        Ok(true)
    }

    /// A product with operands that lie in another order taken as they lie, where that makes it no more products; and what it reads.
    pub(super) fn as_it_lies(&self, node: &Node, call: &Call<'_>) -> Result<(Plain, Vec<Option<ValueId>>)> {
        let mut inputs = node.inputs.clone();
        let mut taken: [Option<&Strided>; 2] = [None; 2];
        let mut best = Plain::of(call, taken);
        for port in [1, 0] {
            let lying = node.input(port).and_then(|v| self.lying.get(&v));
            let Some(lying) =
                lying.filter(|l| l.is_matrices(call.inputs[port].as_ref().map_or(DType::U8, |t| t.dtype)))
            else {
                continue;
            };
            let mut more = taken;
            more[port] = Some(&lying.strided);
            let Ok(plain) = Plain::of(call, more) else { continue };
            let as_few = |p: &Plain| plain.sizes.runs.len() <= p.sizes.runs.len() && plain.sizes.m == p.sizes.m;
            if best.as_ref().map_or(true, as_few) {
                (best, taken) = (Ok(plain), more);
                inputs[port] = Some(lying.base);
            }
        }
        Ok((best?, inputs))
    }
}
