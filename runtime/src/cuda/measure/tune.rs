//! The tuner: which launch shape is the fastest, class by class, width by width, by the number of rows.

use normfuse_ir::Result;
use rayon::prelude::*;

use super::{Bench, Op};
use crate::cuda::{
    fused_norm::FusedNormKernel,
    regimes::{Before, Class, Entry, MOST_VECTORS, Needs, Regimes},
    shape::{LaunchShape, MAX_THREADS, Threads, VECTOR, WIDE},
};

/// Widths that the tuner measures unless it is told others: heads, latents, models.
pub const WIDTHS: [u64; 9] = [128, 512, 1536, 2048, 4096, 5120, 7168, 8192, 16_384];
/// Numbers of rows, likewise.
pub const ROWS: [u64; 6] = [1, 16, 128, 1024, 4096, 16_384];

/// Rows up to which launches are measured early too (programmatic dependent launch), as engines make them: with more the start
/// of a launch is no part of it that counts.
const FEW: u64 = 1024;

/// What a tuned place is against the shape that [`LaunchShape::choose`] works out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tuned {
    /// The fastest shape.
    pub entry: Entry,
    /// Microseconds with the shape that is worked out without a table.
    pub worked_out: f64,
    /// Shapes that were measured.
    pub tried: usize,
}

/// Rows from which on copies to shared memory are tried: of fewer none waits for another.
const MANY: u64 = 1024;

/// Launch shapes to try for an op: threads a row, from a warp to a block, rows a block, weights read ahead or late, rows loaded or
/// copied.
pub fn shapes(op: &Op) -> Vec<LaunchShape> {
    let jobs = crate::cuda::source::jobs(&op.norm).len();
    let vectors = op.width().div_ceil(VECTOR);
    let mut all = Vec::new();
    for threads in [32u32, 64, 128, 256, 512, 1024] {
        if vectors.div_ceil(u64::from(threads)) > MOST_VECTORS || u64::from(threads) >= (2 * vectors).max(64) {
            continue;
        }
        for rows in [1, 2, 4, 8] {
            let block = threads * rows;
            // Small blocks leave places for others empty, large ones wait for their slowest row.
            if block > MAX_THREADS || (rows > 1 && block > 256) {
                continue;
            }
            for (ahead, bulk) in [(false, false), (true, false), (false, true), (true, true)] {
                let jobs = vec![Threads { threads }; jobs];
                let shape = LaunchShape { block, jobs, aligned: true, ahead, bulk, pieces: 1 };
                if !bulk || shape.can_copy(&op.norm) {
                    all.push(shape);
                }
            }
        }
    }
    if jobs == 1 && op.width() > WIDE {
        for (block, cluster) in [256, 512, 1024].into_iter().flat_map(|block| [2, 4, 8].map(|cluster| (block, cluster)))
        {
            let jobs = vec![Threads { threads: block * cluster }];
            let shape = LaunchShape { block, jobs, aligned: true, ahead: false, bulk: false, pieces: 1 };
            let few = vectors.div_ceil(u64::from(block * cluster)) <= MOST_VECTORS;
            if few && u64::from(block * cluster) < 2 * vectors && shape.can_cluster(&op.norm) {
                all.push(shape);
            }
        }
    }
    all
}

/// The op that stands for a class.
fn representative(class: Class) -> String {
    let norm = match class.before {
        Before::Norm => "rms_norm",
        Before::Add => "add+rms_norm",
        Before::Gate => "silu_mul",
    };
    match class.needs {
        Needs::NoQuantiser => norm.to_owned(),
        Needs::Nothing => format!("{norm}+fp8_static"),
        Needs::Row => format!("{norm}+fp8_token"),
        Needs::Groups => format!("{norm}+fp8_group128"),
        Needs::SmallGroups => format!("{norm}+mxfp8"),
    }
}

impl Bench {
    /// Measures the launch shapes of these classes at these widths and numbers of rows, and hands out each place as it is found.
    /// A shape in which registers went to memory is none, unless all are such.
    ///
    /// # Errors
    /// `Value` for a width that groups of 128 do not divide; `Unsupported` with what compiler or driver say.
    pub fn tune(
        &self,
        classes: &[Class],
        widths: &[u64],
        rows: &[u64],
        mut found: impl FnMut(&Tuned),
    ) -> Result<Regimes> {
        let mut entries = Vec::new();
        for class in classes.iter().copied() {
            for width in widths {
                let op = Op::of(&representative(class), *width)?;
                // Clusters are worked out, not measured.
                let shapes = shapes(&op).into_iter().filter(|shape| shape.cluster(0) == 1).collect();
                let mut kernels = self.kernels(&op, shapes)?;
                if !kernels.iter().all(FusedNormKernel::spills) {
                    kernels.retain(|kernel| !kernel.spills());
                }
                for rows in rows {
                    let tuned = self.tune_one(class, &op, &kernels, *rows)?;
                    found(&tuned);
                    entries.push(tuned.entry);
                }
            }
        }
        Ok(Regimes::new(entries))
    }

    /// Compiles and loads an op in several launch shapes, side by side.
    ///
    /// # Errors
    /// `Unsupported` with what compiler or driver say.
    pub fn kernels(&self, op: &Op, shapes: Vec<LaunchShape>) -> Result<Vec<FusedNormKernel>> {
        let load = |shape| FusedNormKernel::new(&self.device, self.compiler, &op.norm, shape);
        shapes.into_par_iter().map(load).collect()
    }

    fn tune_one(&self, class: Class, op: &Op, kernels: &[FusedNormKernel], rows: u64) -> Result<Tuned> {
        let worked_out = LaunchShape::choose(&op.norm, rows, true);
        let mut best: Option<Entry> = None;
        let mut without = f64::NAN;
        let mut tried = 0;
        for kernel in kernels.iter().filter(|k| rows >= MANY || !k.shape().bulk) {
            tried += 1;
            let mut us = self.time(op, kernel, rows, false)?.us;
            if rows <= FEW {
                us = f64::midpoint(us, self.time(op, kernel, rows, true)?.us);
            }
            let shape = kernel.shape();
            if *shape == worked_out {
                without = us;
            }
            if best.is_none_or(|b| us < b.us) {
                let threads = shape.jobs[0].threads;
                let LaunchShape { ahead, bulk, .. } = *shape;
                let rows_a_block = shape.rows(0);
                best = Some(Entry { class, width: op.width(), rows, threads, rows_a_block, ahead, bulk, us });
            }
        }
        if without.is_nan() {
            let kernel = self.kernels(op, vec![worked_out])?.remove(0);
            without = self.time(op, &kernel, rows, false)?.us;
            if rows <= FEW {
                without = f64::midpoint(without, self.time(op, &kernel, rows, true)?.us);
            }
        }
        // There is a shape for every width: a thread a vector, or as many as a block has.
        let none = || normfuse_ir::Error::new(normfuse_ir::ErrorKind::Unsupported, format!("no launch shape for {op}"));
        Ok(Tuned { entry: best.ok_or_else(none)?, worked_out: without, tried })
    }
}
