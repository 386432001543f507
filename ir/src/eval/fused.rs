//! `FusedNorm` from its descriptor alone: the steps of the semantics in [`crate::fused`], one after the other.

use std::collections::BTreeMap;

use super::{
    cast::cast,
    numbers::{floats, from_floats},
    quantise::quantize,
    shape::shape_error,
};
use crate::{
    Error, ErrorKind, FusedNorm, Result, Tensor,
    fused::{InPort, OutPort, Prologue, Root, Sibling, Source},
    num,
    scheme::ZeroPoint,
};

/// The row over its root mean square, or as it is.
fn divided(s: &Sibling, h: Vec<f32>) -> Vec<f32> {
    let c = |v| num::round_to(s.compute, v);
    let squares: Vec<f32> = h.iter().map(|&v| num::round_to(s.squares(), v * v)).collect();
    let mean = c(num::row_sum(&squares) / h.len() as f32);
    let v = c(mean + c(s.eps.get()));
    match s.root {
        Some(Root::ReciprocalSqrt) => {
            let r = c(1.0 / c(v.sqrt()));
            h.iter().map(|&h| c(h * r)).collect()
        }
        Some(Root::Rsqrt) => {
            let r = c(num::rsqrt(v));
            h.iter().map(|&h| c(h * r)).collect()
        }
        Some(Root::DivideBySqrt) => {
            let root = c(v.sqrt());
            h.iter().map(|&h| c(h / root)).collect()
        }
        None => h,
    }
}

/// The normed value `y` of one row.
fn norm_row(s: &Sibling, h: &[f32], weight: Option<&[f32]>) -> Vec<f32> {
    let c = |v| num::round_to(s.compute, v);
    let normalised = divided(s, h.iter().map(|&v| c(v)).collect());
    let p = |v| num::round_to(s.product(), v);
    let plus_one = s.weight.is_some_and(|w| w.plus_one);
    normalised
        .into_iter()
        .enumerate()
        .map(|(i, v)| {
            let v = num::round_to(s.normed, v);
            let scaled = match weight {
                Some(w) => {
                    let w = p(w[i]);
                    p(p(v) * if plus_one { p(1.0 + w) } else { w })
                }
                None => v,
            };
            num::round_to(s.output, scaled)
        })
        .collect()
}

struct Ports<'a> {
    by_port: BTreeMap<InPort, &'a Tensor>,
}

impl<'a> Ports<'a> {
    fn new(op: &FusedNorm, inputs: &[Option<&'a Tensor>]) -> Result<Self> {
        let ports = op.in_ports();
        if inputs.len() != ports.len() {
            return Err(Error::new(
                ErrorKind::Structure,
                format!("the descriptor has {} operands, found {}", ports.len(), inputs.len()),
            ));
        }
        let mut by_port = BTreeMap::new();
        for (port, t) in ports.into_iter().zip(inputs) {
            let t =
                t.ok_or_else(|| Error::new(ErrorKind::Structure, "the operand is missing").at_port(port.to_string()))?;
            by_port.insert(port, t);
        }
        Ok(Self { by_port })
    }

    fn get(&self, port: InPort) -> Result<&'a Tensor> {
        self.by_port
            .get(&port)
            .copied()
            .ok_or_else(|| Error::new(ErrorKind::Structure, "the operand is missing").at_port(port.to_string()))
    }

    fn typed(&self, port: InPort, dtype: crate::DType) -> Result<&'a Tensor> {
        let t = self.get(port)?;
        if t.dtype() == dtype {
            Ok(t)
        } else {
            Err(Error::new(ErrorKind::DType, format!("expected {dtype}, found {}", t.dtype()))
                .at_port(port.to_string()))
        }
    }
}

fn same_shape(x: &Tensor, other: &Tensor, port: InPort) -> Result<()> {
    if x.shape() == other.shape() {
        return Ok(());
    }
    let message = format!("expected shape {:?} as x, found {:?}", x.shape(), other.shape());
    Err(shape_error(message).at_port(port.to_string()))
}

/// The rows that siblings share: the operand, or what the prologue makes.
fn shared_rows(op: &FusedNorm, ports: &Ports) -> Result<Option<Tensor>> {
    match (op.source, op.prologue) {
        (Source::Separate, _) => Ok(None),
        (Source::Shared, Prologue::None) => ports.get(InPort::X).cloned().map(Some),
        (Source::Shared, Prologue::ResidualAdd(add)) => {
            let (a, b) = (ports.typed(InPort::X, add.dtype)?, ports.typed(InPort::Residual, add.residual())?);
            same_shape(a, b, InPort::Residual)?;
            let sum: Vec<f32> = floats(a)?.iter().zip(floats(b)?).map(|(a, b)| a + b).collect();
            from_floats(add.sum(), a.shape(), &sum).map(Some)
        }
        (Source::Shared, Prologue::Gated(gated)) => {
            let (gate, up) = (ports.typed(InPort::X, gated.dtype)?, ports.typed(InPort::Up, gated.up())?);
            same_shape(gate, up, InPort::Up)?;
            let rows: Vec<f32> = floats(gate)?.iter().zip(floats(up)?).map(|(g, u)| gated.apply(*g, u)).collect();
            from_floats(gated.product(), gate.shape(), &rows).map(Some)
        }
    }
}

