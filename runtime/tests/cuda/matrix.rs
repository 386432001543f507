//! Descriptors x widths x rows x launch shapes on a GPU, against the CPU runtime, which the evaluator checks.

use std::{
    env, fs,
    sync::atomic::{AtomicUsize, Ordering},
};

use normfuse_ir::{FusedNorm, Result, Tensor, body::bits_equal, fused::OutPort, scheme::ScaleLayout};
use normfuse_runtime::{
    cpu,
    cuda::{Compiler, Device, FusedNormKernel, LaunchShape, Threads, regimes::Regimes},
};
use rayon::prelude::*;

use crate::{compiler, or_skip, variants};

/// Widths: of heads, of latents, of models; powers of two and not; multiples of 8 and not.
const WIDTHS: [u64; 14] = [1, 7, 16, 33, 64, 128, 512, 576, 1536, 2048, 4096, 7168, 16384, 65536];

struct Case {
    norm: FusedNorm,
    shape: LaunchShape,
    rows: Vec<usize>,
}

fn cases() -> Vec<Case> {
    let measured = Regimes::of_arch("sm_90").unwrap();
    let mut all = Vec::new();
    for width in WIDTHS {
        for norm in variants::of_width(width) {
            // Tiles have 128 rows.
            let tiled = norm.siblings.iter().flat_map(|s| &s.epilogues).any(|s| !s.layout.is_in_order());
            let rows: &[usize] = match (tiled, width > 4096) {
                (true, true) => &[1, 19, 129],
                (true, false) => &[1, 40, 128, 300],
                (false, true) => &[1, 19],
                (false, false) => &[1, 7, 40],
            };
            for (many, aligned) in [(1, true), (4096, true), (1, false)] {
                if !aligned && width % 3 != 1 {
                    continue;
                }
                let aligned = aligned && width % 8 == 0;
                let shape = measured.choose(&norm, many, aligned);
                // In both ways, whichever is the faster.
                let copied = LaunchShape { bulk: true, ..shape.clone() };
                if many > 1 && !shape.bulk && shape.can_copy(&norm) {
                    all.push(Case { norm: norm.clone(), shape: copied, rows: rows.to_vec() });
                }
                all.push(Case { norm: norm.clone(), shape, rows: rows.to_vec() });
            }
        }
    }
    for norm in variants::random(256, 300, 7) {
        let shape = LaunchShape::choose(&norm, 4096, true);
        all.push(Case { norm, shape, rows: vec![15, 31] });
    }
    all
}

/// What a kernel gave as the tensor that the CPU gives, by the layout's index map; why not, if it wrote something else than zeros
/// where a tile has no scale.
fn in_tensor_order(want: &Tensor, found: Tensor, layout: ScaleLayout) -> std::result::Result<Tensor, String> {
    if layout.is_in_order() {
        return Ok(found);
    }
    let packed = layout == ScaleLayout::PackedUe8m0;
    // Of words, each byte has its place.
    let size = if packed { 1 } else { want.dtype().bits() / 8 };
    let rows = want.shape()[0];
    let across = want.shape()[1] * if packed { 4 } else { 1 };
    let (rows, across) = (rows as u64, across as u64);
    let at = |row, group| {
        let from = layout.index((row, group), (rows, across)) as usize * size;
        &found.bytes()[from..from + size]
    };
    let all = |rows: std::ops::Range<u64>| rows.flat_map(|r| (0..across).flat_map(move |g| at(r, g).to_vec()));
    if packed && all(rows..rows.next_multiple_of(4)).any(|b| b != 0) {
        return Err("rows behind the last one are not 0".into());
    }
    Ok(Tensor::from_bytes(want.dtype(), want.shape().to_vec(), all(0..rows).collect()).unwrap())
}

/// The first difference between what a kernel and what the CPU gives.
fn difference(norm: &FusedNorm, kernel: &FusedNormKernel, rows: usize, seed: u64) -> Result<Option<String>> {
    let operands = variants::operands(norm, rows, seed);
    let inputs: Vec<Option<&Tensor>> = operands.iter().map(Some).collect();
    let want = cpu::fused_norm(norm, &inputs)?;
    let found = kernel.run(&inputs)?;
    for ((port, want), found) in norm.out_ports().into_iter().zip(want).zip(found) {
        let layout = match port {
            OutPort::Scale(k, e) => norm.siblings[k].epilogues[e].layout,
            _ => ScaleLayout::RowMajor,
        };
        let found = match in_tensor_order(&want, found, layout) {
            Ok(found) => found,
            Err(why) => return Ok(Some(format!("{port}: {why}"))),
        };
        if let Some(mismatch) = bits_equal(&want, &found) {
            return Ok(Some(format!("{port}: {mismatch}")));
        }
    }
    Ok(None)
}

/// What of a case differs, or is refused.
fn differences(device: &Device, compiler: Compiler, i: usize, case: &Case) -> Vec<String> {
    let Case { norm, shape, rows } = case;
    let kernel = match FusedNormKernel::new(device, compiler, norm, shape.clone()) {
        Ok(kernel) => kernel,
        Err(e) => return vec![format!("{norm:?} {shape:?}: {e}")],
    };
    let compared = rows.iter().enumerate().filter_map(|(j, rows)| {
        let found = match difference(norm, &kernel, *rows, (i * 3 + j) as u64) {
            Ok(found) => found?,
            Err(e) => e.to_string(),
        };
        Some(format!("{rows} rows, {shape:?}\n  {norm:?}\n  {found}"))
    });
    compared.collect()
}

