//! The fused norm: written twice from the descriptor, here and in the reference evaluator, and equal bit for bit.

use std::sync::Arc;

use normfuse_ir::{
    DType, ErrorKind, FusedNorm, Granularity, Op, Scheme, Tensor,
    fused::{InPort, Prologue, ResidualAdd, Root, Sibling, Source, Weight},
    scheme::{Apply, F32, Origin, Step},
};
use normfuse_runtime::{Plan, cpu::supports};

use crate::{
    check::{KINDS, Kind, Noise, check, one_node, tensor},
    schemes,
};

/// Operands for a descriptor: rows of these leading sizes.
fn operands(norm: &FusedNorm, lead: &[usize], kind: Kind, seed: u64) -> Vec<Tensor> {
    norm.in_ports()
        .into_iter()
        .enumerate()
        .map(|(i, port)| {
            let seed = seed * 100 + i as u64;
            match port {
                InPort::X | InPort::Residual | InPort::Up | InPort::Rows(_) => {
                    let k = if let InPort::Rows(k) = port { k } else { 0 };
                    let shape = [lead, &[norm.siblings[k].width as usize]].concat();
                    tensor(norm.rows_dtype(port).unwrap(), &shape, kind, seed)
                }
                InPort::Weight(k) => {
                    let s = &norm.siblings[k];
                    tensor(s.weight.unwrap().dtype, &[s.width as usize], Kind::Tame, seed)
                }
                InPort::Scale(k, e) | InPort::ZeroPoint(k, e) => {
                    let s = &norm.siblings[k];
                    let scheme = &s.epilogues[e];
                    let n = if scheme.granularity == Granularity::Channel { s.width as usize } else { 1 };
                    match (port, scheme.given) {
                        (InPort::Scale(..), Some(dtype)) => schemes::given_scale(dtype, n, seed),
                        _ => schemes::given_zero(scheme.element, n, seed),
                    }
                }
            }
        })
        .collect()
}

pub fn check_norm(norm: &FusedNorm, lead: &[usize], kind: Kind, seed: u64) {
    norm.check().unwrap();
    supports(norm).unwrap();
    let inputs = operands(norm, lead, kind, seed);
    check(&Op::FusedNorm(Arc::new(norm.clone())), &inputs.iter().map(Some).collect::<Vec<_>>());
}

