//! Quantisers, and the fused norms that end in them: here strides and schemes are set.

use std::sync::Arc;

use super::args::{Args, show, tensor};
use crate::{
    DType, Dim, FusedNorm, Granularity, Result, Scheme, Shape, Type,
    fused::{InPort, OutPort, Prologue},
    scheme::{Packing, ZeroPoint},
};

/// The scale of a QDQ pair: one element, one a slice of `axis`, or one a block along it.
fn check_linear_scale(args: &Args<'_>, port: usize, axis: i64, block: u64) -> Result<()> {
    let (Some(x), Some(scale)) = (args.shape(0), args.shape(port)) else { return Ok(()) };
    if block == 0 {
        return match scale {
            [] => Ok(()),
            [n] if n.as_const() == Some(1) => Ok(()),
            [n] => {
                let axis = args.axis(axis, x.len())?;
                args.unify(port, &x[axis], n, || format!("one element for each of axis {axis}")).map(drop)
            }
            _ => Err(args.shape_error(port, format!("expected a scalar or a vector, found {}", show(scale)))),
        };
    }
    let axis = args.axis(axis, x.len())?;
    let block = i64::try_from(block).map_err(|_| args.shape_error(port, format!("block size {block} is too large")))?;
    let mut want = x.to_vec();
    want[axis] = (&x[axis] + &Dim::from(block - 1)).floor_div(&Dim::from(block));
    args.unify_shape(port, &want).map(drop)
}

pub(super) fn quantize_linear(args: &Args<'_>, axis: i64, block: u64, to: DType) -> Result<Type> {
    args.expect(0, |d| d.is_arithmetic_float() || d == DType::I32, "f32, f16, bf16, f64 or i32")?;
    args.expect(1, |d| d.is_arithmetic_float() || d == DType::F8E8M0, "f32, f16, bf16, f64 or f8e8m0")?;
    args.expect_dtype(2, to)?;
    check_linear_scale(args, 1, axis, block)?;
    check_linear_scale(args, 2, axis, block)?;
    Ok(tensor(Some(to), args.shape(0).map(<[Dim]>::to_vec)))
}

pub(super) fn dequantize_linear(args: &Args<'_>, axis: i64, block: u64, to: Option<DType>) -> Result<Type> {
    let quantised = |d: DType| d.is_quantised() || matches!(d, DType::I16 | DType::U16 | DType::I32);
    args.expect(0, quantised, "an 8-bit or 4-bit type, i16, u16 or i32")?;
    let dtype = if to.is_some() {
        args.expect(1, |d| d.is_arithmetic_float() || d == DType::F8E8M0, "f32, f16, bf16, f64 or f8e8m0")?;
        to
    } else {
        args.expect(1, DType::is_arithmetic_float, "f32, f16, bf16 or f64")?
    };
    args.same_dtype(&[0, 2])?;
    check_linear_scale(args, 1, axis, block)?;
    check_linear_scale(args, 2, axis, block)?;
    Ok(tensor(dtype, args.shape(0).map(<[Dim]>::to_vec)))
}

pub(super) fn dynamic_quantize_linear(args: &Args<'_>) -> Result<Vec<Type>> {
    args.expect_dtype(0, DType::F32)?;
    let x = args.shape(0).map(<[Dim]>::to_vec);
    let scalar = |d| Type::tensor(d, Vec::new());
    Ok(vec![tensor(Some(DType::U8), x), scalar(DType::F32), scalar(DType::U8)])
}

/// The shape of the scales of rows of `n` elements, and its strides where the layout is not row-major.
fn scales(rows: &[Dim], scheme: &Scheme) -> (Vec<Dim>, Option<Vec<Dim>>) {
    let (leading, n) = match rows.split_last() {
        Some((n, leading)) if matches!(scheme.granularity, Granularity::Token | Granularity::Group(_)) => (leading, n),
        _ => return (Vec::new(), None),
    };
    let per_row = match scheme.granularity {
        Granularity::Group(g) => n.floor_div(&Dim::from(i64::from(g.max(1)))),
        _ => Dim::from(1),
    };
    let shape = scheme.layout.shape(leading, &per_row);
    let strides = scheme.layout.strides(&shape);
    (shape, strides)
}

