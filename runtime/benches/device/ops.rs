//! The ops that are measured, by name, for a width.

use normfuse_ir::{
    DType, FusedNorm, Granularity, Scheme,
    fused::{Prologue, ResidualAdd, Sibling},
    scheme::{Apply, ScaleLayout, Step},
};

pub type Make = fn(u64) -> FusedNorm;

pub const OPS: [(&str, Make); 12] = [
    ("rms", |n| norm(n, None)),
    ("add+rms", |n| added(norm(n, None))),
    ("rms static", |n| norm(n, Some(fixed()))),
    ("rms per-token", |n| norm(n, Some(fp8(Granularity::Token)))),
    ("rms 1x128", |n| norm(n, Some(fp8(Granularity::Group(128))))),
    ("rms 1x128 column-major", |n| norm(n, Some(columns()))),
    ("rms 1x128 UE8M0", |n| norm(n, Some(powers(128)))),
    ("rms 1x32 UE8M0", |n| norm(n, Some(powers(32)))),
    ("add+rms static", |n| added(norm(n, Some(fixed())))),
    ("add+rms per-token", |n| added(norm(n, Some(fp8(Granularity::Token))))),
    ("add+rms 1x128", |n| added(norm(n, Some(fp8(Granularity::Group(128)))))),
    ("add+rms 1x128 column-major", |n| added(norm(n, Some(columns())))),
];

fn norm(width: u64, scheme: Option<Scheme>) -> FusedNorm {
    let emit_normed = scheme.is_none();
    let epilogues = scheme.into_iter().collect();
    FusedNorm::of(vec![Sibling { emit_normed, epilogues, ..Sibling::plain(width, DType::BF16) }])
}

fn added(norm: FusedNorm) -> FusedNorm {
    FusedNorm { prologue: Prologue::ResidualAdd(ResidualAdd::of(DType::BF16)), emit_sum: true, ..norm }
}

fn fixed() -> Scheme {
    Scheme::fixed(DType::F8E4M3FN, Apply::Divide).clamped(-448.0, 448.0)
}

fn fp8(granularity: Granularity) -> Scheme {
    Scheme::dynamic(DType::F8E4M3FN, granularity, vec![Step::Max(1e-10.into()), Step::Div(448.0.into())])
        .clamped(-448.0, 448.0)
}

fn columns() -> Scheme {
    Scheme { layout: ScaleLayout::ColumnMajor, ..fp8(Granularity::Group(128)) }
}

fn powers(group: u32) -> Scheme {
    let steps = vec![Step::Max(1e-10.into()), Step::Div(448.0.into()), Step::Log2, Step::Ceil, Step::Exp2];
    Scheme::dynamic(DType::F8E4M3FN, Granularity::Group(group), steps).clamped(-448.0, 448.0)
}
