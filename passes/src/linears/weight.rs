//! A layer's quantised weight: its parameters, and the ops that make numbers of them.

use normfuse_ir::{
    DType, Error, ErrorKind, Op, Result, Shape, Tensor, Type, ValueId,
    linear::{ScaleKind, WeightPer, WeightScheme},
    op::BinaryOp,
};

use super::{Source, find::Linear, host, write::Writer};

/// # Errors
/// Groups that do not divide the rows.
pub fn check_columns(scheme: &WeightScheme, columns: usize) -> Result<()> {
    let group = match scheme.per {
        WeightPer::Group(n) => n,
        WeightPer::Tensor | WeightPer::Channel | WeightPer::Block(..) => 1,
    };
    match [group, scheme.cut.unwrap_or(1)].into_iter().find(|n| *n == 0 || !columns.is_multiple_of(*n)) {
        Some(n) => Err(rows_of(n, columns)),
        None => Ok(()),
    }
}

/// Rows that something does not divide.
pub fn rows_of(n: usize, columns: usize) -> Error {
    Error::new(ErrorKind::Shape, format!("expected rows of a multiple of {n} values, found {columns}"))
}

/// The weight in f32, `[N, K]`; `names` gets the names of the parameters that it is made of.
pub fn dequantised(
    w: &mut Writer<'_>,
    linear: &Linear,
    scheme: &WeightScheme,
    source: Source<'_>,
    names: &mut Vec<String>,
) -> Result<ValueId> {
    let (n, k) = (linear.rows, linear.columns);
    let p = Parameters::of(w, linear, scheme, source, names)?;
    let codes = match scheme.cut {
        Some(_) => w.reshape("weight.codes", p.codes, &[n as i64, k as i64])?,
        None => p.codes,
    };
    let scale = w.cast("weight.scale", p.scale, p.scale_dtype, DType::F32)?;
    let scale = match p.global {
        Some(global) => {
            let global = w.reshape("weight.global", global, &[])?;
            w.node("weight.scales", Op::Binary(BinaryOp::Div), &[scale, global])?
        }
        None => scale,
    };
    let (scale, axis, block) = match scheme.per {
        WeightPer::Tensor => (w.reshape("weight.one", scale, &[])?, 0, 0),
        WeightPer::Channel if p.scale_rank == 1 => (scale, 0, 0),
        WeightPer::Channel => (w.reshape("weight.rows", scale, &[n as i64])?, 0, 0),
        WeightPer::Group(g) => (scale, 1, g as u64),
        WeightPer::Block(r, c) => {
            let rows = w.rows(n, r);
            (w.node("weight.rows", Op::Gather { axis: 0 }, &[scale, rows])?, 1, c as u64)
        }
    };
    let op = Op::DequantizeLinear { axis, block_size: block, to: None, dialect: normfuse_ir::op::Dialect::Onnx };
    w.node("weight", op, &[codes, scale])
}

/// A parameter that is one f32, as a scalar. It has no data outside of a checkpoint: nothing in the graph says it.
pub fn scalar(
    w: &mut Writer<'_>,
    linear: &Linear,
    name: &str,
    source: Source<'_>,
    names: &mut Vec<String>,
) -> Result<ValueId> {
    let name = format!("{}.{name}", linear.module);
    let stored = source.stored.and_then(|s| s(&name));
    let dtype = stored.as_ref().and_then(|s| s.0).filter(|d| is_scale(*d)).unwrap_or(DType::F32);
    let shape = among(&[vec![1], vec![]], stored.map(|s| s.1));
    let value = w.input(&name, Type::tensor(dtype, Shape::from_concrete(&shape)))?;
    names.push(name);
    let value = w.cast("given", value, dtype, DType::F32)?;
    if shape.is_empty() { Ok(value) } else { w.reshape("given.scalar", value, &[]) }
}

struct Parameters {
    codes: ValueId,
    scale: ValueId,
    scale_dtype: DType,
    scale_rank: usize,
    global: Option<ValueId>,
}

impl Parameters {
    fn of(
        w: &mut Writer<'_>,
        linear: &Linear,
        scheme: &WeightScheme,
        source: Source<'_>,
        names: &mut Vec<String>,
    ) -> Result<Self> {
        let full = |name: &str| format!("{}.{name}", linear.module);
        let (codes, scale) = (full(&scheme.codes), full(&scheme.scale));
        let global = match &scheme.kind {
            ScaleKind::TwoLevel { global } => Some(full(global)),
            ScaleKind::Float | ScaleKind::Power => None,
        };
        names.extend([codes.clone(), scale.clone()]);
        names.extend(global.clone());
        if source.stored.is_none()
            && let Some(tensor) = w.graph.value(linear.weight).stored().cloned()
        {
            let made = host::quantise(&tensor, linear.turned, scheme)?;
            let (scale_dtype, scale_rank) = (made.scale.dtype(), made.scale.shape().len());
            let mut put = |name: &str, tensor: Tensor| w.constant(name, tensor);
            return Ok(Self {
                codes: put(&codes, made.codes)?,
                scale: put(&scale, made.scale)?,
                scale_dtype,
                scale_rank,
                global: made.global.zip(global).map(|(tensor, name)| put(&name, tensor)).transpose()?,
            });
        }
        let stored = |name: &str| source.stored.and_then(|s| s(name));
        let found = stored(&scale);
        let scale_dtype = match scheme.kind {
            ScaleKind::Float => found.as_ref().and_then(|f| f.0).filter(|d| is_scale(*d)).unwrap_or(DType::F32),
            ScaleKind::Power => DType::F8E8M0,
            ScaleKind::TwoLevel { .. } => DType::F8E4M3FN,
        };
        let shape = among(&scale_shapes(scheme.per, linear.rows, linear.columns), found.map(|f| f.1));
        let scale_rank = shape.len();
        let ty = |dtype: DType, shape: &[usize]| Type::tensor(dtype, Shape::from_concrete(shape));
        let cut = code_shape(scheme, linear.rows, linear.columns);
        Ok(Self {
            codes: w.input(&codes, ty(scheme.element, &cut))?,
            scale: w.input(&scale, ty(scale_dtype, &shape))?,
            scale_dtype,
            scale_rank,
            global: global
                .map(|name| {
                    let shape = among(&[vec![1], vec![]], stored(&name).map(|f| f.1));
                    w.input(&name, ty(DType::F32, &shape))
                })
                .transpose()?,
        })
    }
}

fn is_scale(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16 | DType::F8E8M0)
}

/// The shape that was found, if it is one of those that are known; else the usual one, and binding says what differs.
fn among(known: &[Vec<usize>], found: Option<Vec<usize>>) -> Vec<usize> {
    found.filter(|f| known.contains(f)).unwrap_or_else(|| known[0].clone())
}

/// Shape of the codes.
pub fn code_shape(scheme: &WeightScheme, n: usize, k: usize) -> Vec<usize> {
    match scheme.cut {
        Some(cut) => vec![n, k / cut, cut],
        None => vec![n, k],
    }
}

/// Shapes in which scales are kept, the usual one first.
pub fn scale_shapes(per: WeightPer, n: usize, k: usize) -> Vec<Vec<usize>> {
    match per {
        WeightPer::Tensor => vec![vec![1], vec![], vec![1, 1]],
        WeightPer::Channel => vec![vec![n, 1], vec![n]],
        WeightPer::Group(g) => vec![vec![n, k / g]],
        WeightPer::Block(r, c) => vec![vec![n.div_ceil(r), k.div_ceil(c)]],
    }
}
