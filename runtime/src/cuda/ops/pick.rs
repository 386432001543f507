//! Results whose every element is picked: by its place (Pad, Trilu, OneHot, Range, ConstantOfShape), by its rank (TopK), or by an index
//! (Gather, GatherElements, GatherNd).

use std::fmt::Write as _;

use normfuse_ir::{
    DType, Error, ErrorKind, Op, Result,
    eval::shape::{axis_index, product},
};

use super::{
    Call, Launch, Lowered, Word,
    groups::offset,
    place::{Walk, count, strides},
    refused,
    text::{Params, tag},
    undefined,
};

const HEADER: &str = "move.cuh";

fn one(launch: Launch) -> Lowered {
    Lowered { launches: vec![launch], scratch: 0 }
}

/// A launch that writes every element of a result of `dtype`: `body` sets `v`, of a code of its own for 4-bit ones, from
/// `index`; where it is not reached `v` is 0.
pub fn each(p: Params, header: &str, dtype: DType, elements: u64, body: &str) -> Result<Launch> {
    let t = tag(dtype);
    if dtype.bits() == 4 {
        let text = format!(
            "    if ((u64)own * 2 >= p.count) return;\n    u8 both = 0;\n    for (int k = 0; k < 2; ++k) {{\n    \
             const u64 index = (u64)own * 2 + k;\n    if (index >= p.count) break;\n    u8 v = 0;\n{body}    both |= (v & 15) << 4 * k;\n    }}\n    \
             ((u8*)p.y)[own] = both;\n"
        );
        return p.launch(header, "", &text, elements.div_ceil(2));
    }
    let text = format!(
        "    if (own >= p.count) return;\n    const I index = own;\n    Raw<{t}> v = 0;\n{body}    ((Raw<{t}>*)p.y)[own] = v;\n"
    );
    p.launch(header, "", &text, elements)
}

/// A dtype of as many bits that moves: NaNs keep their bits.
fn moved(dtype: DType) -> DType {
    match dtype.bits() {
        4 => DType::F4E2M1,
        8 => DType::U8,
        16 => DType::U16,
        32 => DType::U32,
        _ => DType::U64,
    }
}

fn pad(call: &Call<'_>) -> Result<Lowered> {
    let (x, y) = (call.input(0)?, call.output(0)?);
    let rank = x.shape.len();
    let (pads, axes) = (call.ints(1)?, call.optional_ints(3)?);
    let axes = axes.unwrap_or_else(|| (0..rank as i64).collect());
    if pads.len() != 2 * axes.len() || y.shape.len() != rank {
        let message = format!("{} pads of {} axes of {:?}", pads.len(), axes.len(), x.shape);
        return Err(Error::new(ErrorKind::Shape, message));
    }
    let mut begins = vec![0i64; rank];
    for (i, &axis) in axes.iter().enumerate() {
        begins[axis_index(axis, rank)?] = pads[i];
    }
    let mut p = Params::default();
    p.input("x", Word::Input(0));
    let value = call.optional(2).map(|v| {
        p.input("value", Word::Input(2));
        (v.dtype, count(&v.shape))
    });
    if value.is_some_and(|(dtype, n)| dtype != x.dtype || n != 1) {
        return Err(Error::new(ErrorKind::DType, format!("the pad value must be one element of {}", x.dtype)));
    }
    p.output("y", Word::Output(0));
    p.number("count", count(&y.shape));
    p.numbers("size", y.shape.iter().map(|&d| d as u64));
    p.numbers("own_size", x.shape.iter().map(|&d| d as u64));
    p.signed("begin", &begins);
    p.signed("step", &strides(&x.shape));
    if count(&y.shape) == 0 {
        return Ok(Lowered::default());
    }
    let t = tag(moved(x.dtype));
    let outside = if value.is_some() { format!("read_at<{t}>(p.value, 0)") } else { "0".into() };
    let mut body = String::from("    I rest = (I)index;\n    u64 from = 0;\n    bool inside = true;\n");
    for axis in (0..rank).rev() {
        let _ = writeln!(
            body,
            "    {{ const I size = (I)p.size[{axis}], q = rest / size; const i64 c = (i64)(rest - q * size) - p.begin[{axis}]; rest = q; \
             inside = inside && c >= 0 && c < (i64)p.own_size[{axis}]; from += (u64)(c * p.step[{axis}]); }}"
        );
    }
    let _ = writeln!(body, "    v = inside ? read_at<{t}>(p.x, from) : {outside};");
    Ok(one(each(p, HEADER, moved(x.dtype), count(&y.shape), &body)?))
}