/// The types of a quantiser's results: of rows, and of rows as wide as codes and values are handed out.
fn quantised(rows: Option<&[Dim]>, wider: Option<&[Dim]>, scheme: &Arc<Scheme>) -> Vec<Type> {
    // What codes and scales are does not depend on what is made of them.
    let own = if scheme.dequantised.is_some() { Arc::new(scheme.of_codes()) } else { Arc::clone(scheme) };
    let typed = |dtype, shape: Option<Vec<Dim>>, strides| Type {
        dtype: Some(dtype),
        shape: shape.map(Shape),
        strides,
        scheme: Some(own.clone()),
        ..Type::default()
    };
    let of_port = |port| match port {
        OutPort::Q(..) => {
            let mut shape = wider.map(<[Dim]>::to_vec);
            if let (Packing::Nibbles, Some(last)) = (scheme.packing, shape.as_mut().and_then(|s| s.last_mut())) {
                *last = last.floor_div(&Dim::from(2));
            }
            typed(scheme.q_dtype(), shape, None)
        }
        OutPort::Scale(..) => {
            let (shape, strides) = rows.map(|r| scales(r, scheme)).unzip();
            typed(scheme.scale_dtype().unwrap_or(DType::F32), shape, strides.flatten())
        }
        OutPort::Dequantised(..) => tensor(scheme.dequantised.map(|d| d.dtype), wider.map(<[Dim]>::to_vec)),
        OutPort::ZeroPoint(..) | OutPort::Sum | OutPort::Normed(_) => Type::tensor(DType::U8, Vec::new()),
    };
    scheme.out_ports(0, 0).map(of_port).collect()
}

pub(super) fn quantize(args: &Args<'_>, scheme: &Arc<Scheme>) -> Result<Vec<Type>> {
    args.expect(0, |d| matches!(d, DType::F32 | DType::F16 | DType::BF16), "f32, f16 or bf16")?;
    let given = scheme.given.map(|_| 1);
    let zero_point = (scheme.zero_point == ZeroPoint::Given).then_some(1 + usize::from(given.is_some()));
    if let (Some(port), Some(dtype)) = (given, scheme.given) {
        args.expect_dtype(port, dtype)?;
    }
    if let Some(port) = zero_point {
        args.expect_dtype(port, scheme.element)?;
    }
    let rows = args.shape(0);
    if let Some(rows) = rows {
        if rows.is_empty() && scheme.granularity != Granularity::Tensor {
            return Err(args.shape_error(0, "expected rank 1 or more, found a scalar"));
        }
        if let (Granularity::Group(g), Some(n)) = (scheme.granularity, rows.last().and_then(Dim::as_const))
            && n % i64::from(g.max(1)) != 0
        {
            return Err(args.shape_error(0, format!("expected rows that groups of {g} divide, found {}", show(rows))));
        }
        if scheme.packing == Packing::Nibbles && rows.last().and_then(Dim::as_const).is_some_and(|n| n % 2 != 0) {
            return Err(args.shape_error(0, format!("expected rows of an even size, found {}", show(rows))));
        }
        for port in [given, zero_point].into_iter().flatten() {
            given_shape(args, port, scheme, rows.last())?;
        }
    }
    Ok(quantised(rows, rows, scheme))
}

/// A given operand has one element, or one a channel.
fn given_shape(args: &Args<'_>, port: usize, scheme: &Scheme, width: Option<&Dim>) -> Result<()> {
    match (scheme.granularity, width) {
        (Granularity::Channel, Some(width)) => args.unify_shape(port, std::slice::from_ref(width)).map(drop),
        (Granularity::Channel, None) => Ok(()),
        _ => args.expect_one(port),
    }
}

/// The port of a sibling's rows.
fn rows_port(f: &FusedNorm, sibling: usize) -> usize {
    let own = f.in_ports().iter().position(|p| *p == InPort::Rows(sibling));
    own.unwrap_or(0)
}

