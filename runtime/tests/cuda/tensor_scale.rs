//! Scales of a whole tensor: of rows that stay on the chip, of more rows than that, and of none; and where their blocks meet.

use std::sync::Arc;

use normfuse_ir::{
    DType, ErrorKind, FusedNorm, Granularity, Tensor,
    body::bits_equal,
    fused::{Prologue, ResidualAdd, Sibling, Source},
    scheme::Origin,
};
use normfuse_runtime::{
    cpu,
    cuda::{Arguments, Buffer, Device, FusedNormKernel, LaunchShape, Params, Region, scratch_bytes},
};

use crate::{compiler, or_skip, schemes, variants};

fn of_tensor(width: u64) -> FusedNorm {
    variants::quantised(width, vec![schemes::linear(Granularity::Tensor)])
}

/// Two scales of two siblings that share their rows, one beside a scale a token and the value itself; and of two that do not.
fn siblings(width: u64, source: Source) -> FusedNorm {
    let [tensor, token] = [Granularity::Tensor, Granularity::Token].map(schemes::linear);
    let first = Sibling { epilogues: vec![token, tensor.clone()], ..Sibling::plain(width, DType::BF16) };
    let second = Sibling { epilogues: vec![tensor], emit_normed: false, ..Sibling::plain(width, DType::BF16) };
    let second = if source == Source::Shared { second } else { Sibling { width: width / 2, ..second } };
    FusedNorm { source, ..FusedNorm::of(vec![first, second]) }
}

/// Zero points and scales of the range of a tensor, beside its largest magnitude.
fn ranges(width: u64) -> FusedNorm {
    let range = schemes::in_use().into_iter().find(|s| s.origin == Origin::Range).unwrap();
    variants::quantised(width, vec![range.clone(), schemes::linear(Granularity::Tensor), range])
}

fn added(norm: FusedNorm) -> FusedNorm {
    FusedNorm { prologue: Prologue::ResidualAdd(ResidualAdd::of(DType::BF16)), emit_sum: true, ..norm }
}

#[test]
fn the_scale_of_a_tensor_is_that_of_all_its_rows() {
    let Some(device) = or_skip(Device::open(0)) else { return };
    let Some(compiler) = compiler() else { return };
    let norms = [
        of_tensor(4096),
        of_tensor(77),
        added(of_tensor(1024)),
        siblings(512, Source::Shared),
        siblings(512, Source::Separate),
        ranges(640),
    ];
    let mut counts = Vec::new();
    for (i, norm) in norms.iter().enumerate() {
        for rows in [0, 1, 37, 700, 6000] {
            let mut shape = LaunchShape::choose(norm, rows as u64, norm.siblings[0].width % 8 == 0);
            shape.bulk = rows > 37 && shape.can_copy(norm);
            let kernel = FusedNormKernel::new(&device, compiler, norm, shape).unwrap();
            let operands = variants::operands(norm, rows, (i * 7 + rows) as u64);
            let inputs: Vec<Option<&Tensor>> = operands.iter().map(Some).collect();
            let want = cpu::fused_norm(norm, &inputs).unwrap();
            let found = kernel.run(&inputs).unwrap();
            for ((port, want), found) in norm.out_ports().iter().zip(&want).zip(&found) {
                let differs = bits_equal(want, found).map(|m| m.to_string());
                assert!(differs.is_none(), "{port} of {rows} rows: {differs:?}\n{norm:?}\n{:?}", kernel.shape());
            }
            let jobs = if norm.source == Source::Shared { 1 } else { norm.siblings.len() };
            counts.push(kernel.launches(&vec![rows as u64; jobs]));
        }
    }
    assert!(counts.contains(&1) && counts.contains(&2), "rows on the chip and rows that are read twice: {counts:?}");
}

