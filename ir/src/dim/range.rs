//! What values a size can have, from what its symbols stand for: enough to decide most minima, maxima and comparisons.

use super::{Atom, Dim};

/// An interval; `None` is unbounded. Wide enough that sums of a bounded number of i64 products do not overflow.
#[derive(Clone, Copy)]
struct Range {
    lo: Option<i128>,
    hi: Option<i128>,
}

impl Range {
    const ALL: Self = Self { lo: None, hi: None };

    fn at_least(lo: i128) -> Self {
        Self { lo: Some(lo), hi: None }
    }

    fn non_negative(self) -> bool {
        self.lo >= Some(0)
    }

    fn add(self, other: Self) -> Self {
        let sum = |a: Option<i128>, b: Option<i128>| a?.checked_add(b?);
        Self { lo: sum(self.lo, other.lo), hi: sum(self.hi, other.hi) }
    }

    /// Product of two intervals without negative values; everything, for others.
    fn mul(self, other: Self) -> Self {
        if !(self.non_negative() && other.non_negative()) {
            return Self::ALL;
        }
        let product = |a: Option<i128>, b: Option<i128>| a?.checked_mul(b?);
        // An overflowed lower bound is a bound no longer, but 0 still is one.
        Self { lo: product(self.lo, other.lo).or(Some(0)), hi: product(self.hi, other.hi) }
    }

    fn scale(self, c: i128) -> Self {
        let times = |a: Option<i128>| a?.checked_mul(c);
        if c < 0 {
            Self { lo: times(self.hi), hi: times(self.lo) }
        } else {
            Self { lo: times(self.lo), hi: times(self.hi) }
        }
    }
}

impl Atom {
    fn range(&self) -> Range {
        match self {
            Self::Sym(s) if s.starts_with(Dim::DATA) => Range::ALL,
            Self::Sym(s) if s.starts_with('?') => Range::at_least(0),
            Self::Sym(_) => Range::at_least(1),
            Self::FloorDiv(a, b) => {
                let (a, b) = (a.range(), b.range());
                let (Some(lo), Some(least)) = (a.lo, b.lo) else { return Range::ALL };
                if lo < 0 || least < 1 {
                    return Range::ALL;
                }
                Range { lo: Some(b.hi.map_or(0, |most| lo / most)), hi: a.hi.map(|hi| hi / least) }
            }
            Self::Mod(_, b) => match b.range() {
                Range { lo: Some(1..), hi } => Range { lo: Some(0), hi: hi.map(|h| h - 1) },
                _ => Range::ALL,
            },
            Self::Min(a, b) => {
                let (a, b) = (a.range(), b.range());
                Range { lo: a.lo.zip(b.lo).map(|(a, b)| a.min(b)), hi: [a.hi, b.hi].into_iter().flatten().min() }
            }
            Self::Max(a, b) => {
                let (a, b) = (a.range(), b.range());
                Range { lo: [a.lo, b.lo].into_iter().flatten().max(), hi: a.hi.zip(b.hi).map(|(a, b)| a.max(b)) }
            }
        }
    }
}

impl Dim {
    /// Prefix of symbols that stand for an element of a tensor of which nothing is known: unlike a size it may be
    /// negative.
    const DATA: &str = "?#";

    /// An integer of which nothing is known, not even that it is a size.
    pub fn unknown_data(tag: impl std::fmt::Display) -> Self {
        Self::sym(format!("{}{tag}", Self::DATA))
    }

    fn range(&self) -> Range {
        self.terms().fold(Range { lo: Some(0), hi: Some(0) }, |sum, (m, c)| {
            let product = match m.as_slice() {
                // A single atom may be negative without its bounds being lost.
                [(atom, 1)] => atom.range(),
                _ => m.iter().fold(Range { lo: Some(1), hi: Some(1) }, |p, (atom, power)| {
                    let r = atom.range();
                    (0..*power).fold(p, |p, _| p.mul(r))
                }),
            };
            sum.add(product.scale(i128::from(c)))
        })
    }

    /// A number that the size is never below, if one can be told: symbols are at least 1, unknown sizes at least 0.
    pub fn min_value(&self) -> Option<i64> {
        if let Some(c) = self.as_const() {
            return Some(c);
        }
        self.range().lo.map(|v| i64::try_from(v).unwrap_or(if v < 0 { i64::MIN } else { i64::MAX }))
    }

    /// A number that the size is never above, if one can be told.
    pub fn max_value(&self) -> Option<i64> {
        if let Some(c) = self.as_const() {
            return Some(c);
        }
        self.range().hi.and_then(|v| i64::try_from(v).ok())
    }

    /// Whether two sizes are equal: `None` if that depends on their symbols, or cannot be told.
    pub fn equals(&self, other: &Self) -> Option<bool> {
        if self.is_collapsed() || other.is_collapsed() {
            return None;
        }
        if self == other {
            return Some(true);
        }
        let Range { lo, hi } = (self - other).range();
        (lo > Some(0) || hi.is_some_and(|hi| hi < 0)).then_some(false)
    }
}

#[cfg(test)]
mod tests {
    use crate::Dim;

    fn d(s: &str) -> Dim {
        s.parse().unwrap()
    }

    #[test]
    fn symbols_are_at_least_one() {
        assert_eq!(d("a*b + 3").min_value(), Some(4));
        assert_eq!(d("3 - a").max_value(), Some(2));
        assert_eq!(d("a - b").min_value(), None);
        assert_eq!(d("?x").min_value(), Some(0));
        assert_eq!(Dim::unknown_data("x").min_value(), None);
        assert_eq!(d("floordiv(a, 4)").min_value(), Some(0));
        assert_eq!(d("mod(a, 4)").max_value(), Some(3));
        assert_eq!(d("min(a, 4)").max_value(), Some(4));
    }

    #[test]
    fn decided_extremes_vanish() {
        assert_eq!(d("max(a - 1, 0)"), d("a - 1"));
        assert_eq!(d("min(a, 9223372036854775807)").to_string(), "min(9223372036854775807, a)");
        assert_eq!(d("max(1, a*b)"), d("a*b"));
        assert_eq!(d("max(b, a)"), d("max(a, b)"));
    }

    #[test]
    fn equality_has_three_answers() {
        assert_eq!(d("a*b").equals(&d("b*a")), Some(true));
        assert_eq!(d("a").equals(&d("-1")), Some(false));
        assert_eq!(d("a").equals(&d("a + 1")), Some(false));
        assert_eq!(d("a").equals(&d("b")), None);
        let over = d("9223372036854775807 + 1");
        assert_eq!(over.equals(&over), None);
    }

    #[test]
    fn expressions_stay_small() {
        let product = (0..40).map(|i| format!("(a{i} + b{i})")).collect::<Vec<_>>().join("*");
        assert!(d(&product).is_collapsed());
        let mut x = d("a");
        for i in 0..2_000 {
            x = x.maximum(&Dim::sym(format!("s{i}"))).floor_div(&d("n"));
        }
        let mut y = d("a");
        for _ in 0..100 {
            y = &y * &y;
        }
        assert!(y.is_collapsed());
    }
}
