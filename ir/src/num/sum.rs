//! The canonical row sum: one tree that depends on the row's length alone.

use std::ops::{Add, Mul};

/// Elements that are added in order before the tree begins.
pub const VECTOR: usize = 8;

/// The canonical sum of `f(0), f(1), .., f(n - 1)`.
///
/// Elements are taken in vectors of [`VECTOR`] and added in order within a vector, where missing tail elements are +0.
/// The vectors' partial sums, padded with +0 to a power of two, are combined as a binary tree with the highest index
/// bit first: `i` with `i + len/2`, then `i` with `i + len/4`, and so on. The empty sum is +0.
pub fn row_sum_by<T: Copy + Default + Add<Output = T>>(n: usize, f: impl Fn(usize) -> T) -> T {
    let mut partials = Vec::with_capacity(n.div_ceil(VECTOR).next_power_of_two());
    let mut i = 0;
    while i + VECTOR <= n {
        // Spelled out so that the compiler keeps several vectors in flight; the order is what counts.
        let mut sum = f(i) + f(i + 1);
        sum = sum + f(i + 2);
        sum = sum + f(i + 3);
        sum = sum + f(i + 4);
        sum = sum + f(i + 5);
        sum = sum + f(i + 6);
        sum = sum + f(i + 7);
        partials.push(sum);
        i += VECTOR;
    }
    if i < n {
        let mut sum = f(i);
        for j in i + 1..i + VECTOR {
            sum = sum + if j < n { f(j) } else { T::default() };
        }
        partials.push(sum);
    }
    // The padding takes part in the additions: -0 + +0 is +0.
    partials.resize(partials.len().next_power_of_two(), T::default());
    let mut half = partials.len() / 2;
    while half > 0 {
        let (low, high) = partials.split_at_mut(half);
        for (a, b) in low.iter_mut().zip(high) {
            *a = *a + *b;
        }
        half /= 2;
    }
    partials[0]
}

fn squares<T: Copy + Default + Add<Output = T> + Mul<Output = T>>(values: &[T]) -> T {
    row_sum_by(values.len(), |i| values[i] * values[i])
}

/// The canonical sum of a row.
pub fn row_sum(values: &[f32]) -> f32 {
    row_sum_by(values.len(), |i| values[i])
}

/// The canonical sum of the squares of a row; each square is rounded before it is added.
pub fn row_sum_squares(values: &[f32]) -> f32 {
    squares(values)
}

/// The canonical sum of an f64 row.
pub fn row_sum_f64(values: &[f64]) -> f64 {
    row_sum_by(values.len(), |i| values[i])
}

/// The canonical sum of squares of an f64 row.
pub fn row_sum_squares_f64(values: &[f64]) -> f64 {
    squares(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same tree told top-down: the last addition joins the even with the odd vectors, and so on recursively.
    fn oracle(values: &[f32]) -> f32 {
        fn tree(partials: &[f32]) -> f32 {
            if partials.len() == 1 {
                return partials[0];
            }
            let even: Vec<f32> = partials.iter().step_by(2).copied().collect();
            let odd: Vec<f32> = partials.iter().skip(1).step_by(2).copied().collect();
            tree(&even) + tree(&odd)
        }
        let mut partials = Vec::new();
        for chunk in values.chunks(8) {
            let mut vector = [0.0f32; 8];
            vector[..chunk.len()].copy_from_slice(chunk);
            partials.push(vector[1..].iter().fold(vector[0], |a, b| a + b));
        }
        let mut len = 1;
        while len < partials.len() {
            len *= 2;
        }
        partials.resize(len, 0.0);
        tree(&partials)
    }

    fn noise(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let sign = if state & 1 == 0 { 1.0 } else { -1.0 };
                sign * f32::from_bits(0x3000_0000 + (state >> 4))
            })
            .collect()
    }

    #[test]
    fn matches_the_tree_told_top_down() {
        for n in (0..300).chain([511, 512, 513, 1536, 4096, 5120, 7168, 7169]) {
            let values = noise(n, n as u32 + 1);
            assert_eq!(row_sum(&values).to_bits(), oracle(&values).to_bits(), "n = {n}");
            let squares: Vec<f32> = values.iter().map(|v| v * v).collect();
            assert_eq!(row_sum_squares(&values).to_bits(), oracle(&squares).to_bits(), "squares, n = {n}");
        }
    }

    #[test]
    fn order_is_seen_in_the_bits() {
        // 2^24 + 1 is lost, so the order of additions shows: in order inside a vector, then halves of the vectors.
        let big = 16_777_216.0;
        assert_eq!(row_sum(&[big, 1.0, 1.0, 1.0]), big);
        assert_eq!(row_sum(&[1.0, 1.0, 1.0, big]), big + 4.0);
        let mut values = vec![0.0; 32];
        (values[0], values[8], values[16], values[24]) = (big, 1.0, 0.0, 1.0);
        // (v0 + v2) + (v1 + v3) keeps the pair of ones together; (v0 + v1) + (v2 + v3) would lose both.
        assert_eq!(row_sum(&values), big + 2.0);
    }

    #[test]
    fn signed_zeros_follow_the_padding() {
        assert_eq!(row_sum(&[]).to_bits(), 0);
        assert_eq!(row_sum(&[-0.0]).to_bits(), 0, "the tail is +0");
        assert_eq!(row_sum(&[-0.0; 8]).to_bits(), (-0.0f32).to_bits(), "a whole vector has no tail");
        assert_eq!(row_sum(&[-0.0; 24]).to_bits(), 0, "three vectors are padded to four");
    }

    #[test]
    fn f64_rows_use_the_same_tree() {
        let values: Vec<f64> = noise(1000, 3).iter().map(|&v| f64::from(v) * 1.000_000_1).collect();
        let rounded = row_sum_by(values.len(), |i| values[i]);
        assert_eq!(row_sum_f64(&values).to_bits(), rounded.to_bits());
        assert!((row_sum_squares_f64(&[3.0, 4.0]) - 25.0).abs() == 0.0);
    }
}
