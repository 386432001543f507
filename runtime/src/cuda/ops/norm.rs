//! LayerNorm, RmsNorm and SkipRmsNorm of unfused graphs.

use std::fmt::Write as _;

use normfuse_ir::{DType, Error, ErrorKind, Op, Result, eval::shape::axis_index, fused::Root, op::CastBack};

use super::{
    Call, Lowered, Typed, Word,
    groups::Groups,
    place::{count, is_suffix},
    refused,
    text::{Params, tag},
    undefined,
};

/// An operand that goes with the rows: element (index % its length).
struct Beside<'a> {
    name: &'a str,
    dtype: DType,
    len: u64,
}

impl<'a> Beside<'a> {
    fn new(call: &Call<'_>, name: &'a str, operand: &Typed, x: &Typed) -> Result<Self> {
        if !operand.dtype.is_arithmetic_float() {
            return Err(undefined(call.op, operand.dtype));
        }
        normfuse_ir::eval::shape::broadcast_strides(&operand.shape, &x.shape)?;
        if !is_suffix(&operand.shape, &x.shape) {
            let why = format!("has a {name} of shape {:?}, which is no tail of {:?}", operand.shape, x.shape);
            return Err(refused(call.op, why));
        }
        Ok(Self { name, dtype: operand.dtype, len: count(&operand.shape) })
    }

    fn word(&self, p: &mut Params, port: usize) {
        p.input(self.name, Word::Input(port));
        p.number(&format!("{}_len", self.name), self.len);
    }

    /// Its element beside element i of a row.
    fn element(&self) -> String {
        let (name, t) = (self.name, tag(self.dtype));
        format!("read_at<{t}>(p.{name}, p.{name}_len == p.n ? i : (group * p.n + i) % p.{name}_len)")
    }
}

/// What stage one is.
struct Stage<'a> {
    x: &'a Typed,
    stash: DType,
    eps: f32,
    root: Root,
    centre: bool,
}

impl<'a> Stage<'a> {
    fn new(call: &Call<'a>, stash: DType, eps: f32, (root, centre): (Root, bool)) -> Result<Self> {
        let x = call.input(0)?;
        if !x.dtype.is_arithmetic_float() {
            return Err(undefined(call.op, x.dtype));
        }
        if !stash.is_arithmetic_float() {
            let message = format!("the stash type must be a float, found {stash}");
            return Err(Error::new(ErrorKind::DType, message));
        }
        Ok(Self { x, stash, eps, root, centre })
    }

    fn rows(&self, axis: i64) -> Result<Groups> {
        let axis = axis_index(axis, self.x.shape.len())?;
        let len = count(&self.x.shape[axis..]);
        Ok(Groups::rows(count(&self.x.shape).checked_div(len).unwrap_or(0), len))
    }

    /// A row in the dtype of the stage, of `numbers`, and what is done with each of its values `v`.
    fn body(&self, numbers: &str, give: &str) -> String {
        let s = tag(self.stash);
        let root = match self.root {
            Root::DivideBySqrt => "DIVIDE_BY_SQRT",
            Root::ReciprocalSqrt => "RECIPROCAL_SQRT",
            Root::Rsqrt => "RSQRT",
        };
        format!(
            "    auto value = {numbers};\n    \
             normalised<{s}, {root}, {}>(team, p.n, depth, (Num<{s}>*)shared, __uint_as_float((u32)p.eps), value, \
             [&](u64 i, Num<{s}> v) {{\n        if (!here) return;\n{give}    }});\n",
            self.centre
        )
    }

    /// The numbers of x as the stage computes with them: in f32, or in f64 where the stage is f64, rounded to the stage.
    fn numbers(&self, groups: &Groups) -> String {
        let (t, s) = (tag(self.x.dtype), tag(self.stash));
        format!(
            "mapped<Num<{s}>>(numbers<{t}, {}>(p.x, at), [&](Num<{t}> v) {{ return staged<{s}>((Num<{s}>)v); }})",
            groups.next()
        )
    }
}

fn launched(groups: &Groups, p: Params, body: &str) -> Result<Lowered> {
    Ok(Lowered { launches: vec![groups.launch(p, "group.cuh", "", body, 8)?], scratch: 0 })
}

