//! What a fused op reads: what each operand is to it, and data that is hostile to that.

use super::hostile::{self, Rng, Row, WeightKind};
use crate::{
    DType, Descriptor, Dim, Error, ErrorKind, Granularity, Op, Result, Shape, Tensor, Type,
    eval::{numbers::from_floats, shape::product},
    fused::InPort,
};

/// What an operand is to the op, which decides what data is hostile to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Rows,
    /// Rows that a quantiser reads as they are, with no norm before it, to make codes of a type of them.
    Values(DType),
    Residual,
    Weight {
        plus_one: bool,
    },
    Scale,
    ZeroPoint,
}

#[derive(Debug, Clone)]
pub(super) struct Operand {
    pub(super) name: String,
    role: Role,
    dtype: DType,
    pub(super) shape: Vec<Dim>,
}

impl Operand {
    /// Element type and shape, as text.
    pub(super) fn ty(&self) -> String {
        format!("{}{}", self.dtype, Shape(self.shape.clone()))
    }

    /// The sizes that count rows.
    pub(super) fn leading(&mut self) -> &mut [Dim] {
        match (self.role, self.shape.split_last_mut()) {
            (Role::Rows | Role::Values(_) | Role::Residual, Some((_, leading))) => leading,
            _ => &mut [],
        }
    }
}

/// Width of a quantiser's rows where the graph does not say it: what every usual group divides.
const WIDTH: u64 = 256;

/// The operands of a fused op: dtypes and widths as the descriptor says, leading sizes as the graph says. A quantiser's
/// rows are all as the graph says.
pub(super) fn operands(op: &Op, types: &[Type]) -> Result<Vec<Operand>> {
    let descriptor = Descriptor::of(op)
        .ok_or_else(|| Error::new(ErrorKind::Unsupported, format!("`{}` takes no body", op.name())))?;
    descriptor.check().map_err(|m| Error::new(ErrorKind::Scheme, m))?;
    let ports = descriptor.in_ports();
    if types.len() != ports.len() {
        let message = format!("the descriptor has {} operands, found {}", ports.len(), types.len());
        return Err(Error::new(ErrorKind::Structure, message));
    }
    ports
        .iter()
        .enumerate()
        .map(|(i, port)| {
            // The two sides of an add or a product have one shape, so an unknown size of one is that of the other.
            let second = matches!(port, InPort::Residual | InPort::Up);
            let shaped = if second && types[0].shape.is_some() { &types[0] } else { &types[i] };
            let ty = &types[i];
            let (role, dtype, width) = described(&descriptor, *port, types)?;
            let at = |e: Error| e.at_port(port.to_string());
            if ty.dtype.is_some_and(|d| d != dtype) {
                let found = ty.dtype.map_or_else(String::new, |d| d.to_string());
                return Err(at(Error::new(ErrorKind::DType, format!("expected {dtype}, found {found}"))));
            }
            let declared = shaped.shape.as_ref().map(|s| s.0.clone());
            let shape = match (role, width) {
                (Role::Rows | Role::Values(_) | Role::Residual, Some(n)) => {
                    let mut dims = declared.unwrap_or_else(|| vec![Dim::sym("rows"), n.clone()]);
                    let last = dims.last_mut().ok_or_else(|| {
                        at(Error::new(ErrorKind::Shape, format!("expected rows of {n}, found a scalar")))
                    })?;
                    if last.as_const().is_some() && *last != n {
                        let message = format!("expected rows of {n}, found {last}");
                        return Err(at(Error::new(ErrorKind::Shape, message)));
                    }
                    *last = n;
                    dims
                }
                (_, Some(n)) => vec![n],
                _ => declared.unwrap_or_default(),
            };
            Ok(Operand { name: port.to_string(), role, dtype, shape })
        })
        .collect()
}

