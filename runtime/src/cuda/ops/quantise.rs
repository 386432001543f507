//! QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear.

use std::fmt::Write as _;

use normfuse_ir::{
    DType, Error, ErrorKind, Op, Result,
    eval::{
        quotient_dtype,
        shape::{axis_index, product},
    },
};

use super::{
    Call, Lowered, Typed, Word,
    pick::each,
    place::count,
    refused,
    text::{Params, tag},
    undefined,
};

const HEADER: &str = "linear.cuh";

/// How an element finds its scale.
struct Scales {
    /// Sets `s`, the number of the scale, from `index`.
    text: String,
    words: [u64; 4],
}

impl Scales {
    fn of(x: &[usize], scale: &[usize], axis: i64, block: u64) -> Result<Self> {
        let shape = |message: String| Error::new(ErrorKind::Shape, message);
        if product(scale) == 1 && (block == 0 || scale.is_empty()) {
            return Ok(Self { text: "    const u64 s = 0;\n".into(), words: [1; 4] });
        }
        let axis = axis_index(axis, x.len())?;
        let (size, inner) = (x[axis] as u64, product(&x[axis + 1..]) as u64);
        if block == 0 {
            if scale != [x[axis]] {
                return Err(shape(format!(
                    "expected a scalar or {size} scales for axis {axis} of {x:?}, found {scale:?}"
                )));
            }
            return Ok(Self {
                text: "    const I s = (I)index / (I)p.after % (I)p.size;\n".into(),
                words: [inner, size, 1, 1],
            });
        }
        let mut want = x.to_vec();
        want[axis] = size.div_ceil(block) as usize;
        if scale != want {
            let message = format!("blocks of {block} along axis {axis} of {x:?} take scales {want:?}, found {scale:?}");
            return Err(shape(message));
        }
        let text = "    const I after = (I)p.after, size = (I)p.size, line = (I)index / after, \
                    s = (line / size * (I)p.blocks + line % size / (I)p.block) * after + (I)index % after;\n";
        Ok(Self { text: text.into(), words: [inner, size, block.min(size).max(1), want[axis] as u64] })
    }

    fn words(&self, p: &mut Params) {
        for (name, word) in ["after", "size", "block", "blocks"].into_iter().zip(self.words) {
            p.number(name, word);
        }
    }
}

/// The zero point, if there is one: its dtype and whether it is one element.
fn zero_point(call: &Call<'_>, scale: &Typed) -> Result<Option<DType>> {
    let Some(zero) = call.optional(2) else { return Ok(None) };
    if zero.shape == scale.shape || count(&zero.shape) == 1 && count(&scale.shape) == 1 {
        return Ok(Some(zero.dtype));
    }
    let message = format!("zero point of shape {:?}, expected {:?} as the scale", zero.shape, scale.shape);
    Err(Error::new(ErrorKind::Shape, message))
}

fn params(call: &Call<'_>, scales: &Scales, result: &Typed) -> Params {
    let mut p = Params::default();
    p.input("x", Word::Input(0));
    p.input("scale", Word::Input(1));
    if call.optional(2).is_some() {
        p.input("zero", Word::Input(2));
    }
    p.output("y", Word::Output(0));
    p.fault();
    p.number("count", count(&result.shape));
    scales.words(&mut p);
    p
}

/// What reports a float's zero point that is not 0.
fn float_zero(zero: Option<DType>) -> String {
    match zero {
        Some(z) if z.is_float() && z != DType::F64 => {
            format!("    if (get<{0}>(read_at<{0}>(p.zero, s)) != 0.0f) report(p.fault, ZERO_POINT);\n", tag(z))
        }
        _ => String::new(),
    }
}

/// An integer's zero point as an i64.
fn int_zero(zero: Option<DType>, dtype: DType) -> Result<String> {
    match zero {
        None => Ok("0".into()),
        Some(z) if z == dtype => Ok(format!("(i64)get<{0}>(read_at<{0}>(p.zero, s))", tag(z))),
        Some(z) => Err(Error::new(ErrorKind::DType, format!("zero point is {z}, expected {dtype}"))),
    }
}

fn at_most_32_bits(op: &Op, dtype: DType) -> Result<()> {
    if dtype.bits() > 32 { Err(refused(op, format!("has no kernel for {dtype}"))) } else { Ok(()) }
}

fn quantize(
    call: &Call<'_>,
    axis: i64,
    block: u64,
    (to, saturate, precision): (DType, bool, Option<DType>),
) -> Result<Lowered> {
    let (x, scale, y) = (call.input(0)?, call.input(1)?, call.output(0)?);
    if !x.dtype.is_arithmetic_float() && !x.dtype.is_int() {
        return Err(undefined(call.op, x.dtype));
    }
    let precision = quotient_dtype(x.dtype, scale.dtype, precision);
    if !matches!(precision, DType::F32 | DType::F16 | DType::BF16) {
        return Err(undefined(call.op, precision));
    }
    let scales = Scales::of(&x.shape, &scale.shape, axis, block)?;
    let zero = zero_point(call, scale)?;
    let p = params(call, &scales, y);
    let (q, t) = (tag(precision), tag(to));
    let mut body = scales.text;
    let _ = write!(
        body,
        "    const float by = get<{q}>(cast<{q}, {}, true>(read_at<{}>(p.scale, s)));\n    \
         const float quotient = rnd<{q}>(get<{q}>(cast<{q}, {}, true>(read_at<{}>(p.x, index))) / by);\n",
        tag(scale.dtype),
        tag(scale.dtype),
        tag(x.dtype),
        tag(x.dtype)
    );
    if to.is_int() {
        at_most_32_bits(call.op, to)?;
        let _ = writeln!(body, "    v = to_int<{t}>(quotient, {});", int_zero(zero, to)?);
    } else if to.is_quantised() {
        body += &float_zero(zero);
        let _ = writeln!(body, "    v = {t}::encode(quotient, {saturate});");
    } else {
        return Err(undefined(call.op, to));
    }
    if count(&y.shape) == 0 {
        return Ok(Lowered::default());
    }
    Ok(Lowered { launches: vec![each(p, HEADER, to, count(&y.shape), &body)?], scratch: 0 })
}