/// A value of stage one, which is cast to x's dtype, then times the scale, plus the bias.
fn before_scale(call: &Call<'_>, stage: &Stage<'_>, axis: i64) -> Result<Lowered> {
    let x = stage.x;
    let groups = stage.rows(axis)?;
    let scale = Beside::new(call, "scale", call.input(1)?, x)?;
    let bias = call.optional(2).map(|b| Beside::new(call, "bias", b, x)).transpose()?;
    let mut p = Params::default();
    p.input("x", Word::Input(0));
    scale.word(&mut p, 1);
    if let Some(bias) = &bias {
        bias.word(&mut p, 2);
    }
    p.output("y", Word::Output(0));
    p.number("eps", u64::from(stage.eps.to_bits()));
    groups.words(&mut p);
    if count(&x.shape) == 0 {
        return Ok(Lowered::default());
    }
    let (t, w) = (tag(x.dtype), tag(scale.dtype));
    let mut give = format!(
        "        const Raw<{t}> normal = cast_number<{t}>(v, true);\n        \
         const Raw<{w}> scaled = second_stage<{t}, {w}, false>(normal, {});\n",
        scale.element()
    );
    match &bias {
        None => {
            let _ = writeln!(give, "        ((Raw<{w}>*)p.y)[group * p.n + i] = scaled;");
        }
        Some(bias) => {
            let b = tag(bias.dtype);
            let _ = writeln!(
                give,
                "        ((Raw<{b}>*)p.y)[group * p.n + i] = second_stage<{w}, {b}, true>(scaled, {});",
                bias.element()
            );
        }
    }
    launched(&groups, p, &stage.body(&stage.numbers(&groups), &give))
}

/// A value of stage one times the scale in the stage's dtype, cast to the scale's.
fn after_scale(call: &Call<'_>, stage: &Stage<'_>, axis: i64) -> Result<Lowered> {
    let x = stage.x;
    let groups = stage.rows(axis)?;
    let scale = Beside::new(call, "scale", call.input(1)?, x)?;
    let mut p = Params::default();
    p.input("x", Word::Input(0));
    scale.word(&mut p, 1);
    p.output("y", Word::Output(0));
    p.number("eps", u64::from(stage.eps.to_bits()));
    groups.words(&mut p);
    if count(&x.shape) == 0 {
        return Ok(Lowered::default());
    }
    let (s, w) = (tag(stage.stash), tag(scale.dtype));
    let give = format!(
        "        const Raw<{s}> product = second_stage<{s}, {s}, false>(put<{s}>(v), cast<{s}, {w}, true>({}));\n        \
         ((Raw<{w}>*)p.y)[group * p.n + i] = cast<{w}, {s}, true>(product);\n",
        scale.element()
    );
    launched(&groups, p, &stage.body(&stage.numbers(&groups), &give))
}

/// `SkipRmsNorm`: the sum in f32, normalised before it is rounded.
fn skip(call: &Call<'_>, eps: f32) -> Result<Lowered> {
    let stage = Stage::new(call, DType::F32, eps, (Root::DivideBySqrt, false))?;
    let x = stage.x;
    for operand in call.inputs.iter().flatten() {
        if operand.dtype != x.dtype || x.dtype == DType::F64 {
            return Err(undefined(call.op, operand.dtype));
        }
    }
    let groups = stage.rows(-1)?;
    let added = Beside::new(call, "skip", call.input(1)?, x)?;
    let scale = Beside::new(call, "scale", call.input(2)?, x)?;
    let bias = call.optional(3).map(|b| Beside::new(call, "bias", b, x)).transpose()?;
    let mut p = Params::default();
    p.input("x", Word::Input(0));
    added.word(&mut p, 1);
    scale.word(&mut p, 2);
    if let Some(bias) = &bias {
        bias.word(&mut p, 3);
    }
    p.output("y", Word::Output(0));
    p.output("sum", Word::Output(1));
    p.number("eps", u64::from(eps.to_bits()));
    groups.words(&mut p);
    if count(&x.shape) == 0 {
        return Ok(Lowered::default());
    }
    let t = tag(x.dtype);
    let mut number = format!("get<{t}>(read_at<{t}>(p.x, at(i))) + get<{t}>({})", added.element());
    if let Some(bias) = &bias {
        let _ = write!(number, " + get<{t}>({})", bias.element());
    }
    let give = format!(
        "        ((Raw<{t}>*)p.y)[group * p.n + i] = put<{t}>(v * get<{t}>({}));\n        \
         ((Raw<{t}>*)p.sum)[group * p.n + i] = put<{t}>(value(i));\n",
        scale.element()
    );
    launched(&groups, p, &stage.body(&format!("computed<float>([&](u64 i) {{ return {number}; }})"), &give))
}

/// Which of the ops here it is.
pub fn lower(call: &Call<'_>) -> Result<Option<Lowered>> {
    Ok(Some(match call.op {
        Op::LayerNorm { axis, eps, stash } => {
            before_scale(call, &Stage::new(call, *stash, eps.get(), (Root::ReciprocalSqrt, true))?, *axis)?
        }
        Op::RmsNorm { axis, eps, stash, root, cast } => {
            let stage = Stage::new(call, *stash, eps.get(), (*root, false))?;
            match cast {
                CastBack::BeforeScale => before_scale(call, &stage, *axis)?,
                CastBack::AfterScale => after_scale(call, &stage, *axis)?,
            }
        }
        Op::SkipRmsNorm { eps } => skip(call, eps.get())?,
        _ => return Ok(None),
    }))
}
