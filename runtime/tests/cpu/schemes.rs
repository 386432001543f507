//! Schemes to try: those in use, and random ones of every step.

use normfuse_ir::{
    DType, Granularity, Scheme, Tensor,
    scheme::{Apply, Dequantised, Encode, F32, Origin, Packing, ScaleOutput, Step, ZeroPoint},
};

use crate::check::Noise;

pub const ELEMENTS: [DType; 6] =
    [DType::F8E4M3FN, DType::F8E4M3FNUZ, DType::F8E5M2, DType::F4E2M1, DType::I8, DType::U8];

fn c(v: f32) -> F32 {
    F32::new(v)
}

/// Amax over 448, with a floor.
pub fn linear(granularity: Granularity) -> Scheme {
    Scheme::dynamic(DType::F8E4M3FN, granularity, vec![Step::Max(c(1e-10)), Step::Div(c(448.0))])
}

/// The quantisers that people use, over rows of which 32 is a group.
pub fn in_use() -> Vec<Scheme> {
    let group = Granularity::Group(32);
    let exponent = |emax: f32| {
        vec![
            Step::Max(c(f32::MIN_POSITIVE)),
            Step::Log,
            Step::Div(c(std::f32::consts::LN_2)),
            Step::Floor,
            Step::Add(c(-emax)),
        ]
    };
    let power = |steps: &[Step]| [steps, &[Step::Max(c(-127.0)), Step::Min(c(127.0)), Step::Power(c(2.0))]].concat();
    let mx = |element, emax: f32, top: f32| {
        let e = exponent(emax);
        let byte = ScaleOutput { steps: [&e[..], &[Step::Add(c(127.0))]].concat(), dtype: DType::U8 };
        Scheme { scale: Some(byte), ..Scheme::dynamic(element, group, power(&e)).clamped(-top, top) }
    };
    let mut ceil = vec![Step::Div(c(448.0)), Step::Max(c(1e-10)), Step::Log2, Step::Ceil, Step::Exp2];
    let ue8m0 = Scheme::dynamic(DType::F8E4M3FN, group, ceil.clone());
    ceil.pop();
    let block = vec![Step::Mul(c(1.0 / 6.0)), Step::MulGiven, Step::Max(c(-448.0)), Step::Min(c(448.0))];
    let narrow = Step::Cast { to: DType::F8E4M3FN, saturate: false };
    let nvfp4 = Scheme {
        given: Some(DType::F32),
        factor: [&block[..], &[narrow, Step::GivenOverOrZero]].concat(),
        scale: Some(ScaleOutput { steps: block, dtype: DType::F8E4M3FN }),
        apply: Apply::Multiply,
        packing: Packing::Nibbles,
        encode: Encode::Compare,
        ..Scheme::dynamic(DType::F4E2M1, Granularity::Group(16), Vec::new()).clamped(-6.0, 6.0)
    };
    let int8 = Scheme {
        post: vec![Step::Round, Step::Max(c(-128.0)), Step::Min(c(127.0))],
        encode: Encode::Cast,
        ..Scheme::dynamic(DType::I8, Granularity::Token, vec![Step::Max(c(1e-5)), Step::Div(c(127.0))])
    };
    let range = Scheme {
        origin: Origin::Range,
        post: vec![Step::Round],
        zero_point: ZeroPoint::Range,
        ..Scheme::dynamic(DType::U8, Granularity::Tensor, vec![Step::Div(c(255.0))])
    };
    let fixed = Scheme {
        post: vec![Step::Round],
        zero_point: ZeroPoint::Given,
        compute: DType::F16,
        given: Some(DType::F16),
        ..Scheme::fixed(DType::U8, Apply::Divide)
    };
    let over = Scheme {
        factor: vec![Step::Max(c(1e-4)), Step::Over(c(448.0))],
        apply: Apply::Multiply,
        encode: Encode::Cast,
        ..linear(group)
    };
    vec![
        linear(Granularity::Tensor),
        linear(Granularity::Token),
        linear(group),
        linear(group).by_reciprocal().clamped(-448.0, 448.0),
        Scheme { encode: Encode::Cast, ..linear(Granularity::Token) },
        Scheme::fixed(DType::F8E4M3FN, Apply::Divide),
        Scheme::fixed(DType::F8E4M3FN, Apply::Multiply).clamped(-448.0, 448.0),
        Scheme::fixed(DType::F8E4M3FN, Apply::Divide).by_reciprocal(),
        Scheme { granularity: Granularity::Channel, ..fixed.clone() },
        Scheme { packing: Packing::Nibbles, encode: Encode::Compare, ..mx(DType::F4E2M1, 2.0, 6.0) },
        mx(DType::F8E4M3FN, 8.0, 448.0),
        mx(DType::F8E5M2, 15.0, 57344.0),
        Scheme { scale: Some(ScaleOutput { steps: ue8m0.factor.clone(), dtype: DType::F8E8M0 }), ..ue8m0.clone() },
        ue8m0,
        nvfp4,
        int8,
        range,
        fixed,
        over,
    ]
}

