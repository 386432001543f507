//! Descriptors to try: every prologue, rounding, epilogue, layout and combination that has a kernel of its own.

use normfuse_ir::{
    DType, FusedNorm, Granularity, Scheme, Tensor,
    body::hostile::{self, Rng, Row, WeightKind},
    fused::{Activation, Gated, InPort, Prologue, ResidualAdd, Root, Sibling, Source, Weight},
    scheme::{F32, ScaleLayout, ScaleOutput, Step},
};
use normfuse_runtime::cuda::supports;

use crate::{check::Noise, schemes};

const NARROW: [DType; 3] = [DType::BF16, DType::F16, DType::F32];

/// A norm that is quantised and nothing else.
pub fn quantised(width: u64, schemes: Vec<Scheme>) -> FusedNorm {
    FusedNorm::of(vec![Sibling { emit_normed: false, epilogues: schemes, ..Sibling::plain(width, DType::BF16) }])
}

/// Everything but quantisers: meanings, roots, dtypes, adds.
fn plain(width: u64) -> Vec<FusedNorm> {
    let mut all = Vec::new();
    let f32_weight = |plus_one| Some(Weight { dtype: DType::F32, plus_one, product: None });
    for input in NARROW {
        let a = Sibling::plain(width, input);
        let b = Sibling { normed: DType::F32, weight: f32_weight(false), ..a.clone() };
        let c = Sibling { weight: f32_weight(true), ..b.clone() };
        let e = Sibling { weight: None, ..b.clone() };
        let narrow = Sibling { compute: input, squares: Some(DType::F32).filter(|d| *d != input), ..a.clone() };
        let product = Weight { dtype: DType::F32, plus_one: false, product: Some(DType::F32).filter(|d| *d != input) };
        let wide = Sibling { weight: Some(product), output: DType::F32, ..a.clone() };
        for s in [a, b, c, e, narrow, wide] {
            all.push(FusedNorm::of(vec![s]));
        }
        for root in [Root::ReciprocalSqrt, Root::DivideBySqrt] {
            all.push(FusedNorm::of(vec![Sibling { root: Some(root), ..Sibling::plain(width, input) }]));
        }
    }
    let adds = [
        ResidualAdd::of(DType::BF16),
        ResidualAdd::of(DType::F32),
        ResidualAdd::new([DType::BF16, DType::F32], DType::F32, DType::BF16),
        ResidualAdd::new([DType::BF16, DType::BF16], DType::F32, DType::F32),
        ResidualAdd::new([DType::BF16, DType::F16], DType::F32, DType::BF16),
    ];
    for add in adds {
        let s = Sibling { normed: DType::BF16, output: DType::BF16, ..Sibling::plain(width, add.sum()) };
        all.push(FusedNorm { prologue: Prologue::ResidualAdd(add), emit_sum: true, ..FusedNorm::of(vec![s]) });
    }
    all
}

/// The quantisers in use, in every layout of their scales, alone and together.
fn quantisers(width: u64) -> Vec<FusedNorm> {
    let mut all: Vec<FusedNorm> = schemes::in_use().into_iter().map(|s| quantised(width, vec![s])).collect();
    let dynamic = |g| Scheme::dynamic(DType::F8E4M3FN, g, vec![Step::Max(1e-10.into()), Step::Div(448.0.into())]);
    for group in [8, 16, 64, 128, 256] {
        for layout in [ScaleLayout::RowMajor, ScaleLayout::ColumnMajor, ScaleLayout::TmaAligned] {
            all.push(quantised(width, vec![Scheme { layout, ..dynamic(Granularity::Group(group)) }]));
        }
    }
    let several = vec![dynamic(Granularity::Token), dynamic(Granularity::Group(32)), schemes::in_use()[9].clone()];
    all.push(quantised(width, several.clone()));
    all.push(FusedNorm::gated(Gated::of(Activation::Silu, DType::BF16), width, several.clone()));
    let add = ResidualAdd::of(DType::BF16);
    let each = several.iter().map(|s| vec![s.clone()]).chain([several.clone()]);
    for schemes in each {
        let one = quantised(width, schemes);
        all.push(FusedNorm { prologue: Prologue::ResidualAdd(add), emit_sum: true, ..one });
    }
    all
}