/// The normed value of a sibling's rows.
fn norm(s: &Sibling, k: usize, rows: &Tensor, port: InPort, ports: &Ports) -> Result<Tensor> {
    let at = |e: Error| e.at_port(port.to_string());
    if rows.dtype() != s.input {
        return Err(at(Error::new(ErrorKind::DType, format!("expected {}, found {}", s.input, rows.dtype()))));
    }
    let n = usize::try_from(s.width)
        .ok()
        .filter(|n| rows.shape().last() == Some(n))
        .ok_or_else(|| at(shape_error(format!("expected rows of {}, found shape {:?}", s.width, rows.shape()))))?;
    let weight = match s.weight {
        Some(w) => {
            let t = ports.typed(InPort::Weight(k), w.dtype)?;
            if t.shape() != [n] {
                return Err(shape_error(format!("expected shape [{n}], found {:?}", t.shape()))
                    .at_port(InPort::Weight(k).to_string()));
            }
            Some(floats(t)?)
        }
        None => None,
    };
    let y: Vec<f32> = floats(rows)?.chunks(n).flat_map(|row| norm_row(s, row, weight.as_deref())).collect();
    from_floats(s.output, rows.shape(), &y)
}

/// A result of the sibling's rows with zeros behind them; `width` says how many elements a row of so many values is.
fn padded(t: Tensor, s: &Sibling, width: impl Fn(u64) -> u64) -> Result<Tensor> {
    let Some(padded) = s.padded else { return Ok(t) };
    let size = |n: u64| usize::try_from(n).map_err(|_| shape_error(format!("rows of {n} are too large")));
    let (from, to) = (size(width(s.width))?, size(width(padded))?);
    let bytes = |n: usize| n * t.dtype().bits() / 8;
    let mut out = Vec::new();
    for row in t.bytes().chunks(bytes(from).max(1)) {
        out.extend_from_slice(row);
        out.resize(out.len() + bytes(to) - bytes(from), 0);
    }
    let mut shape = t.shape().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = to;
    }
    Tensor::from_bytes(t.dtype(), shape, out)
}

/// Runs a fused norm; results in the order of its output ports.
///
/// # Errors
/// `Scheme` if the descriptor itself is unsound, else an error that names the operand port.
pub fn fused_norm(op: &FusedNorm, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>> {
    op.check().map_err(|m| Error::new(ErrorKind::Scheme, m))?;
    let ports = Ports::new(op, inputs)?;
    let shared = shared_rows(op, &ports)?;
    let mut results: BTreeMap<OutPort, Tensor> = BTreeMap::new();
    for (k, sibling) in op.siblings.iter().enumerate() {
        let (rows, port) = match &shared {
            Some(rows) => (rows, InPort::X),
            None => (ports.get(InPort::Rows(k))?, InPort::Rows(k)),
        };
        let y = norm(sibling, k, rows, port, &ports)?;
        for (e, scheme) in sibling.epilogues.iter().enumerate() {
            let given = scheme.given.map(|d| ports.typed(InPort::Scale(k, e), d)).transpose()?;
            let zero =
                (scheme.zero_point == ZeroPoint::Given).then(|| ports.get(InPort::ZeroPoint(k, e))).transpose()?;
            for (port, t) in scheme.out_ports(k, e).zip(quantize(scheme, &y, given, zero)?) {
                let t = match port {
                    OutPort::Q(..) => padded(t, sibling, |n| scheme.q_width(n))?,
                    OutPort::Dequantised(..) => padded(t, sibling, |n| n)?,
                    _ => t,
                };
                results.insert(port, t);
            }
        }
        results.insert(OutPort::Normed(k), padded(y, sibling, |n| n)?);
    }
    if let (Some(sum), Prologue::ResidualAdd(add)) = (shared, op.prologue) {
        results.insert(OutPort::Sum, cast(&sum, add.emitted(), true)?);
    }
    op.out_ports()
        .iter()
        .map(|p| results.remove(p).ok_or_else(|| Error::new(ErrorKind::Structure, "no value").at_port(p.to_string())))
        .collect()
}
