//! Division of sizes: exact where the polynomials allow it, floor and remainder otherwise.

use std::{cmp::Ordering, collections::BTreeMap};

use super::{Atom, Dim, Monomial};

/// Lexicographic order of exponents, a monomial order: `a < b` implies `a*c < b*c`, which long division needs and the
/// derived order of the vectors does not give.
fn lex(a: &Monomial, b: &Monomial) -> Ordering {
    let (mut i, mut j) = (a.iter().peekable(), b.iter().peekable());
    loop {
        match (i.peek(), j.peek()) {
            (None, None) => return Ordering::Equal,
            (Some(_), None) => return Ordering::Greater,
            (None, Some(_)) => return Ordering::Less,
            (Some((x, p)), Some((y, q))) => match x.cmp(y) {
                // The earlier atom is missing on the other side: its power there is 0.
                Ordering::Less => return Ordering::Greater,
                Ordering::Greater => return Ordering::Less,
                Ordering::Equal if p != q => return p.cmp(q),
                Ordering::Equal => {
                    i.next();
                    j.next();
                }
            },
        }
    }
}

fn quotient(m: &Monomial, by: &Monomial) -> Option<Monomial> {
    // Both in the order of their atoms.
    let mut by = by.iter().peekable();
    let mut result = Vec::with_capacity(m.len());
    for (atom, power) in m {
        let less = by.next_if(|(a, _)| a == atom).map_or(0, |(_, p)| *p);
        let power = power.checked_sub(less)?;
        result.extend((power > 0).then(|| (atom.clone(), power)));
    }
    by.next().is_none().then_some(result)
}

impl Dim {
    /// `self / other` if the division is exact as polynomials with integer coefficients, else `None`.
    pub fn div_exact(&self, other: &Self) -> Option<Self> {
        if other.as_const() == Some(0) || self.is_collapsed() || other.is_collapsed() {
            return None;
        }
        if other.as_const() == Some(1) {
            return Some(self.clone());
        }
        if let (Some(a), Some(b)) = (self.as_const(), other.as_const()) {
            return (a.checked_rem(b)? == 0).then(|| a.checked_div(b).map(Self::from)).flatten();
        }
        // Nearly all sizes are products.
        if let (Some((m, k)), Some((by, c))) = (self.only_term(), other.only_term()) {
            let k = (k.checked_rem(c)? == 0).then(|| k.checked_div(c)).flatten()?;
            return Some(Self::from_terms(BTreeMap::from([(quotient(m, by)?, k)])));
        }
        let (lead, c) = other.terms().max_by(|(a, _), (b, _)| lex(a, b))?;
        let mut rest = self.clone();
        let mut result = Self::from(0);
        // Every round removes the leading term; a division that is exact needs one round a term of the quotient.
        for _ in 0..=super::MAX_WEIGHT {
            let Some((m, k)) = rest.terms().max_by(|(a, _), (b, _)| lex(a, b)) else { return Some(result) };
            if k.checked_rem(c)? != 0 {
                return None;
            }
            let term = Self::from_terms(BTreeMap::from([(quotient(m, lead)?, k.checked_div(c)?)]));
            rest = &rest - &(&term * other);
            result = &result + &term;
            if rest.is_collapsed() || result.is_collapsed() {
                return None;
            }
        }
        None
    }

    /// The term of a size that has one.
    fn only_term(&self) -> Option<(&Monomial, i64)> {
        let mut terms = self.terms();
        terms.next().filter(|_| terms.next().is_none())
    }

    /// Splits by a positive number: `self = by * quotient + rest`, the rest's coefficients in `0..by`.
    fn split(&self, by: i64) -> (Self, Self) {
        let part =
            |f: fn(i64, i64) -> i64| Self::from_terms(self.terms().map(|(m, c)| (m.clone(), f(c, by))).collect());
        (part(i64::div_euclid), part(i64::rem_euclid))
    }

    /// `ceil(self / other)`, of a positive divisor: how many blocks of it there are, the last of which may be cut off.
    #[must_use]
    pub fn ceil_div(&self, other: &Self) -> Self {
        (self + &(other - &Self::from(1))).floor_div(other)
    }

