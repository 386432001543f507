//! The term language that regions are written in, and the facts kept about each e-class.
//!
//! A term denotes a *flat* row-major array. Views (reshape, squeeze, unsqueeze, flatten) do not change it and vanish;
//! broadcasting is spelled out: `(rep k x)` repeats each element k times, `(tile n w)` repeats a vector of n elements
//! over and over, and a one-element operand stands for itself. Reductions run over k consecutive elements. So a view
//! between a norm and its quantiser, or a group split, needs no rule at all.

use std::{fmt, str::FromStr};

use egg::{Analysis, DidMerge, EGraph, Id, Symbol, define_language};
use half::{bf16, f16};
use normfuse_ir::DType;

/// A typed one-element constant, by its value (every arithmetic float and every integer in use embeds in f64).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Num {
    /// Element type.
    pub dtype: DType,
    /// Bits of the value as f64.
    pub bits: u64,
}

/// The target of a cast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ty {
    /// Target dtype.
    pub dtype: DType,
    /// Saturating cast; always true for targets where it makes no difference.
    pub saturate: bool,
}

/// A value that enters the region from outside, by position in the region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Leaf(pub u32);

/// Words that recognised terms carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tag {
    /// `h * (1 / sqrt(v))`.
    RecipSqrt,
    /// `h * rsqrt(v)`.
    Rsqrt,
    /// `h / sqrt(v)`.
    DivSqrt,
    /// The weight itself.
    Plain,
    /// One plus the weight.
    PlusOne,
    /// Nothing is added to the mean of squares.
    NoEps,
    /// Squares have the dtype of the row.
    AsRow,
}

const TAGS: [(Tag, &str); 7] = [
    (Tag::RecipSqrt, "recip_sqrt"),
    (Tag::Rsqrt, "by_rsqrt"),
    (Tag::DivSqrt, "div_sqrt"),
    (Tag::Plain, "plain"),
    (Tag::PlusOne, "plus_one"),
    (Tag::NoEps, "no_eps"),
    (Tag::AsRow, "as_row"),
];

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        TAGS.iter().find(|(t, _)| t == self).map_or(Ok(()), |(_, name)| f.write_str(name))
    }
}

impl FromStr for Tag {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        TAGS.iter().find(|(_, name)| *name == s).map(|(t, _)| *t).ok_or(())
    }
}

impl fmt::Display for Num {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{:x}", self.dtype, self.bits)
    }
}

impl FromStr for Num {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        let (dtype, bits) = s.split_once('#').ok_or(())?;
        Ok(Self { dtype: dtype.parse().map_err(|_| ())?, bits: u64::from_str_radix(bits, 16).map_err(|_| ())? })
    }
}

impl Num {
    /// A constant of `dtype`.
    pub fn new(dtype: DType, value: f64) -> Self {
        Self { dtype, bits: value.to_bits() }
    }

    /// The value.
    pub fn value(self) -> f64 {
        f64::from_bits(self.bits)
    }
}

impl fmt::Display for Ty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype, if self.saturate { "" } else { "!" })
    }
}

impl FromStr for Ty {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        let (name, saturate) = s.strip_suffix('!').map_or((s, true), |n| (n, false));
        Ok(Self { dtype: name.parse().map_err(|_| ())?, saturate })
    }
}

impl fmt::Display for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "leaf{}", self.0)
    }
}

impl FromStr for Leaf {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        s.strip_prefix("leaf").and_then(|n| n.parse().ok()).map(Self).ok_or(())
    }
}

define_language! {
    /// A term over flat arrays. The first half is what graphs spell, the second half what rules recognise.
    #[allow(missing_docs, reason = "egg's macro takes no doc comments on variants; each has a comment")]
    pub enum Term {
        // `(add a b)`.
        "add" = Add([Id; 2]),
        // `(sub a b)`.
        "sub" = Sub([Id; 2]),
        // `(mul a b)`.
        "mul" = Mul([Id; 2]),
        // `(div a b)`.
        "div" = Div([Id; 2]),
        // `(pow x exponent)`.
        "pow" = Pow([Id; 2]),
        // `(max a b)`: the larger.
        "max" = Max([Id; 2]),
        // `(min a b)`: the smaller.
        "min" = Min([Id; 2]),
        // IEEE square root.
        "sqrt" = Sqrt([Id; 1]),
        // IEEE `1/x`.
        "recip" = Recip([Id; 1]),
        // Correctly rounded `1/sqrt(x)`.
        "rsqrt" = Rsqrt([Id; 1]),
        // `(cast type x)`.
        "cast" = Cast([Id; 2]),
        // `(mean k x)`: of each k consecutive elements.
        "mean" = Mean([Id; 2]),
        // `(sum k x)`: of each k consecutive elements.
        "sum" = Sum([Id; 2]),
        // `(rep k x)`: each element k times.
        "rep" = Rep([Id; 2]),
        // `(tile n w)`: a vector of n elements over and over.
        "tile" = Tile([Id; 2]),
        // Recognised: `(residual a b)`, the sum of two row tensors.
        "residual" = Residual([Id; 2]),
        // Recognised: `(mean_square n eps squares x)`, the mean of the squares of rows of n plus eps (`no_eps` for
        // none); the squares have the dtype of `squares`, `as_row` for that of x.
        "mean_square" = MeanSquare([Id; 4]),
        // Recognised: `(normed root n eps squares x)`, rows of n over the root of that mean.
        "normed" = Normed([Id; 5]),
        // Recognised: `(rms form w p)`, p (normed, perhaps cast) times a weight.
        "rms" = Rms([Id; 3]),
        // An integer: a width or a count.
        Int(i64),
        // A word that a recognised term carries.
        Tag(Tag),
        // A one-element constant.
        Num(Num),
        // A value from outside the region.
        Leaf(Leaf),
        // The target of a cast.
        Ty(Ty),
        // Anything else, uninterpreted.
        Other(Symbol, Vec<Id>),
    }
}

