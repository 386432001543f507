//! What a launch reads and writes, as its caller has it: memory of the GPU, checked against the descriptor.

use normfuse_ir::{
    DType, Error, ErrorKind, FusedNorm, Result,
    fused::{InPort, OutPort},
    scheme::ScaleLayout,
};

use super::{
    shape::{LaunchShape, VECTOR},
    source::{Params, jobs, scratch_bytes},
};

/// Where vectors begin, in bytes, for kernels that read and write them whole.
const VECTOR_ALIGNMENT: u64 = 16;

/// Memory of a GPU, whoever owns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Region {
    /// The device address at which it begins.
    pub address: u64,
    /// Bytes that may be read, and of a result written.
    pub bytes: u64,
}

impl Region {
    /// Memory that begins at a device address, such as a tensor of another library's.
    pub const fn new(address: u64, bytes: u64) -> Self {
        Self { address, bytes }
    }

    /// Where it ends; past all memory if it claims to be that long.
    fn end(self) -> u64 {
        self.address.saturating_add(self.bytes)
    }

    /// True if it lies within another one.
    pub fn within(self, other: Self) -> bool {
        self.bytes == 0 || (other.address <= self.address && self.end() <= other.end())
    }

    fn meets(self, other: Self) -> bool {
        self.bytes > 0 && other.bytes > 0 && self.address < other.end() && other.address < self.end()
    }
}

/// An operand of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Operand {
    /// Its memory.
    pub region: Region,
    /// Elements from one row to the next, where they are not as far apart as a row is wide: rows of a wider tensor, or 0 for
    /// one row that stands for all.
    pub stride: Option<u64>,
}

impl Operand {
    /// Rows that are so many elements apart.
    pub const fn strided(region: Region, stride: u64) -> Self {
        Self { region, stride: Some(stride) }
    }
}

impl From<Region> for Operand {
    fn from(region: Region) -> Self {
        Self { region, stride: None }
    }
}

/// What a launch reads and writes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Arguments {
    /// Operands, in the order of [`FusedNorm::in_ports`].
    pub inputs: Vec<Operand>,
    /// Results, in the order of [`FusedNorm::out_ports`]; rows lie one behind the other.
    pub outputs: Vec<Region>,
    /// Rows: one number where siblings share them, else one a sibling.
    pub rows: Vec<u64>,
    /// Where the blocks of a launch meet, if a scale is of a whole tensor: [`scratch_bytes`] that are zeros before the first launch
    /// and after each, of one launch at a time.
    pub scratch: Option<Region>,
}

/// An operand as the kernel reads it.
struct Read {
    region: Region,
    /// Of rows, whose they are, and the bytes of a row where they lie one behind the other.
    rows: Option<(usize, Option<u64>)>,
    /// Elements from one row to the next; 0 of what is no rows.
    stride: u64,
}

impl Arguments {
    /// The kernel's parameter, once everything was found to be there: as many operands, results and numbers of rows as the
    /// descriptor has, each as large as the rows make it and as aligned as its elements (in kernels for aligned rows: as
    /// vectors), and no result over anything else. A result may lie on the rows that it is made of, if both begin at one
    /// address, have rows of one size and no gaps: threads read their part of a row before they write it.
    ///
    /// # Errors
    /// `Structure` if some are missing, `Shape` if one is too small, `Value` if one is misaligned or overlaps another; with the port.
    pub fn check(&self, norm: &FusedNorm, shape: &LaunchShape) -> Result<Params> {
        let jobs = jobs(norm);
        count("operands", norm.in_ports().len(), self.inputs.len())?;
        count("results", norm.out_ports().len(), self.outputs.len())?;
        count("numbers of rows", jobs.len(), self.rows.len())?;
        let rows = |k: usize| self.rows[jobs.iter().position(|job| job.contains(&k)).unwrap_or(0)];
        let mut read = Vec::new();
        let mut strides = Vec::new();
        for (port, operand) in norm.in_ports().into_iter().zip(&self.inputs) {
            let found = input(norm, port, *operand, &rows, shape.aligned).map_err(|e| e.at_port(port.to_string()))?;
            strides.push(found.stride);
            read.push((port, found));
        }
        let mut written: Vec<(OutPort, Region)> = Vec::new();
        for (port, region) in norm.out_ports().into_iter().zip(&self.outputs) {
            let at = |e: Error| e.at_port(port.to_string());
            let (region, a_row) = output(norm, port, *region, &rows, shape.aligned).map_err(at)?;
            let job = jobs.iter().position(|job| job.contains(&port.sibling()));
            for (other, operand) in &read {
                let same = |(k, bytes): (usize, Option<u64>)| {
                    jobs.iter().position(|job| job.contains(&k)) == job && bytes.is_some() && bytes == a_row
                };
                let in_place = operand.region.address == region.address && operand.rows.is_some_and(same);
                if region.meets(operand.region) && !in_place {
                    return Err(at(overlap(&other.to_string())));
                }
            }
            if let Some((other, _)) = written.iter().find(|(_, other)| region.meets(*other)) {
                return Err(at(overlap(&other.to_string())));
            }
            written.push((port, region));
        }
        let scratch = self.scratch(scratch_bytes(norm)).map_err(|e| e.at_port("scratch"))?;
        if let Some(scratch) = scratch {
            let operands = read.iter().map(|(port, operand)| (port.to_string(), operand.region));
            let results = written.iter().map(|(port, region)| (port.to_string(), *region));
            if let Some((other, _)) = operands.chain(results).find(|(_, region)| scratch.meets(*region)) {
                return Err(overlap(&other).at_port("scratch"));
            }
        }
        Ok(Params {
            inputs: self.inputs.iter().map(|i| i.region.address).collect(),
            strides,
            outputs: self.outputs.iter().map(|o| o.address).collect(),
            rows: self.rows.clone(),
            scratch: scratch.map(|s| s.address),
        })
    }

