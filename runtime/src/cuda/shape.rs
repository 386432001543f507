//! How a launch is laid out: threads a row, rows a block.

use normfuse_ir::{
    DType, FusedNorm, Granularity, Scheme,
    fused::{Prologue, Sibling, Source},
    scheme::{Origin, ScaleLayout},
};

use super::source::{jobs, scratch_bytes};

/// Most threads that a block has.
pub const MAX_THREADS: u32 = 1024;
/// Most blocks of a cluster, on every GPU that has them.
const MAX_CLUSTER: u32 = 8;
/// Elements of a row, of 16 bits, beyond which several blocks share it: more than the registers of one hold well.
pub(super) const WIDE: u64 = 16_384;
/// Elements below which a piece of a row is too narrow.
const NARROW: u64 = 512;
/// Elements in a vector: a thread reads one at a time.
pub(super) const VECTOR: u64 = 8;
/// Bytes of shared memory that a block has without asking.
const SHARED: u64 = 48 << 10;

/// The threads of one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Threads {
    /// Threads that share a row: a power of two. More than a block has are those of a cluster of blocks, from Hopper on, where there
    /// is one job and no scale of a whole tensor.
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
    /// True if rows come to shared memory by bulk copies, from Hopper on, and to registers from there: in the order in which
    /// they were asked for, so that many of them are sooner done. For aligned rows of whole vectors.
    pub bulk: bool,
    /// Parts of a row that are rows of their own to the kernel: as many as [`LaunchShape::can_divide`] allows, or 1.
    pub pieces: u32,
}

impl LaunchShape {
    /// The rows of a job that a block takes; the pieces of one are as many.
    pub fn rows(&self, job: usize) -> u32 {
        (self.block / self.jobs[job].threads).max(1)
    }

    /// The blocks that share a row of a job.
    pub fn cluster(&self, job: usize) -> u32 {
        (self.jobs[job].threads / self.block).max(1)
    }

    /// Blocks for these rows of each job.
    pub fn blocks(&self, rows: &[u64]) -> u64 {
        let of = |(j, n): (usize, &u64)| {
            let parts = n.saturating_mul(u64::from(self.pieces));
            parts.div_ceil(u64::from(self.rows(j))).saturating_mul(u64::from(self.cluster(j)))
        };
        rows.iter().enumerate().map(of).fold(0, u64::saturating_add)
    }

    /// True if rows may be so many pieces: nothing is found of a whole row, no two of its parts meet different numbers, and no piece ends
    /// within a vector or a group.
    pub fn can_divide(norm: &FusedNorm, pieces: u32) -> bool {
        let [sibling] = &norm.siblings[..] else { return pieces == 1 };
        let width = sibling.width / u64::from(pieces.max(1));
        let even = width > 0 && width * u64::from(pieces) == sibling.width && width.is_multiple_of(VECTOR);
        let apart = |s: &Scheme| match (s.granularity, s.origin) {
            (Granularity::Tensor, Origin::Given) => true,
            (Granularity::Group(g), Origin::Amax) => {
                let tiled =
                    !matches!(s.layout, ScaleLayout::RowMajor | ScaleLayout::ColumnMajor | ScaleLayout::TmaAligned);
                !tiled && width.is_multiple_of(u64::from(g))
            }
            _ => false,
        };
        let alike = norm.source == Source::Shared && sibling.root.is_none() && sibling.weight.is_none();
        pieces == 1 || (alike && even && sibling.padded.is_none() && sibling.epilogues.iter().all(apart))
    }

    /// The pieces that suit a number of rows: of 2,048 elements, or of fewer where rows are few, so that many multiprocessors share them.
    pub(super) fn pieces(norm: &FusedNorm, rows: u64) -> u32 {
        let width = norm.siblings[0].width;
        let most = if rows < 64 { 1024 } else { 2048 };
        let fits = |n: &u32| (NARROW..=most).contains(&(width / u64::from(*n))) && Self::can_divide(norm, *n);
        if width <= most { 1 } else { (2..=64).find(fits).unwrap_or(1) }
    }

