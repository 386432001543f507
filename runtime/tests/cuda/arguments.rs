//! What a launch is refused for before anything of it reaches the GPU. Needs none.

use normfuse_ir::{
    DType, ErrorKind, FusedNorm, Granularity, Scheme,
    fused::{Prologue, ResidualAdd, Sibling, Source},
    scheme::ScaleLayout,
};
use normfuse_runtime::cuda::{Arguments, LaunchShape, Operand, Region};

use crate::{schemes, variants};

const ROWS: u64 = 5;
const WIDTH: u64 = 64;

/// add -> norm -> FP8 with a scale a group of 32, in TMA's layout; the sum is handed out.
fn norm() -> FusedNorm {
    let scheme = Scheme { layout: ScaleLayout::TmaAligned, ..schemes::linear(Granularity::Group(32)) };
    let one = variants::quantised(WIDTH, vec![scheme]);
    FusedNorm { prologue: Prologue::ResidualAdd(ResidualAdd::of(DType::BF16)), emit_sum: true, ..one }
}

/// x, residual, weight; sum, codes, scales: each exactly as large as it must be.
fn fitting() -> Arguments {
    let at = |n: u64, bytes: u64| Region::new(n << 20, bytes);
    let rows = ROWS * WIDTH * 2;
    Arguments {
        inputs: vec![at(1, rows).into(), at(2, rows).into(), at(3, WIDTH * 2).into()],
        // Of 5 rows TMA's layout has 8.
        outputs: vec![at(4, rows), at(5, ROWS * WIDTH), at(6, 8 * 2 * 4)],
        rows: vec![ROWS],
        scratch: None,
    }
}

fn refused(arguments: &Arguments, aligned: bool) -> (ErrorKind, String) {
    let error = arguments.check(&norm(), &LaunchShape::choose(&norm(), ROWS, aligned)).unwrap_err();
    (error.kind, error.to_string())
}

#[test]
fn what_fits_becomes_the_parameter() {
    let arguments = fitting();
    let params = arguments.check(&norm(), &LaunchShape::choose(&norm(), ROWS, true)).unwrap();
    assert_eq!(params.inputs, [1 << 20, 2 << 20, 3 << 20]);
    assert_eq!(params.outputs, [4 << 20, 5 << 20, 6 << 20]);
    assert_eq!(params.strides, [WIDTH, WIDTH, 0]);
    assert_eq!(params.rows, [ROWS]);
}

/// A byte less than it takes, of each operand and result.
#[test]
fn memory_that_is_too_small_is_refused_by_name() {
    let ports = ["x", "residual", "weight0", "sum", "q0_0", "scale0_0"];
    for (i, name) in ports.iter().enumerate() {
        let mut arguments = fitting();
        let region = if i < 3 { &mut arguments.inputs[i].region } else { &mut arguments.outputs[i - 3] };
        region.bytes -= 1;
        let found = format!("found {}", region.bytes);
        let (kind, said) = refused(&arguments, true);
        assert!(kind == ErrorKind::Shape && said.starts_with(name) && said.ends_with(&found), "{name}: {said}");
    }
}

#[test]
fn addresses_that_no_kernel_can_take_are_refused() {
    let mut arguments = fitting();
    arguments.inputs[0].region.address += 2;
    let (kind, said) = refused(&arguments, true);
    assert!(kind == ErrorKind::Value && said.contains("multiple of 16 bytes, found 0x100002"), "{said}");
    assert!(arguments.check(&norm(), &LaunchShape::choose(&norm(), ROWS, false)).is_ok());
    // An element's own alignment is needed always.
    arguments.inputs[0].region.address += 1;
    assert!(refused(&arguments, false).1.contains("multiple of 2 bytes"));
    let mut arguments = fitting();
    arguments.outputs[1].address = 0;
    assert!(refused(&arguments, true).1.contains("expected memory of 320 bytes, found none"));
    let mut arguments = fitting();
    arguments.inputs[0].region.address = u64::MAX - 15;
    assert!(refused(&arguments, true).1.contains("a size that memory can have"));
}

