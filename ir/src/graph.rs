//! The graph: nodes in a petgraph, values beside it.
//!
//! Invariants:
//! - petgraph indices do not leave this file; the world sees [`NodeId`] and [`ValueId`].
//! - graph inputs, constants and weights are values without a producing node: they are operands and never adjacency, so
//!   an eps that 100,000 norms share is no hub.
//! - every use of a node's output is one edge that carries (source port, destination port), so users of a value are
//!   found without a scan.
//! - ids are dense, stable, and handed out in order of creation, never twice: the place of a removed node stays empty, so
//!   that a list of nodes made before does not come to mean another; nothing iterates a hash map, so equal input gives
//!   equal output.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock},
};

use petgraph::{
    Direction,
    stable_graph::{NodeIndex, StableDiGraph},
    visit::EdgeRef,
};
use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Op, Result, Shape, Tensor};

mod copy;
mod links;
mod order;
mod rewrite;
mod value;

pub use value::{Def, Opaque, Type, Value};

/// A node of one graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeId(u32);

/// A value of one graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ValueId(u32);

impl NodeId {
    /// Position in order of creation.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl ValueId {
    /// Position in order of creation.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where a node came from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Provenance {
    /// For a node that a rewrite made: names of the source nodes that it replaced, in topological order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaced: Vec<String>,
    /// The chain of rules that made it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
    /// Key-value metadata of the source format (`metadata_props`), in file order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metadata: Vec<(String, String)>,
    /// The format's free text about the node.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub doc: String,
}

impl Provenance {
    /// Key in [`Provenance::metadata`] of the module that a node was part of.
    pub const MODULE: &str = "torch.module";
    /// Key in [`Provenance::metadata`] of the file and line that called it, without its folder.
    pub const SOURCE: &str = "torch.source";

    /// Key in [`Provenance::metadata`] of that module's class, where it is not what the node suggests: of a product with a
    /// parameter in a module that is no plain linear layer.
    pub const CLASS: &str = "torch.class";

    /// The class of the module that the node was part of, where it is noted.
    pub fn class(&self) -> Option<&str> {
        self.metadata_of(Self::CLASS)
    }

    /// The module that the node was part of, where the source format says so.
    pub fn module(&self) -> Option<&str> {
        self.metadata_of(Self::MODULE)
    }

    /// Where in the model's source the node was, as people look for it: `layers.3.norm (modeling.py:123)`.
    pub fn place(&self) -> Option<String> {
        match (self.module(), self.metadata_of(Self::SOURCE)) {
            (Some(module), Some(source)) => Some(format!("{module} ({source})")),
            (one, other) => one.or(other).map(str::to_owned),
        }
    }

    fn metadata_of(&self, key: &str) -> Option<&str> {
        self.metadata.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }
}

/// A node: an op, its operands and results.
#[derive(Debug, Clone)]
pub struct Node {
    /// Name; unique where the source's names are.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// Operands; `None` is an optional operand left out.
    pub inputs: Vec<Option<ValueId>>,
    /// Results, a value a port.
    pub outputs: Vec<ValueId>,
    /// Where it came from; copies of a graph share it.
    pub provenance: Arc<Provenance>,
    /// For a fused op: the source subgraph that it stands for, with inputs and outputs in the op's port order.
    pub body: Option<Arc<Graph>>,
}

impl Node {
    /// Operands that are present, with their ports.
    pub fn operands(&self) -> impl Iterator<Item = (usize, ValueId)> + '_ {
        self.inputs.iter().enumerate().filter_map(|(p, v)| v.map(|v| (p, v)))
    }

    /// The operand at a port, if it is present.
    pub fn input(&self, port: usize) -> Option<ValueId> {
        self.inputs.get(port).copied().flatten()
    }
}

/// A result of the graph: the name under which callers ask for it, and the value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphOutput {
    /// Name; stays when the value behind it is rewritten.
    pub name: String,
    /// The value.
    pub value: ValueId,
    /// Type as the source declared it, for writing it back.
    pub declared: Type,
}

