//! The fused norm, written from its descriptor.
//!
//! A block of rows at a time, and per row: read (and add the residual), then per sibling the statistics, the normed
//! row and its quantisers, each stage a loop over a row of f32 that is rounded where the descriptor says. Rows are
//! independent, so the number of threads is not seen in the bits. The source subgraph (the node's body) plays no part
//! here: that it agrees is what `ir::body` and `normfuse verify` check.

use std::collections::BTreeMap;

use normfuse_ir::{
    DType, Error, ErrorKind, FusedNorm, Result, Scheme, Tensor,
    fused::{Activation, InPort, OutPort, Prologue, Root, Sibling, Source},
    num,
};
use rayon::prelude::*;

use super::{
    buf::{numel, zeros},
    convert::{self, round_row},
    quantise,
    scheme::{self, Given},
};

/// Values in a block of rows: enough work to be worth handing to another thread.
const BLOCK: usize = 1 << 14;

/// Says whether the CPU runs a descriptor, and if not, what stands in the way.
///
/// # Errors
/// A sentence that names the field.
pub fn supports(norm: &FusedNorm) -> Result<(), String> {
    norm.check()?;
    for (k, sibling) in norm.siblings.iter().enumerate() {
        if let Some(weight) = sibling.weight
            && !is_narrow(weight.dtype)
        {
            return Err(format!("siblings[{k}].weight: expected f32, f16 or bf16, found {}", weight.dtype));
        }
        for (e, scheme) in sibling.epilogues.iter().enumerate() {
            scheme::supports(scheme, &format!("siblings[{k}].epilogues[{e}]."))?;
        }
    }
    Ok(())
}

fn is_narrow(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
}

/// Runs a fused norm: operands and results in the descriptor's port order. For a host that runs the rest of the graph.
///
/// # Errors
/// `Unsupported` for a descriptor that [`supports`] refuses, and operands that are missing or do not fit, by port.
pub fn run(norm: &FusedNorm, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>> {
    supports(norm).map_err(|why| Error::new(ErrorKind::Unsupported, why))?;
    let operands = Operands::bind(norm, inputs)?;
    let mut results = Results::new(norm, &operands)?;
    match norm.source {
        Source::Shared => {
            let siblings: Vec<usize> = (0..norm.siblings.len()).collect();
            run_rows(norm, &operands, &siblings, operands.rows(0)?, &mut results.0);
        }
        Source::Separate => {
            for k in 0..norm.siblings.len() {
                run_rows(norm, &operands, &[k], operands.rows(k)?, &mut results.0);
            }
        }
    }
    results.into_tensors(norm, &operands)
}

/// The operands, checked and, where they are small, brought into the form that the rows need.
struct Operands<'a> {
    /// Rows by sibling; one entry when they are shared.
    x: Vec<&'a Tensor>,
    /// What is added to the rows, or multiplied with their activation.
    second: Option<&'a Tensor>,
    /// By sibling: the factor, already in the product's arithmetic and with its one added.
    weights: Vec<Option<Vec<f32>>>,
    /// By sibling and epilogue.
    given: Vec<Vec<Given>>,
}

