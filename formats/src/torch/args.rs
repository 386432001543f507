//! The arguments of one call by the names of torch's operator schemas, with a record of which ones somebody understood.

use std::{fmt, sync::Arc};

use normfuse_ir::{DType, ValueId};

use super::{
    build::Builder,
    dtype,
    expr::Expr,
    schema::{Argument, Node, SymArgument},
};
use crate::{
    error::FormatError,
    reject::{Reject, foreign},
};

/// A number that is written in the program. It takes part in promotion with its kind alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scalar {
    Bool(bool),
    Int(i64),
    Float(f64),
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(v) => write!(f, "{v}"),
            Self::Int(v) => write!(f, "{v}"),
            // With its point, also where it is whole.
            Self::Float(v) => write!(f, "{v:?}"),
        }
    }
}

/// One call while it is mapped.
pub struct Call<'b, 'p> {
    pub b: &'b mut Builder<'p>,
    pub node: &'p Node,
    taken: Vec<bool>,
}

/// Arguments that say where and how a tensor is kept, which is no matter of its value.
const STORAGE: [&str; 6] = ["device", "pin_memory", "non_blocking", "copy", "memory_format", "implicit"];

impl<'b, 'p> Call<'b, 'p> {
    /// A call, nothing of it read yet.
    pub fn new(b: &'b mut Builder<'p>, node: &'p Node) -> Self {
        Self { b, node, taken: vec![false; node.inputs.len()] }
    }

