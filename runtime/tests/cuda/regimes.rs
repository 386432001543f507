//! Tables of launch shapes: how they are read, what they give between their entries, and that no shape changes a bit.

use std::collections::BTreeMap;

use normfuse_ir::{DType, FusedNorm, Tensor, body::bits_equal, fused::Sibling};
use normfuse_runtime::{
    cpu,
    cuda::{
        Device, FusedNormKernel, LaunchShape,
        measure::Op,
        regimes::{Class, Regimes},
    },
};
use rayon::prelude::*;

use crate::{compile::compile, compiler, or_skip, variants};

const TABLE: &str = "\
# class width rows threads rows-a-block weights copy us
norm           4096     1   256 1 ahead load    1.40
norm           4096  4096   128 2 late  load   18.00   # said after it
norm           8192     1   512 1 ahead load    1.90

norm+groups    4096  4096    64 4 late  load   16.00
norm+row       4096  4096   128 1 late  bulk   15.00
";

fn plain(width: u64, dtype: DType) -> FusedNorm {
    FusedNorm::of(vec![Sibling::plain(width, dtype)])
}

/// Threads a row, threads a block, weights ahead.
fn chosen(table: &Regimes, norm: &FusedNorm, rows: u64) -> (u32, u32, bool) {
    let shape = table.choose(norm, rows, true);
    (shape.jobs[0].threads, shape.block, shape.ahead)
}

#[test]
fn between_entries_the_nearest_by_ratio_counts() {
    let table = Regimes::parse(TABLE).unwrap();
    let at = |width, rows| chosen(&table, &plain(width, DType::BF16), rows);
    assert_eq!(at(4096, 1), (256, 256, true));
    assert_eq!(at(4096, 4096), (128, 256, false));
    assert_eq!(at(4096, 63), (256, 256, true));
    // As near to 1 as to 4096: the larger.
    assert_eq!(at(4096, 64), (128, 256, false));
    assert_eq!(at(4096, 1 << 40), (128, 256, false));
    assert_eq!(at(4096, 0), (256, 256, true));
    // Widths: 8192 has one number of rows only. Between 4096 and 8192 the middle is at 5793.
    assert_eq!(at(5792, 4096), (128, 256, false));
    assert_eq!(at(7168, 4096), (512, 512, true));
    // Threads follow the width, down to a warp and up to a block.
    assert_eq!(at(2048, 4096), (64, 128, false));
    assert_eq!(at(16_384, 1), (1024, 1024, true));
    // Wider ones are shared by blocks: by eight, or with many rows by as many as hold them.
    assert_eq!(at(65_536, 1), (2048, 256, false));
    assert_eq!(at(65_536, 4096), (1024, 256, false));
    assert_eq!(at(24_576, 4096).1, 1024);
    assert_eq!(at(128, 1), (32, 32, true));
    assert_eq!(at(1, 4096), (32, 64, false));
    // An f32 row takes the registers of two.
    assert_eq!(chosen(&table, &plain(2048, DType::F32), 4096), (128, 256, false));
}

/// Only what can be copied is: aligned, whole vectors, no more than fit.
#[test]
fn rows_are_copied_where_they_can_be() {
    let table = Regimes::parse(TABLE).unwrap();
    let copied = |width, aligned| {
        let op = Op::of("rms_norm+fp8_token", width).unwrap();
        table.choose(&op.norm, 4096, aligned).bulk
    };
    assert!(copied(4096, true) && copied(16_384, true));
    assert!(!copied(4096, false) && !copied(4095, true) && !copied(32_768, true));
}

#[test]
fn a_class_without_entries_is_worked_out() {
    let table = Regimes::parse(TABLE).unwrap();
    let op = Op::of("add+rms_norm", 4096).unwrap();
    assert_eq!(table.choose(&op.norm, 16, true), LaunchShape::choose(&op.norm, 16, true));
    assert_eq!(Regimes::default().choose(&op.norm, 16, false), LaunchShape::choose(&op.norm, 16, false));
}

