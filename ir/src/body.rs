//! The check that keeps a fused op honest: its body (the source subgraph) and its descriptor are run on hostile data
//! and must give the same bits.

pub mod hostile;

use std::collections::{BTreeMap, BTreeSet};

use hostile::{Rng, Row, WeightKind};

use crate::{
    DType, Dim, Error, ErrorKind, Granularity, Graph, Node, NodeId, Op, Result, Tensor, Type,
    eval::{self, numbers::Numbers, shape::product},
    fused::InPort,
    text,
};

/// The first difference between two tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// Their dtypes or shapes differ.
    Type {
        /// Of the left one.
        left: String,
        /// Of the right one.
        right: String,
    },
    /// An element differs.
    Element {
        /// Its index, an entry an axis.
        index: Vec<usize>,
        /// Bits of the left one (one byte per two digits; a nibble is one digit).
        left: String,
        /// Bits of the right one.
        right: String,
    },
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Type { left, right } => write!(f, "{left} against {right}"),
            Self::Element { index, left, right } => write!(f, "at {index:?}: {left} against {right}"),
        }
    }
}

fn is_nan(x: &Numbers, i: usize) -> bool {
    match x {
        Numbers::F32(v) => v[i].is_nan(),
        Numbers::F64(v) => v[i].is_nan(),
        Numbers::Int(_) => false,
    }
}

fn element_bits(t: &Tensor, i: usize) -> String {
    match t.dtype().bits() {
        4 => format!("0x{:x}", crate::num::nibble(t.bytes(), i)),
        bits => {
            let n = bits / 8;
            let value = t.bytes()[i * n..(i + 1) * n].iter().rev().fold(0u64, |v, &b| v << 8 | u64::from(b));
            format!("0x{value:0width$x}", width = 2 * n)
        }
    }
}

/// The first element whose bits differ. NaN equals NaN whatever its payload; zeros of different signs differ.
pub fn bits_equal(a: &Tensor, b: &Tensor) -> Option<Mismatch> {
    if a.dtype() != b.dtype() || a.shape() != b.shape() {
        let name = |t: &Tensor| format!("{}{:?}", t.dtype(), t.shape());
        return Some(Mismatch::Type { left: name(a), right: name(b) });
    }
    if a.bytes() == b.bytes() {
        return None;
    }
    let (x, y) = (Numbers::of(a), Numbers::of(b));
    let strides = eval::shape::strides(a.shape());
    (0..a.len()).find_map(|i| {
        let (left, right) = (element_bits(a, i), element_bits(b, i));
        if left == right || (is_nan(&x, i) && is_nan(&y, i)) {
            return None;
        }
        let index = strides.iter().zip(a.shape()).map(|(&s, &d)| i / s % d).collect();
        Some(Mismatch::Element { index, left, right })
    })
}

/// What an operand is to the op, which decides what data is hostile to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Rows,
    Residual,
    Weight { plus_one: bool },
    Scale,
    ZeroPoint,
}

struct Operand {
    name: String,
    role: Role,
    dtype: DType,
    shape: Vec<Dim>,
}

/// The operands of a fused op: dtypes and widths as the descriptor says, leading sizes as the graph says.
fn operands(node: &Node, types: &[Type]) -> Result<Vec<Operand>> {
    let Op::FusedNorm(f) = &node.op else {
        return Err(Error::new(ErrorKind::Unsupported, format!("`{}` takes no body", node.op.name())));
    };
    f.check().map_err(|m| Error::new(ErrorKind::Scheme, m))?;
    let ports = f.in_ports();
    if types.len() != ports.len() {
        let message = format!("the descriptor has {} operands, found {}", ports.len(), types.len());
        return Err(Error::new(ErrorKind::Structure, message));
    }
    let sibling = |k: usize| &f.siblings[k];
    ports
        .iter()
        .enumerate()
        .map(|(i, port)| {
            // The two sides of an add have one shape, so an unknown size of one is that of the other.
            let shaped = if *port == InPort::Residual && types[0].shape.is_some() { &types[0] } else { &types[i] };
            let ty = &types[i];
            let (role, dtype, width) = match *port {
                InPort::X | InPort::Residual => {
                    let role = if *port == InPort::X { Role::Rows } else { Role::Residual };
                    (role, f.rows_dtype(*port).unwrap_or(sibling(0).input), Some(sibling(0).width))
                }
                InPort::Rows(k) => (Role::Rows, sibling(k).input, Some(sibling(k).width)),
                InPort::Weight(k) => {
                    let (dtype, plus_one) = sibling(k).weight.map_or((DType::F32, false), |w| (w.dtype, w.plus_one));
                    (Role::Weight { plus_one }, dtype, Some(sibling(k).width))
                }
                InPort::Scale(k, e) | InPort::ZeroPoint(k, e) => {
                    let scheme = &sibling(k).epilogues[e];
                    let width = (scheme.granularity == Granularity::Channel).then_some(sibling(k).width);
                    match port {
                        InPort::Scale(..) => (Role::Scale, scheme.given.unwrap_or(DType::F32), width),
                        _ => (Role::ZeroPoint, scheme.element, width),
                    }
                }
            };
            let at = |e: Error| e.at_port(port.to_string());
            if ty.dtype.is_some_and(|d| d != dtype) {
                let found = ty.dtype.map_or_else(String::new, |d| d.to_string());
                return Err(at(Error::new(ErrorKind::DType, format!("expected {dtype}, found {found}"))));
            }
            let declared = shaped.shape.as_ref().map(|s| s.0.clone());
            let shape = match (role, width) {
                (Role::Rows | Role::Residual, Some(n)) => {
                    let mut dims = declared.unwrap_or_else(|| vec![Dim::sym("rows"), Dim::from(n as i64)]);
                    let last = dims.last_mut().ok_or_else(|| {
                        at(Error::new(ErrorKind::Shape, format!("expected rows of {n}, found a scalar")))
                    })?;
                    if last.as_const().is_some_and(|c| c != n as i64) {
                        let message = format!("expected rows of {n}, found {last}");
                        return Err(at(Error::new(ErrorKind::Shape, message)));
                    }
                    *last = Dim::from(n as i64);
                    dims
                }
                (_, Some(n)) => vec![Dim::from(n as i64)],
                _ => declared.unwrap_or_default(),
            };
            Ok(Operand { name: port.to_string(), role, dtype, shape })
        })
        .collect()
}

