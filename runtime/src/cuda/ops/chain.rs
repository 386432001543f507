//! Chains of elementwise ops as one kernel: each thread has a few neighbouring elements of the results, reads what they are made
//! of, and goes through the steps for each.

mod plan;
mod text;

use std::fmt::Write as _;

use normfuse_ir::{DType, Error, ErrorKind, Op, Result};

use self::plan::Plan;
use super::{
    Chain, Leaf, Lowered, Source, Typed,
    place::count,
    step::{Expression, Operand, expression},
};

fn structure(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Structure, message)
}

/// A choice between pieces, each of which goes on as long as `before` of its number.
fn choice(operands: &[Option<Operand<'_>>], cut: &mut usize) -> Result<Expression> {
    let mut text = String::new();
    let mut dtypes = operands.iter().map(|o| o.map(|(dtype, _)| dtype));
    let dtype = dtypes.next().flatten().filter(|first| dtypes.all(|d| d == Some(*first)));
    let dtype = dtype.ok_or_else(|| structure("pieces of several dtypes do not join"))?;
    for (i, (_, name)) in operands.iter().flatten().enumerate() {
        if i + 1 < operands.len() {
            let _ = write!(text, "before{cut} ? {name} : ");
            *cut += 1;
        } else {
            text += name;
        }
    }
    Ok(Expression { text, dtype, heavy: false, faults: false })
}

/// The expressions of all steps, over the names that `body` gives operands and steps.
fn expressions(chain: &Chain) -> Result<Vec<Expression>> {
    let mut all: Vec<Expression> = Vec::with_capacity(chain.steps.len());
    let mut cut = 0;
    for (k, step) in chain.steps.iter().enumerate() {
        let mut operands: Vec<Option<(DType, String)>> = Vec::new();
        for operand in &step.operands {
            operands.push(match *operand {
                None => None,
                Some(Source::Input(i)) => {
                    let input = chain.inputs.get(i).ok_or_else(|| structure(format!("a chain has no operand {i}")))?;
                    Some((input.dtype, format!("x{i}")))
                }
                Some(Source::Step(j)) => {
                    let earlier = all.get(j).ok_or_else(|| structure(format!("step {k} reads step {j}")))?;
                    Some((earlier.dtype, format!("s{j}")))
                }
            });
        }
        let named: Vec<Option<Operand<'_>>> =
            operands.iter().map(|o| o.as_ref().map(|(d, name)| (*d, name.as_str()))).collect();
        let made = match step.op {
            Op::Concat { .. } if step.ends.len() == named.len() => choice(&named, &mut cut)?,
            Op::Concat { .. } => return Err(structure(format!("step {k} does not say where its pieces end"))),
            _ => expression(&step.op, &named)?,
        };
        if made.dtype != step.dtype {
            let message = format!("`{}` gives {}, not {}", step.op.name(), made.dtype, step.dtype);
            return Err(Error::new(ErrorKind::DType, message));
        }
        all.push(made);
    }
    Ok(all)
}

/// The launch that computes a chain.
///
/// # Errors
/// `Structure`, `DType` and `Shape` for operands that do not fit, `Unsupported` for steps that are not elementwise.
pub fn lower(chain: &Chain) -> Result<Lowered> {
    let plan = Plan::of(chain)?;
    let params = plan.params()?;
    if count(&chain.shape) == 0 || chain.outputs.is_empty() {
        return Ok(Lowered::default());
    }
    let threads = plan.walk.count().div_ceil(plan.each);
    let launch = params.launch("scalar.cuh", &plan.body(), &plan.kernel(), threads)?;
    Ok(Lowered { launches: vec![launch], scratch: 0 })
}

/// A node that is elementwise, as a chain of one step.
pub fn of_node(op: &Op, inputs: &[Option<Typed>], output: &Typed) -> Chain {
    let mut kept = Vec::new();
    let mut operands = Vec::new();
    for input in inputs {
        operands.push(input.as_ref().map(|x| {
            kept.push(Leaf::from(x));
            Source::Input(kept.len() - 1)
        }));
    }
    let step = super::Step { op: op.clone(), operands, dtype: output.dtype, ends: Vec::new() };
    Chain { shape: output.shape.clone(), axis: 0, inputs: kept, steps: vec![step], outputs: vec![0] }
}