fn dequantize(call: &Call<'_>, axis: i64, block: u64, to: Option<DType>) -> Result<Lowered> {
    let (x, scale, y) = (call.input(0)?, call.input(1)?, call.output(0)?);
    let to = to.unwrap_or(scale.dtype);
    for (dtype, also) in [(to, false), (scale.dtype, scale.dtype == DType::F8E8M0)] {
        if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) && !also {
            return Err(undefined(call.op, dtype));
        }
    }
    let scales = Scales::of(&x.shape, &scale.shape, axis, block)?;
    let zero = zero_point(call, scale)?;
    let p = params(call, &scales, y);
    let (q, w, t) = (tag(x.dtype), tag(scale.dtype), tag(to));
    let mut body = scales.text;
    let number = if x.dtype.is_int() {
        at_most_32_bits(call.op, x.dtype)?;
        format!("(float)((i64)get<{q}>(read_at<{q}>(p.x, index)) - {})", int_zero(zero, x.dtype)?)
    } else if x.dtype.is_quantised() {
        body += &float_zero(zero);
        format!("get<{q}>(read_at<{q}>(p.x, index))")
    } else {
        return Err(undefined(call.op, x.dtype));
    };
    let _ = writeln!(body, "    v = put<{t}>({number} * get<{w}>(read_at<{w}>(p.scale, s)));");
    if count(&y.shape) == 0 {
        return Ok(Lowered::default());
    }
    Ok(Lowered { launches: vec![each(p, HEADER, to, count(&y.shape), &body)?], scratch: 0 })
}

/// Blocks that look for the extremes of a tensor at most: what one block then looks through.
const BLOCKS: u64 = 1024;

/// The extremes of each block's share, the scale from those, the codes.
fn dynamic(call: &Call<'_>) -> Result<Lowered> {
    let x = call.input(0)?;
    if x.dtype != DType::F32 {
        return Err(undefined(call.op, x.dtype));
    }
    let n = count(&x.shape);
    let blocks = n.div_ceil(256 * 8).min(BLOCKS);
    let fold = |value: &str, count: &str, what: &str| {
        format!(
            "    const float {what} = folded(team, {count}, 0.0f, shared, computed<float>([&](u64 i) {{ return {value}; }}), \
             [](float a, float b) {{ return {}(a, b); }});\n",
            if what == "low" { "min_nan" } else { "max_nan" }
        )
    };
    let start = "    __shared__ float shared[256];\n    const Team<false> team(256);\n";
    let mut launches = Vec::new();
    if n > 0 {
        let mut p = Params::default();
        p.input("x", Word::Input(0));
        p.output("found", Word::Scratch(0));
        p.number("count", n);
        let mut body = String::from(start);
        // Block b has the elements of which the number over 256 leaves b when divided by the blocks.
        body += "    const u64 stride = 256ull * gridDim.x, first = 256ull * blockIdx.x;\n    \
                 const u64 rounds = p.count > first ? (p.count - first + stride - 1) / stride : 0;\n    \
                 auto value = [&](u64 i) { const u64 at = first + i / 256 * stride + i % 256; \
                 return at < p.count ? ((const float*)p.x)[at] : 0.0f; };\n";
        body += &fold("value(i)", "rounds * 256", "low");
        body += &fold("value(i)", "rounds * 256", "high");
        body += "    if (threadIdx.x == 0) {\n        ((float*)p.found)[2 * blockIdx.x] = low;\n        \
                 ((float*)p.found)[2 * blockIdx.x + 1] = high;\n    }\n";
        launches.push(p.launch_blocks(HEADER, "", &body, blocks as u32, 256));
    }
    let mut p = Params::default();
    p.input("found", Word::Scratch(0));
    p.output("scale", Word::Output(1));
    p.output("zero", Word::Output(2));
    p.number("blocks", blocks);
    let mut body = String::from(start);
    body += &fold("((const float*)p.found)[2 * i]", "p.blocks", "low");
    body += &fold("((const float*)p.found)[2 * i + 1]", "p.blocks", "high");
    body += "    if (threadIdx.x == 0) dynamic_scale(low, high, (float*)p.scale, (u8*)p.zero);\n";
    launches.push(p.launch_blocks(HEADER, "", &body, 1, 256));
    if n > 0 {
        let mut p = Params::default();
        p.input("x", Word::Input(0));
        p.input("scale", Word::Output(1));
        p.input("zero", Word::Output(2));
        p.output("y", Word::Output(0));
        p.number("count", n);
        let body = "    v = to_int<U8>(((const float*)p.x)[index] / *(const float*)p.scale, *(const u8*)p.zero);\n";
        launches.push(each(p, HEADER, DType::U8, n, body)?);
    }
    Ok(Lowered { launches, scratch: 8 * blocks })
}

/// Which of the ops here it is.
pub fn lower(call: &Call<'_>) -> Result<Option<Lowered>> {
    Ok(Some(match call.op {
        Op::QuantizeLinear { axis, block_size, to, saturate, precision, .. } => {
            quantize(call, *axis, *block_size, (*to, *saturate, *precision))?
        }
        Op::DequantizeLinear { axis, block_size, to, .. } => dequantize(call, *axis, *block_size, *to)?,
        Op::DynamicQuantizeLinear => dynamic(call)?,
        _ => return Ok(None),
    }))
}