impl<'a> Operands<'a> {
    fn bind(norm: &FusedNorm, inputs: &[Option<&'a Tensor>]) -> Result<Self> {
        let mut operands = Self {
            x: Vec::new(),
            second: None,
            weights: vec![None; norm.siblings.len()],
            given: norm.siblings.iter().map(|s| vec![Given::default(); s.epilogues.len()]).collect(),
        };
        for (i, port) in norm.in_ports().into_iter().enumerate() {
            let at = |e: Error| e.at_port(port.to_string());
            let missing = || at(Error::new(ErrorKind::Structure, "this operand is missing"));
            let tensor = inputs.get(i).copied().flatten().ok_or_else(missing)?;
            match port {
                InPort::X | InPort::Residual | InPort::Up | InPort::Rows(_) => {
                    let k = if let InPort::Rows(k) = port { k } else { 0 };
                    let readers =
                        if norm.source == Source::Shared { &norm.siblings[..] } else { &norm.siblings[k..=k] };
                    for sibling in readers {
                        // A sum or product is read by the siblings in a dtype of its own, which `check` has compared with theirs.
                        let added = norm.rows_dtype(port).filter(|_| norm.prologue != Prologue::None);
                        expect_dtype(tensor, added.unwrap_or(sibling.input)).map_err(at)?;
                        expect_width(tensor, sibling.width).map_err(at)?;
                    }
                    if matches!(port, InPort::Residual | InPort::Up) {
                        if operands.x.first().is_none_or(|x| x.shape() != tensor.shape()) {
                            let message = format!("expected the shape of x, found {:?}", tensor.shape());
                            return Err(at(Error::new(ErrorKind::Shape, message)));
                        }
                        operands.second = Some(tensor);
                    } else {
                        operands.x.push(tensor);
                    }
                }
                InPort::Weight(k) => {
                    operands.weights[k] = Some(weight_factor(&norm.siblings[k], tensor).map_err(at)?);
                }
                InPort::Scale(k, e) => {
                    let scheme = &norm.siblings[k].epilogues[e];
                    operands.given[k][e].scales =
                        quantise::given_scales(scheme, tensor, norm.siblings[k].width).map_err(at)?;
                }
                InPort::ZeroPoint(k, e) => {
                    let scheme = &norm.siblings[k].epilogues[e];
                    operands.given[k][e].zeros =
                        quantise::given_zeros(scheme, tensor, norm.siblings[k].width).map_err(at)?;
                }
            }
        }
        Ok(operands)
    }

    fn rows(&self, sibling: usize) -> Result<Rows<'a>> {
        let x =
            self.x.get(sibling).copied().ok_or_else(|| Error::new(ErrorKind::Structure, "an operand is missing"))?;
        Ok(Rows { x, second: self.second })
    }

    /// The rows that a sibling reads.
    fn rows_of(&self, norm: &FusedNorm, k: usize) -> Result<&'a Tensor> {
        Ok(self.rows(if norm.source == Source::Shared { 0 } else { k })?.x)
    }
}

pub(super) fn expect_dtype(tensor: &Tensor, dtype: DType) -> Result<()> {
    if tensor.dtype() == dtype {
        return Ok(());
    }
    Err(Error::new(ErrorKind::DType, format!("expected {dtype}, found {}", tensor.dtype())))
}

fn expect_width(tensor: &Tensor, width: u64) -> Result<()> {
    if tensor.shape().last().is_some_and(|&n| n as u64 == width) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Shape, format!("expected rows of {width}, found {:?}", tensor.shape())))
}

/// `cast[product](w)`, or `1 + cast[product](w)` in that dtype.
fn weight_factor(sibling: &Sibling, tensor: &Tensor) -> Result<Vec<f32>> {
    let Some(weight) = sibling.weight else { return Ok(Vec::new()) };
    expect_dtype(tensor, weight.dtype)?;
    if *tensor.shape() != [sibling.width as usize] {
        let message = format!("expected {} elements, found {:?}", sibling.width, tensor.shape());
        return Err(Error::new(ErrorKind::Shape, message));
    }
    let mut factor = convert::to_f32(tensor)?.into_owned();
    round_row(sibling.product(), &mut factor);
    if weight.plus_one {
        for w in &mut factor {
            *w += 1.0;
        }
        round_row(sibling.product(), &mut factor);
    }
    Ok(factor)
}

/// The rows that one pass reads.
#[derive(Clone, Copy)]
struct Rows<'a> {
    x: &'a Tensor,
    second: Option<&'a Tensor>,
}

/// One result under construction: bytes, or a code a byte for the 4-bit type until it is packed.
struct Output {
    port: OutPort,
    dtype: DType,
    shape: Vec<usize>,
    bytes: Vec<u8>,
    /// Bytes that a row of the input makes.
    row: usize,
}

