//! What a `Gemm` adds that the library does not: a product alone, and a kernel that adds and rounds.

use normfuse_ir::{DType, Error, ErrorKind, Node, Op, Result, Tensor, op::BinaryOp};

use super::{
    super::ops::{Call, Chain, Leaf, Source, Step as ChainStep, Typed},
    builder::Builder,
    step::{Place, Work},
};

impl Builder<'_> {
    /// Plans `alpha * a * b` in the dtype of its sums, and `beta * c` added to it: each rounded there, as the evaluator does it, then
    /// once to the result's dtype.
    pub(super) fn sum_behind(&mut self, node: &Node, call: &Call<'_>, beta: f32) -> Result<()> {
        let missing = || Error::new(ErrorKind::Structure, "`gemm` lacks an operand");
        let (c, out) = (self.operand(node.input(2).ok_or_else(missing)?)?, call.outputs.first().ok_or_else(missing)?);
        let wide = if out.dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let made = Typed { dtype: wide, shape: out.shape.clone() };
        let alone = Call {
            op: call.op,
            inputs: &call.inputs[..2],
            outputs: std::slice::from_ref(&made),
            known: &call.known[..2],
        };
        let (plain, operands) = self.as_it_lies(node, &alone)?;
        let planned = self.backend.product(&plain)?;
        let scratch = planned.scratch();
        let operands = operands.iter().take(2).flatten().map(|v| self.operand(*v)).collect::<Result<Vec<_>>>()?;
        let sums = self.temporary(made.clone());
        self.step(node, node.op.name(), &operands, vec![sums], Work::Product(planned), scratch);

        let factor = match wide {
            DType::F64 => Tensor::from_bytes(wide, Vec::new(), f64::from(beta).to_le_bytes().to_vec())?,
            _ => Tensor::from_f32(&[], &[beta]),
        };
        let one = Typed { dtype: wide, shape: Vec::new() };
        let factor = self.rooted(one.clone(), Place::Host(factor));
        let of_c = self.values[c].typed.clone();
        let binary = |op, a, b| ChainStep {
            op: Op::Binary(op),
            operands: vec![Some(a), Some(b)],
            dtype: wide,
            ends: Vec::new(),
        };
        let cast = |x, to| ChainStep {
            op: Op::Cast { to, saturate: true },
            operands: vec![Some(x)],
            dtype: to,
            ends: Vec::new(),
        };
        let steps = vec![
            cast(Source::Input(1), wide),
            binary(BinaryOp::Mul, Source::Step(0), Source::Input(2)),
            binary(BinaryOp::Add, Source::Input(0), Source::Step(1)),
            cast(Source::Step(2), out.dtype),
        ];
        let inputs = [&made, &of_c, &one].map(Leaf::from).to_vec();
        let outputs = vec![steps.len() - 1];
        let lowered = self.backend.chain(&Chain { shape: out.shape.clone(), axis: 0, inputs, steps, outputs })?;
        let y = self.results(&node.outputs, false)?;
        self.step(node, "gemm's sum".into(), &[sums, c, factor], y, Work::Kernels(lowered), 0);
        Ok(())
    }
}