fn trilu(call: &Call<'_>, upper: bool) -> Result<Lowered> {
    let x = call.input(0)?;
    let [.., rows, cols] = x.shape[..] else {
        return Err(Error::new(ErrorKind::Shape, format!("expected rank 2 or more, found shape {:?}", x.shape)));
    };
    let k = match call.optional_ints(1)?.as_deref() {
        None => 0,
        Some([k]) => *k,
        Some(_) => return Err(Error::new(ErrorKind::Shape, "k must be one element")),
    };
    let mut p = Params::default();
    p.input("x", Word::Input(0));
    p.output("y", Word::Output(0));
    p.number("count", count(&x.shape));
    p.number("rows", rows as u64);
    p.number("cols", cols as u64);
    // Past these it is all or nothing, and the difference does not overflow.
    p.number("k", k.clamp(-(1 << 40), 1 << 40).cast_unsigned());
    if count(&x.shape) == 0 {
        return Ok(Lowered::default());
    }
    let t = tag(moved(x.dtype));
    let body = format!(
        "    const i64 row = (i64)((I)index / (I)p.cols % (I)p.rows), col = (i64)((I)index % (I)p.cols), distance = col - row - (i64)p.k;\n    \
         if ({upper} ? distance >= 0 : distance <= 0) v = read_at<{t}>(p.x, index);\n"
    );
    Ok(one(each(p, HEADER, moved(x.dtype), count(&x.shape), &body)?))
}

fn one_hot(call: &Call<'_>, axis: i64) -> Result<Lowered> {
    let (indices, values, y) = (call.input(0)?, call.input(2)?, call.output(0)?);
    let axis = axis_index(axis, y.shape.len())?;
    if count(&values.shape) != 2 || indices.dtype == DType::Bool {
        return Err(Error::new(ErrorKind::Shape, format!("values must be [off, on], found shape {:?}", values.shape)));
    }
    let mut p = Params::default();
    p.input("indices", Word::Input(0));
    p.input("values", Word::Input(2));
    p.output("y", Word::Output(0));
    p.number("count", count(&y.shape));
    p.number("depth", y.shape[axis] as u64);
    p.number("after", product(&y.shape[axis + 1..]) as u64);
    if count(&y.shape) == 0 {
        return Ok(Lowered::default());
    }
    let (i, t) = (tag(indices.dtype), tag(moved(values.dtype)));
    let body = format!(
        "    const I after = (I)p.after, at = (I)index / after, place = at / (I)p.depth * after + (I)index % after;\n    \
         i64 hot = cast<I64, {i}, true>(read_at<{i}>(p.indices, place));\n    if (hot < 0) hot += (i64)p.depth;\n    \
         v = read_at<{t}>(p.values, hot == (i64)(at % (I)p.depth) ? 1 : 0);\n"
    );
    Ok(one(each(p, HEADER, moved(values.dtype), count(&y.shape), &body)?))
}

