//! How a launch is laid out: threads a row, rows a block.

use normfuse_ir::{DType, FusedNorm, fused::Prologue};

use super::source::jobs;

/// Most threads that share a row, and that a block has.
pub const MAX_THREADS: u32 = 1024;
/// Elements in a vector: a thread reads one at a time.
pub(super) const VECTOR: u64 = 8;
/// Most vectors of a thread in a block that streams: 8 do not fit its registers.
const MOST_STREAMED: u64 = 7;
/// Bytes of shared memory that a block has without asking.
const SHARED: u64 = 48 << 10;

/// The threads of one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Threads {
    /// Threads that share a row: a power of two.
    pub threads: u32,
}

/// A launch shape. Bits do not depend on it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LaunchShape {
    /// Threads a block.
    pub block: u32,
    /// One a job.
    pub jobs: Vec<Threads>,
    /// True if all rows and results begin at multiples of 16 bytes, and rows are as far apart.
    pub aligned: bool,
    /// True if weights are read before the sum of squares is known: a row is done sooner, and fewer are in flight.
    pub ahead: bool,
    /// True if each block takes row after row, and fetches the next one while it works on one: as many blocks as the GPU holds at
    /// a time. For one job of aligned rows of whole vectors.
    pub streams: bool,
}

impl LaunchShape {
    /// The rows of a job that a block takes.
    pub fn rows(&self, job: usize) -> u32 {
        self.block / self.jobs[job].threads
    }

    /// Blocks for these rows of each job.
    pub fn blocks(&self, rows: &[u64]) -> u64 {
        rows.iter().enumerate().map(|(j, n)| n.div_ceil(u64::from(self.rows(j)))).sum()
    }

    /// True if blocks of this shape may take row after row ([`LaunchShape::streams`]).
    pub fn can_stream(&self, norm: &FusedNorm) -> bool {
        let [job] = &self.jobs[..] else { return false };
        let width = norm.siblings.iter().map(|s| s.width).max().unwrap_or(0);
        let elements = width.next_multiple_of(u64::from(job.threads) * VECTOR) * u64::from(self.block / job.threads);
        let bytes = |d: DType| d.bits() as u64 / 8;
        let read = match norm.prologue {
            Prologue::None => bytes(norm.siblings[0].input),
            Prologue::ResidualAdd(add) => bytes(add.dtype) + bytes(add.residual()),
            Prologue::Gated(gated) => bytes(gated.dtype) + bytes(gated.up()),
        };
        // Beside the rows: a sum a thread and an extreme a warp, of each sibling and epilogue, of two rows.
        let block = u64::from(self.block);
        let beside =
            norm.siblings.iter().map(|s| 2 * (block * 4 + s.epilogues.len() as u64 * block / 32 * 4)).sum::<u64>();
        let widest = (0..norm.siblings.len()).map(|k| weighed(norm, k)).max().unwrap_or(0);
        let fits = widest <= MOST_STREAMED * VECTOR * u64::from(job.threads) && elements * read + beside <= SHARED;
        self.aligned && width.is_multiple_of(VECTOR) && fits
    }

    /// What suits a number of rows: with many of them, few threads a row, so that each has several vectors in flight;
    /// with few, many threads, so that a row is done soon.
    pub fn choose(norm: &FusedNorm, rows: u64, aligned: bool) -> Self {
        let widest = |siblings: &Vec<usize>| siblings.iter().map(|k| norm.siblings[*k].width).max().unwrap_or(1);
        let threads = |width: u64| {
            let vectors = width.div_ceil(VECTOR);
            let each = if rows >= 1024 { 8 } else { 2 };
            let wanted = vectors.div_ceil(each).next_power_of_two().max(vectors.div_ceil(16).next_power_of_two());
            wanted.clamp(32, u64::from(MAX_THREADS)) as u32
        };
        let jobs: Vec<Threads> = jobs(norm).iter().map(|s| Threads { threads: threads(widest(s)) }).collect();
        let block = jobs.iter().map(|j| j.threads).max().unwrap_or(32).max(if rows >= 1024 { 128 } else { 32 });
        Self { block, jobs, aligned, ahead: rows < 4096 && fits_ahead(norm), streams: false }
    }
}

/// True if a block's registers hold the weights of the widest row beside it.
pub(super) fn fits_ahead(norm: &FusedNorm) -> bool {
    norm.siblings.iter().all(|s| s.width <= 16_384)
}

/// A sibling's width, in elements of 16 bits.
pub(super) fn weighed(norm: &FusedNorm, k: usize) -> u64 {
    let sibling = &norm.siblings[k];
    let residual = match norm.prologue {
        Prologue::ResidualAdd(add) => [add.dtype, add.residual()],
        Prologue::Gated(gated) => [gated.dtype, gated.up()],
        Prologue::None => [sibling.input; 2],
    };
    let wide = [sibling.input, sibling.output, sibling.product()].iter().chain(&residual).any(|d| *d == DType::F32);
    if wide { sibling.width * 2 } else { sibling.width }
}