/// Rows of which nothing is found as a whole are narrow ones of 2,048 elements, or of 1,024 where they are few; what a whole row decides,
/// what lies in tiles and what no number of groups divides is left whole.
#[test]
fn rows_are_divided_where_nothing_is_found_of_the_whole() {
    let table = Regimes::of_arch("sm_90").unwrap();
    let pieces = |name: &str, width: u64, rows: u64| {
        let norm = Op::of(name, width).unwrap().norm;
        let shape = table.choose(&norm, rows, true);
        assert_eq!(shape.pieces, LaunchShape::choose(&norm, rows, true).pieces);
        assert_eq!(shape.blocks(&[rows]), (rows * u64::from(shape.pieces)).div_ceil(u64::from(shape.rows(0))));
        shape.pieces
    };
    assert_eq!([1, 64, 4096].map(|rows| pieces("silu_mul+fp8_static", 18_432, rows)), [18, 9, 9]);
    assert_eq!(pieces("silu_mul+fp8_group128_columns", 14_336, 4096), 7);
    assert_eq!(pieces("silu_mul", 2048, 4096), 1);
    assert_eq!(pieces("quantise+mxfp4", 7168, 4096), 4);
    // Groups of 128 leave 2,176 nothing but 17 pieces, too narrow to read well.
    assert_eq!(pieces("silu_mul+fp8_group128", 2176, 4096), 1);
    for whole in ["silu_mul+fp8_token", "silu_mul+fp8_tensor", "rms_norm+fp8_static", "add+rms_norm+fp8_group128"] {
        assert_eq!(pieces(whole, 18_432, 4096), 1, "{whole}");
    }
    let mut tiled = Op::of("silu_mul+ue8m0_group128", 18_432).unwrap().norm;
    tiled.siblings[0].epilogues[0].layout = normfuse_ir::scheme::ScaleLayout::PackedUe8m0;
    assert!(!LaunchShape::can_divide(&tiled, 9) && LaunchShape::can_divide(&tiled, 1));
}

/// Siblings with rows of their own have threads of their own, in one block.
#[test]
fn siblings_are_chosen_each_for_itself() {
    let table = Regimes::parse(TABLE).unwrap();
    let dual = Op::of("dual_rms_norm+fp8_group128", 1).unwrap();
    let shape = table.choose(&dual.norm, 4096, true);
    // 1536 of groups: a third of 4096, so half or a quarter of 64, but a warp at least. 512 plain: an eighth of 128.
    assert_eq!(shape.jobs.iter().map(|j| j.threads).collect::<Vec<_>>(), [32, 32]);
    assert_eq!((shape.block, shape.rows(0), shape.rows(1)), (128, 4, 4));
}

#[test]
fn classes_are_of_the_most_that_a_quantiser_needs() {
    let class = |name: &str| Class::of(&Op::of(name, 4096).unwrap().norm, &[0]).to_string();
    assert_eq!(class("rms_norm"), "norm");
    assert_eq!(class("rms_norm+int8_static"), "norm+given");
    assert_eq!(class("add+rms_norm+fp8_token"), "add+norm+row");
    assert_eq!(class("add+rms_norm+fp8_group128"), "add+norm+groups");
    assert_eq!(class("add+rms_norm+nvfp4"), "add+norm+small-groups");
    assert_eq!(class("silu_mul+fp8_tensor"), "gate+row");
    assert_eq!(class("silu_mul"), "gate");
}

#[test]
fn gates_that_were_not_measured_are_as_adds() {
    let gate = Op::of("silu_mul+fp8_group128", 2048).unwrap().norm;
    let adds = format!("{TABLE}add+norm+groups 2048 4096 256 2 late load 20.0\n");
    let gates = format!("{adds}gate+groups 2048 4096 128 1 late load 20.0\n");
    let block = |table: &str| Regimes::parse(table).unwrap().choose(&gate, 4096, true);
    assert_eq!((block(&adds).jobs[0].threads, block(&adds).block), (256, 512));
    assert_eq!((block(&gates).jobs[0].threads, block(&gates).block), (128, 128));
}

