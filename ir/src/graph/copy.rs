//! Copies of whole graphs.

use petgraph::stable_graph::StableDiGraph;

use crate::Graph;

impl Clone for Graph {
    /// Copies are made to be changed: there is room for what a rewrite adds, which otherwise would copy all of it again.
    fn clone(&self) -> Self {
        fn roomy<T: Clone>(all: &[T]) -> Vec<T> {
            let mut copy = Vec::with_capacity(all.len() + all.len() / 4);
            copy.extend_from_slice(all);
            copy
        }
        let (n, e) = (self.node_bound(), self.nodes.edge_count());
        let mut nodes = StableDiGraph::with_capacity(n + n / 4, e + e / 4);
        nodes.clone_from(&self.nodes);
        Self {
            name: self.name.clone(),
            info: self.info.clone(),
            nodes,
            live: self.live,
            values: roomy(&self.values),
            inputs: self.inputs.clone(),
            outputs: self.outputs.clone(),
            leaf_uses: roomy(&self.leaf_uses),
            makers: roomy(&self.makers),
            reads: roomy(&self.reads),
            results: roomy(&self.results),
        }
    }
}
