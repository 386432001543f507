//! What inlining would make, found out before anything is made: a file of a kilobyte can call its way to 2^30 nodes.

use std::collections::HashMap;

use prost::Message;

use super::{
    functions::{Key, key, label},
    ours::Ours,
};
use crate::{
    FormatError, Result,
    onnx::{
        names::subgraphs,
        proto::{FunctionProto, NodeProto},
    },
};

/// Calls inside calls; exporters nest a module tree, which is tens deep at most.
const MAX_DEPTH: usize = 64;
/// Ten times the largest export that we know of.
const MAX_NODES: usize = 1 << 18;
/// As above, in encoded bytes (names and metadata; raw tensors are shared with the file).
const MAX_BYTES: usize = 256 << 20;

/// What a list of nodes unfolds to.
#[derive(Clone, Copy, Default)]
struct Cost {
    nodes: usize,
    bytes: usize,
    depth: usize,
}

struct Costs<'m> {
    functions: &'m HashMap<Key, &'m FunctionProto>,
    ours: &'m mut Ours,
    /// `None` while the function is being looked at.
    known: HashMap<Key, Option<Cost>>,
}

/// Checks the calls that these nodes make, directly and through functions.
///
/// # Errors
/// If a function calls itself, or the calls unfold too deep or to too much.
pub fn check(functions: &HashMap<Key, &FunctionProto>, ours: &mut Ours, nodes: &[NodeProto]) -> Result<()> {
    let mut costs = Costs { functions, ours, known: HashMap::new() };
    let all = nodes.iter().try_fold(Cost::default(), |sum, n| costs.calls(n, 0).map(|c| sum.plus(c)))?;
    if all.nodes > MAX_NODES || all.bytes > MAX_BYTES {
        return Err(FormatError::invalid(format!(
            "the local functions unfold to more than {MAX_NODES} nodes or {} MiB",
            MAX_BYTES >> 20
        )));
    }
    Ok(())
}

impl Cost {
    fn plus(self, other: Self) -> Self {
        Self {
            nodes: self.nodes.saturating_add(other.nodes),
            bytes: self.bytes.saturating_add(other.bytes),
            depth: self.depth.max(other.depth),
        }
    }
}

impl Costs<'_> {
    /// What the calls in a node and its subgraphs unfold to.
    fn calls(&mut self, node: &NodeProto, depth: usize) -> Result<Cost> {
        let key = key(node);
        // Our own functions stay functions.
        let called = self.functions.get(&key).copied().filter(|f| !self.ours.stays(f, node));
        let mut sum = match called {
            Some(function) => self.function(&key, function, depth).map_err(|e| e.at_node(label(node)))?,
            None => Cost::default(),
        };
        for inner in subgraphs(node).flat_map(|g| &g.node) {
            sum = sum.plus(self.calls(inner, depth)?);
        }
        Ok(sum)
    }

    fn function(&mut self, key: &Key, function: &FunctionProto, depth: usize) -> Result<Cost> {
        match self.known.get(key) {
            Some(None) => return Err(FormatError::invalid(format!("the local function `{}` calls itself", key.1))),
            Some(Some(cost)) => return Ok(*cost),
            None => {}
        }
        let deep = || FormatError::invalid(format!("local functions call one another more than {MAX_DEPTH} deep"));
        if depth >= MAX_DEPTH {
            return Err(deep());
        }
        self.known.insert(key.clone(), None);
        let mut sum = Cost::default();
        for node in &function.node {
            sum = sum.plus(own(node)).plus(self.calls(node, depth + 1)?);
        }
        sum.depth += 1;
        if sum.depth > MAX_DEPTH {
            return Err(deep());
        }
        self.known.insert(key.clone(), Some(sum));
        Ok(sum)
    }
}

/// A copy of the node itself.
fn own(node: &NodeProto) -> Cost {
    fn count(node: &NodeProto) -> usize {
        1 + subgraphs(node).flat_map(|g| &g.node).map(count).sum::<usize>()
    }
    let raw = node.attribute.iter().filter_map(|a| a.t.as_ref()?.raw_data.as_ref()).map(bytes::Bytes::len).sum();
    Cost { nodes: count(node), bytes: node.encoded_len().saturating_sub(raw), depth: 0 }
}
