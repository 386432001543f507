//! Gated activations and rows without a norm: as the reference evaluator has them.

use normfuse_ir::{
    DType, FusedNorm, Granularity,
    fused::{Activation, Gated, Prologue, Sibling, Weight},
    scheme::F32,
};

use crate::{
    check::{KINDS, Noise},
    fused_norm::check_norm,
    schemes,
};

const TYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

#[test]
fn every_activation_and_every_rounding() {
    let mut noise = Noise::new(11);
    for activation in Activation::ALL {
        for seed in 0..60 {
            let mut any = || TYPES[noise.below(3)];
            let mut gated = Gated::new(activation, [any(), any()], any(), any(), any());
            // Half of them with bounds and a one that is added.
            if seed % 2 == 1 {
                let sigmoid = activation == Activation::SigmoidProduct;
                gated.alpha = Some(F32::new(1.702)).filter(|_| sigmoid && seed % 3 == 0);
                gated.gate_max = Some(F32::new(1.5)).filter(|_| seed % 4 == 1);
                gated.up_limit = Some(F32::new(0.75)).filter(|_| seed % 5 < 3);
                gated.shifted = Some(any()).filter(|_| seed % 7 < 4);
            }
            let width = [64, 96, 33][seed as usize % 3];
            let epilogues = if width == 33 { vec![] } else { vec![schemes::linear(Granularity::Group(32))] };
            let mut norm = FusedNorm::gated(gated, width, epilogues);
            norm.siblings[0].emit_normed = true;
            norm.siblings[0].output = any();
            check_norm(&norm, &[5, 3], KINDS[seed as usize % KINDS.len()], seed);
        }
    }
}

#[test]
fn every_scheme_behind_a_gate_and_behind_nothing() {
    for (seed, scheme) in schemes::in_use().into_iter().enumerate() {
        let kind = KINDS[seed % KINDS.len()];
        let gated = Gated::of(Activation::Silu, DType::BF16);
        check_norm(&FusedNorm::gated(gated, 96, vec![scheme.clone()]), &[7], kind, seed as u64);
        let alone = Sibling::undivided(96, DType::F16, vec![scheme]);
        check_norm(&FusedNorm::of(vec![alone.clone()]), &[7], kind, seed as u64);
        check_norm(&FusedNorm::of(vec![alone]), &[0], kind, seed as u64);
    }
}

#[test]
fn a_gate_before_a_norm_and_a_weight_without_one() {
    for (seed, kind) in KINDS.into_iter().enumerate() {
        for dtype in TYPES {
            let gated = Prologue::Gated(Gated::of(Activation::SigmoidProduct, dtype));
            let normed = Sibling::plain(80, dtype);
            let weight = Some(Weight { dtype: DType::F32, plus_one: seed % 2 == 0, product: None });
            let scaled = Sibling { weight, emit_normed: true, ..Sibling::undivided(80, dtype, Vec::new()) };
            let norm = FusedNorm { prologue: gated, ..FusedNorm::of(vec![normed, scaled]) };
            check_norm(&norm, &[6], kind, seed as u64);
        }
    }
}