/// Model-level facts that a format wants back when the graph is written.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Operator sets that the model imports, by domain.
    #[serde(default)]
    pub opsets: BTreeMap<String, i64>,
    /// Format-specific whole-model fields (producer, versions, metadata), opaque here, by key.
    #[serde(default)]
    pub fields: BTreeMap<String, String>,
    /// Key-value metadata of the model (`metadata_props`), in file order.
    #[serde(default)]
    pub metadata: Vec<(String, String)>,
    /// What a reader wants the user to know (an illegal spelling that it understood), one line each.
    #[serde(default)]
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, Copy)]
struct Use {
    from_port: u32,
    to_port: u32,
}

/// The maker of a value that no node makes.
const NOBODY: (NodeId, u32) = (NodeId(u32::MAX), 0);

/// The provenance of nodes of which nothing is known.
static UNKNOWN: LazyLock<Arc<Provenance>> = LazyLock::new(Arc::default);

/// A dataflow graph of ops over tensors.
#[derive(Debug, Default)]
pub struct Graph {
    /// The graph's name.
    pub name: String,
    /// Model-level facts.
    pub info: ModelInfo,
    /// An edge to a removed node stays, and is passed over: taking it out would walk along all edges of a hub.
    nodes: StableDiGraph<Option<Node>, Use, u32>,
    live: usize,
    values: Vec<Option<Value>>,
    inputs: Vec<ValueId>,
    outputs: Vec<GraphOutput>,
    /// Uses of values that have no producing node: (user, port).
    leaf_uses: Vec<BTreeSet<(NodeId, u32)>>,
    /// For each value, the node and port that make it; [`NOBODY`] makes leaves and what was removed. Values know it, too,
    /// but walks ask for nothing else, and this is a tenth of the memory.
    makers: Vec<(NodeId, u32)>,
    /// For each value, how many operands read it.
    reads: Vec<u32>,
    /// For each value, how many of the graph's results it is.
    results: Vec<u32>,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    // ---- building ----

    fn push_value(&mut self, value: Value) -> ValueId {
        let id = ValueId(u32::try_from(self.values.len()).expect("fewer than 2^32 values"));
        self.makers.push(match value.def {
            Def::Node { node, port } => (node, port as u32),
            Def::Input { .. } | Def::Const(_) => NOBODY,
        });
        self.values.push(Some(value));
        self.leaf_uses.push(BTreeSet::new());
        self.reads.push(0);
        self.results.push(0);
        id
    }

    /// Adds a graph input.
    pub fn add_input(&mut self, name: impl Into<String>, ty: Type) -> ValueId {
        let id = self.push_value(Value { name: name.into(), ty, def: Def::Input { default: None } });
        self.inputs.push(id);
        id
    }

    /// Gives an input a default.
    ///
    /// # Panics
    /// If the value is no input.
    pub fn set_default(&mut self, input: ValueId, tensor: Tensor) {
        let value = self.values[input.index()].as_mut().expect("value was removed");
        assert!(matches!(value.def, Def::Input { .. }), "`{}` is no input", value.name);
        value.def = Def::Input { default: Some(tensor) };
    }

    /// Adds a constant or weight.
    pub fn add_const(&mut self, name: impl Into<String>, tensor: Tensor) -> ValueId {
        let ty = Type::tensor(tensor.dtype(), Shape::from_concrete(tensor.shape()));
        self.push_value(Value { name: name.into(), ty, def: Def::Const(tensor) })
    }