#[test]
fn strides_count_as_they_are() {
    let mut arguments = fitting();
    // Rows of a tensor that is 100 wide: four whole ones and the part of the last that is read.
    arguments.inputs[0] = Operand::strided(Region::new(1 << 20, (4 * 100 + WIDTH) * 2), 100);
    let (kind, said) = refused(&arguments, true);
    assert!(kind == ErrorKind::Value && said.contains("found them 200 apart"), "{said}");
    let unaligned = LaunchShape::choose(&norm(), ROWS, false);
    assert_eq!(arguments.check(&norm(), &unaligned).unwrap().strides, [100, WIDTH, 0]);
    arguments.inputs[0].region.bytes -= 1;
    assert!(refused(&arguments, false).1.contains("5 rows of 64, 100 apart"));
    // One row that stands for all.
    arguments.inputs[0] = Operand::strided(Region::new(1 << 20, WIDTH * 2), 0);
    assert_eq!(arguments.check(&norm(), &LaunchShape::choose(&norm(), ROWS, true)).unwrap().strides[0], 0);
    arguments.inputs[0].stride = Some(u64::MAX / 2);
    assert!(refused(&arguments, false).1.contains("a size that memory can have"));
}

/// In place means the same rows at the same address; anything else that overlaps would be read after it was written.
#[test]
fn results_overlap_nothing_but_their_own_rows() {
    let norm = norm();
    let shape = LaunchShape::choose(&norm, ROWS, true);
    for of in [0, 1] {
        let mut arguments = fitting();
        arguments.outputs[0] = arguments.inputs[of].region;
        assert!(arguments.check(&norm, &shape).is_ok());
        arguments.outputs[0].address += 16;
        arguments.outputs[0].bytes += 16;
        let (kind, said) = refused(&arguments, true);
        assert!(kind == ErrorKind::Value && said.contains("memory of its own"), "{said}");
    }
    // Codes are narrower than what they are made of; rows with gaps are elsewhere; a weight is read late.
    let mut arguments = fitting();
    arguments.outputs[1] = arguments.inputs[0].region;
    assert!(refused(&arguments, true).1.starts_with("q0_0"));
    let mut arguments = fitting();
    arguments.inputs[0] = Operand::strided(Region::new(1 << 20, 1 << 16), 2 * WIDTH);
    arguments.outputs[0] = arguments.inputs[0].region;
    assert!(refused(&arguments, true).1.contains("some of x"));
    let mut arguments = fitting();
    arguments.outputs[2] = Region::new((3 << 20) + 124, 64);
    assert!(refused(&arguments, true).1.contains("some of weight0"));
    let mut arguments = fitting();
    arguments.outputs[2] = Region::new((4 << 20) + 636, 64);
    assert!(refused(&arguments, true).1.contains("some of sum"));
}

/// Blocks of one sibling run beside those of another: what one reads is not the other's to write.
#[test]
fn a_sibling_writes_on_no_rows_of_another() {
    let sibling = Sibling::plain(WIDTH, DType::BF16);
    let norm = FusedNorm { source: Source::Separate, ..FusedNorm::of(vec![sibling.clone(), sibling]) };
    let shape = LaunchShape::choose(&norm, ROWS, true);
    let at = |n: u64, bytes: u64| Region::new(n << 20, bytes);
    let rows = ROWS * WIDTH * 2;
    let of = |first: u64, second: u64| Arguments {
        inputs: vec![at(1, rows).into(), at(2, rows).into(), at(3, 128).into(), at(4, 128).into()],
        outputs: vec![at(first, rows), at(second, rows)],
        rows: vec![ROWS, ROWS],
        scratch: None,
    };
    assert!(of(1, 2).check(&norm, &shape).is_ok());
    assert!(of(2, 1).check(&norm, &shape).unwrap_err().to_string().contains("some of x1"));
}

#[test]
fn what_is_missing_is_counted() {
    let mut arguments = fitting();
    arguments.inputs.pop();
    assert!(refused(&arguments, true).1.contains("expected 3 operands, found 2"));
    let mut arguments = fitting();
    arguments.outputs.pop();
    assert!(refused(&arguments, true).1.contains("expected 3 results, found 2"));
    let mut arguments = fitting();
    arguments.rows.push(1);
    assert!(refused(&arguments, true).1.contains("expected 1 numbers of rows, found 2"));
}

/// No rows need no memory.
#[test]
fn no_rows_fit_anywhere() {
    let nothing = Region::new(0, 0);
    let arguments = Arguments {
        inputs: vec![nothing.into(), nothing.into(), Region::new(1 << 20, 128).into()],
        outputs: vec![nothing; 3],
        rows: vec![0],
        scratch: None,
    };
    assert!(arguments.check(&norm(), &LaunchShape::choose(&norm(), 0, true)).is_ok());
}
