//! Measuring fused norms on a GPU: beside their limit, and launch shapes against one another.
//!
//! Kernels run from a CUDA graph on operands that rotate through more memory than the GPU's cache has; a time is the
//! median of replays. The *limit* is the faster of the best of some cast kernels that move the same bytes, launched in the
//! same way, and of those bytes over the bandwidth of the driver's own copy in the same run, where there are enough of them
//! for a bandwidth to mean anything.

mod cast;
mod ops;
mod timer;
mod tune;

use std::fmt;

use normfuse_ir::{
    DType, Error, ErrorKind, Result,
    fused::{InPort, OutPort},
};

pub(super) use self::timer::Timer;
use self::{cast::Cast, timer::Arena};
pub use self::{
    ops::Op,
    timer::Time,
    tune::{ROWS, Tuned, WIDTHS, shapes},
};
use super::{
    device::{Buffer, Device},
    fused_norm::FusedNormKernel,
    nvrtc::Compiler,
    shape::LaunchShape,
    source::{Params, scratch_bytes},
};

/// Bytes from which on a launch is limited by the memory alone: one that is shorter says nothing of a bandwidth.
const LARGE: u64 = 32 << 20;

/// A GPU that is measured.
#[derive(Debug)]
pub struct Bench {
    device: Device,
    compiler: Compiler,
    timer: Timer,
    arena: Arena,
    casts: Vec<Cast>,
    bandwidth: f64,
    /// A given scale: a number that divides as real ones do, which arbitrary ones would not.
    scale: Buffer,
    /// Where blocks meet: zeros before each launch and after it.
    scratch: Buffer,
}

impl Bench {
    /// Takes memory of the GPU, compiles the cast kernels, and measures the driver's copy. Each time is that of so many replays.
    ///
    /// # Errors
    /// `Unsupported` with what compiler or driver say.
    pub fn new(device: &Device, compiler: Compiler, replays: usize) -> Result<Self> {
        let timer = Timer::new(device, replays.max(1));
        let arena = Arena::new(device, compiler)?;
        arena.refresh()?;
        let bandwidth = timer.copy_bandwidth(&arena)?;
        let casts = Cast::all(device, compiler)?;
        let scale = device.upload(&0.05f32.to_le_bytes())?;
        let scratch = device.upload(&[0; 64])?;
        Ok(Self { device: device.clone(), compiler, timer, arena, casts, bandwidth, scale, scratch })
    }

    /// The GPU.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Bytes a second, read and written, of the driver's copy within the GPU.
    pub fn bandwidth(&self) -> f64 {
        self.bandwidth
    }

    /// The time of a launch of an op.
    ///
    /// # Errors
    /// `Shape` if operands do not fit the memory that was taken; `Unsupported` with what the driver says.
    pub fn time(&self, op: &Op, kernel: &FusedNormKernel, rows: u64, early: bool) -> Result<Time> {
        let traffic = Traffic::of(op, rows);
        let sets = self.arena.sets(&traffic.memory)?;
        let scratch = Some(self.scratch.address()).filter(|_| scratch_bytes(&op.norm) > 0);
        let params = |set: &Vec<u64>| Params { scratch, ..Traffic::params(op, set, rows, self.scale.address()) };
        let params: Vec<Params> = sets.iter().map(params).collect();
        self.arena.refresh()?;
        self.timer.replay(params.len(), |i, stream| {
            // SAFETY: the arena has all of these bytes, in places that do not overlap, and lives until the replays are done.
            unsafe { kernel.launch(stream, &params[i], early) }
        })
    }

    /// An op and its limit, launched plainly and early (programmatic dependent launch), with the fastest of some kernels.
    ///
    /// # Errors
    /// As [`Bench::time`]; `Value` without a kernel.
    pub fn measure(&self, op: &Op, kernels: &[FusedNormKernel], rows: u64) -> Result<Measured> {
        let [plain, early] = [false, true].map(|early| self.fastest(op, kernels, rows, early));
        Ok(Measured { op: op.clone(), rows, plain: plain?, early: early? })
    }

    fn fastest(&self, op: &Op, kernels: &[FusedNormKernel], rows: u64, early: bool) -> Result<Launch> {
        let mut best: Option<(Time, LaunchShape)> = None;
        for kernel in kernels {
            let time = self.time(op, kernel, rows, early)?;
            if best.as_ref().is_none_or(|(b, _)| time.us < b.us) {
                best = Some((time, kernel.shape().clone()));
            }
        }
        let none = || Error::new(ErrorKind::Value, format!("{op}: expected kernels to measure, found none"));
        let (time, shape) = best.ok_or_else(none)?;
        Ok(Launch { time, shape, limit: self.limit(op, rows, early)? })
    }

    /// Microseconds below which no kernel for an op's bytes can be, launched early or not.
    ///
    /// # Errors
    /// As [`Bench::time`].
    pub fn limit(&self, op: &Op, rows: u64, early: bool) -> Result<f64> {
        let bytes = Traffic::of(op, rows).bytes;
        self.arena.refresh()?;
        let cast = Cast::best(&self.casts, &self.timer, &self.arena, bytes, early)?;
        Ok(if bytes < LARGE { cast.us } else { cast.us.min(bytes as f64 / self.bandwidth * 1e6) })
    }
}