impl Output {
    /// Zeros for a port of rows of shape `rows`; for a scale, of the epilogue's scales.
    fn new(port: OutPort, dtype: DType, rows: &[usize], norm: &FusedNorm, epilogue: Option<usize>) -> Result<Self> {
        let mut shape = rows.to_vec();
        if let (OutPort::Scale(k, _), Some(e), Some(last)) = (port, epilogue, shape.last_mut()) {
            *last = scales_per_row(&norm.siblings[k], &norm.siblings[k].epilogues[e]);
        }
        let element = dtype.bits().div_ceil(8);
        let row = shape.last().copied().unwrap_or(1) * element;
        let bytes = zeros(numel(&shape)?.saturating_mul(element))?;
        Ok(Self { port, dtype, shape, bytes, row })
    }
}

struct Results(Vec<Output>);

impl Results {
    fn new(norm: &FusedNorm, operands: &Operands<'_>) -> Result<Self> {
        let mut outputs = Vec::new();
        for port in norm.out_ports() {
            let (k, dtype, epilogue) = match port {
                OutPort::Sum => match norm.prologue {
                    Prologue::ResidualAdd(add) => (0, add.emitted(), None),
                    Prologue::None | Prologue::Gated(_) => continue,
                },
                OutPort::Normed(k) => (k, norm.siblings[k].output, None),
                // A code a byte until the end.
                OutPort::Q(k, e) => (k, norm.siblings[k].epilogues[e].element, None),
                OutPort::Scale(k, e) => {
                    let scale = norm.siblings[k].epilogues[e].scale.as_ref();
                    (k, scale.map_or(DType::F32, |s| s.dtype), Some(e))
                }
                OutPort::Dequantised(k, e) => {
                    let dequantised = norm.siblings[k].epilogues[e].dequantised;
                    (k, dequantised.map_or(DType::F32, |d| d.dtype), None)
                }
                OutPort::ZeroPoint(..) => continue,
            };
            if let Some(e) = port.epilogue()
                && scheme::of_whole_tensor(&norm.siblings[k].epilogues[e])
            {
                continue;
            }
            outputs.push(Output::new(port, dtype, operands.rows_of(norm, k)?.shape(), norm, epilogue)?);
        }
        // What is quantised under the scale of the whole tensor must be there as a whole first.
        for (k, s) in norm.siblings.iter().enumerate() {
            if !s.emit_normed && s.epilogues.iter().any(scheme::of_whole_tensor) {
                outputs.push(Output::new(
                    OutPort::Normed(k),
                    s.output,
                    operands.rows_of(norm, k)?.shape(),
                    norm,
                    None,
                )?);
            }
        }
        Ok(Self(outputs))
    }

    /// The results in port order, those of whole-tensor scales made from the normed values.
    fn into_tensors(self, norm: &FusedNorm, operands: &Operands<'_>) -> Result<Vec<Tensor>> {
        let mut made = BTreeMap::new();
        for o in self.0 {
            let tensor = match o.port {
                OutPort::Q(k, e) => quantise::q_tensor(&norm.siblings[k].epilogues[e], &o.shape, o.bytes)?,
                OutPort::Scale(k, e) => {
                    let scales = Tensor::from_bytes(o.dtype, o.shape, o.bytes)?;
                    scheme::laid_out(&norm.siblings[k].epilogues[e], scales)?
                }
                _ => Tensor::from_bytes(o.dtype, o.shape, o.bytes)?,
            };
            made.insert(o.port, tensor);
        }
        for (k, s) in norm.siblings.iter().enumerate() {
            for (e, scheme) in s.epilogues.iter().enumerate().filter(|(_, s)| scheme::of_whole_tensor(s)) {
                let Some(y) = made.get(&OutPort::Normed(k)) else { continue };
                let results = quantise::whole_tensor(scheme, y, &operands.given[k][e])?;
                made.extend(scheme.out_ports(k, e).zip(results));
            }
        }
        let missing = || Error::new(ErrorKind::Structure, "a result was not made");
        let handed_out = |port: &OutPort| {
            let made = made.remove(port).ok_or_else(missing)?;
            let wider = matches!(port, OutPort::Normed(_) | OutPort::Q(..) | OutPort::Dequantised(..));
            match norm.result_width(*port).filter(|_| wider && norm.siblings[port.sibling()].padded.is_some()) {
                Some(width) => padded(made, width as usize),
                None => Ok(made),
            }
        };
        norm.out_ports().iter().map(handed_out).collect()
    }
}