    /// True if a block's shared memory holds the rows that it reads, and bulk copies can bring them ([`LaunchShape::bulk`]).
    pub fn can_copy(&self, norm: &FusedNorm) -> bool {
        let bytes = |d: DType| d.bits() as u64 / 8;
        let mut held = 0;
        for (j, siblings) in jobs(norm).iter().enumerate() {
            let block = u64::from(self.block);
            let Sibling { width, input, .. } = norm.siblings[siblings[0]];
            let read = match norm.prologue {
                Prologue::None => bytes(input),
                Prologue::ResidualAdd(add) => bytes(add.dtype) + bytes(add.residual()),
                Prologue::Gated(gated) => bytes(gated.dtype) + bytes(gated.up()),
            };
            held += width / u64::from(self.pieces) * read * u64::from(self.rows(j));
            // Beside the rows: a sum a thread and an extreme a warp, of each sibling and epilogue, and a barrier a row.
            let epilogues = siblings.iter().map(|k| norm.siblings[*k].epilogues.len() as u64).sum::<u64>();
            held += siblings.len() as u64 * block * 4 + epilogues * block / 32 * 4 + u64::from(self.rows(j)) * 8;
            if !(width / u64::from(self.pieces)).is_multiple_of(VECTOR) {
                return false;
            }
        }
        self.aligned && held <= SHARED && (0..self.jobs.len()).all(|j| self.cluster(j) == 1)
    }

    /// True if no row is shared by several blocks, or those that are can be ([`Threads::threads`]).
    pub fn can_cluster(&self, norm: &FusedNorm) -> bool {
        let clusters = (0..self.jobs.len()).any(|j| self.cluster(j) > 1);
        let fits = jobs(norm).len() == 1 && self.cluster(0) <= MAX_CLUSTER && self.block.is_multiple_of(32);
        !clusters || (fits && !self.bulk && scratch_bytes(norm) == 0)
    }

    /// The same, with rows that are wider than one block likes shared by several, where they can be: by as many as there are where
    /// rows are few.
    #[must_use]
    pub fn clustered(self, norm: &FusedNorm, rows: u64) -> Self {
        let widest = norm.siblings.iter().map(|s| s.width).max().unwrap_or(1) / u64::from(self.pieces);
        let block = 256;
        let most = block * MAX_CLUSTER;
        // Of many rows, what one block of few threads holds is left to it.
        let held = if rows < 1024 { WIDE } else { u64::from(block) * VECTOR * 12 };
        if widest <= held {
            return self;
        }
        let threads = if rows < 1024 { most } else { widest.div_ceil(VECTOR * 10).next_power_of_two() as u32 };
        let jobs = vec![Threads { threads: threads.min(most) }; self.jobs.len()];
        let shared = Self { block, jobs, ahead: false, bulk: false, ..self.clone() };
        if shared.can_cluster(norm) { shared } else { self }
    }

    /// What suits a number of rows: with many of them, few threads a row, so that each has several vectors in flight;
    /// with few, many threads, so that a row is done soon.
    pub fn choose(norm: &FusedNorm, rows: u64, aligned: bool) -> Self {
        let pieces = Self::pieces(norm, rows);
        let rows = rows.saturating_mul(u64::from(pieces));
        let widest = |siblings: &Vec<usize>| {
            siblings.iter().map(|k| norm.siblings[*k].width).max().unwrap_or(1) / u64::from(pieces)
        };
        let threads = |width: u64| {
            let vectors = width.div_ceil(VECTOR);
            let each = if rows >= 1024 { 8 } else { 2 };
            let wanted = vectors.div_ceil(each).next_power_of_two().max(vectors.div_ceil(16).next_power_of_two());
            wanted.clamp(32, u64::from(MAX_THREADS)) as u32
        };
        let jobs: Vec<Threads> = jobs(norm).iter().map(|s| Threads { threads: threads(widest(s)) }).collect();
        let block = jobs.iter().map(|j| j.threads).max().unwrap_or(32).max(if rows >= 1024 { 128 } else { 32 });
        Self { block, jobs, aligned, ahead: rows < 4096 && fits_ahead(norm), bulk: false, pieces }
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