fn range(call: &Call<'_>) -> Result<Lowered> {
    let y = call.output(0)?;
    let dtype = y.dtype;
    if !(dtype.is_int() || dtype.is_arithmetic_float()) {
        return Err(undefined(call.op, dtype));
    }
    for i in 0..3 {
        if call.input(i)?.dtype != dtype {
            return Err(Error::new(ErrorKind::DType, "start, limit and delta must have one dtype"));
        }
    }
    let mut p = Params::default();
    p.input("start", Word::Input(0));
    p.input("delta", Word::Input(2));
    p.output("y", Word::Output(0));
    p.number("count", count(&y.shape));
    if count(&y.shape) == 0 {
        return Ok(Lowered::default());
    }
    let t = tag(dtype);
    let rounded = if dtype.is_int() || dtype == DType::F64 {
        format!("op_mul((Num<{t}>)index, d, nullptr)")
    } else {
        format!("staged<{t}>(op_mul(staged<{t}>((float)index), d, nullptr))")
    };
    let body = format!(
        "    const Num<{t}> a = get<{t}>(read_at<{t}>(p.start, 0)), d = get<{t}>(read_at<{t}>(p.delta, 0));\n    \
         v = put<{t}>(op_add(a, {rounded}, nullptr));\n"
    );
    Ok(one(each(p, HEADER, dtype, count(&y.shape), &body)?))
}

fn constant(call: &Call<'_>, dtype: DType, value: &[u8]) -> Result<Lowered> {
    let y = call.output(0)?;
    if dtype.size_of(1) != Some(value.len()) || y.dtype != dtype {
        return Err(Error::new(ErrorKind::Value, format!("{} bytes are not one element of {dtype}", value.len())));
    }
    let mut bytes = [0; 8];
    bytes[..value.len()].copy_from_slice(value);
    let mut p = Params::default();
    p.output("y", Word::Output(0));
    p.number("count", count(&y.shape));
    p.number("value", u64::from_le_bytes(bytes));
    if count(&y.shape) == 0 {
        return Ok(Lowered::default());
    }
    let t = tag(moved(dtype));
    Ok(one(each(p, HEADER, moved(dtype), count(&y.shape), &format!("    v = (Raw<{t}>)p.value;\n"))?))
}

/// The k first of each group: as many threads as elements, each of which counts those that come before its own.
fn top_k(call: &Call<'_>, axis: i64, largest: bool) -> Result<Lowered> {
    let (x, y) = (call.input(0)?, call.output(0)?);
    let axis = axis_index(axis, x.shape.len())?;
    let (own, out) = (strides(&x.shape), strides(&y.shape));
    let keep = |all: &[i64]| -> Vec<i64> { (0..all.len()).filter(|&a| a != axis).map(|a| all[a]).collect() };
    let sizes: Vec<usize> = (0..x.shape.len()).filter(|&a| a != axis).map(|a| x.shape[a]).collect();
    let walk = Walk::merged(&sizes, &[keep(&own), keep(&out)]);
    let mut p = Params::default();
    p.input("x", Word::Input(0));
    p.output("values", Word::Output(0));
    p.output("indices", Word::Output(1));
    p.number("count", count(&x.shape));
    p.number("n", x.shape[axis] as u64);
    p.number("k", y.shape[axis] as u64);
    p.signed("along", &[own[axis], out[axis]]);
    p.numbers("x_size", walk.sizes.iter().copied());
    p.signed("x_step", &walk.steps[0]);
    p.numbers("y_size", walk.sizes.iter().copied());
    p.signed("y_step", &walk.steps[1]);
    if count(&y.shape) == 0 {
        return Ok(Lowered::default());
    }
    if x.dtype.bits() == 4 {
        return Err(refused(call.op, "puts 4-bit elements into the middle of bytes"));
    }
    let to = Walk { sizes: walk.sizes.clone(), steps: vec![walk.steps[1].clone()] };
    let (t, before) = (tag(x.dtype), if largest { "order(w, v) > 0" } else { "order(w, v) < 0" });
    let body = format!(
        "    if (own >= p.count) return;\n    const I group = own / (I)p.n, place = own % (I)p.n;\n    u64 from = 0, to = 0;\n{}{}    \
         auto value = [&](u64 i) {{ return read_at<{t}>(p.x, from + i * (u64)p.along[0]); }};\n    \
         const Num<{t}> v = get<{t}>(value(place));\n    u64 rank = 0;\n    \
         for (u64 j = 0; j < p.n; ++j) {{\n        const Num<{t}> w = get<{t}>(value(j));\n        \
         rank += {before} || (j < place && order(w, v) == 0);\n    }}\n    if (rank >= p.k) return;\n    \
         to += rank * (u64)p.along[1];\n    ((Raw<{t}>*)p.values)[to] = value(place);\n    ((i64*)p.indices)[to] = (i64)place;\n",
        offset(&walk, "x", "group", "from"),
        offset(&to, "y", "group", "to")
    );
    Ok(one(p.launch(HEADER, "", &body, count(&x.shape))?))
}

