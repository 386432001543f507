//! Running a whole graph.

use std::collections::BTreeMap;

use super::eval_node;
use crate::{Def, Error, ErrorKind, Graph, Result, Tensor, ValueId};

/// Refuses an operand that is not what the graph declares; a symbol means one size wherever it stands alone.
fn check_inputs(graph: &Graph, inputs: &[Tensor]) -> Result<()> {
    if inputs.len() != graph.inputs().len() {
        return Err(Error::new(
            ErrorKind::Structure,
            format!("the graph has {} inputs, found {}", graph.inputs().len(), inputs.len()),
        ));
    }
    let mut symbols: BTreeMap<String, usize> = BTreeMap::new();
    for (&id, tensor) in graph.inputs().iter().zip(inputs) {
        let value = graph.value(id);
        let at = |kind, message: String| Error::new(kind, message).at_port(format!("input `{}`", value.name));
        if let Some(want) = value.ty.dtype
            && want != tensor.dtype()
        {
            return Err(at(ErrorKind::DType, format!("expected {want}, found {}", tensor.dtype())));
        }
        let Some(shape) = &value.ty.shape else { continue };
        if shape.rank() != tensor.shape().len() {
            return Err(at(
                ErrorKind::Shape,
                format!("expected rank {}, found shape {:?}", shape.rank(), tensor.shape()),
            ));
        }
        for (dim, &found) in shape.0.iter().zip(tensor.shape()) {
            let mut names = Vec::new();
            dim.visit_symbols(&mut |s| names.push(s.to_string()));
            let want = match (dim.as_const(), &names[..]) {
                (Some(c), _) => Some(c),
                (None, [name]) if *dim == crate::Dim::sym(name.as_str()) && !dim.has_unknown() => {
                    Some(*symbols.entry(name.clone()).or_insert(found) as i64)
                }
                _ => None,
            };
            if want.is_some_and(|w| w != found as i64) {
                return Err(at(
                    ErrorKind::Shape,
                    format!("expected {dim} = {} in {:?}, found {found}", want.unwrap_or_default(), tensor.shape()),
                ));
            }
        }
    }
    Ok(())
}

/// Runs a graph on its inputs and returns its results, both in declaration order. A value is freed after its last use.
///
/// # Errors
/// `Structure` for a cycle, whatever an input does not fit, and what a node's op refuses, with the node's name.
pub fn run(graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    check_inputs(graph, inputs)?;
    let order = graph.topo_order()?;
    let mut uses = vec![0usize; graph.value_bound()];
    for &id in &order {
        for (_, v) in graph.node(id).operands() {
            uses[v.index()] += 1;
        }
    }
    for output in graph.outputs() {
        uses[output.value.index()] += 1;
    }
    let mut values: Vec<Option<Tensor>> = vec![None; graph.value_bound()];
    for (&id, tensor) in graph.inputs().iter().zip(inputs) {
        values[id.index()] = Some(tensor.clone());
    }
    let find = |values: &[Option<Tensor>], id: ValueId| -> Result<Tensor> {
        // A tensor is a handle: this copies no data.
        let found = match &graph.value(id).def {
            Def::Const(t) => Some(t.clone()),
            _ => values[id.index()].clone(),
        };
        found.ok_or_else(|| {
            Error::new(ErrorKind::Structure, format!("value `{}` is read before it is made", graph.value(id).name))
        })
    };
    for id in order {
        let node = graph.node(id);
        let operands = node
            .inputs
            .iter()
            .map(|v| v.map(|v| find(&values, v)).transpose())
            .collect::<Result<Vec<_>>>()
            .map_err(|e| e.at_node(&node.name))?;
        for (_, v) in node.operands() {
            uses[v.index()] -= 1;
            if uses[v.index()] == 0 {
                values[v.index()] = None;
            }
        }
        let refs: Vec<Option<&Tensor>> = operands.iter().map(Option::as_ref).collect();
        let results = eval_node(&node.op, &refs).map_err(|e| e.at_node(&node.name))?;
        for (v, result) in node.outputs.iter().zip(results) {
            if let Some(shape) = &graph.value(*v).ty.shape {
                shape.check(result.shape()).map_err(|e| e.at_node(&node.name))?;
            }
            if uses[v.index()] > 0 {
                values[v.index()] = Some(result);
            }
        }
    }
    graph.outputs().iter().map(|o| find(&values, o.value)).collect()
}
