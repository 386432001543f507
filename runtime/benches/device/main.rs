//! Fused norms on a GPU: each with every launch shape that makes sense, the fastest beside its limit.
//!
//! `cargo bench -p normfuse-runtime --bench device [-- FILTER]` prints a line for each op and shape. Kernels run from a CUDA
//! graph on buffers that rotate through more memory than the GPU's cache has; a time is the median of replays. The limit is
//! the faster of the best of some cast kernels that move the same bytes, launched in the same way, and of those bytes over
//! the bandwidth of the driver's own device copy in the same run, where there are enough of them for a bandwidth to mean anything.

mod cast;
mod ops;
mod timer;

use std::error::Error;

use normfuse_ir::{
    DType, FusedNorm,
    fused::{InPort, OutPort},
};
use normfuse_runtime::cuda::{Compiler, Device, FusedNormKernel, LaunchShape, Params, Threads};
use rayon::prelude::*;

use cast::Cast;
use timer::{Arena, Timer};

const WIDTHS: [u64; 2] = [4096, 7168];
const ROWS: [u64; 6] = [1, 16, 128, 1024, 4096, 16_384];

/// Bytes from which on a launch is limited by the memory alone.
const LARGE: u64 = 32 << 20;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Launch shapes to try: threads a row, from a warp to a block, and rows a block.
fn shapes(norm: &FusedNorm) -> Vec<LaunchShape> {
    let vectors = norm.siblings[0].width.div_ceil(8);
    let mut all = Vec::new();
    for threads in [32u32, 64, 128, 256, 512, 1024] {
        let each = vectors.div_ceil(u64::from(threads));
        if each > 16 || u64::from(threads) >= 2 * vectors {
            continue;
        }
        for block in [128u32, 256, 512, 1024] {
            if block == threads || (block > threads && block <= 256) {
                let jobs = vec![Threads { threads }];
                all.extend([false, true].map(|ahead| LaunchShape { block, jobs: jobs.clone(), aligned: true, ahead }));
            }
        }
    }
    all
}

/// Bytes that an op reads and writes once for a number of rows.
struct Traffic {
    inputs: Vec<(InPort, u64)>,
    outputs: Vec<(OutPort, u64)>,
}

impl Traffic {
    fn of(norm: &FusedNorm, rows: u64) -> Self {
        let bytes = |bits: usize, n: u64| n * bits as u64 / 8;
        let width = norm.siblings[0].width;
        let inputs = norm.in_ports().into_iter().map(|port| {
            let size = match port {
                InPort::Weight(k) => bytes(norm.siblings[k].weight.map_or(32, |w| w.dtype.bits()), width),
                InPort::Scale(..) | InPort::ZeroPoint(..) => 4,
                _ => bytes(norm.rows_dtype(port).map_or(0, DType::bits), rows * width),
            };
            (port, size)
        });
        let outputs = norm.out_ports().into_iter().map(|port| {
            // Room for every layout of the scales.
            let rows = if matches!(port, OutPort::Scale(..)) { rows.next_multiple_of(4) } else { rows };
            let bits = norm.result_dtype(port).map_or(0, DType::bits);
            (port, bytes(bits, rows * norm.result_width(port).unwrap_or(1)))
        });
        Self { inputs: inputs.collect(), outputs: outputs.collect() }
    }

    fn total(&self) -> u64 {
        self.inputs.iter().map(|(_, n)| n).sum::<u64>() + self.outputs.iter().map(|(_, n)| n).sum::<u64>()
    }
}

/// Microseconds a launch.
fn time(
    timer: &Timer,
    arena: &Arena,
    kernel: &FusedNormKernel,
    norm: &FusedNorm,
    rows: u64,
    early: bool,
) -> Outcome<f64> {
    let traffic = Traffic::of(norm, rows);
    let sizes: Vec<u64> = traffic.inputs.iter().map(|i| i.1).chain(traffic.outputs.iter().map(|o| o.1)).collect();
    let mut sets = arena.sets(&sizes);
    timer.replay(sets.len(), |i, stream| {
        let mut addresses = std::mem::take(&mut sets[i]);
        let outputs = addresses.split_off(traffic.inputs.len());
        let strides =
            traffic.inputs.iter().map(|(p, _)| if norm.rows_dtype(*p).is_some() { norm.siblings[0].width } else { 0 });
        let params = Params { inputs: addresses, strides: strides.collect(), outputs, rows: vec![rows] };
        // SAFETY: the arena has all of these bytes, in places that do not overlap, and lives until the replays are done.
        Ok(unsafe { kernel.launch(stream, &params, early) }?)
    })
}

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if args.iter().any(|a| a == "--test") {
        return Ok(());
    }
    let filter = args.first().map_or("", String::as_str);
    let (device, compiler) = match Device::open(0).and_then(|d| Ok((d, Compiler::load()?))) {
        Ok(found) => found,
        Err(e) => {
            eprintln!("skipped: {e}");
            return Ok(());
        }
    };
    let mut arena = Arena::new(&device)?;
    arena.refresh()?;
    let timer = Timer::new(&device);
    let bandwidth = timer.copy_bandwidth(&arena)?;
    let casts = Cast::all(&device, compiler)?;
    println!("{}, {} MB of L2; device copy {:.0} GB/s", device.name(), device.l2_bytes()? >> 20, bandwidth / 1e9);
    println!("us a launch, the median of replays of a CUDA graph; in brackets with programmatic dependent launch");
    println!(
        "{:<26} {:>6} {:>6} {:>8} {:>8} {:>8} {:>8} {:>6} {:>6}  threads a row / a block, + weights ahead",
        "op", "N", "M", "us", "(pdl)", "limit", "(pdl)", "ratio", "(pdl)"
    );
    for (name, make) in ops::OPS {
        if !name.contains(filter) {
            continue;
        }
        for width in WIDTHS {
            let norm = make(width);
            let kernels: Vec<FusedNormKernel> = shapes(&norm)
                .into_par_iter()
                .map(|s| FusedNormKernel::new(&device, compiler, &norm, s))
                .collect::<normfuse_ir::Result<_>>()?;
            for rows in ROWS {
                let mut best = [(f64::INFINITY, String::new()), (f64::INFINITY, String::new())];
                for kernel in &kernels {
                    for (early, best) in [false, true].into_iter().zip(&mut best) {
                        arena.refresh()?;
                        let us = time(&timer, &arena, kernel, &norm, rows, early)?;
                        if us < best.0 {
                            let shape = kernel.shape();
                            let ahead = if shape.ahead { "+" } else { "" };
                            *best = (us, format!("{}/{}{ahead}", shape.jobs[0].threads, shape.block));
                        }
                    }
                }
                let bytes = Traffic::of(&norm, rows).total();
                // A launch that is shorter than it takes to start says nothing of a bandwidth.
                let copied = if bytes < LARGE { f64::INFINITY } else { bytes as f64 / bandwidth * 1e6 };
                let limit =
                    [false, true].map(|early| Cast::best(&casts, &timer, &arena, bytes, early).map(|c| c.min(copied)));
                let [plain, early] = limit;
                let (plain, early) = (plain?, early?);
                println!(
                    "{name:<26} {width:>6} {rows:>6} {:>8.2} {:>8.2} {plain:>8.2} {early:>8.2} {:>6.3} {:>6.3}  {} ({})",
                    best[0].0,
                    best[1].0,
                    best[0].0 / plain,
                    best[1].0 / early,
                    best[0].1,
                    best[1].1,
                );
            }
        }
    }
    Ok(())
}