    /// `floor(self / other)`.
    #[must_use]
    pub fn floor_div(&self, other: &Self) -> Self {
        if let Some(q) = self.div_exact(other) {
            return q;
        }
        match (self.as_const(), other.as_const()) {
            (Some(a), Some(b)) if b != 0 => a.checked_div_euclid(b).map_or_else(Self::overflow, |q| {
                // Euclid rounds toward minus infinity only for positive divisors.
                Self::from(if b < 0 && a.rem_euclid(b) != 0 { q - 1 } else { q })
            }),
            (None, Some(b)) if b > 0 => {
                let (whole, rest) = self.split(b);
                if rest.min_value() >= Some(0) && rest.max_value().is_some_and(|r| r < b) {
                    return whole;
                }
                // floor(g*r / g*b) = floor(r / b).
                let g = rest.terms().fold(b, |g, (_, c)| gcd(g, c));
                let (rest, _) = rest.split(g);
                let part = if rest.as_const().is_some() || b / g == 1 {
                    rest.floor_div(&Self::from(b / g))
                } else {
                    Self::atom(Atom::FloorDiv(rest, Self::from(b / g)))
                };
                &whole + &part
            }
            _ => Self::atom(Atom::FloorDiv(self.clone(), other.clone())),
        }
    }

    /// `self mod other`, with the sign of `other`.
    #[must_use]
    pub fn modulo(&self, other: &Self) -> Self {
        if self.div_exact(other).is_some() {
            return Self::from(0);
        }
        match (self.as_const(), other.as_const()) {
            (Some(a), Some(b)) if b != 0 => {
                let r = a.checked_rem_euclid(b).unwrap_or(0);
                Self::from(if b < 0 && r != 0 { r + b } else { r })
            }
            (None, Some(b)) if b > 0 => {
                let (_, rest) = self.split(b);
                let small = rest.min_value() >= Some(0) && rest.max_value().is_some_and(|r| r < b);
                if small { rest } else { Self::atom(Atom::Mod(rest, other.clone())) }
            }
            _ => Self::atom(Atom::Mod(self.clone(), other.clone())),
        }
    }
}

/// Greatest common divisor of two numbers that are not negative and not both 0.
fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use crate::Dim;

    fn d(s: &str) -> Dim {
        s.parse().unwrap()
    }

    #[test]
    fn exact_division_by_sums_and_products() {
        assert_eq!(d("batch*past*512 + batch*seq*512").div_exact(&d("past + seq")), Some(d("512*batch")));
        assert_eq!(d("a*a - 1").div_exact(&d("a + 1")), Some(d("a - 1")));
        assert_eq!(d("a*a + 1").div_exact(&d("a + 1")), None);
        assert_eq!(d("6*a").div_exact(&d("4")), None);
        assert_eq!(d("a").div_exact(&d("0")), None);
        assert_eq!(d("0").div_exact(&d("a")), Some(d("0")));
    }

    #[test]
    fn floor_and_remainder_split_off_what_divides() {
        assert_eq!(d("floordiv(256*a + 127, 128)"), d("2*a"));
        assert_eq!(d("floordiv(2*a + 1, 2)"), d("a"));
        assert_eq!(d("floordiv(2*a, 4)"), d("floordiv(a, 2)"));
        assert_eq!(d("mod(4*a + 3, 4)"), d("3"));
        assert_eq!(d("mod(5*a, 4)"), d("mod(a, 4)"));
        for a in 1..20 {
            let bind = |_: &str| Some(a);
            for (c, k, m) in [(3, 1, 4), (6, 5, 4), (-3, 2, 5), (1, -7, 3)] {
                let (num, m) = (&(&d("a") * &c.into()) + &k.into(), Dim::from(m));
                let (n, by) = (c * a + k, m.as_const().unwrap());
                assert_eq!(num.floor_div(&m).eval(&bind), Some(n.div_euclid(by)), "{c}*{a}+{k} // {by}");
                assert_eq!(num.modulo(&m).eval(&bind), Some(n.rem_euclid(by)), "{c}*{a}+{k} mod {by}");
            }
        }
    }

    #[test]
    fn negative_divisors_round_down() {
        assert_eq!(d("floordiv(7, -2)").as_const(), Some(-4));
        assert_eq!(d("mod(7, -2)").as_const(), Some(-1));
        assert_eq!(Dim::from(i64::MIN).floor_div(&Dim::from(-1)).as_const(), None);
    }
}
