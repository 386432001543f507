//! Everything that keeps a checkpoint from fitting a model.

use std::fmt;

/// What is wrong with a tensor; in the order in which it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wrong {
    /// A parameter that the checkpoint does not have.
    Missing,
    /// A tensor of the checkpoint that is no parameter of the model.
    Extra,
    /// It has another shape.
    Shape,
    /// It has another element type.
    Type,
    /// One tensor under several names in the model, and several tensors in the checkpoint; or the other way round.
    Tied,
    /// A parameter that went into other values of the graph, which do not follow the checkpoint.
    Gone,
    /// A scale that no quantiser leaves: not a number, infinite, 0 or below.
    Scale,
    /// The caller names it, and neither the model nor the checkpoint has it.
    Unknown,
}

impl Wrong {
    const ALL: [Self; 8] =
        [Self::Missing, Self::Extra, Self::Shape, Self::Type, Self::Tied, Self::Gone, Self::Scale, Self::Unknown];

    const fn word(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Shape => "of another shape",
            Self::Type => "of another type",
            Self::Tied => "tied otherwise",
            Self::Gone => "gone from the graph",
            Self::Scale => "no scale",
            Self::Unknown => "unknown",
        }
    }
}

/// One of the things that are wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// What.
    pub wrong: Wrong,
    /// The parameter in the model; for an extra tensor its name in the checkpoint.
    pub name: String,
    /// What was expected and found.
    pub detail: String,
}

/// All of them, sorted, and what may help.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Misfit {
    /// What is wrong, by kind and name.
    pub faults: Vec<Fault>,
    /// What the user can do.
    pub advice: Vec<String>,
}

impl Misfit {
    /// Notes one more.
    pub fn add(&mut self, wrong: Wrong, name: &str, detail: impl Into<String>) {
        self.faults.push(Fault { wrong, name: name.to_owned(), detail: detail.into() });
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |w: Wrong| self.faults.iter().filter(|x| x.wrong == w).count();
        let counts = Wrong::ALL.into_iter().filter(|w| count(*w) > 0);
        let counts: Vec<String> = counts.map(|w| format!("{} {}", count(w), w.word())).collect();
        write!(f, "the checkpoint does not fit the model: {}", counts.join(", "))?;
        for fault in &self.faults {
            write!(f, "\n  {}: {}, {}", fault.wrong.word(), fault.name, fault.detail)?;
        }
        for advice in &self.advice {
            write!(f, "\n  {advice}")?;
        }
        Ok(())
    }
}