#[test]
fn a_table_that_is_wrong_is_refused_by_line() {
    let said = |line: &str| Regimes::parse(&format!("# a comment\n{line}\n")).unwrap_err().to_string();
    for (line, why) in [
        ("norm 4096 1 256 1 ahead load", "expected class, width"),
        ("rms 4096 1 256 1 ahead load 1.0", "found `rms`"),
        ("norm 0 1 256 1 ahead load 1.0", "expected a width, found `0`"),
        ("norm 4096 x 256 1 ahead load 1.0", "expected rows, found `x`"),
        ("norm 4096 1 48 1 ahead load 1.0", "found 48 x 1"),
        ("norm 4096 1 16 1 ahead load 1.0", "found 16 x 1"),
        ("norm 4096 1 256 8 ahead load 1.0", "found 256 x 8"),
        ("norm 16384 1 64 1 ahead load 1.0", "at most 12 vectors a thread"),
        ("norm 4096 1 256 1 maybe load 1.0", "expected ahead or late, found `maybe`"),
        ("norm 4096 1 256 1 late twice 1.0", "expected load or bulk, found `twice`"),
        ("norm 4096 1 256 1 late load -1", "expected microseconds, found `-1`"),
        ("norm 4096 1 256 1 late load inf", "expected microseconds, found `inf`"),
        (
            "norm 4096 1 256 1 late load 1\nnorm 4096 1 128 1 late load 1",
            "line 3 of a table of regimes: norm at 4096 and 1 rows",
        ),
    ] {
        assert!(said(line).contains(why), "{line}: {}", said(line));
    }
}

#[test]
fn what_is_printed_is_read_again() {
    let table = Regimes::parse(TABLE).unwrap();
    let printed: String = table.entries().iter().fold(String::new(), |all, e| all + &format!("{e}\n"));
    assert_eq!(Regimes::parse(&printed).unwrap(), table);
}

/// The table of the crate: every class, and shapes that every width up to the widest row can have.
#[test]
fn the_measured_table_is_whole() {
    let table = Regimes::of_arch("sm_90").unwrap();
    assert!(Regimes::of_arch("sm_1").is_none());
    let mut places: BTreeMap<Class, usize> = BTreeMap::new();
    for entry in table.entries() {
        *places.entry(entry.class).or_default() += 1;
    }
    assert_eq!(places.len(), Class::ALL.len());
    assert!(places.values().all(|n| *n == places[&Class::ALL[0]]), "{places:?}");
    for width in [1, 7, 64, 100, 576, 4096, 7168, 16_384, 40_000, 65_536] {
        for norm in variants::of_width(width) {
            for rows in [0, 1, 100, 5000, 1 << 40] {
                let shape = table.choose(&norm, rows, false);
                let (block, threads) = (shape.block, shape.jobs.iter().map(|j| j.threads));
                assert!(
                    block <= 1024
                        && threads
                            .clone()
                            .all(|t| t.is_power_of_two() && t >= 32 && (block % t == 0 || t % block == 0))
                );
                assert!(LaunchShape::can_divide(&norm, shape.pieces), "{width} {shape:?}");
                let least = (width / u64::from(shape.pieces)).div_ceil(8).div_ceil(12).min(1024);
                assert!(u64::from(shape.jobs[0].threads) >= least, "{width} {shape:?}");
            }
        }
    }
}

