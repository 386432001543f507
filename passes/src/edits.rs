//! The pass as a list of edits, for a host that changes its own IR.
//!
//! Every edit is said in values and nodes of the graph that the host handed over, so edits may be applied in any order:
//! 1. make one op of the [descriptor](Edit::descriptor) from the values of [`Edit::inputs`], each in the shape that is
//!    said there (a view, where the value's own is another);
//! 2. let every reader of a value in [`Edit::outputs`] read that port instead, through a view back to the shape of the
//!    value where the port's is another;
//! 3. let [`Edit::shape_readers`] ask the rows for their shape;
//! 4. when all edits are made, drop what they [replace](Edit::replaces), and what nobody reads any more: what one edit
//!    replaces may be an operand of another.
//!
//! An operand may be a value that another edit replaces: it then is a port of that one's op.

use std::collections::BTreeMap;

use normfuse_ir::{
    Descriptor, Graph, NodeId, Result, Shape, Type, ValueId,
    fused::{InPort, OutPort},
};
use serde::{Deserialize, Serialize};

use crate::{Observer, Options, Patch, Report};

/// What would change, and the report about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edits {
    /// One entry a fused op.
    pub edits: Vec<Edit>,
    /// As [`crate::run`] returns it.
    pub report: Report,
}

/// One fused op.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edit {
    /// The op's name, as the site in the report has it.
    pub name: String,
    /// What the op computes.
    pub descriptor: Descriptor,
    /// Its operands, in port order.
    pub inputs: Vec<Input>,
    /// Its results, in port order.
    pub outputs: Vec<Output>,
    /// Nodes that nobody needs afterwards, producers first.
    pub replaces: Vec<NodeRef>,
    /// Nodes that ask a replaced value for its shape and find the same one in the op's rows.
    pub shape_readers: Vec<ShapeReader>,
}

/// An operand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Where it goes.
    pub port: InPort,
    /// The value.
    pub value: ValueRef,
    /// The shape in which the op takes it; as many elements as the value has.
    pub shape: Shape,
}

/// A result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Where it comes from.
    pub port: OutPort,
    /// Its type.
    pub ty: Type,
    /// The values that it stands for: all have its elements in row-major order, each in a shape of its own.
    pub values: Vec<ValueRef>,
}

/// A node that asks for a shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShapeReader {
    /// The node.
    pub node: NodeRef,
    /// The operand that changes.
    pub port: usize,
    /// The value to read instead.
    pub value: ValueRef,
}

/// A value of the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValueRef {
    /// Its id.
    pub id: ValueId,
    /// Its name.
    pub name: String,
}

/// A node of the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRef {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
}

/// Runs the pass and returns what it would change; the graph stays as it is.
///
/// # Errors
/// As [`crate::run`].
pub fn edits(graph: &Graph, options: &Options) -> Result<Edits> {
    edits_with(graph, options, &mut ())
}

/// As [`edits`], and the observer hears of it.
///
/// # Errors
/// As [`crate::run`].
pub fn edits_with(graph: &Graph, options: &Options, observer: &mut dyn Observer) -> Result<Edits> {
    let mut rewritten = graph.clone();
    let mut patches = Vec::new();
    let report = crate::fuse(&mut rewritten, options, observer, &mut |patch| patches.push(patch))?;
    let mut source = Source { graph, stands_for: BTreeMap::new() };
    for patch in &patches {
        for (old, new) in &patch.applied.moved {
            let old = source.value(*old);
            source.stands_for.entry(*new).or_insert(old);
        }
    }
    let edits = patches.iter().map(|p| source.edit(&rewritten, p)).collect();
    Ok(Edits { edits, report })
}

struct Source<'g> {
    graph: &'g Graph,
    /// For values that patches made: the value of the source that each stands for.
    stands_for: BTreeMap<ValueId, ValueId>,
}

impl Source<'_> {
    fn value(&self, id: ValueId) -> ValueId {
        self.stands_for.get(&id).copied().unwrap_or(id)
    }

    fn value_ref(&self, id: ValueId) -> ValueRef {
        let id = self.value(id);
        ValueRef { id, name: self.graph.try_value(id).map(|v| v.name.clone()).unwrap_or_default() }
    }

    fn node_ref(&self, id: NodeId) -> NodeRef {
        NodeRef { id, name: self.graph.try_node(id).map(|n| n.name.clone()).unwrap_or_default() }
    }

    fn edit(&self, rewritten: &Graph, patch: &Patch) -> Edit {
        let Patch { candidate, applied } = patch;
        let node = rewritten.node(applied.node);
        let made = candidate.ports.iter().zip(&node.outputs);
        Edit {
            name: node.name.clone(),
            // A relaxation has given it another one.
            descriptor: Descriptor::of(&node.op).unwrap_or_else(|| candidate.descriptor.clone()),
            // The node's own operands are in the shapes that the op takes.
            inputs: candidate
                .operands
                .iter()
                .zip(node.operands())
                .map(|((port, value), (_, passed))| Input {
                    port: *port,
                    value: self.value_ref(*value),
                    shape: rewritten.value(passed).ty.shape.clone().unwrap_or_default(),
                })
                .collect(),
            outputs: made
                .map(|((port, values, _), out)| Output {
                    port: *port,
                    ty: rewritten.value(*out).ty.clone(),
                    values: values.iter().map(|v| self.value_ref(*v)).collect(),
                })
                .collect(),
            replaces: applied.replaced.iter().map(|(n, _)| self.node_ref(*n)).collect(),
            shape_readers: applied
                .shape_readers
                .iter()
                .map(|(node, port, rows)| ShapeReader {
                    node: self.node_ref(*node),
                    port: *port,
                    value: self.value_ref(*rows),
                })
                .collect(),
        }
    }
}