/// Every launch leaves zeros where its blocks have met, so that the next one of a graph, or of another kernel, finds them; and a
/// sum lies on the rows that it is of.
#[test]
fn launches_meet_one_after_another() {
    let Some(device) = or_skip(Device::open(0)) else { return };
    let Some(compiler) = compiler() else { return };
    for (rows, width) in [(48, 1024), (6000, 1024)] {
        let norm = added(of_tensor(width));
        let kernel = FusedNormKernel::new(&device, compiler, &norm, LaunchShape::choose(&norm, rows, true)).unwrap();
        let operands = variants::operands(&norm, rows as usize, 5);
        let up = |t: &Tensor| Arc::new(device.upload(t.bytes()).unwrap());
        let (x, residual, weight) = (up(&operands[0]), up(&operands[1]), up(&operands[2]));
        let mut sum = operands[1].clone();
        let want: Vec<Vec<Tensor>> = (0..3)
            .map(|_| {
                let results = cpu::fused_norm(&norm, &[Some(&operands[0]), Some(&sum), Some(&operands[2])]).unwrap();
                sum = results[0].clone();
                results
            })
            .collect();
        let scratch = Arc::new(device.upload(&vec![0; scratch_bytes(&norm) as usize]).unwrap());
        let out: Vec<Arc<Buffer>> =
            (0..6).map(|i| Arc::new(device.alloc(want[0][1 + i % 2].bytes().len()).unwrap())).collect();
        let kept = [&x, &residual, &weight, &scratch].into_iter().chain(&out).cloned().collect();
        let graph = device
            .record(kept, |r| {
                for pair in out.chunks(2) {
                    let arguments = Arguments {
                        inputs: [&x, &residual, &weight].map(|b| b.region().into()).to_vec(),
                        outputs: vec![residual.region(), pair[0].region(), pair[1].region()],
                        rows: vec![rows],
                        scratch: Some(scratch.region()),
                    };
                    r.launch(&kernel, &arguments, true)?;
                }
                Ok(())
            })
            .unwrap();
        assert_eq!(graph.launches(), 3 * kernel.launches(&[rows]));
        graph.replay().unwrap();
        for (step, (want, pair)) in want.iter().zip(out.chunks(2)).enumerate() {
            for (want, buffer) in want[1..].iter().zip(pair) {
                let found =
                    Tensor::from_bytes(want.dtype(), want.shape().to_vec(), buffer.download().unwrap()).unwrap();
                let differs = bits_equal(want, &found).map(|m| m.to_string());
                assert!(differs.is_none(), "{rows} rows, launch {step}: {differs:?}");
            }
        }
        let found = Tensor::from_bytes(DType::BF16, want[2][0].shape().to_vec(), residual.download().unwrap()).unwrap();
        assert_eq!(bits_equal(&want[2][0], &found).map(|m| m.to_string()), None, "{rows} rows: the sum");
        assert!(scratch.download().unwrap().iter().all(|b| *b == 0), "{rows} rows");
    }
}

/// Needs no GPU.
#[test]
fn scratch_is_asked_for_where_blocks_meet() {
    let norm = of_tensor(64);
    let at = |n: u64, bytes: u64| Region::new(n << 20, bytes);
    let arguments = |scratch| Arguments {
        inputs: vec![at(1, 5 * 128).into(), at(2, 128).into()],
        outputs: vec![at(3, 5 * 64), at(4, 4)],
        rows: vec![5],
        scratch,
    };
    let check = |scratch: Option<Region>| arguments(scratch).check(&norm, &LaunchShape::choose(&norm, 5, true));
    let refused = |scratch| {
        let error = check(scratch).unwrap_err();
        (error.kind, error.to_string())
    };
    assert_eq!(scratch_bytes(&norm), 12);
    let params: Params = check(Some(at(5, 12))).unwrap();
    assert_eq!((params.scratch, params.words().last()), (Some(5 << 20), Some(&(5 << 20))));
    for (scratch, kind, message) in [
        (None, ErrorKind::Shape, "scratch: expected 12 bytes"),
        (Some(at(5, 11)), ErrorKind::Shape, "found 11"),
        (Some(Region::new(0, 12)), ErrorKind::Value, "found none"),
        (Some(Region::new((5 << 20) + 2, 12)), ErrorKind::Value, "at a multiple of 4 bytes"),
        (Some(at(2, 12)), ErrorKind::Value, "found some of weight0"),
        (Some(at(4, 12)), ErrorKind::Value, "found some of scale0_0"),
    ] {
        let (found, said) = refused(scratch);
        assert!(found == kind && said.contains(message), "{scratch:?}: {said}");
    }
    // Nobody meets: nothing is needed, and nothing said of it.
    let plain = variants::quantised(64, vec![schemes::linear(Granularity::Token)]);
    assert_eq!(scratch_bytes(&plain), 0);
    let arguments = Arguments { outputs: vec![at(3, 5 * 64), at(4, 20)], ..arguments(None) };
    assert_eq!(arguments.check(&plain, &LaunchShape::choose(&plain, 5, true)).unwrap().scratch, None);
}