    /// The scratch that a launch has, if it needs any.
    fn scratch(&self, needed: u64) -> Result<Option<Region>> {
        if needed == 0 {
            return Ok(None);
        }
        let region = sized(self.scratch.unwrap_or(Region::new(0, 0)), Some(needed / 4), 32, "counters and magnitudes")?;
        place(region, 32, false)?;
        Ok(Some(region))
    }
}

fn count(what: &str, expected: usize, found: usize) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Structure, format!("fused norm: expected {expected} {what}, found {found}")))
}

fn overlap(other: &str) -> Error {
    Error::new(ErrorKind::Value, format!("expected memory of its own, found some of {other}"))
        .hint("a result may only lie on rows that it has the address and the size of")
}

fn input(
    norm: &FusedNorm,
    port: InPort,
    operand: Operand,
    rows: &impl Fn(usize) -> u64,
    aligned: bool,
) -> Result<Read> {
    let k = port.sibling();
    let vectors = !matches!(port, InPort::Scale(..) | InPort::ZeroPoint(..));
    let none = || Error::new(ErrorKind::Structure, format!("the descriptor has no operand {port}"));
    let (dtype, n) = norm.operand_dtype(port).zip(norm.operand_width(port)).ok_or_else(none)?;
    let (bits, many) = (dtype.bits() as u64, rows(k));
    let is_rows = norm.rows_dtype(port).is_some();
    let stride = operand.stride.unwrap_or(n);
    let elements = match (is_rows, many) {
        (false, _) => Some(n),
        (true, 0) => Some(0),
        (true, _) => (many - 1).checked_mul(stride).and_then(|all| all.checked_add(n)),
    };
    let what = if is_rows { format!("{many} rows of {n}, {stride} apart") } else { format!("{n} elements") };
    let region = sized(operand.region, elements, bits, &what)?;
    let whole = aligned && vectors && n.is_multiple_of(VECTOR);
    place(region, bits, whole)?;
    let pitch = stride.saturating_mul(bits) / 8;
    if is_rows && whole && many > 1 && !pitch.is_multiple_of(VECTOR_ALIGNMENT) {
        let message = format!("expected rows at multiples of {VECTOR_ALIGNMENT} bytes, found them {pitch} apart");
        return Err(Error::new(ErrorKind::Value, message).hint("compile the kernel for unaligned rows"));
    }
    let rows = is_rows.then(|| (k, (stride == n).then_some(pitch)));
    Ok(Read { region, rows, stride: if is_rows { stride } else { 0 } })
}

/// The memory of a result that is written, and the bytes of a row of it.
fn output(
    norm: &FusedNorm,
    port: OutPort,
    region: Region,
    rows: &impl Fn(usize) -> u64,
    aligned: bool,
) -> Result<(Region, Option<u64>)> {
    let k = port.sibling();
    let bits = norm.result_dtype(port).map_or(8, DType::bits) as u64;
    let many = rows(k);
    // What is of the whole tensor is one element.
    let Some(a_row) = norm.result_width(port) else {
        let region = sized(region, Some(1), bits, "one element")?;
        place(region, bits, false)?;
        return Ok((region, None));
    };
    let layout = match port {
        OutPort::Scale(_, e) => norm.siblings[k].epilogues[e].layout,
        _ => ScaleLayout::RowMajor,
    };
    let elements = layout.held(many, a_row);
    let region = sized(region, elements, bits, &format!("{many} rows of {a_row}"))?;
    let is_row = matches!(port, OutPort::Sum | OutPort::Normed(_) | OutPort::Q(..) | OutPort::Dequantised(..));
    place(region, bits, aligned && is_row && norm.siblings[k].width.is_multiple_of(VECTOR))?;
    Ok((region, is_row.then(|| a_row * bits / 8)))
}

/// The part of a region that so many elements take.
fn sized(region: Region, elements: Option<u64>, bits: u64, what: &str) -> Result<Region> {
    let needed = elements.and_then(|n| n.checked_mul(bits)).map(|n| n.div_ceil(8));
    let needed = needed.filter(|n| region.address.checked_add(*n).is_some());
    match needed {
        Some(needed) if needed <= region.bytes => Ok(Region { bytes: needed, ..region }),
        Some(needed) => {
            let message = format!("expected {needed} bytes for {what} of {bits} bits, found {}", region.bytes);
            Err(Error::new(ErrorKind::Shape, message))
        }
        None => Err(Error::new(ErrorKind::Shape, format!("expected a size that memory can have, found {what}"))),
    }
}

/// Checks where it begins.
fn place(region: Region, bits: u64, vectors: bool) -> Result<()> {
    if region.bytes == 0 {
        return Ok(());
    }
    let multiple = if vectors { VECTOR_ALIGNMENT } else { (bits / 8).max(1) };
    if region.address == 0 {
        return Err(Error::new(ErrorKind::Value, format!("expected memory of {} bytes, found none", region.bytes)));
    }
    if !region.address.is_multiple_of(multiple) {
        let message = format!("expected an address at a multiple of {multiple} bytes, found {:#x}", region.address);
        let error = Error::new(ErrorKind::Value, message);
        return Err(if vectors { error.hint("compile the kernel for unaligned rows") } else { error });
    }
    Ok(())
}
