//! Products whose operands are numbers as they are: of floats, and of 8-bit integers.

use normfuse_ir::{DType, Error, ErrorKind, Op, Result};

use super::{
    lt::{Addend, Problem},
    sizes::{Run, Sizes, Strided},
};
use crate::cuda::ops::{Call, Typed};

/// Products of 8-bit integers have more rows than so many: torch asks for as many, and a smaller one is no work for a GPU.
const FEW_ROWS: usize = 16;
/// Columns of theirs, and the length of their sums, are a multiple of this: the library asks for 4, torch for as many.
const INTEGERS: usize = 8;
/// Sums of theirs are shorter than this, and fit in an i32 whatever they are of.
const MOST_SUMMED: usize = 1 << 17;

/// `alpha * a * b + beta * c`, with all that the library is told but addresses.
#[derive(Debug, Clone, PartialEq)]
pub struct Plain {
    /// Of the operands.
    pub dtype: DType,
    /// Of the result, and of what is added.
    pub result: DType,
    /// Sizes, and how everything lies.
    pub sizes: Sizes,
    /// Factor of the product.
    pub alpha: f32,
    /// Factor of what is added.
    pub beta: f32,
    /// What is added.
    pub addend: Addend,
    /// Bytes of the result.
    pub bytes: usize,
}

