//! Two tensors, element by element.

use normfuse::ir::{self, DType, Op, Tensor, eval};

/// How two tensors of one type compare.
#[derive(Debug, Default, PartialEq)]
pub struct Compared {
    /// Elements of each.
    pub elements: usize,
    /// Elements that are NaN in both.
    pub nans: usize,
    /// Elements whose bits differ; NaN equals NaN.
    pub differing: usize,
    /// The first of those, with both values.
    pub first: Option<(usize, f64, f64)>,
    /// The largest difference between two numbers.
    pub max_abs: f64,
}

/// Compares bits.
///
/// # Errors
/// A sentence, if the types differ.
pub fn compare(a: &Tensor, b: &Tensor) -> Result<Compared, String> {
    if (a.dtype(), a.shape()) != (b.dtype(), b.shape()) {
        return Err(format!("{}{:?} against {}{:?}", a.dtype(), a.shape(), b.dtype(), b.shape()));
    }
    let (x, y) = (numbers(a).map_err(|e| e.to_string())?, numbers(b).map_err(|e| e.to_string())?);
    let mut found = Compared { elements: a.len(), ..Compared::default() };
    // f64 holds every float exactly, signs of zero included; large integers are told apart by their bytes.
    let width = a.dtype().bits() / 8;
    let whole = !a.dtype().is_float();
    for (i, (x, y)) in x.iter().zip(&y).enumerate() {
        if x.is_nan() && y.is_nan() {
            found.nans += 1;
            continue;
        }
        let range = i * width..(i + 1) * width;
        let equal = if whole { a.bytes()[range.clone()] == b.bytes()[range] } else { x.to_bits() == y.to_bits() };
        if !equal {
            found.differing += 1;
            found.first.get_or_insert((i, *x, *y));
            let by = (x - y).abs();
            found.max_abs = if by.is_nan() { f64::INFINITY } else { found.max_abs.max(by) };
        }
    }
    Ok(found)
}

/// The values as f64.
pub fn numbers(t: &Tensor) -> ir::Result<Vec<f64>> {
    let wide = cast(t, DType::F64)?;
    Ok(wide.bytes().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap_or_default())).collect())
}

/// The values in another type, rounded where they must be.
pub fn cast(t: &Tensor, to: DType) -> ir::Result<Tensor> {
    if t.dtype() == to {
        return Ok(t.clone());
    }
    let mut made = eval::eval_node(&Op::Cast { to, saturate: false }, &[Some(t)])?;
    made.pop().ok_or_else(|| ir::Error::new(ir::ErrorKind::Structure, "a cast without a result"))
}

/// The values in another type, if every one of them is a value of that type.
///
/// # Errors
/// A sentence that names the first value which is not.
pub fn cast_exactly(t: &Tensor, to: DType) -> Result<Tensor, String> {
    let there = cast(t, to).map_err(|e| e.to_string())?;
    let back = cast(&there, t.dtype()).map_err(|e| e.to_string())?;
    match compare(t, &back)?.first {
        None => Ok(there),
        Some((i, value, _)) => Err(format!("element {i} is {value:e}, which is no {to}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f(values: &[f32]) -> Tensor {
        Tensor::from_f32(&[values.len()], values)
    }

    #[test]
    fn nan_equals_nan_and_zeros_have_signs() {
        let c = compare(&f(&[f32::NAN, 1.0, 0.0, 2.0]), &f(&[f32::NAN, 1.5, -0.0, 2.0])).unwrap();
        assert_eq!((c.nans, c.differing, c.first, c.max_abs), (1, 2, Some((1, 1.0, 1.5)), 0.5));
    }

    #[test]
    fn a_number_against_nan_is_infinitely_far() {
        let c = compare(&f(&[1.0]), &f(&[f32::NAN])).unwrap();
        assert_eq!((c.differing, c.max_abs), (1, f64::INFINITY));
    }

    #[test]
    fn large_integers_are_told_apart() {
        let (a, b) = (Tensor::from_i64(&[1], &[i64::MAX]), Tensor::from_i64(&[1], &[i64::MAX - 1]));
        assert_eq!(compare(&a, &b).unwrap().differing, 1);
    }

    #[test]
    fn other_types_do_not_compare() {
        assert!(compare(&f(&[1.0]), &f(&[1.0, 2.0])).unwrap_err().contains("f32[1] against f32[2]"));
    }

    #[test]
    fn only_exact_values_change_type() {
        let bf16 = cast_exactly(&f(&[1.0, -0.0, 0.5, f32::NAN, f32::INFINITY]), DType::BF16).unwrap();
        assert_eq!(bf16.dtype(), DType::BF16);
        assert!(cast_exactly(&f(&[1.0, 0.1]), DType::BF16).unwrap_err().contains("element 1"));
        assert!(cast_exactly(&f(&[500.0]), DType::F8E4M3FN).is_err());
    }
}
