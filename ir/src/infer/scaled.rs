//! Products of codes and scales.

use super::args::{Args, show, tensor};
use crate::{
    DType, Dim, Result, Type,
    scaled::{ScalePer, ScaledMatMul},
};

pub(super) fn product(args: &Args<'_>, product: &ScaledMatMul) -> Result<Type> {
    for port in 0..2 {
        args.expect(port, ScaledMatMul::takes, "f8e4m3fn or f8e5m2")?;
        args.expect_dtype(port + 2, DType::F32)?;
    }
    args.expect(4, |d| matches!(d, DType::F32 | DType::F16 | DType::BF16), "f32, f16 or bf16")?;
    args.expect_rank(1, 2)?;
    let (Some(a), Some(b)) = (args.shape(0), args.shape(1)) else { return Ok(tensor(Some(product.to), None)) };
    let (Some((k, rows)), [n, columns]) = (a.split_last().filter(|(_, rows)| !rows.is_empty()), b) else {
        return Err(args.shape_error(0, format!("expected rank 2 or more, found {}", show(a))));
    };
    args.unify(1, k, columns, || format!("inner size of {} x {}", show(a), show(b)))?;
    scales(args, 2, product.a, (rows, k))?;
    scales(args, 3, product.b, (std::slice::from_ref(n), k))?;
    args.expect_rank(4, 1)?;
    if let Some([bias]) = args.shape(4) {
        args.unify(4, n, bias, || "bias".into())?;
    }
    Ok(tensor(Some(product.to), Some([rows, std::slice::from_ref(n)].concat())))
}

/// The scales of a matrix with these rows and so many columns.
fn scales(args: &Args<'_>, port: usize, per: ScalePer, (rows, k): (&[Dim], &Dim)) -> Result<()> {
    let Some(want) = per.shape_of_dims(rows, k) else { return args.expect_one(port) };
    args.unify_shape(port, &want).map(drop)
}