/// Takes minutes of a GPU; `PART=0/3` takes the first of every three kernels.
#[test]
fn the_gpu_has_the_bits_of_the_cpu() {
    let Some(device) = or_skip(Device::open(0)) else { return };
    let Some(compiler) = compiler() else { return };
    let mut cases = cases();
    // In one of several parts, where time is short.
    if let Ok(part) = env::var("PART") {
        let (part, parts) = part.split_once('/').expect("PART is such as 0/3");
        cases = cases.into_iter().skip(part.parse().unwrap()).step_by(parts.parse().unwrap()).collect();
    }
    // What was compared so far counts where time runs out.
    let (done, cells) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let bad: Vec<String> = cases
        .par_iter()
        .enumerate()
        .flat_map_iter(|(i, case)| {
            let bad = differences(&device, compiler, i, case);
            for line in &bad {
                eprintln!("{line}");
            }
            let cells = cells.fetch_add(case.rows.len(), Ordering::Relaxed) + case.rows.len();
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            if done % 500 == 0 {
                eprintln!("{done} of {} kernels, {cells} cells", cases.len());
            }
            bad
        })
        .collect();
    let cells = cells.into_inner();
    let line = format!("{}: {} kernels, {cells} cells, {} differ", device.name(), cases.len(), bad.len());
    eprintln!("{line}");
    if let Some(folder) = env::var_os("OUT") {
        fs::write(std::path::Path::new(&folder).join("matrix.txt"), format!("{line}\n{}\n", bad.join("\n"))).unwrap();
    }
    assert!(bad.is_empty(), "{} of {cells} cells differ; the first:\n{}", bad.len(), bad[0]);
    assert!(cells >= 2000 || env::var_os("PART").is_some(), "{cells}");
}

/// A row has the same bits wherever it stands, among however many, by whichever launch shape.
#[test]
fn a_row_does_not_depend_on_its_batch_or_launch() {
    let Some(device) = or_skip(Device::open(0)) else { return };
    let Some(compiler) = compiler() else { return };
    let norm = variants::quantised(7168, vec![crate::schemes::linear(normfuse_ir::Granularity::Group(128))]);
    let one = variants::operands(&norm, 1, 0);
    let expected = cpu::fused_norm(&norm, &[Some(&one[0]), Some(&one[1])]).unwrap();
    for threads in [32, 64, 128, 256, 512, 1024] {
        let shape = LaunchShape {
            block: threads.max(128),
            jobs: vec![Threads { threads }],
            aligned: true,
            ahead: threads > 128,
            bulk: threads == 128,
            pieces: 1,
        };
        let kernel = FusedNormKernel::new(&device, compiler, &norm, shape).unwrap();
        for batch in [1, 7, 128, 16_384] {
            let row = one[0].bytes();
            let x = Tensor::from_bytes(one[0].dtype(), vec![batch, 7168], row.repeat(batch)).unwrap();
            let found = kernel.run(&[Some(&x), Some(&one[1])]).unwrap();
            for (want, found) in expected.iter().zip(&found) {
                let own = found.bytes().chunks(want.bytes().len());
                assert!(own.clone().all(|row| row == want.bytes()), "{threads} threads, {batch} rows");
                assert_eq!(own.len(), batch);
            }
        }
    }
}

/// Rows that the blocks of a cluster share, of any width, in clusters of every size.
#[test]
fn rows_of_a_cluster_have_the_bits_of_the_cpu() {
    let Some(device) = or_skip(Device::open(0)) else { return };
    let Some(compiler) = compiler() else { return };
    let mut cases = Vec::new();
    for (i, width) in [1000, 4096, 20_480, 65_536].into_iter().enumerate() {
        let norms = variants::of_width(width);
        for (j, (block, cluster)) in [(32, 2), (64, 4), (128, 8), (256, 8), (512, 4)].into_iter().enumerate() {
            let threads = block * cluster;
            if width.div_ceil(8) > u64::from(threads) * 12 {
                continue;
            }
            let aligned = width % 8 == 0 && j % 3 > 0;
            let shape = LaunchShape {
                block,
                jobs: vec![Threads { threads }],
                aligned,
                ahead: j % 2 == 0,
                bulk: false,
                pieces: 1,
            };
            let some = norms.iter().skip(i + j).step_by(13).filter(|n| shape.can_cluster(n));
            cases.extend(some.map(|norm| (norm.clone(), shape.clone())));
        }
    }
    let bad: Vec<String> = cases
        .par_iter()
        .enumerate()
        .filter_map(|(i, (norm, shape))| {
            let kernel = FusedNormKernel::new(&device, compiler, norm, shape.clone()).unwrap();
            let differs = [1, 9].map(|rows| difference(norm, &kernel, rows, (i + rows) as u64).unwrap());
            differs.iter().any(Option::is_some).then(|| format!("{differs:?}\n{shape:?}\n{norm:?}"))
        })
        .collect();
    eprintln!("{}: {} kernels of clusters, {} differ", device.name(), cases.len(), bad.len());
    assert!(bad.is_empty(), "{}", bad[0]);
    assert!(cases.len() > 100, "{}", cases.len());
}

#[test]
fn no_rows_are_no_launch() {
    let Some(device) = or_skip(Device::open(0)) else { return };
    let Some(compiler) = compiler() else { return };
    let norm = variants::quantised(64, vec![crate::schemes::linear(normfuse_ir::Granularity::Token)]);
    let kernel = FusedNormKernel::new(&device, compiler, &norm, LaunchShape::choose(&norm, 1, true)).unwrap();
    let operands = variants::operands(&norm, 0, 0);
    let found = kernel.run(&[Some(&operands[0]), Some(&operands[1])]).unwrap();
    assert!(found.iter().all(|t| t.bytes().is_empty()));
}
