//! The ops that are measured, by name: `[add+]rms_norm[+QUANTISER]`, the dual norm of DeepSeek's latent attention,
//! `silu_mul[+QUANTISER]` of the halves of one row, and `quantise+QUANTISER` with nothing before it.

use std::fmt;

use normfuse_ir::{
    DType, Error, ErrorKind, FusedNorm, Granularity, Result, Scheme,
    fused::{Activation, Gated, Prologue, ResidualAdd, Sibling, Source},
    scheme::{Apply, Encode, Packing, ScaleLayout, ScaleOutput, Step},
};

/// An op at a width, with bf16 rows, an eps of 1e-6 and a bf16 weight.
#[derive(Debug, Clone, PartialEq)]
pub struct Op {
    /// Its name.
    pub name: String,
    /// What it computes.
    pub norm: FusedNorm,
    /// Where siblings read slices of the same rows, or gate and product halves of them: elements from one row to the next.
    pub packed: Option<u64>,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name)
    }
}

/// The two latents of DeepSeek-V3's attention, and the columns of the tensor that they are slices of.
const DUAL: (&str, [u64; 2], u64) = ("dual_rms_norm", [1536, 512], 2112);

/// The gated activation of most models, of a bf16 gate and as wide an operand that lie side by side in a row.
const GATED: &str = "silu_mul";
/// Quantisers with nothing before them.
const ALONE: &str = "quantise";

/// Quantisers by name, as in the names of ops.
const QUANTISERS: [&str; 13] = [
    "fp8_static",
    "fp8_tensor",
    "fp8_token",
    "fp8_group128",
    "fp8_group128_columns",
    "fp8_group128_tma",
    "ue8m0_group128",
    "ue8m0_group32",
    "mxfp8",
    "mxfp4",
    "nvfp4",
    "int8_static",
    "int8_token",
];

impl Op {
    /// The names of all ops.
    pub fn names() -> Vec<String> {
        let mut all = Vec::new();
        for norm in ["rms_norm", "add+rms_norm"] {
            all.push(norm.to_owned());
            all.extend(QUANTISERS.map(|q| format!("{norm}+{q}")));
        }
        all.extend([DUAL.0.to_owned(), format!("{}+fp8_group128", DUAL.0)]);
        all.push(GATED.to_owned());
        all.extend(QUANTISERS.map(|q| format!("{GATED}+{q}")));
        all.extend(QUANTISERS.map(|q| format!("{ALONE}+{q}")));
        all
    }

    /// The op of a name, for rows of `width` elements; the dual norm has widths of its own.
    ///
    /// # Errors
    /// `Value` for a name that is none, with those that are; for a width that groups do not divide.
    pub fn of(name: &str, width: u64) -> Result<Self> {
        let unknown = || {
            let known = Self::names().join(", ");
            Error::new(ErrorKind::Value, format!("expected the name of an op, found `{name}`"))
                .hint(format!("ops: {known}"))
        };
        let (rest, added) = name.strip_prefix("add+").map_or((name, false), |rest| (rest, true));
        let (base, quantiser) = rest.split_once('+').map_or((rest, None), |(base, q)| (base, Some(q)));
        let scheme = quantiser.map(|q| scheme(q).ok_or_else(unknown)).transpose()?;
        let sibling = |width: u64, scheme: Option<Scheme>| Sibling {
            emit_normed: scheme.is_none(),
            epilogues: scheme.into_iter().collect(),
            ..Sibling::plain(width, DType::BF16)
        };
        let (norm, packed) = match (base, added) {
            ("rms_norm", false) => (FusedNorm::of(vec![sibling(width, scheme)]), None),
            ("rms_norm", true) => {
                let add = Prologue::ResidualAdd(ResidualAdd::of(DType::BF16));
                (FusedNorm { prologue: add, emit_sum: true, ..FusedNorm::of(vec![sibling(width, scheme)]) }, None)
            }
            (GATED, false) => {
                let norm =
                    FusedNorm::gated(Gated::of(Activation::Silu, DType::BF16), width, scheme.into_iter().collect());
                (emitting(norm), Some(2 * width))
            }
            (ALONE, false) if scheme.is_some() => {
                let rows = Sibling::undivided(width, DType::BF16, scheme.into_iter().collect());
                (FusedNorm::of(vec![rows]), None)
            }
            (dual, false) if dual == DUAL.0 && Self::names().iter().any(|n| n == name) => {
                let siblings = vec![sibling(DUAL.1[0], scheme), sibling(DUAL.1[1], None)];
                (FusedNorm { source: Source::Separate, ..FusedNorm::of(siblings) }, Some(DUAL.2))
            }
            _ => return Err(unknown()),
        };
        norm.check().map_err(|why| Error::new(ErrorKind::Value, format!("{name} at a width of {width}: {why}")))?;
        Ok(Self { name: name.to_owned(), norm, packed })
    }

    /// True if the op has widths of its own.
    pub fn fixed(name: &str) -> bool {
        name.starts_with(DUAL.0)
    }

    /// Width of its (first) rows.
    pub fn width(&self) -> u64 {
        self.norm.siblings[0].width
    }
}