/// Several norms in one op.
fn siblings(width: u64) -> Vec<FusedNorm> {
    let quant = schemes::linear(Granularity::Token);
    let other = Sibling { eps: F32::new(1e-5), root: Some(Root::DivideBySqrt), ..Sibling::plain(width, DType::BF16) };
    let first = Sibling { epilogues: vec![quant], emit_normed: false, ..Sibling::plain(width, DType::BF16) };
    let shared = FusedNorm::of(vec![first.clone(), other.clone()]);
    let narrower = Sibling { width: (width / 3).max(1), ..other };
    let separate = FusedNorm { source: Source::Separate, ..FusedNorm::of(vec![first, narrower]) };
    vec![shared, separate]
}

/// Scales in tiles, behind a norm and behind a gate.
fn tiles(width: u64) -> Vec<FusedNorm> {
    let mut all = Vec::new();
    let of_4_bits = schemes::in_use().into_iter().filter(|s| s.element == DType::F4E2M1);
    for scheme in of_4_bits {
        for layout in [ScaleLayout::Swizzle128x4, ScaleLayout::Shuffle32x8] {
            all.push(quantised(width, vec![Scheme { layout, ..scheme.clone() }]));
        }
    }
    let dynamic = |g| Scheme::dynamic(DType::F8E4M3FN, g, vec![Step::Max(1e-10.into()), Step::Div(448.0.into())]);
    let bytes = Some(ScaleOutput { steps: vec![Step::Div(448.0.into())], dtype: DType::F8E8M0 });
    for group in [16, 32, 128] {
        for layout in [ScaleLayout::PackedUe8m0, ScaleLayout::Swizzle128x4, ScaleLayout::Shuffle32x8] {
            let scheme = Scheme { layout, scale: bytes.clone(), ..dynamic(Granularity::Group(group)) };
            all.push(quantised(width, vec![scheme.clone()]));
            let gate = Gated::of(Activation::Silu, DType::BF16);
            let narrow = Some(ScaleOutput { steps: Vec::new(), dtype: DType::F8E4M3FN });
            let scale = if layout == ScaleLayout::PackedUe8m0 { scheme.scale.clone() } else { narrow };
            all.push(FusedNorm::gated(gate, width, vec![Scheme { scale, ..scheme }]));
        }
    }
    all
}

/// Gated activations: every function and every rounding between, each under quantisers of its own; quantisers with nothing
/// before them; a gate before a norm, and a weight without one.
fn gated(width: u64) -> Vec<FusedNorm> {
    let mut all = Vec::new();
    let mut noise = Noise::new(width);
    let in_use = schemes::in_use();
    let mut any = || NARROW[noise.below(3)];
    for activation in Activation::ALL {
        for dtype in NARROW {
            let usual = Gated::of(activation, dtype);
            let wide = Gated::new(activation, [dtype; 2], DType::F32, dtype, dtype);
            let widest = Gated::new(activation, [dtype; 2], DType::F32, DType::F32, dtype);
            let other = Gated::new(activation, [dtype, any()], any(), any(), any());
            for gate in [usual, wide, widest, other] {
                let scheme = in_use[all.len() % in_use.len()].clone();
                let mut norm = FusedNorm::gated(gate, width, vec![scheme]);
                norm.siblings[0].emit_normed = all.len() % 3 == 0;
                all.push(norm);
                all.push(emitted(FusedNorm::gated(gate, width, Vec::new())));
            }
        }
    }
    let silu = Gated::of(Activation::Silu, DType::BF16);
    for (i, scheme) in in_use.into_iter().enumerate() {
        all.push(FusedNorm::gated(silu, width, vec![scheme.clone()]));
        all.push(FusedNorm::of(vec![Sibling::undivided(width, NARROW[i % 3], vec![scheme])]));
    }
    all.extend(bounded(width));
    let weight = Some(Weight { dtype: DType::BF16, plus_one: false, product: None });
    let scaled = Sibling { weight, emit_normed: true, ..Sibling::undivided(width, DType::BF16, Vec::new()) };
    let siblings = vec![Sibling::plain(width, DType::BF16), scaled];
    all.push(FusedNorm { prologue: Prologue::Gated(silu), ..FusedNorm::of(siblings) });
    all
}