/// What is known of an e-class. Equal terms have equal facts, so merging keeps either.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Facts {
    /// Element type of the array; `None` for data terms (types, tags, integers).
    pub dtype: Option<DType>,
    /// Value, if the array is a one-element constant.
    pub konst: Option<f64>,
    /// True if the array has one element.
    pub one: bool,
    /// True if the array is a leaf of rows, or a cast of one: what a residual add may add.
    pub rows: bool,
    /// How many elements the array has, if that is a number and the array is no row of many.
    pub len: Option<i64>,
    /// The integer, for integer terms.
    pub int: Option<i64>,
    /// The target, for type terms.
    pub ty: Option<Ty>,
    /// The word, for tag terms.
    pub tag: Option<Tag>,
}

/// What is known of a leaf from the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeafFacts {
    /// Element type.
    pub dtype: DType,
    /// Exactly one element.
    pub one: bool,
    /// A tensor of the region's rows.
    pub rows: bool,
    /// Number of elements, if it is known.
    pub len: Option<i64>,
}

/// The e-graph's analysis: leaf facts in, class facts out.
#[derive(Debug, Clone, Default)]
pub struct Analyse {
    /// Facts of the region's leaves, by [`Leaf`] number.
    pub leaves: Vec<LeafFacts>,
}

/// The e-graph of a region.
pub type Eg = EGraph<Term, Analyse>;

/// Rounds a constant as a cast to `dtype` does, where constants of that dtype matter here.
fn cast_const(dtype: DType, v: f64) -> Option<f64> {
    match dtype {
        DType::F64 => Some(v),
        DType::F32 => Some(f64::from(v as f32)),
        DType::F16 => Some(f16::from_f64(v).to_f64()),
        DType::BF16 => Some(bf16::from_f64(v).to_f64()),
        _ => None,
    }
}

impl Analysis<Term> for Analyse {
    type Data = Facts;

    fn make(eg: &mut Eg, term: &Term, _: Id) -> Facts {
        let of = |id: &Id| eg[*id].data;
        let like = |id: &Id| Facts { dtype: of(id).dtype, one: of(id).one, len: of(id).len, ..Facts::default() };
        match term {
            Term::Int(i) => Facts { int: Some(*i), ..Facts::default() },
            Term::Ty(t) => Facts { ty: Some(*t), ..Facts::default() },
            Term::Tag(t) => Facts { tag: Some(*t), ..Facts::default() },
            // No rule asks for a NaN, and one that is unequal to itself would be merged for ever.
            Term::Num(n) => Facts {
                dtype: Some(n.dtype),
                konst: Some(n.value()).filter(|v| !v.is_nan()),
                one: true,
                ..Facts::default()
            },
            Term::Leaf(Leaf(i)) => eg.analysis.leaves.get(*i as usize).map_or_else(Facts::default, |l| Facts {
                dtype: Some(l.dtype),
                one: l.one,
                rows: l.rows,
                len: l.len,
                ..Facts::default()
            }),
            Term::Add([a, b])
            | Term::Sub([a, b])
            | Term::Mul([a, b])
            | Term::Div([a, b])
            | Term::Pow([a, b])
            | Term::Max([a, b])
            | Term::Min([a, b])
            | Term::Residual([a, b]) => Facts {
                dtype: of(a).dtype,
                one: of(a).one && of(b).one,
                len: of(a).len.max(of(b).len),
                ..Facts::default()
            },
            Term::Sqrt([x]) | Term::Recip([x]) | Term::Rsqrt([x]) => like(x),
            Term::Cast([t, x]) => {
                let to = of(t).ty.map(|t| t.dtype);
                Facts {
                    dtype: to,
                    one: of(x).one,
                    rows: of(x).rows,
                    len: of(x).len,
                    konst: of(x).konst.and_then(|v| cast_const(to?, v)),
                    ..Facts::default()
                }
            }
            Term::Mean([_, x])
            | Term::Sum([_, x])
            | Term::Rep([_, x])
            | Term::Tile([_, x])
            | Term::MeanSquare([.., x])
            | Term::Normed([.., x])
            | Term::Rms([.., x]) => Facts { dtype: of(x).dtype, ..Facts::default() },
            Term::Other(..) => Facts::default(),
        }
    }

    fn merge(&mut self, a: &mut Facts, b: Facts) -> DidMerge {
        let before = *a;
        let joined = Facts {
            dtype: a.dtype.or(b.dtype),
            konst: a.konst.or(b.konst),
            one: a.one || b.one,
            rows: a.rows || b.rows,
            len: a.len.or(b.len),
            int: a.int.or(b.int),
            ty: a.ty.or(b.ty),
            tag: a.tag.or(b.tag),
        };
        *a = joined;
        DidMerge(before != joined, b != joined)
    }
}