impl Plain {
    /// Of a node, whose operands have their sizes and lie so: row-major and whole where nothing is said.
    ///
    /// # Errors
    /// `Unsupported` with the dtypes or sizes that there is no product for, or strides that the library has no words for; `Shape` for
    /// operands that do not fit one another.
    pub fn of(call: &Call<'_>, lie: [Option<&Strided>; 2]) -> Result<Self> {
        let operand = |i: usize| call.inputs.get(i).and_then(Option::as_ref);
        let missing = || Error::new(ErrorKind::Structure, format!("`{}` lacks an operand", call.op.name()));
        let (a, b) = operand(0).zip(operand(1)).ok_or_else(missing)?;
        let out = call.outputs.first().ok_or_else(missing)?;
        let strided =
            |typed: &Typed, lies: Option<&Strided>| lies.map_or_else(|| Strided::dense(&typed.shape), Strided::clone);
        let (lies_a, lies_b) = (strided(a, lie[0]), strided(b, lie[1]));
        let plain = |sizes| -> Result<Self> {
            let bytes = normfuse_ir::tensor::byte_len(out.dtype, &out.shape)?;
            Ok(Self { dtype: a.dtype, result: out.dtype, sizes, alpha: 1.0, beta: 0.0, addend: Addend::None, bytes })
        };
        if matches!(call.op, Op::MatMulInteger) {
            return plain(Sizes::of_matmul(&lies_a, &lies_b)?)?.integers(b.dtype);
        }
        // A result may keep the f32 of its sums.
        let kept = out.dtype == DType::F32 && matches!(a.dtype, DType::F16 | DType::BF16);
        let float = matches!(a.dtype, DType::F16 | DType::BF16 | DType::F32 | DType::F64);
        let fits =
            b.dtype == a.dtype && (out.dtype == a.dtype || kept) && operand(2).is_none_or(|c| c.dtype == out.dtype);
        if !fits || !float {
            let message = format!("a product of {} and {} to {} has no form on the GPU", a.dtype, b.dtype, out.dtype);
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        match call.op {
            Op::MatMul => plain(Sizes::of_matmul(&lies_a, &lies_b)?),
            Op::Gemm { alpha, beta, trans_a, trans_b } => {
                let sizes = Sizes::of_gemm(&lies_a, &lies_b, (*trans_a, *trans_b))?;
                let addend = addend(operand(2), beta.get(), &sizes)?;
                Ok(Self { alpha: alpha.get(), beta: beta.get(), addend, ..plain(sizes)? })
            }
            other => {
                let message = format!("`{}` is no product of floats", other.name());
                Err(Error::new(ErrorKind::Unsupported, message))
            }
        }
    }

    /// True for a `Gemm` that adds what the library does not: a scalar, a column, a row times something. There are sums of something,
    /// and what is added spreads over the result.
    pub fn adds_apart(call: &Call<'_>) -> bool {
        let c = call.inputs.get(2).and_then(Option::as_ref);
        let (Op::Gemm { beta, trans_a, .. }, Some(c), Some(Some(a)), Some(out)) =
            (call.op, c, call.inputs.first(), call.outputs.first())
        else {
            return false;
        };
        let &[m, n] = &out.shape[..] else { return false };
        let k = a.shape.get(usize::from(!*trans_a)).copied().unwrap_or(0);
        let spreads = c.shape.len() <= 2 && c.shape.iter().rev().zip([n, m]).all(|(c, n)| *c == 1 || *c == n);
        k > 0 && spreads && c.dtype == out.dtype && added(c, beta.get(), [m, n]).is_none()
    }

    /// If it is a product of 8-bit integers that the library has: of rows and columns as they are, in eights.
    fn integers(self, right: DType) -> Result<Self> {
        let Sizes { m, k, n, a, b, ref runs } = self.sizes;
        let whole = |n: usize| n.is_multiple_of(INTEGERS);
        let begins = runs.iter().flat_map(|r| [r.a, r.b, r.a_step, r.b_step]).all(whole);
        let types = [self.dtype, right, self.result] == [DType::I8, DType::I8, DType::I32];
        let lies = !a.trans && b.trans && [k, n, a.lead, b.lead].into_iter().all(whole);
        if types && lies && begins && (1..MOST_SUMMED).contains(&k) && m > FEW_ROWS {
            return Ok(self);
        }
        let message = format!("cuBLASLt has no product of {} and {right} that lies like that", self.dtype);
        Err(Error::new(ErrorKind::Unsupported, message))
    }

    pub(super) fn problem(&self, run: &Run) -> Problem {
        let (size, made) = (self.dtype.bits() / 8, self.result.bits() / 8);
        // Operands begin at multiples of 16; products after the first lie where they lie.
        let several = usize::from(run.count > 1);
        let steps = [run.a_step, run.b_step].map(|n| n * size * several);
        let results = [run.d, self.sizes.m * self.sizes.n * several].map(|n| n * made);
        let offsets = [run.a, run.b].map(|n| n * size).into_iter().chain(steps).chain(results);
        let alignment = offsets.filter(|n| *n > 0).map(|n| 1 << n.trailing_zeros().min(4)).min().unwrap_or(16);
        Problem {
            dtypes: [self.dtype; 2],
            scales: None,
            result: self.result,
            m: self.sizes.m,
            k: self.sizes.k,
            n: self.sizes.n,
            a: self.sizes.a,
            b: self.sizes.b,
            count: run.count,
            a_step: run.a_step,
            b_step: run.b_step,
            alpha: self.alpha,
            beta: self.beta,
            addend: self.addend,
            alignment,
        }
    }
}

/// How the library adds it, if it does.
fn added(c: &Typed, beta: f32, [m, n]: [usize; 2]) -> Option<Addend> {
    match &c.shape[..] {
        shape if shape == [m, n] => Some(Addend::Matrix),
        shape if beta == 1.0 && (shape == [n] || shape == [1, n]) => Some(Addend::Row),
        _ => None,
    }
}

/// What a `Gemm` adds.
fn addend(c: Option<&Typed>, beta: f32, sizes: &Sizes) -> Result<Addend> {
    let (m, n) = (sizes.m, sizes.n);
    let Some(c) = c else { return Ok(Addend::None) };
    let addend = added(c, beta, [m, n]).ok_or_else(|| {
        let message = format!(
            "`gemm` has no form on the GPU that adds c of {:?} times {beta} to a result of [{m}, {n}]",
            c.shape
        );
        let hint = "of constants alone, a row times 1 is added, or a matrix like the result";
        Error::new(ErrorKind::Unsupported, message).hint(hint)
    })?;
    if sizes.k == 0 {
        let message = "`gemm` of sums of nothing, plus c, has no form on the GPU";
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    Ok(addend)
}
