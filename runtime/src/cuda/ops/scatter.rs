//! ScatterElements and ScatterNd: a copy, then updates in their order. Where updates replace, the last one of each place is found
//! first, and all are written at the same time; where they combine, one thread does all of a place in order.

use std::fmt::Write as _;

use normfuse_ir::{
    DType, Error, ErrorKind, Op, Result,
    eval::shape::{axis_index, product},
    op::ScatterReduction,
};

use super::{
    Call, Lowered, Word, copy,
    groups::offset,
    pick::units,
    place::{Walk, count, strides},
    refused,
    text::{Params, tag},
    undefined,
};

const HEADER: &str = "move.cuh";

/// Where updates go: `target` sets `target` (a place of the result) from `u` (the number of an update), or returns.
struct Places {
    /// Updates.
    updates: u64,
    /// Places of the result that an update takes one of.
    room: u64,
    /// Units of a place, and bytes of a unit.
    block: u64,
    unit: u64,
    target: String,
}

fn checked(call: &Call<'_>, reduction: ScatterReduction) -> Result<&'static str> {
    let (x, indices, updates) = (call.input(0)?, call.input(1)?, call.input(2)?);
    if !indices.dtype.is_int() {
        return Err(Error::new(ErrorKind::DType, format!("expected integers, found {}", indices.dtype)));
    }
    if updates.dtype != x.dtype {
        return Err(Error::new(ErrorKind::DType, format!("expected {}, found {}", x.dtype, updates.dtype)));
    }
    if reduction != ScatterReduction::None && !(x.dtype.is_int() || x.dtype.is_arithmetic_float()) {
        return Err(undefined(call.op, x.dtype));
    }
    Ok(tag(indices.dtype))
}

/// Words that all launches have.
fn params(fields: &dyn Fn(&mut Params)) -> Params {
    let mut p = Params::default();
    p.input("indices", Word::Input(1));
    p.input("updates", Word::Input(2));
    p.output("y", Word::Output(0));
    p.fault();
    fields(&mut p);
    p
}

/// Replacing: of two updates of one place the later one stays.
fn replace(call: &Call<'_>, places: &Places, fields: &dyn Fn(&mut Params)) -> Result<Lowered> {
    let mut launches: Vec<super::Launch> = copy::all(call.op, call.input(0)?, 0, 0)?.into_iter().collect();
    if places.updates * places.block == 0 {
        return Ok(Lowered { launches, scratch: 0 });
    }
    let words = |counted: u64| {
        let mut p = params(fields);
        p.output("last", Word::Scratch(0));
        p.number("count", counted);
        p.number("block", places.block);
        p
    };
    let clear = "    if (own < p.count) ((u64*)p.last)[own] = 0;\n";
    launches.push(words(places.room).launch(HEADER, "", clear, places.room)?);
    let target = &places.target;
    let find = format!(
        "    if (own >= p.count) return;\n    const u64 u = own;\n    u64 target = 0, index;\n{target}    \
         atomicMax((u64*)p.last + target, u + 1);\n"
    );
    launches.push(words(places.updates).launch(HEADER, "", &find, places.updates)?);
    let (unit, total) = (places.unit, places.updates * places.block);
    let write = format!(
        "    if (own >= p.count) return;\n    const I block = (I)p.block;\n    const u64 u = own / block, inner = own - u * block;\n    u64 target = 0, index;\n{target}    \
         if (((const u64*)p.last)[target] == u + 1)\n        \
         ((Unit<{unit}>*)p.y)[target * p.block + inner] = ((const Unit<{unit}>*)p.updates)[own];\n"
    );
    launches.push(words(total).launch(HEADER, "", &write, total)?);
    Ok(Lowered { launches, scratch: 8 * places.room })
}

fn combine(reduction: ScatterReduction) -> &'static str {
    match reduction {
        ScatterReduction::None => "REPLACE",
        ScatterReduction::Add => "ADD",
        ScatterReduction::Mul => "MUL",
        ScatterReduction::Max => "LARGER",
        ScatterReduction::Min => "SMALLER",
    }
}

fn no_nibbles(op: &Op, dtype: DType) -> Result<()> {
    if dtype.bits() == 4 { Err(refused(op, "puts 4-bit elements into the middle of bytes")) } else { Ok(()) }
}