/// The largest unit of bytes that a piece of `elements` is a multiple of, and units in it.
pub fn units(op: &Op, dtype: DType, elements: u64) -> Result<(u64, u64)> {
    let bits = dtype.bits() as u64 * elements;
    let unit = [16u64, 8, 4, 2, 1].into_iter().find(|w| bits.is_multiple_of(w * 8));
    let unit = unit.ok_or_else(|| refused(op, "moves 4-bit elements in pieces that are no whole bytes"))?;
    Ok((unit, bits / (unit * 8)))
}

fn indexed(call: &Call<'_>) -> Result<&'static str> {
    let dtype = call.input(1)?.dtype;
    if dtype.is_int() {
        Ok(tag(dtype))
    } else {
        Err(Error::new(ErrorKind::DType, format!("expected integers, found {dtype}")))
    }
}

fn gather(call: &Call<'_>, axis: i64) -> Result<Lowered> {
    let (x, y) = (call.input(0)?, call.output(0)?);
    let (axis, i) = (axis_index(axis, x.shape.len())?, indexed(call)?);
    let (unit, block) = units(call.op, x.dtype, product(&x.shape[axis + 1..]) as u64)?;
    let picks = count(&call.input(1)?.shape);
    let total = product(&x.shape[..axis]) as u64 * picks * block;
    let mut p = Params::default();
    p.input("x", Word::Input(0));
    p.input("indices", Word::Input(1));
    p.output("y", Word::Output(0));
    p.fault();
    p.number("count", total);
    p.number("n", x.shape[axis] as u64);
    p.number("picks", picks);
    p.number("block", block);
    if count(&y.shape) == 0 {
        return Ok(Lowered::default());
    }
    let body = format!(
        "    if (own >= p.count) return;\n    const I block = (I)p.block, at = own / block, inner = own - at * block, outer = at / (I)p.picks;\n    u64 index;\n    \
         if (!index_at<{i}>(p.indices, at - outer * (I)p.picks, p.n, &index)) return report(p.fault, INDEX);\n    \
         ((Unit<{unit}>*)p.y)[own] = ((const Unit<{unit}>*)p.x)[(outer * p.n + index) * p.block + inner];\n"
    );
    Ok(one(p.launch(HEADER, "", &body, total)?))
}

fn gather_elements(call: &Call<'_>, axis: i64) -> Result<Lowered> {
    let (x, indices) = (call.input(0)?, call.input(1)?);
    let (axis, i) = (axis_index(axis, x.shape.len())?, indexed(call)?);
    if indices.shape.len() != x.shape.len() {
        let message = format!("indices of shape {:?} do not fit {:?}", indices.shape, x.shape);
        return Err(Error::new(ErrorKind::Shape, message));
    }
    let mut steps = strides(&x.shape);
    let along = std::mem::take(&mut steps[axis]);
    let walk = Walk::merged(&indices.shape, &[steps]);
    let mut p = Params::default();
    p.input("x", Word::Input(0));
    p.input("indices", Word::Input(1));
    p.output("y", Word::Output(0));
    p.fault();
    p.number("count", count(&indices.shape));
    p.number("n", x.shape[axis] as u64);
    p.number("along", along as u64);
    p.numbers("x_size", walk.sizes.iter().copied());
    p.signed("x_step", &walk.steps[0]);
    if count(&indices.shape) == 0 {
        return Ok(Lowered::default());
    }
    let t = tag(moved(x.dtype));
    let body = format!(
        "    u64 from = 0, pick;\n{}    if (index_at<{i}>(p.indices, index, p.n, &pick)) v = read_at<{t}>(p.x, from + pick * p.along);\n    \
         else report(p.fault, INDEX);\n",
        offset(&walk, "x", "index", "from")
    );
    Ok(one(each(p, HEADER, moved(x.dtype), count(&indices.shape), &body)?))
}

fn gather_nd(call: &Call<'_>, batch: i64) -> Result<Lowered> {
    let (x, indices, y) = (call.input(0)?, call.input(1)?, call.output(0)?);
    let i = indexed(call)?;
    let bad = || Error::new(ErrorKind::Shape, format!("indices {:?} do not index {:?}", indices.shape, x.shape));
    let (&depth, lead) = indices.shape.split_last().ok_or_else(bad)?;
    let batch =
        usize::try_from(batch).ok().filter(|b| *b <= lead.len() && b + depth <= x.shape.len()).ok_or_else(bad)?;
    let (unit, block) = units(call.op, x.dtype, product(&x.shape[batch + depth..]) as u64)?;
    let total = product(lead) as u64 * block;
    let mut p = Params::default();
    p.input("x", Word::Input(0));
    p.input("indices", Word::Input(1));
    p.output("y", Word::Output(0));
    p.fault();
    p.number("count", total);
    p.number("block", block);
    p.number("per_batch", (product(&lead[batch..]) as u64).max(1));
    p.numbers("n", x.shape[batch..batch + depth].iter().map(|&d| d as u64));
    p.number("batch_blocks", product(&x.shape[batch..batch + depth]) as u64);
    if count(&y.shape) == 0 {
        return Ok(Lowered::default());
    }
    let mut body =
        "    if (own >= p.count) return;\n    const I block = (I)p.block, tuple = own / block, inner = own - tuple * block;\n    \
                    u64 from = 0, index;\n"
            .to_owned();
    for d in 0..depth {
        let _ = write!(
            body,
            "    if (!index_at<{i}>(p.indices, (u64)tuple * {depth} + {d}, p.n[{d}], &index)) return report(p.fault, INDEX);\n    \
             from = from * p.n[{d}] + index;\n"
        );
    }
    let _ = write!(
        body,
        "    from += tuple / (I)p.per_batch * p.batch_blocks;\n    \
         ((Unit<{unit}>*)p.y)[own] = ((const Unit<{unit}>*)p.x)[from * p.block + inner];\n"
    );
    Ok(one(p.launch(HEADER, "", &body, total)?))
}

/// Which of the ops here it is.
pub fn lower(call: &Call<'_>) -> Result<Option<Lowered>> {
    Ok(Some(match call.op {
        Op::Pad => pad(call)?,
        Op::Trilu { upper } => trilu(call, *upper)?,
        Op::OneHot { axis } => one_hot(call, *axis)?,
        Op::Range => range(call)?,
        Op::ConstantOfShape { dtype, value } => constant(call, *dtype, value)?,
        Op::TopK { axis, largest, .. } => top_k(call, *axis, *largest)?,
        Op::Gather { axis } => gather(call, *axis)?,
        Op::GatherElements { axis } => gather_elements(call, *axis)?,
        Op::GatherNd { batch_dims } => gather_nd(call, *batch_dims)?,
        _ => return Ok(None),
    }))
}