/// The same with zeros behind each row, up to a width. Rows are whole bytes, as `check` has found.
fn padded(made: Tensor, width: usize) -> Result<Tensor> {
    let mut shape = made.shape().to_vec();
    let Some(last) = shape.last_mut() else { return Ok(made) };
    let row = |n: usize| n * made.dtype().bits() / 8;
    let (from, to) = (row(*last), row(width));
    *last = width;
    let mut bytes: Vec<u8> = zeros(made.bytes().len() / from * to)?;
    for (out, row) in bytes.chunks_mut(to).zip(made.bytes().chunks(from)) {
        out[..from].copy_from_slice(row);
    }
    Tensor::from_bytes(made.dtype(), shape, bytes)
}

/// Scales a row; `check` has seen to it that groups divide the width.
fn scales_per_row(sibling: &Sibling, scheme: &Scheme) -> usize {
    scheme.scales_per_row(sibling.width).unwrap_or(1) as usize
}

/// The same block of rows of every result that a pass writes.
struct Block<'a> {
    first_row: usize,
    rows: usize,
    outputs: Vec<(OutPort, DType, &'a mut [u8])>,
}

/// Runs `siblings`, which read the same rows.
fn run_rows(norm: &FusedNorm, operands: &Operands<'_>, siblings: &[usize], rows: Rows<'_>, outputs: &mut [Output]) {
    let width = norm.siblings[siblings[0]].width as usize;
    let count = rows.x.len() / width;
    let per_block = (BLOCK / width).max(1);
    let mut blocks: Vec<Block<'_>> = (0..count)
        .step_by(per_block)
        .map(|first_row| Block { first_row, rows: per_block.min(count - first_row), outputs: Vec::new() })
        .collect();
    for output in outputs {
        let ours = match output.port {
            OutPort::Sum => true,
            _ => siblings.contains(&output.port.sibling()),
        };
        if ours {
            for (block, bytes) in blocks.iter_mut().zip(output.bytes.chunks_mut(per_block * output.row)) {
                block.outputs.push((output.port, output.dtype, bytes));
            }
        }
    }
    blocks.into_par_iter().for_each(|block| run_block(norm, operands, siblings, rows, width, block));
}

fn run_block(
    norm: &FusedNorm,
    operands: &Operands<'_>,
    siblings: &[usize],
    rows: Rows<'_>,
    width: usize,
    mut block: Block<'_>,
) {
    let (mut h, mut other, mut n) = (vec![0.0; width], vec![0.0; width], vec![0.0; width]);
    for r in 0..block.rows {
        let row = block.first_row + r;
        convert::read_row(rows.x, row, &mut h);
        if let Some(second) = rows.second {
            convert::read_row(second, row, &mut other);
            before(norm.prologue, &mut h, &other);
        }
        if norm.emit_sum {
            write(&mut block, OutPort::Sum, r, &h);
        }
        for &k in siblings {
            let sibling = &norm.siblings[k];
            normalise(sibling, operands.weights[k].as_deref(), &h, &mut other, &mut n);
            write(&mut block, OutPort::Normed(k), r, &n);
            for (e, scheme) in sibling.epilogues.iter().enumerate().filter(|(_, s)| !scheme::of_whole_tensor(s)) {
                let mut scales = scheme.has_scale_output().then(|| vec![0.0; scales_per_row(sibling, scheme)]);
                let mut numbers = scheme.dequantised.map(|_| vec![0.0; width]);
                let mut hidden = vec![0; if scheme.has_codes_output() { 0 } else { width }];
                let codes = match slot(&mut block, OutPort::Q(k, e)) {
                    Some((_, codes)) => &mut codes[r * width..][..width],
                    None => &mut hidden,
                };
                let (scales_of_row, numbers_of_row) = (scales.as_deref_mut(), numbers.as_deref_mut());
                scheme::quantise_row(scheme, &operands.given[k][e], &n, codes, scales_of_row, numbers_of_row);
                if let Some(numbers) = numbers {
                    write(&mut block, OutPort::Dequantised(k, e), r, &numbers);
                }
                if let (Some(scales), Some((dtype, bytes))) = (scales, slot(&mut block, OutPort::Scale(k, e))) {
                    let row = scales.len() * scheme::scale_bytes(dtype);
                    scheme::store_scales(dtype, &scales, &mut bytes[r * row..][..row]);
                }
            }
        }
    }
}

