//! What lies in another order than row by row: scales that a fused op writes by columns, and operands with their axes in another order.

use normfuse_ir::{
    Error, ErrorKind, FusedNorm, Node, NodeId, Op, Result, Tensor, ValueId, fused::OutPort, scheme::ScaleLayout,
};

use super::{
    super::ops::{Call, Typed},
    builder::Builder,
    concrete::bytes_of,
    step::Work,
    views,
};

/// How a result of a fused op lies in memory, if that is by columns: those of all rows, and rows behind them up to a multiple that the
/// layout asks for.
pub fn columns(norm: &FusedNorm, port: OutPort, typed: &Typed) -> Result<Option<Typed>> {
    let OutPort::Scale(k, e) = port else { return Ok(None) };
    let scheme = norm.siblings.get(k).and_then(|s| s.epilogues.get(e));
    let Some(layout) = scheme.map(|s| s.layout).filter(|l| !l.is_in_order()) else { return Ok(None) };
    let (across, rows) = typed.shape.split_last().map_or((1, 1), |(n, lead)| (*n, lead.iter().product::<usize>()));
    let held = layout.extents(rows as u64, across as u64).and_then(|(held, _)| usize::try_from(held).ok());
    let held = held.ok_or_else(|| Error::new(ErrorKind::Shape, format!("too many scales of {rows} rows")))?;
    Ok(Some(Typed { dtype: typed.dtype, shape: vec![across, held] }))
}

/// True if a fused op writes scales by columns.
pub fn writes_columns(op: &Op) -> bool {
    let by_columns = |layout: ScaleLayout| !layout.is_in_order();
    match op {
        Op::FusedNorm(norm) => norm.siblings.iter().flat_map(|s| &s.epilogues).any(|s| by_columns(s.layout)),
        Op::Quantize(scheme) => by_columns(scheme.layout),
        _ => false,
    }
}

impl Builder<'_> {
    /// The result of a node that says other sizes of its operand, but for the last axis: it lies by columns as the operand does.
    pub(super) fn same_rows(&self, id: NodeId) -> Option<ValueId> {
        let node = self.graph.node(id);
        let (&[y], x) = (&node.outputs[..], node.input(0)?) else { return None };
        let [of_x, of_y] = [self.concrete.typed(x).ok()?, self.concrete.typed(y).ok()?];
        let host: Vec<_> = node.inputs.iter().map(|v| v.and_then(|v| self.concrete.host(v).cloned())).collect();
        let offsets = views::offsets(&node.op, of_x, std::slice::from_ref(of_y), &host)?;
        let whole =
            bytes_of(of_x) == bytes_of(of_y) && of_x.dtype == of_y.dtype && of_x.shape.last() == of_y.shape.last();
        (offsets == [0] && whole).then_some(y)
    }

    /// True if nothing but products for which this is so read a value, as it is or in other sizes.
    pub(super) fn goes_to(&self, value: ValueId, reads: &impl Fn(NodeId, usize) -> bool) -> bool {
        // Readers that only ask for its sizes have been answered.
        let mut readers = self.graph.uses(value).filter(|(user, _)| self.concrete.nodes().contains(user)).peekable();
        !self.graph.is_output(value)
            && readers.peek().is_some()
            && readers.all(|(user, port)| {
                reads(user, port) || (port == 0 && self.same_rows(user).is_some_and(|y| self.goes_to(y, reads)))
            })
    }

    /// What lies by columns, row by row.
    pub(super) fn by_rows(&mut self, node: &Node, columns: usize, typed: Typed) -> Result<usize> {
        let rows = self.transposed(node, columns, &[1, 0])?;
        // Rows that are only there for the layout come last.
        Ok(self.part(rows, typed, 0))
    }

    /// What lies by columns as the result of a transpose that brings the last axis to the front: it lies like that already.
    pub(super) fn across(&mut self, columns: usize, perm: &[i64], result: &Typed) -> Option<usize> {
        let rank = perm.len() as i64;
        let axes = perm.iter().map(|a| if *a < 0 { a + rank } else { *a });
        let to_the_front = axes.eq(std::iter::once(rank - 1).chain(0..rank - 1));
        let count = |shape: &[usize]| shape.iter().product::<usize>();
        let exact = count(&self.values[columns].typed.shape) == count(&result.shape);
        (to_the_front && exact).then(|| self.part(columns, result.clone(), 0))
    }

    /// A value with its axes in another order; where only axes of size 1 move, its own memory.
    pub(super) fn transposed(&mut self, node: &Node, value: usize, perm: &[i64]) -> Result<usize> {
        let typed = self.values[value].typed.clone();
        let shape: Vec<usize> = perm.iter().map(|a| typed.shape[*a as usize]).collect();
        let result = Typed { dtype: typed.dtype, shape };
        let op = Op::Transpose { perm: Some(perm.to_vec()) };
        if views::offsets(&op, &typed, std::slice::from_ref(&result), &[None]).is_some() {
            return Ok(self.part(value, result, 0));
        }
        self.lowered(node, &op, &[value], &[Some(typed)], result)
    }

    /// A step of one op.
    pub(super) fn lowered(
        &mut self,
        node: &Node,
        op: &Op,
        inputs: &[usize],
        types: &[Option<Typed>],
        result: Typed,
    ) -> Result<usize> {
        self.lowered_with(node, op, inputs, types, &vec![None; types.len()], result)
    }

    /// A step of one op, some operands of which the host knows.
    pub(super) fn lowered_with(
        &mut self,
        node: &Node,
        op: &Op,
        inputs: &[usize],
        types: &[Option<Typed>],
        known: &[Option<Tensor>],
        result: Typed,
    ) -> Result<usize> {
        let outputs = [result.clone()];
        let call = Call { op, inputs: types, outputs: &outputs, known };
        let lowered = self.backend.node(&call)?;
        let value = self.temporary(result);
        let scratch = lowered.scratch;
        self.step(node, op.name(), inputs, vec![value], Work::Kernels(lowered), scratch);
        Ok(value)
    }
}
