//! A graph to a document.

use std::{collections::BTreeMap, sync::Arc};

use super::{ConstDoc, Document, FileId, GraphDoc, Identify, InputDoc, Line, NodeDoc, OutputDoc, Payload, ValueDoc};
use crate::{Data, Def, Graph, NodeId, Region, Tensor, Value, ValueId};

impl Document {
    /// The document of a graph. `identify` is asked once for each data file.
    pub fn of(graph: &Graph, identify: Identify) -> Self {
        let mut w = Writer {
            identify,
            files: BTreeMap::new(),
            bodies: Vec::new(),
            known: BTreeMap::new(),
            by_text: BTreeMap::new(),
        };
        let graph = w.graph(graph);
        let files = w.files.into_iter().filter_map(|(name, id)| id.map(|id| (name, id))).collect();
        Self { normfuse: 1, files, bodies: w.bodies, graph }
    }
}

struct Writer<'a> {
    identify: Identify<'a>,
    files: BTreeMap<String, Option<FileId>>,
    bodies: Vec<GraphDoc>,
    /// Bodies that nodes share, by address; only looked up, so the order of addresses reaches nothing.
    known: BTreeMap<*const Graph, usize>,
    /// Bodies by content: rewrites make equal ones again and again.
    by_text: BTreeMap<String, usize>,
}

impl Writer<'_> {
    fn graph(&mut self, graph: &Graph) -> GraphDoc {
        let mut doc = GraphDoc { name: graph.name.clone(), info: graph.info.clone(), ..GraphDoc::default() };
        let mut number = vec![None; graph.value_bound()];
        let mut next = 0usize;
        let leaves: Vec<ValueId> =
            graph.values().filter(|(_, v)| !matches!(v.def, Def::Node { .. })).map(|(id, _)| id).collect();
        let mut leaves = leaves.into_iter().peekable();
        // A graph with a cycle has no order; its nodes are shown in order of creation, and reading it back will refuse.
        let order = graph.topo_order().unwrap_or_else(|_| graph.nodes().map(|(id, _)| id).collect());
        // Operands are numbered at the end: in a cycle some are defined after their use.
        let mut pending: Vec<(usize, NodeId)> = Vec::new();
        for id in order {
            let node = graph.node(id);
            let last_leaf = node.operands().map(|(_, v)| v).filter(|v| graph.producer(*v).is_none()).max();
            let before = node.outputs.first().copied();
            while let Some(leaf) = leaves.next_if(|l| Some(*l) <= last_leaf || before.is_some_and(|b| *l < b)) {
                number[leaf.index()] = Some(next);
                next += 1;
                doc.lines.push(self.leaf(graph, leaf));
            }
            for v in &node.outputs {
                number[v.index()] = Some(next);
                next += 1;
            }
            pending.push((doc.lines.len(), id));
            doc.lines.push(Line::Node(Box::new(NodeDoc {
                name: node.name.clone(),
                op: node.op.clone(),
                inputs: Vec::new(),
                results: node.outputs.iter().map(|v| value_doc(graph, *v)).collect(),
                provenance: Arc::clone(&node.provenance),
                body: node.body.as_ref().map(|b| self.body(b)),
                at: None,
            })));
        }
        for leaf in leaves {
            number[leaf.index()] = Some(next);
            next += 1;
            doc.lines.push(self.leaf(graph, leaf));
        }
        for (at, id) in pending {
            if let Line::Node(node) = &mut doc.lines[at] {
                node.inputs = graph.node(id).inputs.iter().map(|v| v.and_then(|v| number[v.index()])).collect();
            }
        }
        for out in graph.outputs() {
            if let Some(value) = number.get(out.value.index()).copied().flatten() {
                doc.outputs.push(OutputDoc { name: out.name.clone(), value, declared: out.declared.clone() });
            }
        }
        doc
    }

    fn leaf(&mut self, graph: &Graph, id: ValueId) -> Line {
        let value = graph.value(id);
        let stored = value.stored().map(|t| self.stored(value, t));
        match (&value.def, stored) {
            (Def::Const(_), Some(c)) => Line::Const(c),
            (_, default) => Line::Input(InputDoc { name: value.name.clone(), ty: value.ty.clone(), default }),
        }
    }

    fn stored(&mut self, value: &Value, tensor: &Tensor) -> ConstDoc {
        let payload = match tensor.data() {
            Data::Inline(_) => Payload::Inline(tensor.clone()),
            Data::External(Region { file, offset, .. }) => {
                if !self.files.contains_key(&**file) {
                    let id = (self.identify)(file);
                    self.files.insert(file.to_string(), id);
                }
                Payload::Region { file: file.to_string(), offset: *offset }
            }
        };
        let own = value.as_const().map(|_| value.ty.clone()).unwrap_or_default();
        ConstDoc {
            name: value.name.clone(),
            dtype: tensor.dtype(),
            shape: tensor.shape().to_vec(),
            scheme: own.scheme,
            opaque: own.opaque,
            payload,
        }
    }

    fn body(&mut self, body: &Arc<Graph>) -> usize {
        if let Some(n) = self.known.get(&Arc::as_ptr(body)) {
            return *n;
        }
        let doc = self.graph(body);
        let text = serde_json::to_string(&doc).unwrap_or_default();
        let n = *self.by_text.entry(text).or_insert_with(|| {
            self.bodies.push(doc);
            self.bodies.len() - 1
        });
        self.known.insert(Arc::as_ptr(body), n);
        n
    }
}

fn value_doc(graph: &Graph, id: ValueId) -> ValueDoc {
    let v = graph.value(id);
    ValueDoc { name: v.name.clone(), ty: v.ty.clone() }
}
