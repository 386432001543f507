//! Elements that are read and written with strides: transposes, slices, pieces that are joined or cut.

use normfuse_ir::{
    DType, Error, ErrorKind, Op, Result,
    eval::{movement, shape::axis_index},
};

use super::{
    Call, Launch, Lowered, Strided, Typed, Word,
    groups::offset,
    place::{Walk, broadcast, count, strides},
    refused,
    text::Params,
};

/// Elements of `sizes`, from the operand's `from` steps behind `from_base` to the result's `to` steps behind `to_base`.
#[derive(Debug, Clone)]
pub struct Copy {
    /// Element type of both.
    pub dtype: DType,
    /// Sizes of what moves.
    pub sizes: Vec<usize>,
    /// Steps of the operand, in elements.
    pub from: Vec<i64>,
    /// Its first element.
    pub from_base: u64,
    /// Steps of the result.
    pub to: Vec<i64>,
    /// Its first element.
    pub to_base: u64,
    /// The operand.
    pub input: usize,
    /// The result.
    pub output: usize,
}

/// A copy in units of `bytes`, 0 for nibbles.
struct InUnits {
    walk: Walk,
    bases: [u64; 2],
    bytes: u64,
}

impl Copy {
    /// The same in the largest units that everything is a multiple of.
    fn in_units(&self) -> InUnits {
        let walk = Walk::merged(&self.sizes, &[self.from.clone(), self.to.clone()]);
        let bits = self.dtype.bits() as u64;
        let plain = InUnits { walk, bases: [self.from_base, self.to_base], bytes: bits / 8 };
        let along = plain.walk.steps.iter().all(|s| s.last() == Some(&1));
        let Some(unit) = [16u64, 8, 4, 2, 1].into_iter().filter(|w| w * 8 > bits).find(|w| {
            let k = w * 8 / bits;
            let outer = |s: &Vec<i64>| s[..s.len() - 1].iter().all(|s| s.unsigned_abs().is_multiple_of(k));
            along
                && plain.walk.inner().is_multiple_of(k)
                && plain.walk.steps.iter().all(outer)
                && plain.bases.iter().all(|b| b.is_multiple_of(k))
        }) else {
            return plain;
        };
        let k = unit * 8 / bits;
        let InUnits { mut walk, bases, .. } = plain;
        for steps in &mut walk.steps {
            let last = steps.len() - 1;
            steps[..last].iter_mut().for_each(|s| *s /= k as i64);
        }
        if let Some(inner) = walk.sizes.last_mut() {
            *inner /= k;
        }
        InUnits { walk, bases: bases.map(|b| b / k), bytes: unit }
    }

    /// The launch; none if there is nothing to move.
    ///
    /// # Errors
    /// `Unsupported` for 4-bit elements that begin in the middle of a byte of the result.
    pub fn launch(&self, op: &Op) -> Result<Option<Launch>> {
        if count(&self.sizes) == 0 {
            return Ok(None);
        }
        let InUnits { walk, bases, bytes } = self.in_units();
        let mut p = Params::default();
        p.input("x", Word::Input(self.input));
        p.output("y", Word::Output(self.output));
        p.number("count", walk.count());
        p.number("x_base", bases[0]);
        p.number("y_base", bases[1]);
        p.numbers("x_size", walk.sizes.iter().copied());
        p.signed("x_step", &walk.steps[0]);
        let from = offset(&walk, "x", "index", "from");
        if bytes == 0 {
            // Both halves of a byte by one thread.
            if self.to_base != 0 || self.to != strides(&self.sizes) {
                return Err(refused(op, "puts 4-bit elements into the middle of bytes"));
            }
            let body = format!(
                "    if ((u64)own * 2 >= p.count) return;\n    u8 both = 0;\n#pragma unroll\n    for (int k = 0; k < 2; ++k) {{\n    \
                 const u64 index = (u64)own * 2 + k;\n    if (index < p.count) {{\n    u64 from = p.x_base;\n{from}    \
                 both |= read_at<E2M1>(p.x, from) << 4 * k;\n    }}\n    }}\n    ((u8*)p.y)[own] = both;\n"
            );
            return Ok(Some(p.launch("move.cuh", "", &body, walk.count().div_ceil(2))?));
        }
        let to = Walk { sizes: walk.sizes.clone(), steps: vec![walk.steps[1].clone()] };
        p.numbers("y_size", walk.sizes.iter().copied());
        p.signed("y_step", &walk.steps[1]);
        let body = format!(
            "    if (own >= p.count) return;\n    const u64 index = own;\n    u64 from = p.x_base, to = p.y_base;\n{from}{}    \
             const Unit<{bytes}> moved = ((const Unit<{bytes}>*)p.x)[from];\n    others_may_begin();\n    ((Unit<{bytes}>*)p.y)[to] = moved;\n",
            offset(&to, "y", "index", "to")
        );
        Ok(Some(p.launch("move.cuh", "", &body, walk.count())?))
    }
}