/// The same with the value itself as a result, if there is no other.
fn emitting(mut norm: FusedNorm) -> FusedNorm {
    for sibling in &mut norm.siblings {
        sibling.emit_normed = sibling.epilogues.is_empty();
    }
    norm
}

fn linear(element: DType, granularity: Granularity, top: f32) -> Scheme {
    Scheme::dynamic(element, granularity, vec![Step::Max(1e-10.into()), Step::Div(top.into())])
}

fn scheme(name: &str) -> Option<Scheme> {
    let fp8 = |g| linear(DType::F8E4M3FN, g, 448.0).clamped(-448.0, 448.0);
    let group = Granularity::Group(128);
    Some(match name {
        "fp8_static" => Scheme::fixed(DType::F8E4M3FN, Apply::Divide).clamped(-448.0, 448.0),
        "fp8_tensor" => fp8(Granularity::Tensor),
        "fp8_token" => fp8(Granularity::Token),
        "fp8_group128" => fp8(group),
        "fp8_group128_columns" => Scheme { layout: ScaleLayout::ColumnMajor, ..fp8(group) },
        "fp8_group128_tma" => Scheme { layout: ScaleLayout::TmaAligned, ..fp8(group) },
        "ue8m0_group128" => powers(128),
        "ue8m0_group32" => powers(32),
        "mxfp8" => mx(DType::F8E4M3FN, 8.0, 448.0),
        "mxfp4" => Scheme { packing: Packing::Nibbles, encode: Encode::Compare, ..mx(DType::F4E2M1, 2.0, 6.0) },
        "nvfp4" => nvfp4(),
        "int8_static" => int8(Scheme::fixed(DType::I8, Apply::Divide)),
        "int8_token" => int8(linear(DType::I8, Granularity::Token, 127.0)),
        _ => return None,
    })
}

fn int8(scheme: Scheme) -> Scheme {
    let post = vec![Step::Round, Step::Max((-128.0).into()), Step::Min(127.0.into())];
    Scheme { post, encode: Encode::Cast, ..scheme }
}

/// Scales that are powers of two, rounded up, in f32.
fn powers(group: u32) -> Scheme {
    let steps = vec![Step::Max(1e-10.into()), Step::Div(448.0.into()), Step::Log2, Step::Ceil, Step::Exp2];
    Scheme::dynamic(DType::F8E4M3FN, Granularity::Group(group), steps).clamped(-448.0, 448.0)
}

/// Microscaling: the exponent of a group's largest magnitude less that of the element's, as a byte.
fn mx(element: DType, emax: f32, top: f32) -> Scheme {
    let exponent = [Step::Max(f32::MIN_POSITIVE.into()), Step::Log2, Step::Floor, Step::Add((-emax).into())];
    let factor = [&exponent[..], &[Step::Max((-127.0).into()), Step::Min(127.0.into()), Step::Exp2]].concat();
    let byte = ScaleOutput { steps: [&exponent[..], &[Step::Add(127.0.into())]].concat(), dtype: DType::U8 };
    let scheme = Scheme::dynamic(element, Granularity::Group(32), factor).clamped(-top, top);
    Scheme { scale: Some(byte), ..scheme }
}

/// Groups of 16 whose FP8 scales are relative to one that is given.
fn nvfp4() -> Scheme {
    let block =
        vec![Step::Mul((1.0 / 6.0).into()), Step::MulGiven, Step::Max((-448.0).into()), Step::Min(448.0.into())];
    let narrow = Step::Cast { to: DType::F8E4M3FN, saturate: false };
    Scheme {
        given: Some(DType::F32),
        factor: [&block[..], &[narrow, Step::GivenOverOrZero]].concat(),
        scale: Some(ScaleOutput { steps: block, dtype: DType::F8E4M3FN }),
        apply: Apply::Multiply,
        packing: Packing::Nibbles,
        encode: Encode::Compare,
        ..Scheme::dynamic(DType::F4E2M1, Granularity::Group(16), Vec::new()).clamped(-6.0, 6.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_an_op_that_has_a_kernel() {
        for name in Op::names() {
            let op = Op::of(&name, 4096).unwrap();
            assert_eq!(op.name, name);
            crate::cuda::supports(&op.norm).unwrap_or_else(|why| panic!("{name}: {why}"));
            assert_eq!(op.width(), if Op::fixed(&name) { 1536 } else { 4096 });
        }
    }

    #[test]
    fn other_names_are_refused_with_those_that_are() {
        for name in
            ["", "rms", "rms_norm+", "rms_norm+fp9", "add+add+rms_norm", "add+dual_rms_norm", "dual_rms_norm+nvfp4"]
        {
            let said = Op::of(name, 4096).unwrap_err().to_string();
            assert!(said.contains(&format!("found `{name}`")) && said.contains("rms_norm+fp8_group128"), "{said}");
        }
        let said = Op::of("rms_norm+fp8_group128", 100).unwrap_err().to_string();
        assert!(said.contains("rms_norm+fp8_group128 at a width of 100") && said.contains("groups of 128"), "{said}");
    }
}
