//! Every kernel compiles, for Hopper and for Blackwell, and nothing of a row goes to memory.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
};

use normfuse_ir::{FusedNorm, Result};
use normfuse_runtime::cuda::{Compiled, Compiler, LaunchShape, build, measure::Op, regimes::Regimes};

use crate::{compiler, variants};

/// The version of NVRTC that CI has, whose register counts the snapshot is of.
const PINNED: (i32, i32) = (13, 0);

/// Machine code of a descriptor in a launch shape.
pub fn compile(compiler: Compiler, norm: &FusedNorm, shape: &LaunchShape, arch: &str) -> Result<Compiled> {
    build(norm, shape, |text| compiler.compile(text, arch))
}

/// What is shipped for an architecture: every op that the program can name, with few rows and with many in turn; one in every
/// shape that it can have; kernels that are not vectorised; rows of 32,768. Wider ones, and from there on those that are
/// quantised, are more than the registers of a block hold: they have the right bits, from slower memory.
fn covering(arch: &str) -> Vec<(Op, LaunchShape)> {
    let table = Regimes::of_arch(arch);
    let mut all: Vec<(Op, LaunchShape)> = Vec::new();
    let mut add = |name: &str, width: u64, rows: u64, aligned: bool| {
        let op = Op::of(name, width).unwrap();
        let worked_out = || LaunchShape::choose(&op.norm, rows, aligned);
        let shape = table.map_or_else(worked_out, |table| table.choose(&op.norm, rows, aligned));
        if !all.contains(&(op.clone(), shape.clone())) {
            all.push((op, shape));
        }
    };
    for (i, name) in Op::names().iter().enumerate() {
        let (width, rows) = if i % 2 == 0 { (4096, 1) } else { (7168, 4096) };
        add(name, width, rows, true);
    }
    for width in [512, 4096, 7168, 16_384] {
        for rows in [1, 128, 1024, 16_384] {
            add("add+rms_norm+fp8_group128", width, rows, true);
        }
    }
    for width in [2048, 18_432] {
        for rows in [1, 16_384] {
            add("silu_mul+fp8_group128", width, rows, true);
            add("silu_mul+fp8_token", width, rows, true);
            add("silu_mul+fp8_static", width, rows, true);
        }
    }
    add("rms_norm+fp8_token", 4096, 16, false);
    add("rms_norm", 32_768, 16, true);
    all
}

/// What a kernel takes of a multiprocessor: more registers are fewer rows in flight. `cargo insta review` shows what a change did.
#[test]
fn kernels_take_as_many_registers_as_they_did() {
    let Some(compiler) = compiler() else { return };
    let mut report = format!("{:<8} {:<34} {:>6} {:>20} registers\n", "", "op", "N", "threads a row/block");
    for arch in ["sm_90", "sm_100a"] {
        for (op, shape) in covering(arch) {
            let compiled = compile(compiler, &op.norm, &shape, arch).unwrap();
            assert_eq!(compiled.spills(), Some(0), "{op} {} {shape:?} {arch}\n{}", op.width(), compiled.log);
            let ahead = if shape.ahead { "+" } else { "" };
            let bulk = if shape.bulk { "*" } else { "" };
            let unaligned = if shape.aligned { "" } else { " unaligned" };
            let pieces = if shape.pieces > 1 { format!("{} x ", shape.pieces) } else { String::new() };
            let layout = format!("{pieces}{}/{}{ahead}{bulk}{unaligned}", shape.jobs[0].threads, shape.block);
            let registers = compiled.registers().unwrap();
            let _ = writeln!(report, "{arch:<8} {op:<34} {:>6} {layout:>20} {registers:>9}", op.width());
        }
    }
    match compiler.version().unwrap() {
        PINNED => insta::assert_snapshot!("registers", report),
        (major, minor) => {
            let why = format!("registers are those of NVRTC {}.{}, this is {major}.{minor}", PINNED.0, PINNED.1);
            let _ = writeln!(io::stderr(), "skipped: {why}");
        }
    }
}

#[test]
fn kernels_compile_without_spills() {
    let Some(compiler) = compiler() else { return };
    let mut norms = Vec::new();
    for of in [variants::norms, variants::others] {
        norms.extend(of(256));
        norms.extend(of(7168).into_iter().step_by(5));
        norms.extend(of(33).into_iter().step_by(7));
    }
    let shapes = |aligned: bool| [(1, aligned), (4096, aligned)];
    let mut kernels: Vec<(&str, &FusedNorm, LaunchShape)> = Vec::new();
    for (i, norm) in norms.iter().enumerate() {
        for (rows, aligned) in shapes(i % 3 != 0) {
            let shape = LaunchShape::choose(norm, rows, aligned);
            let arch = if i % 8 == 0 { "sm_100a" } else { "sm_90" };
            kernels.push((arch, norm, shape));
        }
    }
    let bad: Vec<String> = kernels
        .iter()
        .filter_map(|(arch, norm, shape)| match compile(compiler, norm, shape, arch) {
            Ok(c) if c.spills() == Some(0) => None,
            Ok(c) => Some(format!("{norm:?} {shape:?}\n{}", c.log)),
            Err(e) => Some(format!("{norm:?} {shape:?}\n{e}")),
        })
        .collect();
    eprintln!("compiled {} kernels with NVRTC {:?}", kernels.len(), compiler.version().unwrap());
    let what: Vec<&str> = bad.iter().filter_map(|b| b.lines().next()).collect();
    assert!(bad.is_empty(), "{} of {}:\n{}\n{}", bad.len(), kernels.len(), bad[0], what.join("\n"));
}

#[test]
fn what_does_not_compile_says_why() {
    let Some(compiler) = compiler() else { return };
    let said = compiler.compile("#include \"norm.cuh\"\nint broken(", "sm_90").unwrap_err().to_string();
    assert!(said.contains("a kernel does not compile for sm_90") && said.contains("error"), "{said}");
    let said = compiler.compile("", "sm_1").unwrap_err().to_string();
    assert!(said.contains("sm_1"), "{said}");
}

/// Rows that several blocks share: with and without an add, of every quantiser that the program can name.
#[test]
fn rows_of_a_cluster_compile_without_spills() {
    let Some(compiler) = compiler() else { return };
    for (i, name) in Op::names().iter().filter(|n| !Op::fixed(n) && !n.contains("tensor")).enumerate() {
        let (width, rows) = [(20_480, 1), (32_768, 4096), (65_536, 4096)][i % 3];
        let norm = Op::of(name, width).unwrap().norm;
        let whole = LaunchShape { pieces: 1, ..LaunchShape::choose(&norm, rows, true) };
        let shape = whole.clustered(&norm, rows);
        assert!(shape.cluster(0) > 1, "{name} {shape:?}");
        let compiled = compile(compiler, &norm, &shape, if i % 4 == 0 { "sm_100a" } else { "sm_90" }).unwrap();
        assert_eq!(compiled.spills(), Some(0), "{name} of {width}: {shape:?}\n{}", compiled.log);
    }
}
