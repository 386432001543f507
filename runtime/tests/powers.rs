//! `kernels/power.cuh`, which has no PTX, as a host's compiler has it: powers of e of every f32 beside `num::exp`, and quotients by a sum
//! beside divisions.

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use normfuse_ir::num;
use rayon::prelude::*;
use tempfile::TempDir;

/// The program of `powers.hpp`; nothing if no compiler makes it.
fn program() -> Option<(TempDir, PathBuf)> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("powers");
    let made = |flags: &[&str]| {
        let mut command = Command::new("g++");
        command.args(["-std=c++17", "-O2", "-w", "-ffp-contract=off", "-x", "c++", "-I"]).arg(own.join("kernels"));
        command.args(flags).arg(own.join("tests/powers.hpp")).arg("-o").arg(&to).output().ok()
    };
    // Without the processor's instruction an fma is a call that takes a hundred times as long.
    let flags: &[&str] = if cfg!(target_arch = "x86_64") { &["-mfma"] } else { &[] };
    let Some(output) = made(flags) else {
        eprintln!("skipped: no g++");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some((folder, to))
}

/// Every `step`th f32.
fn powers_are_those_of_the_cpu(step: u64) {
    const PARTS: u64 = 256;
    let Some((_folder, program)) = program() else { return };
    let count = (1u64 << 32).div_ceil(step).div_ceil(PARTS);
    let part = |part: u64| {
        let first = part * count * step;
        let words = [first, count.min((1u64 << 32).saturating_sub(first).div_ceil(step)), step].map(|n| n.to_string());
        let mut child = Command::new(&program).arg("powers").args(words).stdout(Stdio::piped()).spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        let (mut wrong, mut x, mut bytes) = (0u64, first, vec![0u8; 1 << 16]);
        loop {
            let mut held = 0;
            while held < bytes.len() {
                match out.read(&mut bytes[held..]).unwrap() {
                    0 => break,
                    n => held += n,
                }
            }
            for found in bytes[..held].chunks_exact(4) {
                let found = f32::from_le_bytes(found.try_into().unwrap());
                let want = num::exp(f32::from_bits(x as u32));
                wrong += u64::from(found.to_bits() != want.to_bits() && !(found.is_nan() && want.is_nan()));
                x += step;
            }
            if held == 0 {
                break;
            }
        }
        assert!(child.wait().unwrap().success());
        (wrong, (x - first) / step)
    };
    let all: Vec<(u64, u64)> = (0..PARTS).into_par_iter().map(part).collect();
    assert_eq!(all.iter().map(|n| n.1).sum::<u64>(), (1u64 << 32).div_ceil(step));
    assert_eq!(all.iter().map(|n| n.0).sum::<u64>(), 0);
}

#[test]
fn powers_have_the_bits_of_the_cpu() {
    powers_are_those_of_the_cpu(1021);
}

#[test]
#[ignore = "all 2^32 f32: minutes of two cores"]
fn powers_of_every_f32_have_the_bits_of_the_cpu() {
    powers_are_those_of_the_cpu(1);
}

fn quotients_are_exact(count: u64) {
    let Some((_folder, program)) = program() else { return };
    let part = |seed: u64| {
        let words = [count, seed].map(|n| n.to_string());
        let output = Command::new(&program).arg("quotients").args(words).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    (0..8).into_par_iter().for_each(part);
}

#[test]
fn quotients_by_a_sum_are_exact() {
    quotients_are_exact(100_000);
}

#[test]
#[ignore = "takes minutes: 6 * 10^9 quotients"]
fn many_quotients_by_a_sum_are_exact() {
    quotients_are_exact(100_000_000);
}
