//! The fused norm as an op of tract, executed by normfuse's CPU kernel.

use normfuse_ir::{DType, FusedNorm, Tensor, fused::OutPort};
use tract_onnx::{prelude::*, tract_hir::internal::*};

use crate::convert::datum_type;

/// A fused norm.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NormfuseNorm(pub FusedNorm);

/// What tract can carry: it has no 8-bit floats, and this example hands over f32.
pub fn supports(norm: &FusedNorm) -> Result<(), String> {
    normfuse_runtime::cpu::supports(norm)?;
    for sibling in &norm.siblings {
        if !sibling.epilogues.is_empty() {
            return Err("tract has no tensors of 8-bit floats".into());
        }
        let weight = sibling.weight.map_or(DType::F32, |w| w.dtype);
        if [sibling.input, sibling.output, weight] != [DType::F32; 3] {
            return Err("this example hands f32 tensors over".into());
        }
    }
    Ok(())
}

impl Op for NormfuseNorm {
    fn name(&self) -> StaticName {
        "NormfuseNorm".into()
    }

    op_as_typed_op!();
}

impl EvalOp for NormfuseNorm {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let inputs = inputs.iter().map(from_tract).collect::<TractResult<Vec<Tensor>>>()?;
        let operands: Vec<Option<&Tensor>> = inputs.iter().map(Some).collect();
        let results = normfuse_runtime::cpu::fused_norm(&self.0, &operands)?;
        results.iter().map(|t| Ok(to_tract(t)?.into_tvalue())).collect()
    }
}

impl TypedOp for NormfuseNorm {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let rows = inputs.first().context("a norm has rows")?.shape.clone();
        self.0
            .out_ports()
            .into_iter()
            .map(|port| {
                let dtype = match port {
                    OutPort::Sum => inputs[0].datum_type,
                    OutPort::Normed(k) => datum_type(self.0.siblings[k].output).context("a type that tract has")?,
                    OutPort::Q(..) | OutPort::Scale(..) | OutPort::ZeroPoint(..) | OutPort::Dequantised(..) => {
                        bail!("no quantisers here: `supports` refuses them")
                    }
                };
                Ok(dtype.fact(rows.clone()))
            })
            .collect()
    }

    as_op!();
}

fn from_tract(tensor: &TValue) -> TractResult<Tensor> {
    let bytes: Vec<u8> = tensor.try_as_plain_ram()?.as_slice::<f32>()?.iter().flat_map(|v| v.to_le_bytes()).collect();
    Ok(Tensor::from_bytes(DType::F32, tensor.shape().to_vec(), bytes)?)
}

fn to_tract(tensor: &Tensor) -> TractResult<tract_onnx::prelude::Tensor> {
    let numbers: Vec<f32> =
        tensor.bytes().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    tract_onnx::prelude::Tensor::from_shape(tensor.shape(), &numbers)
}
