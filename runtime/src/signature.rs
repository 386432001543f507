//! What a graph takes: its inputs by name, dtype and shape, and what callers pass held against that.

use std::collections::BTreeMap;

use normfuse_ir::{DType, Def, Dim, Error, ErrorKind, Graph, Result, Shape, Tensor};

/// An input that callers pass.
#[derive(Debug, Clone)]
struct Input {
    name: String,
    dtype: Option<DType>,
    shape: Option<Shape>,
}

/// The inputs of a graph, in its order.
#[derive(Debug, Clone)]
pub(crate) struct Signature {
    inputs: Vec<Input>,
}

impl Signature {
    /// That of a graph.
    ///
    /// # Errors
    /// `Structure` for an input that is no value.
    pub fn of(graph: &Graph) -> Result<Self> {
        let input = |v| {
            let value = graph.try_value(v).ok_or_else(dangling)?;
            Ok(Input { name: value.name.clone(), dtype: value.ty.dtype, shape: value.ty.shape.clone() })
        };
        Ok(Self { inputs: graph.inputs().iter().map(|v| input(*v)).collect::<Result<_>>()? })
    }

    /// The name of an input.
    pub fn name(&self, input: usize) -> &str {
        self.inputs.get(input).map_or("", |i| &i.name)
    }

    /// Checks dtypes and shapes against what the graph declares, and binds its symbols.
    ///
    /// # Errors
    /// `Structure`, `DType` or `Shape` with the input's name.
    pub fn check(&self, given: &[(DType, &[usize])]) -> Result<BTreeMap<String, i64>> {
        if given.len() != self.inputs.len() {
            let names: Vec<&str> = self.inputs.iter().map(|i| i.name.as_str()).collect();
            let (count, names, found) = (names.len(), names.join(", "), given.len());
            let message = format!("the graph takes {count} inputs ({names}), found {found}");
            return Err(Error::new(ErrorKind::Structure, message));
        }
        let mut bound: BTreeMap<String, (i64, &str)> = BTreeMap::new();
        for (spec, (dtype, sizes)) in self.inputs.iter().zip(given) {
            let at = |kind, message: String| Error::new(kind, message).at_port(format!("input `{}`", spec.name));
            if let Some(expected) = spec.dtype.filter(|d| d != dtype) {
                return Err(at(ErrorKind::DType, format!("expected {expected}, found {dtype}")));
            }
            let Some(shape) = &spec.shape else { continue };
            if shape.rank() != sizes.len() {
                return Err(at(ErrorKind::Shape, format!("expected {} axes, found {sizes:?}", shape.rank())));
            }
            for (axis, (dim, &size)) in shape.0.iter().zip(*sizes).enumerate() {
                let size = size as i64;
                if let Some(symbol) = as_symbol(dim) {
                    let (first, by) = *bound.entry(symbol.clone()).or_insert((size, &spec.name));
                    if first != size {
                        let message = format!("axis {axis}: `{symbol}` is {first} in input `{by}`, found {size}");
                        return Err(at(ErrorKind::Shape, message));
                    }
                } else if let Some(expected) = dim.eval(&|s| bound.get(s).map(|b| b.0))
                    && expected != size
                {
                    return Err(at(ErrorKind::Shape, format!("axis {axis}: expected {expected}, found {size}")));
                }
            }
        }
        Ok(bound.into_iter().map(|(symbol, (size, _))| (symbol, size)).collect())
    }

    /// As [`Signature::check`], of tensors, whose bytes must be as many as they say.
    ///
    /// # Errors
    /// As [`Signature::check`].
    pub fn check_tensors(&self, given: &[Tensor]) -> Result<BTreeMap<String, i64>> {
        let types: Vec<_> = given.iter().map(|t| (t.dtype(), t.shape())).collect();
        let bound = self.check(&types)?;
        for (i, tensor) in given.iter().enumerate() {
            check_bytes(tensor).map_err(|e| e.at_port(format!("input `{}`", self.name(i))))?;
        }
        Ok(bound)
    }
}

/// The name, if the size is one symbol with a name.
fn as_symbol(dim: &Dim) -> Option<String> {
    let mut symbols = Vec::new();
    dim.visit_symbols(&mut |s| symbols.push(s.to_owned()));
    match symbols.as_slice() {
        [s] if !s.starts_with('?') && *dim == Dim::sym(s.as_str()) => symbols.pop(),
        _ => None,
    }
}

/// A region may lie about its length; views rely on it.
pub(crate) fn check_bytes(tensor: &Tensor) -> Result<()> {
    let want = normfuse_ir::tensor::byte_len(tensor.dtype(), tensor.shape())?;
    if tensor.bytes().len() == want {
        return Ok(());
    }
    let found = tensor.bytes().len();
    let what = format!("{}{:?} takes {want} bytes, found {found}", tensor.dtype(), tensor.shape());
    Err(Error::new(ErrorKind::Structure, what))
}

/// Marks the nodes that some result depends on, by number.
pub(crate) fn needed_nodes(graph: &Graph) -> Result<Vec<bool>> {
    let mut needed = vec![false; graph.node_bound()];
    let mut stack: Vec<_> = graph.outputs().iter().map(|o| o.value).collect();
    while let Some(value) = stack.pop() {
        if let Def::Node { node, .. } = graph.try_value(value).ok_or_else(dangling)?.def {
            let known = graph.try_node(node).ok_or_else(dangling)?;
            if !std::mem::replace(&mut needed[node.index()], true) {
                stack.extend(known.inputs.iter().flatten());
            }
        }
    }
    Ok(needed)
}

/// A value that something reads is not there.
pub(crate) fn dangling() -> Error {
    Error::new(ErrorKind::Structure, "a value that something reads does not exist")
}