    /// The names of the call's results that are tensors.
    pub fn results(&self) -> Vec<&'p str> {
        results(self.node)
    }

    /// The name of its only result.
    pub fn result(&self) -> Result<&'p str, Reject> {
        match self.results().as_slice() {
            [one] => Ok(one),
            other => foreign(format!("it has {} results", other.len())),
        }
    }

    /// The first argument that nobody asked for and that may matter.
    pub fn unknown(&self) -> Option<&'p str> {
        let mut left = self.node.inputs.iter().zip(&self.taken).filter(|(_, taken)| !**taken).map(|(a, _)| a);
        left.find(|a| {
            let strided = a.name == "layout" && matches!(a.arg, Argument::Layout(7) | Argument::None);
            a.arg != Argument::None && !strided && !STORAGE.contains(&a.name.as_str())
        })
        .map(|a| a.name.as_str())
    }

    /// An argument, if it is there and not None.
    pub fn get(&mut self, name: &str) -> Option<&'p Argument> {
        let i = self.node.inputs.iter().position(|a| a.name == name)?;
        self.taken[i] = true;
        Some(&self.node.inputs[i].arg).filter(|a| **a != Argument::None)
    }

    /// The name of a tensor argument.
    pub fn name(&mut self, name: &str) -> Result<&'p str, Reject> {
        match self.get(name) {
            Some(Argument::Tensor(t)) => Ok(t),
            Some(other) => wrong(name, "a tensor", other),
            None => missing(name),
        }
    }

    /// A tensor argument.
    pub fn tensor(&mut self, name: &str) -> Result<ValueId, Reject> {
        let tensor = self.name(name)?;
        self.b.memory.read(tensor).map_err(|e| e.at_port(format!("argument `{name}`")).into())
    }

    /// A tensor argument that may be left out.
    pub fn opt_tensor(&mut self, name: &str) -> Result<Option<ValueId>, Reject> {
        if self.get(name).is_some() { self.tensor(name).map(Some) } else { Ok(None) }
    }

    /// The names of a list of tensors, some of which may be left out.
    pub fn names(&mut self, name: &str) -> Result<Vec<Option<&'p str>>, Reject> {
        match self.get(name) {
            Some(Argument::Tensors(all)) => Ok(all.iter().map(|t| Some(t.as_str())).collect()),
            Some(Argument::OptionalTensors(all)) => Ok(all.iter().map(Option::as_deref).collect()),
            Some(other) => wrong(name, "a list of tensors", other),
            None => missing(name),
        }
    }

    /// A list of tensors.
    pub fn tensors(&mut self, name: &str) -> Result<Vec<ValueId>, Reject> {
        let names = self.names(name)?;
        let read = |t: Option<&str>| match t {
            Some(t) => self.b.memory.read(t).map_err(|e| e.at_port(format!("argument `{name}`")).into()),
            None => foreign(format!("a tensor of `{name}` is left out")),
        };
        names.into_iter().map(read).collect()
    }

    /// A number, if it is there.
    pub fn opt_int(&mut self, name: &str) -> Result<Option<i64>, Reject> {
        match self.get(name) {
            None => Ok(None),
            Some(Argument::Int(i) | Argument::SymInt(SymArgument::Int(i))) => Ok(Some(*i)),
            Some(other) => wrong(name, "a number", other),
        }
    }

    /// A number or its default.
    pub fn int(&mut self, name: &str, default: i64) -> Result<i64, Reject> {
        Ok(self.opt_int(name)?.unwrap_or(default))
    }

    /// A number that the schema requires.
    pub fn required(&mut self, name: &str) -> Result<i64, Reject> {
        match self.opt_int(name)? {
            Some(i) => Ok(i),
            None => missing(name),
        }
    }

    /// A truth value or its default.
    pub fn flag(&mut self, name: &str, default: bool) -> Result<bool, Reject> {
        match self.get(name) {
            None => Ok(default),
            Some(Argument::Bool(v)) => Ok(*v),
            Some(other) => wrong(name, "a truth value", other),
        }
    }

    /// A float, if it is there.
    pub fn float(&mut self, name: &str) -> Result<Option<f64>, Reject> {
        match self.get(name) {
            None => Ok(None),
            Some(Argument::Float(v)) => Ok(Some(*v)),
            Some(Argument::Int(v)) => Ok(Some(*v as f64)),
            Some(other) => wrong(name, "a float", other),
        }
    }

    /// Text or its default.
    pub fn text(&mut self, name: &str, default: &'p str) -> Result<&'p str, Reject> {
        match self.get(name) {
            None => Ok(default),
            Some(Argument::Text(v)) => Ok(v),
            Some(other) => wrong(name, "text", other),
        }
    }

    /// Numbers, if they are there.
    pub fn opt_ints(&mut self, name: &str) -> Result<Option<Vec<i64>>, Reject> {
        match self.get(name) {
            None => Ok(None),
            Some(Argument::Int(i)) => Ok(Some(vec![*i])),
            Some(Argument::Ints(v)) => Ok(Some(v.clone())),
            // An empty list has no kind of its own.
            Some(Argument::Tensors(v)) if v.is_empty() => Ok(Some(Vec::new())),
            Some(other) => wrong(name, "a list of numbers", other),
        }
    }

    /// Numbers that the schema requires.
    pub fn ints(&mut self, name: &str) -> Result<Vec<i64>, Reject> {
        match self.opt_ints(name)? {
            Some(v) => Ok(v),
            None => missing(name),
        }
    }

    /// A size, if it is there.
    pub fn opt_size(&mut self, name: &str) -> Result<Option<Arc<Expr>>, Reject> {
        match self.get(name) {
            None => Ok(None),
            Some(Argument::Int(i) | Argument::SymInt(SymArgument::Int(i))) => Ok(Some(Arc::new(Expr::Int(*i)))),
            Some(Argument::SymInt(SymArgument::Name(n))) => Ok(Some(self.b.sym_int(n)?)),
            Some(other) => wrong(name, "a size", other),
        }
    }

    /// Sizes, if they are there.
    pub fn opt_sizes(&mut self, name: &str) -> Result<Option<Vec<Arc<Expr>>>, Reject> {
        match self.get(name) {
            Some(Argument::SymInts(all)) => {
                let size = |s: &SymArgument| match s {
                    SymArgument::Int(i) => Ok(Arc::new(Expr::Int(*i))),
                    SymArgument::Name(n) => Ok(self.b.sym_int(n)?),
                    SymArgument::Unknown(key) => Err(unknown_key(key).into()),
                };
                all.iter().map(size).collect::<Result<_, _>>().map(Some)
            }
            None => Ok(None),
            Some(_) => Ok(self.opt_ints(name)?.map(|v| v.into_iter().map(|i| Arc::new(Expr::Int(i))).collect())),
        }
    }

    /// An element type, if it is there.
    pub fn dtype(&mut self, name: &str) -> Result<Option<DType>, Reject> {
        match self.get(name) {
            None => Ok(None),
            Some(Argument::ScalarType(n)) => match dtype::known(*n) {
                Some(d) => Ok(Some(d)),
                None => foreign(format!("`{name}` is number {n} of torch's element types, which normfuse lacks")),
            },
            Some(other) => wrong(name, "an element type", other),
        }
    }

    /// A number of any kind, if it is there.
    pub fn scalar(&mut self, name: &str) -> Result<Option<Scalar>, Reject> {
        Ok(Some(match self.get(name) {
            None => return Ok(None),
            Some(Argument::Int(i) | Argument::SymInt(SymArgument::Int(i))) => Scalar::Int(*i),
            Some(Argument::Float(v)) => Scalar::Float(*v),
            Some(Argument::Bool(v)) => Scalar::Bool(*v),
            Some(other) => return wrong(name, "a number", other),
        }))
    }

    /// True if it asks for an order of memory, so that its result may be a copy.
    pub fn is_reordered(&self) -> bool {
        /// As it is.
        const PRESERVE: i64 = 4;
        let asks = |a: &Argument| matches!(a, Argument::MemoryFormat(n) if *n != PRESERVE);
        self.node.inputs.iter().any(|a| a.name == "memory_format" && asks(&a.arg))
    }

    /// Skips arguments that say how to compute and not what.
    pub fn skip(&mut self, names: &[&str]) {
        for name in names {
            self.get(name);
        }
    }
}