/// Bytes that an op reads and writes for a number of rows, each once.
pub fn bytes(op: &Op, rows: u64) -> u64 {
    Traffic::of(op, rows).bytes
}

/// What was measured of one way to launch.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    /// How long it took.
    pub time: Time,
    /// In which launch shape.
    pub shape: LaunchShape,
    /// Microseconds of the limit.
    pub limit: f64,
}

impl Launch {
    /// How many times the limit it took.
    pub fn ratio(&self) -> f64 {
        self.time.us / self.limit
    }
}

/// What was measured of an op and a number of rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// The op.
    pub op: Op,
    /// Rows.
    pub rows: u64,
    /// One launch after another.
    pub plain: Launch,
    /// With programmatic dependent launch.
    pub early: Launch,
}

impl Measured {
    /// What the columns of its line are.
    pub fn header() -> String {
        let columns = ["us", "+-", "limit", "ratio", "(pdl)", "limit", "ratio"].map(|c| format!("{c:>7}")).join(" ");
        format!("{:<34} {:>6} {:>6} {columns}  threads a row / a block, + weights ahead, * bulk copies", "op", "N", "M")
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { op, rows, plain, early } = self;
        let shape = |s: &LaunchShape| {
            let (ahead, bulk) = (if s.ahead { "+" } else { "" }, if s.bulk { "*" } else { "" });
            format!("{}/{}{ahead}{bulk}", s.jobs[0].threads, s.block)
        };
        write!(
            f,
            "{op:<34} {:>6} {rows:>6} {:>7.2} {:>6.1}% ",
            op.width(),
            plain.time.us,
            plain.time.spread() * 100.0
        )?;
        write!(f, "{:>7.2} {:>7.3} ", plain.limit, plain.ratio())?;
        write!(f, "{:>7.2} {:>7.2} {:>7.3}  {}", early.time.us, early.limit, early.ratio(), shape(&plain.shape))?;
        if early.shape != plain.shape {
            write!(f, " ({})", shape(&early.shape))?;
        }
        Ok(())
    }
}

/// Bytes that an op reads and writes for a number of rows.
#[derive(Debug)]
struct Traffic {
    /// Memory to have: of the operands, then of the results. Slices of the same rows are one.
    memory: Vec<u64>,
    /// Bytes that are read or written, each once.
    bytes: u64,
}

impl Traffic {
    fn of(op: &Op, rows: u64) -> Self {
        let norm = &op.norm;
        let size = |bits: usize, n: u64| (n * bits as u64).div_ceil(8);
        let (mut memory, mut bytes) = (Vec::new(), 0);
        for port in norm.in_ports() {
            let (own, needed) = match port {
                InPort::Weight(k) => {
                    let n = size(norm.siblings[k].weight.map_or(32, |w| w.dtype.bits()), norm.siblings[k].width);
                    (n, n)
                }
                InPort::Scale(..) | InPort::ZeroPoint(..) => (4, 4),
                InPort::X | InPort::Residual | InPort::Up | InPort::Rows(_) => {
                    let k = if let InPort::Rows(k) = port { k } else { 0 };
                    let bits = norm.rows_dtype(port).map_or(0, DType::bits);
                    let held = match (op.packed, k) {
                        (Some(_), _) if port == InPort::Up => 0,
                        (Some(pitch), 0) => rows * pitch,
                        (Some(_), _) => 0,
                        (None, _) => rows * norm.siblings[k].width,
                    };
                    (size(bits, held), size(bits, rows * norm.siblings[k].width))
                }
            };
            memory.push(own);
            bytes += needed;
        }
        for port in norm.out_ports() {
            // Room for every layout of the scales.
            let room = if matches!(port, OutPort::Scale(..)) { rows.next_multiple_of(4) } else { rows };
            let bits = norm.result_dtype(port).map_or(0, DType::bits);
            let a_row = norm.result_width(port).unwrap_or(1);
            memory.push(size(bits, room * a_row));
            bytes += size(bits, rows * a_row);
        }
        Self { memory, bytes }
    }

    /// The parameter for memory at these addresses, and a given scale at its own.
    fn params(op: &Op, set: &[u64], rows: u64, scale: u64) -> Params {
        let norm = &op.norm;
        let ports = norm.in_ports();
        let mut params = Params { outputs: set[ports.len()..].to_vec(), ..Params::default() };
        for (port, address) in ports.iter().zip(set) {
            let (mut address, mut stride) = (*address, 0);
            if matches!(port, InPort::Scale(..)) {
                address = scale;
            }
            if let Some(dtype) = norm.rows_dtype(*port) {
                let k = if let InPort::Rows(k) = port { *k } else { 0 };
                stride = op.packed.unwrap_or(norm.siblings[k].width);
                if op.packed.is_some() {
                    // Behind the siblings before it, or the gate, in the first one's memory.
                    let ahead = if *port == InPort::Up { 1 } else { k };
                    let before: u64 = norm.siblings[..ahead].iter().map(|s| s.width).sum();
                    address = set[0] + before * dtype.bits() as u64 / 8;
                }
            }
            params.inputs.push(address);
            params.strides.push(stride);
        }
        params.rows = vec![rows; super::source::jobs(norm).len()];
        params
    }
}