/// Row by row what lies in another way.
///
/// # Errors
/// As [`Copy::launch`].
pub fn written_out(dtype: DType, lies: &Strided) -> Result<Lowered> {
    let from = lies.strides.iter().map(|s| *s as i64).collect();
    let (sizes, from_base) = (lies.shape.clone(), lies.offset as u64);
    let copy = Copy { dtype, to: strides(&sizes), sizes, from, from_base, to_base: 0, input: 0, output: 0 };
    Ok(Lowered { launches: copy.launch(&Op::Expand)?.into_iter().collect(), scratch: 0 })
}

/// A result that is all of an operand through other strides.
fn view(call: &Call<'_>, sizes: Vec<usize>, from: Vec<i64>, from_base: u64) -> Result<Lowered> {
    let copy = Copy {
        dtype: call.input(0)?.dtype,
        to: strides(&sizes),
        sizes,
        from,
        from_base,
        to_base: 0,
        input: 0,
        output: 0,
    };
    Ok(Lowered { launches: copy.launch(call.op)?.into_iter().collect(), scratch: 0 })
}

fn shape_error(message: String) -> Error {
    Error::new(ErrorKind::Shape, message)
}

fn transpose(call: &Call<'_>, perm: Option<&[i64]>) -> Result<Lowered> {
    let x = call.input(0)?;
    let rank = x.shape.len();
    let perm: Vec<usize> = match perm {
        None => (0..rank).rev().collect(),
        Some(p) => p.iter().map(|&a| axis_index(a, rank)).collect::<Result<_>>()?,
    };
    let own = strides(&x.shape);
    if perm.len() != rank {
        return Err(shape_error(format!("{perm:?} is not a permutation of {rank} axes")));
    }
    view(call, perm.iter().map(|&a| x.shape[a]).collect(), perm.iter().map(|&a| own[a]).collect(), 0)
}

fn tile(call: &Call<'_>) -> Result<Lowered> {
    let (x, y) = (call.input(0)?, call.output(0)?);
    if x.shape.len() != y.shape.len() || x.shape.iter().zip(&y.shape).any(|(&d, &n)| d > 0 && n % d != 0) {
        return Err(shape_error(format!("{:?} is no tiling of {:?}", y.shape, x.shape)));
    }
    let (mut sizes, mut from) = (Vec::new(), Vec::new());
    for ((&d, &n), s) in x.shape.iter().zip(&y.shape).zip(strides(&x.shape)) {
        // Seen as [repeat, size] the repetition is a stride of 0.
        sizes.extend([n.checked_div(d).unwrap_or(0), d]);
        from.extend([0, s]);
    }
    view(call, sizes, from, 0)
}

fn concat(call: &Call<'_>, axis: i64) -> Result<Lowered> {
    let y = call.output(0)?;
    let axis = axis_index(axis, y.shape.len())?;
    let to = strides(&y.shape);
    let mut launches = Vec::new();
    let mut start = 0u64;
    for i in 0..call.inputs.len() {
        let x = call.input(i)?;
        if x.dtype != y.dtype || x.shape.len() != y.shape.len() {
            return Err(shape_error(format!(
                "operand {i} of {}{:?} joins no {}{:?}",
                x.dtype, x.shape, y.dtype, y.shape
            )));
        }
        let copy = Copy {
            dtype: x.dtype,
            sizes: x.shape.clone(),
            from: strides(&x.shape),
            from_base: 0,
            to: to.clone(),
            to_base: start * to[axis] as u64,
            input: i,
            output: 0,
        };
        launches.extend(copy.launch(call.op)?);
        start += x.shape[axis] as u64;
    }
    if start != y.shape[axis] as u64 {
        return Err(shape_error(format!("the operands have {start} along axis {axis}, the result {}", y.shape[axis])));
    }
    Ok(Lowered { launches, scratch: 0 })
}