/// What the prologue makes of a row and the one beside it.
fn before(prologue: Prologue, h: &mut [f32], other: &[f32]) {
    match prologue {
        Prologue::None => {}
        Prologue::ResidualAdd(add) => {
            h.iter_mut().zip(other).for_each(|(a, b)| *a += b);
            round_row(add.sum(), h);
        }
        Prologue::Gated(gated) => {
            let compute = gated.compute();
            round_row(compute, h);
            if let Some(most) = gated.gate_max {
                for v in &mut *h {
                    *v = num::min(*v, most.get());
                }
            }
            let scaled = |v: f32| gated.alpha.map_or(v, |alpha| num::round_to(compute, v * alpha.get()));
            for v in &mut *h {
                *v = match gated.activation {
                    Activation::Silu => num::silu(*v),
                    Activation::SigmoidProduct => *v * num::round_to(compute, num::sigmoid(scaled(*v))),
                    Activation::Gelu => num::gelu(*v),
                    Activation::GeluTanh => num::gelu_tanh(*v),
                };
            }
            round_row(compute, h);
            round_row(gated.activated(), h);
            h.iter_mut().zip(other).for_each(|(a, b)| *a *= gated.factor(*b));
            round_row(gated.product(), h);
        }
    }
}

/// The normed row `y`, rounded to `output`. `h` is the row as read, `scratch` is overwritten.
fn normalise(sibling: &Sibling, weight: Option<&[f32]>, h: &[f32], scratch: &mut [f32], y: &mut [f32]) {
    y.copy_from_slice(h);
    round_row(sibling.compute, y);
    if let Some(root) = sibling.root {
        divide(sibling, root, scratch, y);
        round_row(sibling.compute, y);
    }
    round_row(sibling.normed, y);
    if let Some(weight) = weight {
        round_row(sibling.product(), y);
        y.iter_mut().zip(weight).for_each(|(n, w)| *n *= w);
        round_row(sibling.product(), y);
    }
    round_row(sibling.output, y);
}

/// Divides a row by its root mean square; the quotients are not rounded yet. `scratch` is overwritten.
fn divide(sibling: &Sibling, root: Root, scratch: &mut [f32], y: &mut [f32]) {
    let compute = |v: f32| num::round_to(sibling.compute, v);
    scratch.iter_mut().zip(&*y).for_each(|(square, h)| *square = h * h);
    round_row(sibling.squares(), scratch);
    let mean = compute(num::row_sum(scratch) / sibling.width as f32);
    let v = compute(mean + compute(sibling.eps.get()));
    match root {
        Root::ReciprocalSqrt => {
            let r = compute(1.0 / compute(v.sqrt()));
            for h in &mut *y {
                *h *= r;
            }
        }
        Root::Rsqrt => {
            let r = compute(num::rsqrt(v));
            for h in &mut *y {
                *h *= r;
            }
        }
        Root::DivideBySqrt => {
            let root = compute(v.sqrt());
            for h in &mut *y {
                *h /= root;
            }
        }
    }
}

fn slot<'b>(block: &'b mut Block<'_>, port: OutPort) -> Option<(DType, &'b mut [u8])> {
    block.outputs.iter_mut().find(|(p, ..)| *p == port).map(|(_, dtype, bytes)| (*dtype, &mut **bytes))
}

/// Stores a row of a float result, if it is one.
fn write(block: &mut Block<'_>, port: OutPort, r: usize, values: &[f32]) {
    if let Some((dtype, bytes)) = slot(block, port) {
        let row = values.len() * dtype.bits() / 8;
        convert::store(dtype, values, &mut bytes[r * row..][..row]);
    }
}