/// Sizes that symbols take in turn: one row, an even number, odd ones.
const SIZES: [i64; 4] = [1, 2, 3, 5];

/// Elements of ordinary data that are compared besides the special rows. Functions that differ in the last bit of an f32
/// only (a division, a product with the reciprocal) part in one value of 2^16 after a rounding to bf16.
const BULK: usize = 1 << 20;

/// Past this many elements no further kind of weight is tried: with sizes that are fixed in the model one data set can be
/// large, and its rows then hold every kind many times over.
const MAX_ELEMENTS: usize = 1 << 22;

/// The symbols in the operands' shapes.
fn symbols(operands: &[Operand]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for dim in operands.iter().flat_map(|o| &o.shape) {
        dim.visit_symbols(&mut |s| {
            names.insert(s.to_string());
        });
    }
    names
}

/// Concrete shapes of all operands under sizes for the symbols: the same symbol is the same size everywhere.
fn bind(operands: &[Operand], sizes: &BTreeMap<String, i64>) -> Result<Vec<Vec<usize>>> {
    operands
        .iter()
        .map(|o| {
            o.shape
                .iter()
                .map(|d| {
                    d.eval(&|s| sizes.get(s).copied())
                        .and_then(|v| usize::try_from(v).ok())
                        .filter(|&v| v <= 1 << 24)
                        .ok_or_else(|| {
                            Error::new(ErrorKind::Shape, format!("no size fits the dimension {d}")).at_port(&o.name)
                        })
                })
                .collect()
        })
        .collect()
}

fn row_count(shapes: &[Vec<usize>]) -> usize {
    shapes.first().map_or(1, |s| product(&s[..s.len().saturating_sub(1)])).max(1)
}

