//! What the kernels' templates ask of a norm and of a quantiser, as C++ types.

use std::fmt::Write;

use normfuse_ir::{
    DType, Granularity, Scheme,
    fused::{Root, Sibling},
    scheme::{Apply, Encode, F32, Origin, Packing, ScaleLayout, Step, ZeroPoint},
};

pub(super) fn type_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "F16",
        DType::BF16 => "BF16",
        DType::F8E4M3FN => "E4M3FN",
        DType::F8E4M3FNUZ => "E4M3FNUZ",
        DType::F8E5M2 => "E5M2",
        DType::F8E5M2FNUZ => "E5M2FNUZ",
        DType::F4E2M1 => "E2M1",
        DType::F8E8M0 => "E8M0",
        DType::I8 => "I8",
        DType::U8 => "U8",
        // `supports` lets no other one through.
        _ => "F32",
    }
}

/// True for constants by which `divide_by` divides.
fn quick_divisor(c: F32) -> bool {
    (2f32.powi(-20)..2f32.powi(20)).contains(&c.get()) && c.get().to_bits() & 0x7f_ffff != 0x7f_ffff
}

pub(super) fn number(v: F32) -> String {
    format!("__uint_as_float({:#010x}u)", v.get().to_bits())
}

pub(super) fn sibling_traits(k: usize, s: &Sibling) -> String {
    let root = match s.root {
        Some(Root::ReciprocalSqrt) => "RECIPROCAL_SQRT",
        Some(Root::Rsqrt) => "RSQRT",
        Some(Root::DivideBySqrt) => "DIVIDE_BY_SQRT",
        None => "UNDIVIDED",
    };
    format!(
        "struct Norm{k} {{\n    typedef {} Compute;\n    typedef {} Normed;\n    typedef {} Product;\n    typedef {} Weight;\n    \
         typedef {} Output;\n    static constexpr Root ROOT = {root};\n    static constexpr bool WEIGHTED = {}, PLUS_ONE = {};\n    \
         static __device__ __forceinline__ float eps() {{ return {}; }}\n}};\n",
        type_name(s.compute),
        type_name(s.normed),
        type_name(s.product()),
        type_name(s.weight.map_or(DType::F32, |w| w.dtype)),
        type_name(s.output),
        s.weight.is_some(),
        s.weight.is_some_and(|w| w.plus_one),
        number(s.eps),
    )
}

pub(super) fn scheme_traits(name: &str, s: &Scheme) -> String {
    let granularity = match s.granularity {
        Granularity::Tensor => "TENSOR",
        Granularity::Token => "TOKEN",
        Granularity::Group(_) => "GROUP",
        Granularity::Channel => "CHANNEL",
    };
    let group = if let Granularity::Group(g) = s.granularity { g } else { 1 };
    let encode = match s.encode {
        Encode::Cast => "CAST",
        Encode::Saturate => "SATURATE",
        Encode::Compare => "COMPARE",
    };
    let layout = match s.layout {
        ScaleLayout::RowMajor => "ROW_MAJOR",
        ScaleLayout::ColumnMajor => "COLUMN_MAJOR",
        ScaleLayout::TmaAligned => "TMA_ALIGNED",
        ScaleLayout::PackedUe8m0 => "PACKED_UE8M0",
        ScaleLayout::Swizzle128x4 => "SWIZZLE_128X4",
        ScaleLayout::Shuffle32x8 => "SHUFFLE_32X8",
    };
    let scale = match &s.scale {
        // One computation, where both are the same.
        Some(scale) if scale.steps == s.factor => "    return factor;\n".into(),
        Some(scale) => chain(&scale.steps, s.compute, "origin"),
        None => "    return factor;\n".into(),
    };
    format!(
        "struct {name} {{\n    typedef {} Element;\n    typedef {} Compute;\n    typedef {} Given;\n    typedef {} Scale;\n    \
         static constexpr Granularity GRANULARITY = {granularity};\n    static constexpr int GROUP_SIZE = {group};\n    \
         static constexpr Origin ORIGIN = {};\n    static constexpr Encode ENCODE = {encode};\n    \
         static constexpr Packing PACKING = {};\n    static constexpr Layout LAYOUT = {layout};\n    \
         static constexpr bool DIVIDE = {}, TOLERANT = {}, POWER = {}, POSTED = {}, HAS_GIVEN = {}, HAS_SCALE = {}, ZERO = {}, ZERO_OF_RANGE = {};\n    \
         typedef {} Number;\n    static constexpr bool CODES = {}, NUMBERS = {};\n    \
         static __device__ __forceinline__ float factor(float origin, float given) {{\n{}    }}\n    \
         static __device__ __forceinline__ float scale(float origin, float given, float factor) {{\n{scale}    }}\n    \
         static __device__ __forceinline__ float post(float origin) {{\n{}    }}\n}};\n",
        type_name(s.element),
        type_name(s.compute),
        type_name(s.given.unwrap_or(DType::F32)),
        type_name(s.scale.as_ref().map_or(DType::F32, |s| s.dtype)),
        match s.origin {
            Origin::Given => "GIVEN",
            Origin::Amax => "AMAX",
            Origin::Range => "RANGE",
        },
        if s.element.bits() == 4 && s.packing != Packing::Codes { "NIBBLES" } else { "BYTES" },
        s.apply == Apply::Divide,
        tolerant(&s.post),
        power_of_two(&s.factor),
        !post(s).is_empty(),
        s.given.is_some(),
        s.has_scale_output(),
        s.zero_point == ZeroPoint::Given,
        s.zero_point == ZeroPoint::Range,
        type_name(s.dequantised.map_or(DType::F32, |d| d.dtype)),
        s.has_codes_output(),
        s.dequantised.is_some(),
        chain(&s.factor, s.compute, "origin"),
        chain(post(s), s.compute, "origin"),
    )
}

