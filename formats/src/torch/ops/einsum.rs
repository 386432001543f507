//! `einsum` of one or two tensors, as ATen computes it: transposes, then a batched product.

use std::sync::Arc;

use normfuse_ir::{
    Op, ValueId,
    op::{BinaryOp, ReduceOp},
};

use super::{
    super::{args::Call, expr::Expr, memory::Part},
    Outcome,
};
use crate::reject::{Reject, foreign};

/// A tensor with a letter for each axis.
struct Lettered {
    value: ValueId,
    letters: Vec<char>,
    sizes: Vec<Arc<Expr>>,
}

pub fn op<'p>(c: &mut Call<'_, 'p>, name: &str) -> Result<Option<Outcome<'p>>, Reject> {
    if name != "einsum.default" {
        return Ok(None);
    }
    let equation: String = c.text("equation", "")?.chars().filter(|l| *l != ' ').collect();
    let names = c.names("tensors")?;
    let values = c.tensors("tensors")?;
    if c.get("path").is_some() {
        return foreign("it says in which order to multiply");
    }
    let Some(of) = names.first().copied().flatten() else { return foreign("it has no tensors") };
    let Some((left, result)) = equation.split_once("->") else { return foreign("the equation has no result") };
    let result: Vec<char> = result.chars().collect();
    let terms: Vec<&str> = left.split(',').collect();
    if terms.len() != values.len() {
        return foreign("the equation is of another number of tensors");
    }
    let mut tensors = Vec::new();
    for ((term, value), name) in terms.iter().zip(values).zip(names) {
        let Some(name) = name else { return foreign("a tensor is left out") };
        let letters: Vec<char> = term.chars().collect();
        let sizes = c.b.meta_sizes(name)?;
        let once = |all: &[char]| all.iter().enumerate().all(|(i, l)| l.is_ascii_alphabetic() && !all[..i].contains(l));
        if letters.len() != sizes.len() || !once(&letters) || !once(&result) {
            return foreign("the equation has `...`, or a letter twice in one tensor");
        }
        tensors.push(Lettered { value, letters, sizes });
    }
    if !result.iter().all(|l| tensors.iter().any(|t| t.letters.contains(l))) {
        return foreign("its result has a letter of its own");
    }
    let value = match tensors.as_slice() {
        // A view where nothing is summed.
        [only] => {
            let value = alone(c, only, &result)?;
            return Ok(Some(Outcome::View { of, part: Part::Other, value }));
        }
        [a, b] => two(c, a, b, &result)?,
        _ => return foreign("it is of more than two tensors"),
    };
    Ok(Some(Outcome::one(value)))
}

/// The axes in the order of these letters, which the tensor has.
fn ordered(c: &mut Call<'_, '_>, value: ValueId, from: &[char], to: &[char]) -> Result<ValueId, Reject> {
    if from == to {
        return Ok(value);
    }
    let perm = to.iter().filter_map(|l| from.iter().position(|f| f == l)).map(|i| i as i64).collect();
    Ok(c.b.one(Op::Transpose { perm: Some(perm) }, &[value])?)
}

fn alone(c: &mut Call<'_, '_>, t: &Lettered, result: &[char]) -> Result<ValueId, Reject> {
    let summed: Vec<i64> =
        (0..t.letters.len()).filter(|i| !result.contains(&t.letters[*i])).map(|i| i as i64).collect();
    let left: Vec<char> = t.letters.iter().copied().filter(|l| result.contains(l)).collect();
    let mut value = t.value;
    if !summed.is_empty() {
        if !c.b.dtype(value)?.is_arithmetic_float() {
            return foreign("a sum of integers");
        }
        value = c.b.one(Op::Reduce { op: ReduceOp::Sum, axes: Some(summed), keepdims: false }, &[value])?;
    }
    ordered(c, value, &left, result)
}

/// Letters of both and the result are a batch, letters of both alone are summed.
fn two(c: &mut Call<'_, '_>, a: &Lettered, b: &Lettered, result: &[char]) -> Result<ValueId, Reject> {
    if c.b.dtype(a.value)? != c.b.dtype(b.value)? {
        return foreign("its tensors have different types");
    }
    let pick = |from: &Lettered, f: &dyn Fn(char) -> bool| -> Vec<char> {
        from.letters.iter().copied().filter(|l| f(*l)).collect()
    };
    let (in_a, in_b) = (|l| a.letters.contains(&l), |l| b.letters.contains(&l));
    let batch = pick(a, &|l| in_b(l) && result.contains(&l));
    let summed = pick(a, &|l| in_b(l) && !result.contains(&l));
    let (rows, columns) = (pick(a, &|l| !in_b(l)), pick(b, &|l| !in_a(l)));
    if !rows.iter().chain(&columns).all(|l| result.contains(l)) {
        return foreign("it sums a letter that one of the tensors has alone");
    }
    let sizes = |letters: &[char]| -> Vec<Arc<Expr>> {
        let size = |t: &Lettered, l: char| t.letters.iter().position(|x| *x == l).map(|i| t.sizes[i].clone());
        letters.iter().filter_map(|l| size(a, *l).or_else(|| size(b, *l))).collect()
    };
    let same = |l: &char| {
        let at = |t: &Lettered| t.letters.iter().position(|x| x == l).map(|i| t.sizes[i].dim());
        at(a) == at(b)
    };
    if !batch.iter().chain(&summed).all(same) {
        return foreign("a letter has different sizes");
    }
    let order = [batch.clone(), rows.clone(), columns.clone()].concat();
    let left = ordered(c, a.value, &a.letters, &[batch.clone(), rows.clone(), summed.clone()].concat())?;
    let right = ordered(c, b.value, &b.letters, &[batch.clone(), summed.clone(), columns.clone()].concat())?;
    let value = if summed.is_empty() {
        let behind: Vec<i64> = (0..columns.len() as i64).map(|i| i - columns.len() as i64).collect();
        let before: Vec<i64> = (0..rows.len() as i64).map(|i| i + batch.len() as i64).collect();
        let left = if behind.is_empty() { left } else { c.b.one(Op::Unsqueeze { axes: behind }, &[left])? };
        let right = if before.is_empty() { right } else { c.b.one(Op::Unsqueeze { axes: before }, &[right])? };
        c.b.binary(BinaryOp::Mul, left, right)?
    } else {
        let group = |letters: &[char]| product(&sizes(letters));
        let front = sizes(&batch);
        let shape = |x: Arc<Expr>, y: Arc<Expr>| [front.clone(), vec![x, y]].concat();
        let left = c.b.reshape(left, &shape(group(&rows), group(&summed)))?;
        let right = c.b.reshape(right, &shape(group(&summed), group(&columns)))?;
        let y = c.b.one(Op::MatMul, &[left, right])?;
        c.b.reshape(y, &sizes(&order))?
    };
    ordered(c, value, &order, result)
}

/// How many elements these sizes have.
pub fn product(sizes: &[Arc<Expr>]) -> Arc<Expr> {
    let times = |a: Arc<Expr>, b: &Arc<Expr>| match (&*a, &**b) {
        (Expr::Int(1), _) => b.clone(),
        _ => Arc::new(Expr::times(&a, b)),
    };
    sizes.iter().fold(Arc::new(Expr::Int(1)), times)
}