fn elements(call: &Call<'_>, axis: i64, reduction: ScatterReduction) -> Result<Lowered> {
    let i = checked(call, reduction)?;
    let (x, indices) = (call.input(0)?, call.input(1)?);
    let axis = axis_index(axis, x.shape.len())?;
    no_nibbles(call.op, x.dtype)?;
    if indices.shape.len() != x.shape.len() || call.input(2)?.shape != indices.shape {
        let message = format!("indices of shape {:?} do not fit {:?}", indices.shape, x.shape);
        return Err(Error::new(ErrorKind::Shape, message));
    }
    let mut steps = strides(&x.shape);
    let along = std::mem::take(&mut steps[axis]);
    let n = x.shape[axis] as u64;
    if reduction == ScatterReduction::None {
        let walk = Walk::merged(&indices.shape, &[steps]);
        let target = format!(
            "{}    if (!index_at<{i}>(p.indices, u, p.n, &index)) return report(p.fault, INDEX);\n    target += index * p.along;\n",
            offset(&walk, "x", "u", "target")
        );
        let unit = x.dtype.bits() as u64 / 8;
        let places = Places { updates: count(&indices.shape), room: count(&x.shape), block: 1, unit, target };
        return replace(call, &places, &|p| {
            p.number("n", n);
            p.number("along", along as u64);
            p.numbers("x_size", walk.sizes.iter().copied());
            p.signed("x_step", &walk.steps[0]);
        });
    }
    // Lines along the axis have no place in common.
    let own = strides(&indices.shape);
    let lines: Vec<usize> = (0..x.shape.len()).filter(|&a| a != axis).collect();
    let sizes: Vec<usize> = lines.iter().map(|&a| indices.shape[a]).collect();
    let walk =
        Walk::merged(&sizes, &[lines.iter().map(|&a| steps[a]).collect(), lines.iter().map(|&a| own[a]).collect()]);
    let mut launches: Vec<super::Launch> = copy::all(call.op, x, 0, 0)?.into_iter().collect();
    if count(&indices.shape) > 0 {
        let p = params(&|p| {
            p.number("count", walk.count());
            p.number("n", n);
            p.number("m", indices.shape[axis] as u64);
            p.number("along", along as u64);
            p.number("update_along", own[axis] as u64);
            for (name, steps) in [("x", &walk.steps[0]), ("u", &walk.steps[1])] {
                p.numbers(&format!("{name}_size"), walk.sizes.iter().copied());
                p.signed(&format!("{name}_step"), steps);
            }
        });
        let t = tag(x.dtype);
        let body = format!(
            "    if (own >= p.count) return;\n    u64 line = 0, from = 0, index;\n{}{}    for (u64 k = 0; k < p.m; ++k) {{\n        \
             const u64 u = from + k * p.update_along;\n        \
             if (!index_at<{i}>(p.indices, u, p.n, &index)) return report(p.fault, INDEX);\n        \
             Raw<{t}>* y = (Raw<{t}>*)p.y + line + index * p.along;\n        \
             *y = scattered<{t}, {}>(*y, read_at<{t}>(p.updates, u));\n    }}\n",
            offset(&walk, "x", "own", "line"),
            offset(&walk, "u", "own", "from"),
            combine(reduction)
        );
        launches.push(p.launch(HEADER, "", &body, walk.count())?);
    }
    Ok(Lowered { launches, scratch: 0 })
}

fn nd(call: &Call<'_>, reduction: ScatterReduction) -> Result<Lowered> {
    let i = checked(call, reduction)?;
    let (x, indices, updates) = (call.input(0)?, call.input(1)?, call.input(2)?);
    let bad = || Error::new(ErrorKind::Shape, format!("indices {:?} do not index {:?}", indices.shape, x.shape));
    let (&depth, lead) = indices.shape.split_last().ok_or_else(bad)?;
    if depth > x.shape.len() || updates.shape != [lead, &x.shape[depth..]].concat() {
        return Err(bad());
    }
    let mut target = String::new();
    for d in 0..depth {
        let _ = write!(
            target,
            "    if (!index_at<{i}>(p.indices, u * {depth} + {d}, p.n[{d}], &index)) return report(p.fault, INDEX);\n    \
             target = target * p.n[{d}] + index;\n"
        );
    }
    let sizes = |p: &mut Params| p.numbers("n", x.shape[..depth].iter().map(|&d| d as u64));
    let block = product(&x.shape[depth..]) as u64;
    if reduction == ScatterReduction::None {
        let (unit, block) = units(call.op, x.dtype, block)?;
        let places =
            Places { updates: product(lead) as u64, room: product(&x.shape[..depth]) as u64, block, unit, target };
        return replace(call, &places, &sizes);
    }
    no_nibbles(call.op, x.dtype)?;
    let mut launches: Vec<super::Launch> = copy::all(call.op, x, 0, 0)?.into_iter().collect();
    if count(&updates.shape) > 0 {
        let p = params(&|p| {
            sizes(p);
            p.number("count", block);
            p.number("tuples", product(lead) as u64);
        });
        let t = tag(x.dtype);
        let body = format!(
            "    if (own >= p.count) return;\n    for (u64 u = 0; u < p.tuples; ++u) {{\n    u64 target = 0, index;\n{target}    \
             Raw<{t}>* y = (Raw<{t}>*)p.y + target * p.count + own;\n    \
             *y = scattered<{t}, {}>(*y, read_at<{t}>(p.updates, u * p.count + own));\n    }}\n",
            combine(reduction)
        );
        launches.push(p.launch(HEADER, "", &body, block)?);
    }
    Ok(Lowered { launches, scratch: 0 })
}

/// Which of the ops here it is.
pub fn lower(call: &Call<'_>) -> Result<Option<Lowered>> {
    Ok(Some(match call.op {
        Op::ScatterElements { axis, reduction } => elements(call, *axis, *reduction)?,
        Op::ScatterNd { reduction } => nd(call, *reduction)?,
        _ => return Ok(None),
    }))
}