fn check_fused_operand(args: &Args<'_>, f: &FusedNorm, port: usize, what: InPort) -> Result<()> {
    match what {
        InPort::X | InPort::Rows(_) => {
            let reads = |k: usize| matches!(what, InPort::X) || what == InPort::Rows(k);
            for (_, s) in f.siblings.iter().enumerate().filter(|(k, _)| reads(*k)) {
                // Siblings read the sum; its first operand may be narrower.
                args.expect_dtype(
                    port,
                    f.rows_dtype(what).filter(|_| f.prologue != Prologue::None).unwrap_or(s.input),
                )?;
                let Some(shape) = args.shape(port) else { continue };
                let Some(last) = shape.last() else {
                    return Err(args.shape_error(port, "expected rows, found a scalar"));
                };
                let width = Dim::from(i64::try_from(s.width).unwrap_or(i64::MAX));
                // An expression that is not the width is no proof; only an unknown may yet turn out to be.
                if *last != width && !last.has_unknown() {
                    let found = format!("expected rows of {width}, found {}", show(shape));
                    return Err(args.shape_error(port, found));
                }
            }
            Ok(())
        }
        InPort::Residual | InPort::Up => {
            if let Some(dtype) = f.rows_dtype(what) {
                args.expect_dtype(port, dtype)?;
            }
            args.shape(0).map_or(Ok(()), |x| args.unify_shape(port, x).map(drop))
        }
        InPort::Weight(k) => {
            let Some(s) = f.siblings.get(k) else { return Ok(()) };
            if let Some(w) = s.weight {
                args.expect_dtype(port, w.dtype)?;
            }
            args.unify_shape(port, &[Dim::from(i64::try_from(s.width).unwrap_or(i64::MAX))]).map(drop)
        }
        InPort::Scale(k, e) | InPort::ZeroPoint(k, e) => {
            let Some(s) = f.siblings.get(k) else { return Ok(()) };
            let Some(scheme) = s.epilogues.get(e) else { return Ok(()) };
            let is_scale = matches!(what, InPort::Scale(..));
            args.expect_dtype(port, if is_scale { scheme.given.unwrap_or(DType::F32) } else { scheme.element })?;
            given_shape(args, port, scheme, Some(&Dim::from(i64::try_from(s.width).unwrap_or(i64::MAX))))
        }
    }
}

pub(super) fn fused_norm(args: &Args<'_>, f: &FusedNorm) -> Result<Vec<Type>> {
    for (port, what) in f.in_ports().into_iter().enumerate() {
        check_fused_operand(args, f, port, what)?;
    }
    let mut types = Vec::new();
    if f.out_ports().first() == Some(&OutPort::Sum) {
        let dtype = if let Prologue::ResidualAdd(add) = f.prologue { Some(add.emitted()) } else { args.dtype(0) };
        types.push(tensor(dtype, args.shape(0).map(<[Dim]>::to_vec)));
    }
    for (k, s) in f.siblings.iter().enumerate() {
        // The width is known from the descriptor, even where the operand's last size is not.
        let rows = args.shape(rows_port(f, k)).map(|shape| {
            let mut rows = shape.to_vec();
            if let Some(last) = rows.last_mut() {
                *last = Dim::from(i64::try_from(s.width).unwrap_or(i64::MAX));
            }
            rows
        });
        let handed_out = |rows: &[Dim], n: u64| {
            let n = Dim::from(i64::try_from(n).unwrap_or(i64::MAX));
            [&rows[..rows.len().saturating_sub(1)], &[n]].concat()
        };
        if s.emit_normed {
            types.push(tensor(Some(s.output), rows.as_deref().map(|rows| handed_out(rows, s.handed_out()))));
        }
        let wider = rows.as_deref().map(|rows| handed_out(rows, s.handed_out()));
        for scheme in &s.epilogues {
            types.extend(quantised(rows.as_deref(), wider.as_deref(), &Arc::new(scheme.clone())));
        }
    }
    Ok(types)
}