/// Other kinds are legal in torch: a size that is computed where we want a number.
fn wrong<T>(name: &str, want: &str, found: &Argument) -> Result<T, Reject> {
    foreign(format!("argument `{name}` is not {want} but {}", kind(found)))
}

fn missing<T>(name: &str) -> Result<T, Reject> {
    Err(FormatError::mismatch(format!("an argument `{name}`"), "none").into())
}

/// The names of a call's results that are tensors.
pub fn results(node: &Node) -> Vec<&str> {
    let mut names = Vec::new();
    for o in &node.outputs {
        match o {
            Argument::Tensor(n) => names.push(n.as_str()),
            Argument::Tensors(all) => names.extend(all.iter().map(String::as_str)),
            _ => {}
        }
    }
    names
}

/// The names of the tensors in an argument.
pub fn tensors_of(a: &Argument) -> Vec<&str> {
    match a {
        Argument::Tensor(t) => vec![t],
        Argument::Tensors(all) => all.iter().map(String::as_str).collect(),
        Argument::OptionalTensors(all) => all.iter().flatten().map(String::as_str).collect(),
        _ => Vec::new(),
    }
}

/// An argument of a kind that this schema does not have.
pub fn unknown_key(key: &str) -> FormatError {
    FormatError::mismatch("an argument of torch's schema, major version 8", format!("one of kind `{key}`"))
        .hint("a newer torch wrote the file")
}

impl Argument {
    /// What kind it is, and its name if it is a computed number.
    pub fn described(&self) -> String {
        match self.computed().first() {
            Some(name) => format!("{} (`{name}`)", kind(self)),
            None => kind(self).to_owned(),
        }
    }
}

fn kind(a: &Argument) -> &str {
    match a {
        Argument::None => "None",
        Argument::Tensor(_) => "a tensor",
        Argument::Tensors(_) | Argument::OptionalTensors(_) => "a list of tensors",
        Argument::Int(_) => "a number",
        Argument::Ints(_) => "a list of numbers",
        Argument::Float(_) => "a float",
        Argument::Floats(_) => "a list of floats",
        Argument::Text(_) => "text",
        Argument::SymInt(_) => "a computed integer",
        Argument::SymInts(_) => "a list of computed integers",
        Argument::ScalarType(_) => "an element type",
        Argument::MemoryFormat(_) => "a memory format",
        Argument::Layout(_) => "a layout",
        Argument::Device(_) => "a device",
        Argument::Bool(_) => "a truth value",
        Argument::Graph(_) => "a part of the program",
        Argument::Other(key) | Argument::Unknown(key) | Argument::Sym(key, _) => key,
    }
}
