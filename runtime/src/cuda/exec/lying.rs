//! Values that are others in another order. A transpose is not launched where products read its result: the library reads matrices by
//! rows and by columns, with whatever lies between them. Who else reads it has it written out, then and only then.
//!
//! What a product reads as it lies depends on its operands alone, not on who else reads them, so that a graph before and after fusion
//! has the same products.

use normfuse_ir::{Node, NodeId, Op, Result, ValueId};

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

/// Elements of another value, in another order.
#[derive(Debug, Clone)]
pub struct Lying {
    /// The other value, which lies in its order.
    base: ValueId,
    /// This value's axes, in the elements of the other one.
    strided: Strided,
}

impl Builder<'_> {
    /// Plans a node that changes nothing but the order of axes, and what is seen of such a result, without a launch; false if it has to
    /// be launched.
    pub(super) fn is_laid(&mut self, id: NodeId) -> Result<bool> {
        let node = self.graph.node(id);
        let (Some(x), [y]) = (node.input(0), &node.outputs[..]) else { return Ok(false) };
        let (of_x, of_y) = (self.concrete.typed(x)?.clone(), self.concrete.typed(*y)?.clone());
        if let (Op::Transpose { perm: Some(perm) }, Some(columns)) = (&node.op, self.columns.get(&x).copied())
            && let Some(value) = self.across(columns, perm, &of_y)
        {
            self.name(*y, value);
            return Ok(true);
        }
        let Some(lying) = self.lying_of(node, x, (&of_x, &of_y)) else { return Ok(false) };
        if lying.strided.is_dense() {
            let base = self.operand(lying.base)?;
            let value = self.part(base, of_y, 0);
            self.name(*y, value);
            return Ok(true);
        }
        self.lying.insert(*y, lying);
        Ok(!self.graph.is_output(*y))
    }

    /// How the result of a node lies in another value, if it does.
    fn lying_of(&self, node: &Node, x: ValueId, (of_x, of_y): (&Typed, &Typed)) -> Option<Lying> {
        let known = self.lying.get(&x);
        if let Op::Transpose { perm } = &node.op {
            let rank = of_x.shape.len();
            let axes: Vec<usize> = match perm {
                Some(perm) => perm.iter().map(|a| views::axis_of(*a, rank)).collect::<Option<_>>()?,
                None => (0..rank).rev().collect(),
            };
            let base = known.map_or(x, |lying| lying.base);
            let strided = known.map_or_else(|| Strided::dense(&of_x.shape), |lying| lying.strided.clone());
            return (axes.len() == rank).then(|| Lying { base, strided: strided.permuted(&axes) });
        }
        let host: Vec<_> = node.inputs.iter().map(|v| v.and_then(|v| self.concrete.host(v).cloned())).collect();
        let whole = of_x.dtype == of_y.dtype && bytes_of(of_x) == bytes_of(of_y);
        let lying = known.filter(|_| whole)?;
        let at = views::offsets(&node.op, of_x, std::slice::from_ref(of_y), &host)?;
        (at == [0]).then_some(())?;
        Some(Lying { base: lying.base, strided: lying.strided.reshaped(&of_y.shape)? })
    }

    /// Plans a product of floats.
    pub(super) fn product(&mut self, id: NodeId, node: &Node, call: &Call<'_>) -> Result<()> {
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
    fn as_it_lies(&self, node: &Node, call: &Call<'_>) -> Result<(Plain, Vec<Option<ValueId>>)> {
        let mut inputs = node.inputs.clone();
        let mut taken: [Option<&Strided>; 2] = [None; 2];
        let mut best = Plain::of(call, taken);
        for port in [1, 0] {
            let Some(lying) = node.input(port).and_then(|v| self.lying.get(&v)) else { continue };
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
