//! Tract's sums of rows, in the order that normfuse defines.

use normfuse_ir::num;
use tract_onnx::{
    prelude::*,
    tract_core::ops::nn::{Reduce, Reducer},
    tract_hir::internal::*,
};

/// The sum of each row of the last axis, which stays with size 1.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct RowSum;

impl Op for RowSum {
    fn name(&self) -> StaticName {
        "RowSum".into()
    }

    op_as_typed_op!();
}

impl EvalOp for RowSum {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let x = args_1!(inputs);
        let mut shape = x.shape().to_vec();
        let width = std::mem::replace(shape.last_mut().context("rows have an axis")?, 1);
        let rows = x.try_as_plain_ram()?;
        let sums: Vec<f32> = rows.as_slice::<f32>()?.chunks(width.max(1)).map(num::row_sum).collect();
        Ok(tvec!(Tensor::from_shape(&shape, &sums)?.into_tvalue()))
    }
}

impl TypedOp for RowSum {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let mut shape = inputs[0].shape.to_tvec();
        *shape.last_mut().context("rows have an axis")? = 1.to_dim();
        Ok(tvec!(inputs[0].datum_type.fact(shape)))
    }

    as_op!();
}

/// The model with every sum over the last axis in that order.
pub fn defined(model: &TypedModel) -> TractResult<TypedModel> {
    let mut model = model.clone();
    for id in model.eval_order()? {
        let node = model.node(id);
        let last = node.outputs[0].fact.rank().checked_sub(1);
        if let Some(Reduce { axes, reducer: Reducer::Sum, .. }) = node.op_as()
            && axes.len() == 1
            && axes.first().copied() == last
        {
            TypedModelPatch::replace_single_op(&model, node, &node.inputs, RowSum)?.apply(&mut model)?;
        }
    }
    Ok(model)
}