/// Gates with bounds, a sigmoid of a multiple, and one that is added to the other operand; each alone and all together.
fn bounded(width: u64) -> Vec<FusedNorm> {
    let mut all = Vec::new();
    let in_use = schemes::in_use();
    for (i, dtype) in NARROW.into_iter().enumerate() {
        for activation in Activation::ALL {
            for compute in [dtype, DType::F32] {
                let usual = Gated::new(activation, [dtype; 2], compute, dtype, dtype);
                let alpha = (activation == Activation::SigmoidProduct).then(|| F32::new([1.702, -0.3, 40.0][i]));
                let shifted = Some([DType::F32, dtype, DType::BF16][i]);
                let all_of_it =
                    Gated { alpha, gate_max: Some(F32::new(7.0)), up_limit: Some(F32::new(7.0)), shifted, ..usual };
                let parts = [
                    Gated { alpha, ..Gated::new(activation, [dtype; 2], compute, DType::F32, DType::BF16) },
                    Gated { gate_max: Some(F32::new(0.5)), ..usual },
                    Gated { up_limit: Some(F32::new(2.0)), ..usual },
                    Gated { shifted, ..usual },
                    all_of_it,
                ];
                for gate in parts {
                    let scheme = in_use[all.len() % in_use.len()].clone();
                    all.push(emitted(FusedNorm::gated(gate, width, vec![scheme])));
                }
            }
        }
    }
    all
}

/// Rows with zeros behind them: the value and codes of every width.
fn padded(width: u64) -> Vec<FusedNorm> {
    let schemes = schemes::in_use();
    let wider = |n: FusedNorm, by: u64| {
        let mut n = emitted(n);
        n.siblings[0].padded = Some((width + by).next_multiple_of(8));
        n
    };
    let norms = schemes.iter().enumerate().map(|(i, s)| wider(quantised(width, vec![s.clone()]), [1, 8, 192][i % 3]));
    let plain = NARROW.map(|d| wider(FusedNorm::of(vec![Sibling::plain(width, d)]), 64));
    norms.chain(plain).collect()
}

/// Codes that become numbers again, with and without codes and scales beside them, behind norms and gates, padded and not.
fn dequantised(width: u64) -> Vec<FusedNorm> {
    let silu = Gated::of(Activation::Silu, DType::BF16);
    let all = schemes::dequantised().into_iter().enumerate().map(|(i, scheme)| {
        let mut norm = match i % 4 {
            0 => FusedNorm::gated(silu, width, vec![scheme]),
            _ => quantised(width, vec![scheme]),
        };
        norm.siblings[0].padded = (i % 5 == 0).then(|| (width + 1).next_multiple_of(8));
        if i % 4 != 0 {
            norm.siblings[0].output = NARROW[i % 3];
        }
        norm
    });
    all.collect()
}

/// The same with its value as a result.
fn emitted(mut norm: FusedNorm) -> FusedNorm {
    norm.siblings[0].emit_normed = true;
    norm
}

/// Norms of a width that have a kernel, in an order that does not change.
pub fn norms(width: u64) -> Vec<FusedNorm> {
    with_kernel([plain(width), quantisers(width), siblings(width)].concat())
}

/// What else of a width has a kernel, likewise.
pub fn others(width: u64) -> Vec<FusedNorm> {
    with_kernel([tiles(width), gated(width), padded(width), dequantised(width)].concat())
}

fn with_kernel(mut all: Vec<FusedNorm>) -> Vec<FusedNorm> {
    all.retain(|n| supports(n).is_ok());
    all
}

/// All of a width that have a kernel.
pub fn of_width(width: u64) -> Vec<FusedNorm> {
    [norms(width), others(width)].concat()
}

/// Any quantiser that has a kernel.
pub fn random(width: u64, count: usize, seed: u64) -> Vec<FusedNorm> {
    let mut noise = Noise::new(seed);
    let any = std::iter::repeat_with(|| quantised(width, vec![schemes::random(&mut noise)]));
    any.filter(|n| supports(n).is_ok()).take(count).collect()
}

/// Operands for a descriptor: rows of every hostile kind in turn.
pub fn operands(norm: &FusedNorm, rows: usize, seed: u64) -> Vec<Tensor> {
    let mut rng = Rng::new(seed);
    let mut operand = |port: InPort| match port {
        InPort::X | InPort::Residual | InPort::Up | InPort::Rows(_) => {
            let k = if let InPort::Rows(k) = port { k } else { 0 };
            let shape = [rows, norm.siblings[k].width as usize];
            let kinds: Vec<Row> = (0..Row::ALL.len()).map(|i| Row::ALL[(i + seed as usize) % Row::ALL.len()]).collect();
            hostile::rows(norm.rows_dtype(port).unwrap(), &shape, &kinds, &mut rng).unwrap()
        }
        InPort::Weight(k) => {
            let s = &norm.siblings[k];
            let weight = s.weight.unwrap();
            let kind = WeightKind::ALL[seed as usize % 3];
            let shape = [s.width as usize];
            hostile::weight(weight.dtype, &shape, kind, (1.0, weight.plus_one), &mut rng).unwrap()
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
    };
    norm.in_ports().into_iter().map(&mut operand).collect()
}