/// Those of them, and of other elements, whose codes become numbers again: every combination of what is handed out with
/// them, and every type, in turn.
pub fn dequantised() -> Vec<Scheme> {
    let number = [DType::BF16, DType::F32, DType::F16];
    let mut all = Vec::new();
    for scheme in in_use() {
        for element in ELEMENTS {
            let n = all.len();
            let scales = scheme.scale.is_some() && n / 2 % 2 == 0;
            let dequantised = Some(Dequantised { dtype: number[n % 3], codes: n % 2 == 0, scales });
            // Two codes in a byte are still codes of one value each.
            let encode = if element.bits() == 4 { scheme.encode } else { Encode::Saturate };
            let packing = if element.bits() == 4 { scheme.packing } else { Packing::None };
            let made = Scheme { element, encode, packing, dequantised, ..scheme.clone() };
            if made.check().is_ok() {
                all.push(made);
            }
        }
    }
    all
}

/// Any scheme that its own check lets pass, over rows of which 16 is a group.
pub fn random(noise: &mut Noise) -> Scheme {
    const NUMBERS: [f32; 8] = [448.0, 1e-10, 6.0, 1.0, -0.0, 0.3, -127.0, 2.0];
    let arithmetic = [DType::F32, DType::F32, DType::F16, DType::BF16];
    let narrow = [DType::F8E4M3FN, DType::F8E4M3FNUZ, DType::F8E5M2, DType::F4E2M1, DType::F8E8M0];
    loop {
        let mut pick = |n: usize| noise.below(n);
        let element = ELEMENTS[pick(6)];
        let given = (pick(2) == 0).then(|| arithmetic[pick(4)]);
        let mut steps = |most: usize, operand: bool| -> Vec<Step> {
            (0..pick(most + 1))
                .map(|_| {
                    let n = c(NUMBERS[pick(8)]);
                    match pick(if operand { 22 } else { 16 }) {
                        0 => Step::Max(n),
                        1 => Step::Min(n),
                        2 => Step::Add(n),
                        3 => Step::Mul(n),
                        4 => Step::Div(n),
                        5 => Step::Over(n),
                        6 => Step::Power(c(2.0)),
                        7 => Step::Log,
                        8 => Step::Log2,
                        9 => Step::Exp2,
                        10 => Step::Floor,
                        11 => Step::Ceil,
                        12 => Step::Round,
                        13 => Step::IfZero(n),
                        14 => Step::Cast { to: arithmetic[pick(4)], saturate: true },
                        15 => Step::Cast { to: narrow[pick(5)], saturate: pick(2) == 0 },
                        16 => Step::MulGiven,
                        17 => Step::DivGiven,
                        18 => Step::GivenOver,
                        19 => Step::MaxGiven,
                        20 => Step::MinGiven,
                        _ => Step::GivenOverOrZero,
                    }
                })
                .collect()
        };
        let (factor, post, out) = (steps(4, given.is_some()), steps(3, false), steps(4, given.is_some()));
        let origin = [Origin::Given, Origin::Amax, Origin::Amax, Origin::Range][pick(4)];
        let scale_dtype = [DType::F32, DType::F16, DType::BF16, DType::F8E8M0, DType::F8E4M3FN, DType::U8][pick(6)];
        let scheme = Scheme {
            element,
            packing: [Packing::None, Packing::Codes, Packing::Nibbles][pick(3)],
            granularity: [Granularity::Tensor, Granularity::Token, Granularity::Group(16), Granularity::Channel]
                [pick(4)],
            compute: arithmetic[pick(4)],
            given,
            origin,
            factor,
            apply: [Apply::Divide, Apply::Multiply][pick(2)],
            post,
            encode: [Encode::Cast, Encode::Saturate, Encode::Compare][pick(3)],
            zero_point: [ZeroPoint::None, ZeroPoint::Given, ZeroPoint::Range][pick(3)],
            scale: (pick(3) > 0).then_some(ScaleOutput { steps: out, dtype: scale_dtype }),
            dequantised: (pick(2) == 0).then(|| Dequantised {
                dtype: arithmetic[1 + pick(3)],
                codes: pick(2) == 0,
                scales: pick(2) == 0,
            }),
            ..linear(Granularity::Token)
        };
        if scheme.check().is_ok() {
            return scheme;
        }
    }
}

/// The operands of a scheme behind the values, for rows of `width`.
pub fn operands(scheme: &Scheme, width: usize, seed: u64) -> Vec<Tensor> {
    let n = if scheme.granularity == Granularity::Channel { width } else { 1 };
    let mut made = Vec::new();
    if let Some(dtype) = scheme.given {
        made.push(given_scale(dtype, n, seed));
    }
    if scheme.zero_point == ZeroPoint::Given {
        made.push(given_zero(scheme.element, n, seed));
    }
    made
}

/// A given scale of `n` elements.
pub fn given_scale(dtype: DType, n: usize, seed: u64) -> Tensor {
    let v: Vec<f32> = (0..n).map(|i| [0.037, 1.0, 3.3, 0.0][(i + seed as usize) % 4]).collect();
    let shape = if n == 1 { vec![] } else { vec![n] };
    normfuse_ir::eval::numbers::from_floats(dtype, &shape, &v).unwrap()
}

/// A given zero point of `n` elements.
pub fn given_zero(element: DType, n: usize, seed: u64) -> Tensor {
    let codes = (0..n).map(|i| [0, 1, 128, 255, 7][(i + seed as usize) % 5]).collect();
    Tensor::from_bytes(element, if n == 1 { vec![] } else { vec![n] }, codes).unwrap()
}