    /// Adds a node; its results get the given names and no type yet.
    ///
    /// # Errors
    /// `Structure` if the number of operands or results does not fit the op, or an operand does not exist.
    pub fn add_node<S: Into<String>>(
        &mut self,
        name: impl Into<String>,
        op: Op,
        inputs: &[Option<ValueId>],
        output_names: impl IntoIterator<Item = S>,
    ) -> Result<NodeId> {
        let name = name.into();
        let outputs: Vec<String> = output_names.into_iter().map(Into::into).collect();
        let (min, max) = op.arity();
        let bad = |message: String| Error::new(ErrorKind::Structure, message).at_node(&name);
        if inputs.len() < min || max.is_some_and(|m| inputs.len() > m) {
            let range = match max {
                Some(m) if m == min => format!("{m}"),
                Some(m) => format!("{min} to {m}"),
                None => format!("at least {min}"),
            };
            return Err(bad(format!("`{}` takes {range} operands, found {}", op.name(), inputs.len())));
        }
        if let Some(p) = inputs.iter().take(min).position(Option::is_none)
            && !matches!(op, Op::Foreign(_))
        {
            return Err(bad(format!("`{}` needs operand {p}", op.name())));
        }
        if outputs.len() != op.num_outputs() {
            return Err(bad(format!("`{}` has {} results, found {}", op.name(), op.num_outputs(), outputs.len())));
        }
        if let Some(v) = inputs.iter().flatten().find(|v| self.try_value(**v).is_none()) {
            return Err(bad(format!("operand value #{} does not exist", v.0)));
        }
        let node = Node {
            name,
            op,
            inputs: inputs.to_vec(),
            outputs: Vec::new(),
            provenance: Arc::clone(&UNKNOWN),
            body: None,
        };
        let id = NodeId(self.nodes.add_node(Some(node)).index() as u32);
        self.live += 1;
        let outputs: Vec<ValueId> = outputs
            .into_iter()
            .enumerate()
            .map(|(port, name)| self.push_value(Value { name, ty: Type::default(), def: Def::Node { node: id, port } }))
            .collect();
        self.node_mut(id).outputs = outputs;
        for (port, value) in inputs.iter().enumerate() {
            if let Some(value) = value {
                self.link(*value, id, port);
            }
        }
        Ok(id)
    }

    /// Declares a result of the graph.
    pub fn add_output(&mut self, name: impl Into<String>, value: ValueId) {
        if let Some(n) = self.results.get_mut(value.index()) {
            *n += 1;
        }
        self.outputs.push(GraphOutput { name: name.into(), value, declared: Type::default() });
    }

    fn link(&mut self, value: ValueId, user: NodeId, port: usize) {
        self.reads[value.index()] += 1;
        match self.value(value).def {
            Def::Node { node, port: from } => {
                self.nodes.add_edge(ix(node), ix(user), Use { from_port: from as u32, to_port: port as u32 });
            }
            _ => {
                self.leaf_uses[value.index()].insert((user, port as u32));
            }
        }
    }

    fn unlink(&mut self, value: ValueId, user: NodeId, port: usize) {
        self.reads[value.index()] -= 1;
        if let Def::Node { node, port: from } = self.value(value).def {
            // From the user's side: a node has few operands, while a value may have very many users.
            let edge = self
                .nodes
                .edges_directed(ix(user), Direction::Incoming)
                .find(|e| {
                    e.source() == ix(node)
                        && e.weight().from_port as usize == from
                        && e.weight().to_port as usize == port
                })
                .map(|e| e.id());
            if let Some(edge) = edge {
                self.nodes.remove_edge(edge);
            }
        } else {
            self.leaf_uses[value.index()].remove(&(user, port as u32));
        }
    }

    // ---- reading ----

    /// A node.
    ///
    /// # Panics
    /// If the node was removed or is of another graph.
    pub fn node(&self, id: NodeId) -> &Node {
        self.try_node(id).expect("node was removed")
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes[ix(id)].as_mut().expect("node was removed")
    }

