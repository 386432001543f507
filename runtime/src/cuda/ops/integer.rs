//! Exact products of 8-bit integers.

use normfuse_ir::{DType, Error, ErrorKind, Op, Result};

use super::{Call, Launch, Lowered, Typed, Word, place, text::Params, undefined};
use crate::cuda::product::{Run, Sizes, Strided};

/// Rows and columns of a block's results, as `kernels/integer.cuh` has them.
const TILE: usize = 64;

/// A `MatMulInteger`, or `None` for another op.
pub fn lower(call: &Call<'_>) -> Result<Option<Lowered>> {
    if !matches!(call.op, Op::MatMulInteger) {
        return Ok(None);
    }
    let (a, b) = (call.input(0)?, call.input(1)?);
    let sizes = Sizes::of_matmul(&Strided::dense(&a.shape), &Strided::dense(&b.shape))?;
    let rows = if let [.., rows, _] = a.shape[..] { rows } else { 1 };
    let zeros = [zeros(call, 2, a, rows)?, zeros(call, 3, b, sizes.n)?];
    let launch = |run: &Run| one(call, &sizes, run, zeros);
    Ok(Some(Lowered { launches: sizes.runs.iter().map(launch).collect::<Result<_>>()?, scratch: 0 }))
}

/// How many zero points an operand has: none, one, or one for each of its lines.
fn zeros(call: &Call<'_>, port: usize, of: &Typed, lines: usize) -> Result<u64> {
    let Some(zero) = call.optional(port) else { return Ok(0) };
    if zero.dtype != of.dtype {
        let message = format!("the zero point is {}, its matrix {}", zero.dtype, of.dtype);
        return Err(Error::new(ErrorKind::DType, message));
    }
    match place::count(&zero.shape) {
        1 => Ok(1),
        many if many == lines as u64 && zero.shape.len() == 1 => Ok(many),
        _ => {
            let message = format!("expected 1 or {lines} zero points, found {:?}", zero.shape);
            Err(Error::new(ErrorKind::Shape, message))
        }
    }
}

fn one(call: &Call<'_>, sizes: &Sizes, run: &Run, zeros: [u64; 2]) -> Result<Launch> {
    let (a, b) = (call.input(0)?, call.input(1)?);
    let name = |dtype| match dtype {
        DType::I8 => Ok("s8"),
        DType::U8 => Ok("u8"),
        other => Err(undefined(call.op, other)),
    };
    let (left, right) = (name(a.dtype)?, name(b.dtype)?);
    let mut params = Params::default();
    params.input("a", Word::Input(0));
    params.input("b", Word::Input(1));
    for (zero, port) in [("a_zeros", 2), ("b_zeros", 3)] {
        params.input(zero, if call.optional(port).is_some() { Word::Input(port) } else { Word::Number(0) });
    }
    params.output("out", Word::Output(0));
    let (m, k, n) = (sizes.m as u64, sizes.k as u64, sizes.n as u64);
    let tiles = (sizes.m.div_ceil(TILE) * sizes.n.div_ceil(TILE)) as u64;
    let begins = [run.a, run.b, run.d, run.a_step, run.b_step].map(|v| v as u64);
    params.numbers("many", zeros);
    params.numbers("size", [m, k, n, tiles]);
    params.numbers("begin", begins);
    let body = format!(
        "    const u64 at = blockIdx.x / p.size[3], tile = blockIdx.x % p.size[3];\n    \
         const {left}* a = static_cast<const {left}*>(p.a) + p.begin[0] + at * p.begin[3];\n    \
         const {right}* b = static_cast<const {right}*>(p.b) + p.begin[1] + at * p.begin[4];\n    \
         int* out = static_cast<int*>(p.out) + p.begin[2] + at * p.size[0] * p.size[2];\n    \
         const Zeros<{left}> of_a = {{static_cast<const {left}*>(p.a_zeros), p.many[0]}};\n    \
         const Zeros<{right}> of_b = {{static_cast<const {right}*>(p.b_zeros), p.many[1]}};\n    \
         multiply_tile(a, b, out, of_a, of_b, p.size[0], p.size[1], p.size[2], tile);\n"
    );
    let blocks = place::blocks(run.count as u64 * tiles, 1)?;
    Ok(params.launch_blocks("integer.cuh", "", &body, blocks, 256))
}