/// One data set: rows of the given kinds in turn, a weight of one kind.
fn data(
    operands: &[Operand],
    shapes: &[Vec<usize>],
    kinds: &[Row],
    weight: WeightKind,
    rng: &mut Rng,
) -> Result<Vec<Tensor>> {
    let narrow = operands.iter().map(|o| o.dtype).find(|&d| d != DType::F32).unwrap_or(DType::F32);
    let unit = hostile::unit(narrow, rng);
    // Every other time the second operand of an add is of another kind than the first.
    let mixed = rng.below(2) == 1;
    operands
        .iter()
        .zip(shapes)
        .map(|(o, shape)| {
            let made = match o.role {
                Role::Rows => hostile::rows(o.dtype, shape, kinds, rng),
                Role::Residual => {
                    let mut kinds = kinds.to_vec();
                    let shift = if mixed { 4 % kinds.len().max(1) } else { 0 };
                    kinds.rotate_left(shift);
                    for k in &mut kinds {
                        // Two rows of equal magnitudes would not add up to one.
                        *k = if *k == Row::PowerOfTwo { Row::SignedZeros } else { *k };
                    }
                    hostile::rows(o.dtype, shape, &kinds, rng)
                }
                Role::Weight { plus_one } => hostile::weight(o.dtype, shape, weight, (unit, plus_one), rng),
                Role::Scale => {
                    let values = [unit, 1.0 / unit, 1.0, 0.017];
                    let v = vec![values[rng.below(values.len())]; product(shape)];
                    eval::numbers::from_floats(o.dtype, shape, &v).ok()
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

/// Runs a fused node's body and its descriptor on hostile data and compares the bits of every result. Symbolic sizes
/// are bound to small numbers, the same name to the same one.
///
/// # Errors
/// `Value` with the first difference, both bit patterns and the output's name; `Structure` if there is no body or its
/// ports are not the op's; whatever keeps one of the two from running.
pub fn check(node: &Node, types: &[Type]) -> Result<()> {
    check_body(node, types).map_err(|e| e.at_node(&node.name))
}

/// [`check`] of a node in a graph, with the types that its operands have there.
///
/// # Errors
/// As [`check`].
pub fn check_in(graph: &Graph, id: NodeId) -> Result<()> {
    let node = graph.try_node(id).ok_or_else(|| Error::new(ErrorKind::Structure, "the node does not exist"))?;
    let types: Vec<Type> = node
        .inputs
        .iter()
        .map(|v| v.and_then(|v| graph.try_value(v)).map(|v| v.ty.clone()).unwrap_or_default())
        .collect();
    check(node, &types)
}

/// [`check`] of every fused node of a graph whose types are known; nodes that differ in nothing that the check sees are
/// checked once. Returns how many distinct ones there were.
///
/// # Errors
/// As [`check`]: the first node that does not agree.
pub fn check_all(graph: &Graph) -> Result<usize> {
    let mut seen = BTreeSet::new();
    for (id, node) in graph.nodes().filter(|(_, n)| matches!(n.op, Op::FusedNorm(_))) {
        let types: Vec<_> = node.operands().filter_map(|(_, v)| graph.try_value(v)).map(|v| &v.ty).collect();
        // The text has everything that decides what a body computes, the contents of its constants included.
        let body = node.body.as_ref().map(|b| text::print(b)).unwrap_or_default();
        if seen.insert(format!("{:?}\n{types:?}\n{body}", node.op)) {
            check_in(graph, id)?;
        }
    }
    Ok(seen.len())
}

fn check_body(node: &Node, types: &[Type]) -> Result<()> {
    let Some(body) = &node.body else {
        return Err(Error::new(ErrorKind::Structure, "a fused op needs a body that spells it out, found none"));
    };
    let operands = operands(node, types)?;
    let names = node.op.output_names();
    if body.inputs().len() != operands.len() || body.outputs().len() != names.len() {
        return Err(Error::new(
            ErrorKind::Structure,
            format!(
                "the body has {} inputs and {} outputs, the descriptor {} and {}",
                body.inputs().len(),
                body.outputs().len(),
                operands.len(),
                names.len()
            ),
        ));
    }
    let mut rng = Rng::new(0x6e6f_726d_6675_7365);
    let symbols = symbols(&operands);
    let mut elements = 0;
    for weight in WeightKind::ALL {
        if elements > MAX_ELEMENTS {
            break;
        }
        // Rows take the kinds in turn, over as many runs as it takes to see all of them at every number of rows.
        let (mut seen, mut round) = (0, 0);
        while seen < Row::ALL.len() || (!symbols.is_empty() && round < SIZES.len()) {
            let sizes = symbols.iter().enumerate().map(|(i, s)| (s.clone(), SIZES[(round + i) % SIZES.len()]));
            let shapes = bind(&operands, &sizes.collect())?;
            let mut kinds = Row::ALL;
            kinds.rotate_left(seen % Row::ALL.len());
            compare(node, body, &names, &data(&operands, &shapes, &kinds, weight, &mut rng)?)?;
            elements += shapes.iter().map(|s| product(s)).sum::<usize>();
            seen += row_count(&shapes);
            round += 1;
        }
    }
    // Ordinary rows in bulk: the first symbol grows, the others are 1.
    let ones: BTreeMap<String, i64> = symbols.iter().map(|s| (s.clone(), 1)).collect();
    let row: usize = bind(&operands, &ones)?.iter().map(|s| product(s)).sum();
    let many = (BULK / row.max(1)).clamp(1, 4095) as i64 | 1;
    let sizes = symbols.iter().enumerate().map(|(i, s)| (s.clone(), if i == 0 { many } else { 1 })).collect();
    let shapes = bind(&operands, &sizes)?;
    compare(node, body, &names, &data(&operands, &shapes, &[Row::Bell], WeightKind::Ordinary, &mut rng)?)
}

fn compare(node: &Node, body: &Graph, names: &[String], inputs: &[Tensor]) -> Result<()> {
    let shown = || inputs.iter().map(|t| format!("{}{:?}", t.dtype(), t.shape())).collect::<Vec<_>>().join(", ");
    let spelled = eval::run(body, inputs)
        .map_err(|e| Error::new(e.kind, format!("the body does not run on {}: {e}", shown())))?;
    let refs: Vec<Option<&Tensor>> = inputs.iter().map(Some).collect();
    let fused = eval::eval_node(&node.op, &refs)?;
    for ((name, fused), spelled) in names.iter().zip(&fused).zip(&spelled) {
        if let Some(m) = bits_equal(fused, spelled) {
            return Err(Error::new(
                ErrorKind::Value,
                format!(
                    "the descriptor and the body of the fused op differ, {m} (descriptor against body, on {})",
                    shown()
                ),
            )
            .at_port(format!("output `{name}`"))
            .hint("the file was changed or made by another version: compile the source model again"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