#[test]
fn every_root_and_every_rounding() {
    let types = [DType::F32, DType::F16, DType::BF16];
    for root in [Root::ReciprocalSqrt, Root::Rsqrt, Root::DivideBySqrt] {
        for input in types {
            for compute in types {
                for normed in types {
                    for (output, weight) in types.into_iter().zip([
                        Some(Weight { dtype: input, plus_one: false, product: None }),
                        Some(Weight { dtype: DType::F32, plus_one: true, product: None }),
                        None,
                    ]) {
                        let s =
                            Sibling { root: Some(root), compute, normed, output, weight, ..Sibling::plain(65, input) };
                        for (seed, kind) in KINDS.into_iter().enumerate() {
                            check_norm(&FusedNorm::of(vec![s.clone()]), &[2, 3], kind, seed as u64);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn widths_and_row_counts() {
    for width in [1, 7, 8, 9, 64, 1000, 1536, 7168] {
        for lead in [&[][..], &[0], &[1], &[3, 1, 2], &[37]] {
            let mut s = Sibling::plain(width, DType::BF16);
            s.epilogues = vec![schemes::linear(Granularity::Token)];
            check_norm(&FusedNorm::of(vec![s]), lead, Kind::Outliers, width);
        }
    }
}

#[test]
fn every_scheme() {
    for (n, scheme) in schemes::in_use().into_iter().enumerate() {
        for element in schemes::ELEMENTS {
            let scheme = Scheme { element, ..scheme.clone() };
            if scheme.check().is_err() {
                continue;
            }
            let mut s = Sibling::plain(96, DType::BF16);
            s.emit_normed = n % 2 == 0;
            s.epilogues = vec![scheme];
            for (seed, kind) in KINDS.into_iter().enumerate() {
                check_norm(&FusedNorm::of(vec![s.clone()]), &[5], kind, seed as u64);
                check_norm(&FusedNorm::of(vec![s.clone()]), &[0], kind, seed as u64);
            }
        }
    }
}

#[test]
fn every_scheme_whose_codes_become_numbers_again() {
    for (n, scheme) in schemes::dequantised().into_iter().enumerate() {
        let mut s = Sibling::plain(96, [DType::BF16, DType::F32, DType::F16][n % 3]);
        s.emit_normed = n % 4 == 0;
        s.padded = (n % 3 == 0).then_some(104);
        s.epilogues = vec![scheme];
        for (seed, kind) in KINDS.into_iter().enumerate() {
            check_norm(&FusedNorm::of(vec![s.clone()]), &[5], kind, seed as u64);
            check_norm(&FusedNorm::of(vec![s.clone()]), &[0], kind, seed as u64);
        }
    }
}

#[test]
fn odd_rows_of_four_bit_values_share_bytes() {
    let mut s = Sibling::plain(9, DType::F32);
    s.epilogues = vec![Scheme { element: DType::F4E2M1, ..schemes::linear(Granularity::Token) }];
    check_norm(&FusedNorm::of(vec![s]), &[3], Kind::Tame, 1);
}

#[test]
fn residual_and_siblings() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for (seed, kind) in KINDS.into_iter().enumerate() {
            let mut first = Sibling::plain(256, dtype);
            first.epilogues = vec![schemes::linear(Granularity::Token), schemes::linear(Granularity::Group(128))];
            let mut second =
                Sibling { eps: F32::new(1e-2), root: Some(Root::ReciprocalSqrt), ..Sibling::plain(256, dtype) };
            second.epilogues = vec![Scheme::fixed(DType::F8E4M3FN, Apply::Multiply)];
            second.emit_normed = false;
            let mut fused = FusedNorm::of(vec![first.clone(), second.clone()]);
            check_norm(&fused, &[4, 5], kind, seed as u64);
            fused.prologue = Prologue::ResidualAdd(ResidualAdd::of(dtype));
            check_norm(&fused, &[4, 5], kind, seed as u64);
            fused.emit_sum = true;
            check_norm(&fused, &[4, 5], kind, seed as u64);
            fused.siblings.truncate(1);
            check_norm(&fused, &[61], kind, seed as u64);

            second.width = 64;
            second.input = DType::F32;
            let separate = FusedNorm {
                prologue: Prologue::None,
                source: Source::Separate,
                emit_sum: false,
                siblings: vec![first, second],
            };
            check_norm(&separate, &[3, 7], kind, seed as u64);
        }
    }
}

#[test]
fn random_descriptors() {
    let mut noise = Noise::new(77);
    let types = [DType::F32, DType::F16, DType::BF16];
    let schemes: Vec<Scheme> = (0..500).map(|_| schemes::random(&mut noise)).collect();
    for seed in 0..600 {
        let mut pick = |n: usize| noise.below(n);
        let input = types[pick(3)];
        let residual = pick(2) == 0;
        let sum = if residual { types[pick(3)] } else { input };
        let width = 16 * (1 + pick(20)) as u64;
        let siblings = (0..=pick(3))
            .map(|_| {
                let compute = if pick(3) > 0 { DType::F32 } else { types[pick(3)] };
                let epilogues = if pick(3) > 0 { vec![schemes[pick(schemes.len())].clone()] } else { Vec::new() };
                let normed = types[pick(3)];
                let unless = |d: DType, usual| (d != usual).then_some(d);
                let product = unless(types[pick(3)], normed);
                let weight = Weight { dtype: types[pick(3)], plus_one: pick(2) == 0, product };
                Sibling {
                    width,
                    input: sum,
                    compute,
                    squares: if pick(3) > 0 { None } else { unless(types[pick(3)], compute) },
                    eps: F32::new([1e-6, 1e-5, 0.0, 1.0][pick(4)]),
                    root: Some([Root::ReciprocalSqrt, Root::Rsqrt, Root::DivideBySqrt][pick(3)]),
                    normed,
                    weight: (pick(4) > 0).then_some(weight),
                    output: types[pick(3)],
                    padded: (pick(4) == 0).then(|| width + 2 * (1 + pick(40)) as u64),
                    emit_normed: true,
                    epilogues,
                }
            })
            .collect();
        let emit_sum = residual && pick(2) == 0;
        let emitted = if emit_sum && pick(2) == 0 { types[pick(3)] } else { sum };
        let add = ResidualAdd::new([input, types[pick(3)]], sum, emitted);
        let fused = FusedNorm {
            prologue: if residual { Prologue::ResidualAdd(add) } else { Prologue::None },
            source: Source::Shared,
            emit_sum,
            siblings,
        };
        check_norm(&fused, &[1 + pick(70)], KINDS[pick(4)], seed);
    }
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let refuse = |change: &dyn Fn(&mut Scheme), expect: &str| {
        let mut s = Sibling::plain(64, DType::BF16);
        s.epilogues = vec![schemes::linear(Granularity::Token)];
        change(&mut s.epilogues[0]);
        let fused = FusedNorm::of(vec![s]);
        let why = supports(&fused).unwrap_err();
        assert!(why.contains(expect), "{why}");
        let inputs = operands(&fused, &[2], Kind::Tame, 1);
        let (graph, _) =
            one_node(&Op::FusedNorm(Arc::new(fused)), &inputs.iter().map(Some).collect::<Vec<_>>()).unwrap();
        let error = Plan::new(&graph).unwrap_err();
        assert_eq!((error.kind, error.node.as_deref()), (ErrorKind::Unsupported, Some("node")));
        assert!(error.message.contains(&why), "{error}");
    };
    refuse(&|s| s.post = vec![Step::MulGiven], "siblings[0].epilogues[0].post");
    refuse(&|s| s.granularity = Granularity::Group(60), "granularity");
    refuse(&|s| s.origin = Origin::Given, "siblings[0].epilogues[0].given");
}

#[test]
fn operands_are_checked() {
    let mut s = Sibling::plain(64, DType::BF16);
    s.epilogues = vec![Scheme::fixed(DType::F8E4M3FN, Apply::Divide)];
    let fused = FusedNorm { prologue: Prologue::ResidualAdd(ResidualAdd::of(DType::BF16)), ..FusedNorm::of(vec![s]) };
    let good = operands(&fused, &[2, 3], Kind::Tame, 1);
    let run = |inputs: &[Tensor]| {
        let op = Op::FusedNorm(Arc::new(fused.clone()));
        let (graph, inputs) = one_node(&op, &inputs.iter().map(Some).collect::<Vec<_>>()).unwrap();
        Plan::new(&graph).unwrap().run(&inputs)
    };
    run(&good).unwrap();
    let bad = [
        (0, tensor(DType::BF16, &[2, 3, 63], Kind::Tame, 1), "x: expected rows of 64"),
        (0, tensor(DType::F32, &[2, 3, 64], Kind::Tame, 1), "x: expected bf16, found f32"),
        (0, tensor(DType::BF16, &[], Kind::Tame, 1), "x: expected rows of 64"),
        (1, tensor(DType::BF16, &[6, 64], Kind::Tame, 1), "residual: expected the shape of x"),
        (2, tensor(DType::BF16, &[1], Kind::Tame, 1), "weight0: expected 64 elements"),
        (2, tensor(DType::F32, &[64], Kind::Tame, 1), "weight0: expected bf16"),
        (3, tensor(DType::F32, &[2], Kind::Tame, 1), "given_scale0_0: expected 1 elements"),
        (3, tensor(DType::BF16, &[], Kind::Tame, 1), "given_scale0_0: expected f32"),
    ];
    for (port, operand, message) in bad {
        let mut inputs = good.clone();
        inputs[port] = operand;
        let error = run(&inputs).unwrap_err().to_string();
        assert!(error.starts_with(&format!("node `node`, {message}")), "{error}");
    }
}