/// True if the chain ends in a power of 2 with a whole exponent: rounded, and then moved and bounded by whole numbers.
fn power_of_two(steps: &[Step]) -> bool {
    let Some((Step::Exp2, rest)) = steps.split_last() else { return false };
    let whole = |step: &&Step| match step {
        Step::Add(c) | Step::Max(c) | Step::Min(c) => c.get().fract() == 0.0 && c.get().abs() <= 256.0,
        _ => false,
    };
    matches!(rest.iter().rev().find(|step| !whole(step)), Some(Step::Ceil | Step::Floor | Step::Round))
}

/// True if the code does not depend on a quotient below 2^-40 but for its sign, since it is rounded to nothing, whatever the element;
/// nor on more of it than `quotient` in `kernels/num.cuh` has right.
fn tolerant(post: &[Step]) -> bool {
    post.iter().all(|step| match step {
        Step::Max(_) | Step::Min(_) | Step::Round => true,
        Step::Cast { to, .. } => matches!(to, DType::F32 | DType::BF16),
        _ => false,
    })
}

/// The steps before the code, but for a clip that the conversion to the element does as well.
fn post(s: &Scheme) -> &[Step] {
    let bounds = match (s.element, s.encode) {
        (DType::F8E4M3FN, Encode::Saturate) => (-448.0, 448.0),
        (DType::F4E2M1, _) => (-6.0, 6.0),
        _ => return &s.post,
    };
    match s.post.split_last_chunk::<2>() {
        Some((rest, [Step::Max(low), Step::Min(high)])) if (low.get(), high.get()) == bounds => rest,
        _ => &s.post,
    }
}

/// A chain of steps as statements, after [`normfuse_ir::scheme::run`].
fn chain(steps: &[Step], compute: DType, from: &str) -> String {
    let mut at = compute;
    let mut out = format!("    float x = rnd<{}>({from});\n", type_name(compute));
    for (i, step) in steps.iter().enumerate() {
        let before = i.checked_sub(1).map(|i| &steps[i]);
        let whole = matches!(step, Step::Log2) && matches!(steps.get(i + 1), Some(Step::Ceil | Step::Floor));
        if whole && at == DType::F32 {
            // With the next step it is one.
            continue;
        }
        let value = match *step {
            Step::Ceil if before == Some(&Step::Log2) && at == DType::F32 => "ceil_log2_f(x)".into(),
            Step::Floor if before == Some(&Step::Log2) && at == DType::F32 => "floor_log2_f(x)".into(),
            Step::Max(c) => format!("max_nan(x, {})", number(c)),
            Step::Min(c) => format!("min_nan(x, {})", number(c)),
            Step::Add(c) => format!("x + {}", number(c)),
            Step::Mul(c) => format!("x * {}", number(c)),
            Step::Div(c) if quick_divisor(c) => format!("divide_by<{:#010x}u>(x)", c.get().to_bits()),
            Step::Div(c) => format!("x / {}", number(c)),
            Step::Over(c) => format!("{} / x", number(c)),
            Step::Power(c) => format!("pow_f({}, x)", number(c)),
            Step::Log => "log_f(x)".into(),
            Step::Log2 => "log2_f(x)".into(),
            Step::Exp2 => "exp2_f(x)".into(),
            Step::Floor => "floorf(x)".into(),
            Step::Ceil => "ceilf(x)".into(),
            Step::Round => "rintf(x)".into(),
            Step::MulGiven => "x * given".into(),
            Step::DivGiven => "x / given".into(),
            Step::GivenOver => "given / x".into(),
            Step::GivenOverOrZero => "x == 0.0f ? 0.0f : given / x".into(),
            Step::MaxGiven => "max_nan(x, given)".into(),
            Step::MinGiven => "min_nan(x, given)".into(),
            Step::IfZero(c) => format!("x == 0.0f ? {} : x", number(c)),
            Step::Cast { to, .. } if to.is_arithmetic_float() => {
                at = to;
                "x".into()
            }
            Step::Cast { to, saturate } => {
                let ty = type_name(to);
                let _ = writeln!(out, "    x = {ty}::decode({ty}::encode(x, {saturate}));");
                continue;
            }
        };
        let _ = writeln!(out, "    x = rnd<{}>({value});", type_name(at));
    }
    out + "    return x;\n"
}