    /// A node, if it is still there.
    pub fn try_node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.node_weight(ix(id))?.as_ref()
    }

    /// The parts of a node that may change without touching edges: name, provenance, body.
    ///
    /// # Panics
    /// As [`Graph::node`].
    pub fn node_meta_mut(&mut self, id: NodeId) -> (&mut String, &mut Arc<Provenance>, &mut Option<Arc<Graph>>) {
        let n = self.node_mut(id);
        (&mut n.name, &mut n.provenance, &mut n.body)
    }

    /// A value.
    ///
    /// # Panics
    /// If the value was removed or is of another graph.
    pub fn value(&self, id: ValueId) -> &Value {
        self.values[id.index()].as_ref().expect("value was removed")
    }

    /// A value, if it is still there.
    pub fn try_value(&self, id: ValueId) -> Option<&Value> {
        self.values.get(id.index()).and_then(Option::as_ref)
    }

    /// A value's type, for writing.
    ///
    /// # Panics
    /// As [`Graph::value`].
    pub fn type_mut(&mut self, id: ValueId) -> &mut Type {
        &mut self.values[id.index()].as_mut().expect("value was removed").ty
    }

    /// Renames a value; the caller keeps names unique.
    ///
    /// # Panics
    /// As [`Graph::value`].
    pub fn rename_value(&mut self, id: ValueId, name: impl Into<String>) {
        self.values[id.index()].as_mut().expect("value was removed").name = name.into();
    }

    /// Live nodes in order of creation.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> + '_ {
        self.nodes.node_indices().filter_map(|i| Some((NodeId(i.index() as u32), self.nodes[i].as_ref()?)))
    }

    /// Live nodes from the id `first` on.
    pub(crate) fn nodes_from(&self, first: usize) -> impl Iterator<Item = (NodeId, &Node)> + '_ {
        let ids = (first..self.node_bound()).map(|i| NodeId(i as u32));
        ids.filter_map(|id| Some((id, self.try_node(id)?)))
    }

    /// Number of live nodes.
    pub fn node_count(&self) -> usize {
        self.live
    }

    /// Live values in order of creation.
    pub fn values(&self) -> impl Iterator<Item = (ValueId, &Value)> + '_ {
        self.values.iter().enumerate().filter_map(|(i, v)| v.as_ref().map(|v| (ValueId(i as u32), v)))
    }

    /// One more than the largest value index ever handed out: the length of a dense side table.
    pub fn value_bound(&self) -> usize {
        self.values.len()
    }

    /// One more than the largest node index ever handed out.
    pub fn node_bound(&self) -> usize {
        use petgraph::visit::NodeIndexable;
        self.nodes.node_bound()
    }

    /// Graph inputs, in order.
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// Graph results, in order.
    pub fn outputs(&self) -> &[GraphOutput] {
        &self.outputs
    }

    /// The declared types of the graph's results, in order.
    pub fn declared_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut Type> {
        self.outputs.iter_mut().map(|o| &mut o.declared)
    }

    /// The producing node and port, if a node makes the value.
    pub fn producer(&self, value: ValueId) -> Option<(NodeId, usize)> {
        let (node, port) = self.makers[value.index()];
        (node != NOBODY.0).then_some((node, port as usize))
    }

    /// Nodes that read a value, with the port, sorted.
    pub fn users(&self, value: ValueId) -> Vec<(NodeId, usize)> {
        let mut users: Vec<_> = self.uses(value).collect();
        users.sort_unstable();
        users
    }

    /// As [`Graph::users`], one at a time and in no order: for questions that the first few answer, of values that may
    /// have very many users.
    pub fn uses(&self, value: ValueId) -> impl Iterator<Item = (NodeId, usize)> + '_ {
        let (made, leaf) = match self.value(value).def {
            Def::Node { node, port } => (Some((node, port)), None),
            _ => (None, Some(&self.leaf_uses[value.index()])),
        };
        let made = made.into_iter().flat_map(move |(node, port)| {
            let edges = self.nodes.edges_directed(ix(node), Direction::Outgoing);
            edges
                .filter(move |e| e.weight().from_port as usize == port && self.nodes[e.target()].is_some())
                .map(|e| (NodeId(e.target().index() as u32), e.weight().to_port as usize))
        });
        made.chain(leaf.into_iter().flatten().map(|(n, p)| (*n, *p as usize)))
    }

    /// True if the value is a result of the graph.
    pub fn is_output(&self, value: ValueId) -> bool {
        self.results.get(value.index()).is_some_and(|n| *n > 0)
    }

    /// True if a node reads the value, or it is a result of the graph.
    pub fn is_read(&self, value: ValueId) -> bool {
        self.is_output(value) || self.reads.get(value.index()).is_some_and(|n| *n > 0)
    }
}

fn ix(id: NodeId) -> NodeIndex<u32> {
    NodeIndex::new(id.index())
}