fn split(call: &Call<'_>, axis: i64) -> Result<Lowered> {
    let x = call.input(0)?;
    let axis = axis_index(axis, x.shape.len())?;
    let from = strides(&x.shape);
    let mut launches = Vec::new();
    let mut start = 0u64;
    for (output, y) in call.outputs.iter().enumerate() {
        let copy = Copy {
            dtype: x.dtype,
            sizes: y.shape.clone(),
            from: from.clone(),
            from_base: start * from[axis] as u64,
            to: strides(&y.shape),
            to_base: 0,
            input: 0,
            output,
        };
        launches.extend(copy.launch(call.op)?);
        start += y.shape.get(axis).copied().unwrap_or(0) as u64;
    }
    if start != x.shape[axis] as u64 {
        return Err(shape_error(format!("the results have {start} along axis {axis}, the operand {}", x.shape[axis])));
    }
    Ok(Lowered { launches, scratch: 0 })
}

/// The first index and the step along each axis of a slice, by the same op on the indices of each axis.
fn slice(call: &Call<'_>) -> Result<Lowered> {
    let (x, y) = (call.input(0)?, call.output(0)?);
    let (starts, ends) = (call.ints(1)?, call.ints(2)?);
    let (axes, steps) = (call.optional_ints(3)?, call.optional_ints(4)?);
    let mut from = strides(&x.shape);
    let mut base = 0u64;
    let mut sizes = x.shape.clone();
    for (i, &start) in starts.iter().enumerate() {
        let given = axes.as_ref().map_or(Some(i as i64), |a| a.get(i).copied());
        let axis = axis_index(given.unwrap_or(i64::MAX), x.shape.len())?;
        let step = steps.as_ref().map_or(Some(1), |s| s.get(i).copied()).unwrap_or(0);
        let end = ends.get(i).copied().ok_or_else(|| shape_error("starts and ends differ in number".into()))?;
        let (first, len) = movement::slice_range(x.shape[axis] as i64, start, end, step)?;
        base += first as u64 * from[axis] as u64;
        from[axis] = from[axis].wrapping_mul(step);
        sizes[axis] = len;
    }
    if sizes != y.shape {
        return Err(shape_error(format!("the slice has shape {sizes:?}, the result {:?}", y.shape)));
    }
    view(call, sizes, from, base)
}

/// A copy of an operand with another shape.
fn whole(call: &Call<'_>) -> Result<Lowered> {
    let (x, y) = (call.input(0)?, call.output(0)?);
    if count(&x.shape) != count(&y.shape) {
        return Err(shape_error(format!("{:?} has other elements than {:?}", x.shape, y.shape)));
    }
    view(call, vec![count(&x.shape) as usize], vec![1], 0)
}

/// A copy of all elements of an operand to a result.
///
/// # Errors
/// As [`Copy::launch`].
pub fn all(op: &Op, x: &Typed, input: usize, output: usize) -> Result<Option<Launch>> {
    let sizes = vec![count(&x.shape) as usize];
    Copy { dtype: x.dtype, sizes, from: vec![1], from_base: 0, to: vec![1], to_base: 0, input, output }.launch(op)
}

/// Which of the ops here it is.
pub fn lower(call: &Call<'_>) -> Result<Option<Lowered>> {
    Ok(Some(match call.op {
        Op::Transpose { perm } => transpose(call, perm.as_deref())?,
        Op::Expand => {
            let y = call.output(0)?;
            view(call, y.shape.clone(), broadcast(&call.input(0)?.shape, &y.shape)?, 0)?
        }
        Op::Tile => tile(call)?,
        Op::Concat { axis } => concat(call, *axis)?,
        Op::Split { axis, .. } => split(call, *axis)?,
        Op::Slice => slice(call)?,
        Op::Reshape { .. } | Op::Squeeze { .. } | Op::Unsqueeze { .. } | Op::Flatten { .. } => whole(call)?,
        _ => return Ok(None),
    }))
}