/// What an operand is, its dtype, and its last size if that is not for the graph to say.
fn described(descriptor: &Descriptor, port: InPort, types: &[Type]) -> Result<(Role, DType, Option<Dim>)> {
    let width = |k: usize| match (descriptor.width(k), types.first().map(|t| &t.shape)) {
        (Some(n), _) => Some(Dim::from(n as i64)),
        (None, Some(Some(rows))) => rows.last().cloned(),
        (None, _) => Some(Dim::from(WIDTH as i64)),
    };
    let rows = |role, k| {
        let own = types.first().and_then(|t| t.dtype).unwrap_or(DType::F32);
        let dtype = descriptor.rows_dtype(port).unwrap_or(own);
        if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
            let message = format!("expected f32, f16 or bf16, found {dtype}");
            return Err(Error::new(ErrorKind::DType, message).at_port(port.to_string()));
        }
        Ok((role, dtype, width(k)))
    };
    match port {
        InPort::X => match descriptor {
            Descriptor::Norm(_) => rows(Role::Rows, 0),
            Descriptor::Quantize(scheme) => rows(Role::Values(scheme.element), 0),
        },
        InPort::Residual | InPort::Up => rows(Role::Residual, 0),
        InPort::Rows(k) => rows(Role::Rows, k),
        InPort::Weight(k) => {
            let weight = if let Descriptor::Norm(f) = descriptor { f.siblings[k].weight } else { None };
            let (dtype, plus_one) = weight.map_or((DType::F32, false), |w| (w.dtype, w.plus_one));
            Ok((Role::Weight { plus_one }, dtype, width(k)))
        }
        InPort::Scale(k, e) | InPort::ZeroPoint(k, e) => {
            let Some(scheme) = descriptor.scheme(k, e) else {
                return Err(Error::new(ErrorKind::Structure, "no such quantiser").at_port(port.to_string()));
            };
            let width = (scheme.granularity == Granularity::Channel).then(|| width(k)).flatten();
            Ok(match port {
                InPort::Scale(..) => (Role::Scale, scheme.given.unwrap_or(DType::F32), width),
                _ => (Role::ZeroPoint, scheme.element, width),
            })
        }
    }
}

/// One data set: rows of the given kinds in turn, a weight of one kind.
pub(super) fn data(
    operands: &[Operand],
    shapes: &[Vec<usize>],
    kinds: &[Row],
    weight: WeightKind,
    rng: &mut Rng,
) -> Result<Vec<Tensor>> {
    let narrow = operands.iter().map(|o| o.dtype).find(|&d| d != DType::F32).unwrap_or(DType::F32);
    let unit = match operands.first().map(|o| o.role) {
        Some(Role::Values(_)) => hostile::coarse_unit(narrow, rng),
        _ => hostile::unit(narrow, rng),
    };
    // Every other time the second operand of an add is of another kind than the first.
    let mixed = rng.below(2) == 1;
    operands
        .iter()
        .zip(shapes)
        .map(|(o, shape)| {
            let made = match o.role {
                // A given scale makes ties of these.
                Role::Values(to) if weight == WeightKind::Ties => hostile::ties_of(o.dtype, shape, (to, unit), rng),
                Role::Rows | Role::Values(_) => hostile::rows(o.dtype, shape, kinds, rng),
                Role::Residual => {
                    let mut kinds = kinds.to_vec();
                    let shift = if mixed { 4 % kinds.len().max(1) } else { 0 };
                    kinds.rotate_left(shift);
                    for k in &mut kinds {
                        // What these rows are made for, a sum of two of them is not.
                        *k = if matches!(k, Row::PowerOfTwo | Row::RootTies) { Row::SignedZeros } else { *k };
                    }
                    hostile::rows(o.dtype, shape, &kinds, rng)
                }
                Role::Weight { plus_one } => hostile::weight(o.dtype, shape, weight, (unit, plus_one), rng),
                Role::Scale => {
                    let all = [unit, 1.0 / unit, 1.0, 0.017];
                    let values = if weight == WeightKind::Ties { &all[..2] } else { &all[..] };
                    let v: Vec<f32> = (0..product(shape)).map(|_| values[rng.below(values.len())]).collect();
                    from_floats(o.dtype, shape, &v).ok()
                }
                Role::ZeroPoint => {
                    let values = [0, 1, 128, 255, 7];
                    let v: Vec<u8> = (0..product(shape)).map(|_| values[rng.below(values.len())]).collect();
                    Tensor::from_bytes(o.dtype, shape.clone(), v).ok()
                }
            };
            made.ok_or_else(|| {
                Error::new(ErrorKind::Unsupported, format!("no data for {}{shape:?}", o.dtype)).at_port(&o.name)
            })
        })
        .collect()
}