/// The ops that stand for the classes, at the table's widths, in every shape that it has for them.
fn shapes_of_the_table() -> Vec<(Op, Vec<LaunchShape>)> {
    let table = Regimes::of_arch("sm_90").unwrap();
    let mut all: BTreeMap<(Class, u64), Vec<LaunchShape>> = BTreeMap::new();
    let names = Op::names();
    let op = |class: Class, width: u64| {
        let of = |name: &&String| Op::of(name, width).is_ok_and(|op| Class::of(&op.norm, &[0]) == class);
        Op::of(names.iter().find(of).unwrap(), width).unwrap()
    };
    for entry in table.entries() {
        let shape = table.choose(&op(entry.class, entry.width).norm, entry.rows, true);
        let shapes = all.entry((entry.class, entry.width)).or_default();
        if !shapes.contains(&shape) {
            shapes.push(shape);
        }
    }
    all.into_iter().map(|((class, width), shapes)| (op(class, width), shapes)).collect()
}

/// Compiles kernels, and says which have registers in memory.
fn compile_without_spills(kernels: &[(Op, LaunchShape)]) {
    let Some(compiler) = compiler() else { return };
    let mut bad = Vec::new();
    for (op, shape) in kernels {
        let compiled = compile(compiler, &op.norm, shape, "sm_90").unwrap();
        if compiled.spills() != Some(0) {
            bad.push(format!("{op} {} {shape:?}\n{}", op.width(), compiled.log));
        }
    }
    eprintln!("{} kernels", kernels.len());
    assert!(bad.is_empty(), "{} of {}:\n{}", bad.len(), kernels.len(), bad.join("\n"));
}

/// Every launch shape of the table once, of the widest rows that have it; every class once at least.
#[test]
fn every_regime_of_the_table_compiles_without_spills() {
    let mut kernels: Vec<(Op, LaunchShape)> = Vec::new();
    for (op, shapes) in shapes_of_the_table().into_iter().rev() {
        let class = |op: &Op| Class::of(&op.norm, &[0]);
        for (i, shape) in shapes.into_iter().enumerate() {
            let new_class = i == 0 && !kernels.iter().any(|(other, _)| class(other) == class(&op));
            if new_class || !kernels.iter().any(|(_, other)| *other == shape) {
                kernels.push((op.clone(), shape));
            }
        }
    }
    assert!(kernels.len() > 25, "{}", kernels.len());
    compile_without_spills(&kernels);
}

#[test]
#[ignore = "takes minutes: every class, width and launch shape of the table"]
fn everything_that_the_table_can_choose_compiles_without_spills() {
    let all =
        shapes_of_the_table().into_iter().flat_map(|(op, shapes)| shapes.into_iter().map(move |s| (op.clone(), s)));
    compile_without_spills(&all.collect::<Vec<_>>());
}

#[test]
fn every_shape_of_the_table_has_the_bits_of_the_cpu() {
    let Some(device) = or_skip(Device::open(0)) else { return };
    let Some(compiler) = compiler() else { return };
    let bad: Vec<String> = shapes_of_the_table()
        .into_par_iter()
        .flat_map_iter(|(op, shapes)| {
            let operands = variants::operands(&op.norm, 19, op.width());
            let inputs: Vec<Option<&Tensor>> = operands.iter().map(Some).collect();
            let want = cpu::fused_norm(&op.norm, &inputs).unwrap();
            let (device, compiler) = (&device, compiler);
            let differ = move |shape: LaunchShape| {
                let inputs: Vec<Option<&Tensor>> = operands.iter().map(Some).collect();
                let found =
                    FusedNormKernel::new(device, compiler, &op.norm, shape.clone()).and_then(|k| k.run(&inputs));
                let differs = found.map(|found| want.iter().zip(&found).find_map(|(w, f)| bits_equal(w, f)));
                match differs {
                    Ok(None) => None,
                    Ok(Some(m)) => Some(format!("{op} {} {shape:?}: {m}", op.width())),
                    Err(e) => Some(format!("{op} {} {shape:?}: {e}", op.width())),
                }
            };
            shapes.into_iter().filter_map(differ).collect::<Vec<_>>()
        })
        .collect();
    assert!(bad.is_empty(), "{} differ; the first:\n{}", bad.len(), bad[0]);
}
