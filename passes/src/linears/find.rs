//! The linear layers of a graph: products with a parameter `MODULE.weight`, as torch and its exporters spell them.

use std::collections::BTreeMap;

use normfuse_ir::{DType, Def, Graph, Node, NodeId, Op, Shape, ValueId};

/// Key under which torch's exporter of ONNX lists a node's classes, outermost first.
const ONNX_CLASSES: &str = "pkg.torch.onnx.class_hierarchy";
/// The same for its modules, and the call's own name at the end.
const ONNX_SCOPES: &str = "pkg.torch.onnx.name_scopes";
/// The class of torch's own linear layer.
pub const TORCH_LINEAR: &str = "torch.nn.modules.linear.Linear";

/// A layer.
#[derive(Debug, Clone)]
pub struct Linear {
    /// Its module: the parameter's name without `.weight`.
    pub module: String,
    /// The module's class, where the graph says it.
    pub class: Option<String>,
    /// The name of its weight.
    pub parameter: String,
    /// Its weight, `[rows, columns]`.
    pub weight: ValueId,
    /// The graph has it as `[columns, rows]`: an exporter transposed it and left it no name.
    pub turned: bool,
    /// N.
    pub rows: usize,
    /// K.
    pub columns: usize,
    /// Where it is called.
    pub products: Vec<Product>,
    /// A node that reads the weight and is no such call.
    pub other_reader: Option<String>,
}

/// A call of a layer.
#[derive(Debug, Clone)]
pub struct Product {
    /// The product.
    pub node: NodeId,
    /// What it reads.
    pub x: ValueId,
    /// Dimensions of that, where they are known.
    pub rank: Option<usize>,
    /// Dtype of operands and result.
    pub dtype: DType,
    /// What it makes.
    pub result: ValueId,
    /// What is added in the same node.
    pub bias: Option<ValueId>,
}

impl Product {
    /// The same with the operands that the node has by now: a layer that it reads may be another value since.
    pub fn now(&self, graph: &Graph) -> Self {
        let node = graph.node(self.node);
        Self { x: node.input(0).unwrap_or(self.x), bias: node.input(2), ..self.clone() }
    }
}

/// All layers, in the order in which the graph has their first calls.
pub fn all(graph: &Graph) -> Vec<Linear> {
    let mut linears: Vec<Linear> = Vec::new();
    let mut at: BTreeMap<ValueId, usize> = BTreeMap::new();
    for (id, node) in graph.nodes() {
        let Some((weight, product)) = product(graph, id, node) else { continue };
        if let Some(i) = at.get(&weight) {
            linears[*i].products.push(product);
            continue;
        }
        let Some(linear) = linear(graph, weight, node, product) else { continue };
        at.insert(weight, linears.len());
        linears.push(linear);
    }
    for linear in &mut linears {
        linear.other_reader = other_reader(graph, linear);
    }
    linears
}

/// The weight of a product, if it is one of rows of x with rows of a leaf.
fn product(graph: &Graph, id: NodeId, node: &Node) -> Option<(ValueId, Product)> {
    let (x, right) = (node.input(0)?, node.input(1)?);
    let weight =
        match &node.op {
            Op::MatMul => match repeated(graph, right) {
                Some(matrix) => transposed(graph, matrix)?,
                None => transposed(graph, right).unwrap_or(right),
            },
            Op::Gemm { alpha, beta, trans_a: false, trans_b } if alpha.get() == 1.0 && beta.get() == 1.0 => {
                if *trans_b { right } else { transposed(graph, right)? }
            }
            _ => return None,
        };
    if !matches!(graph.value(weight).def, Def::Const(_) | Def::Input { .. }) {
        return None;
    }
    let ty = &graph.value(x).ty;
    let dtype = graph.value(weight).ty.dtype.filter(|d| matches!(d, DType::F32 | DType::F16 | DType::BF16))?;
    if ty.dtype.is_some_and(|d| d != dtype) {
        return None;
    }
    let rank = ty.shape.as_ref().map(Shape::rank);
    let result = *node.outputs.first()?;
    Some((weight, Product { node: id, x, rank, dtype, result, bias: node.input(2) }))
}

/// The matrix of which a value is a batch of copies: a decomposed product of three axes expands its weight.
fn repeated(graph: &Graph, value: ValueId) -> Option<ValueId> {
    let node = graph.node(graph.producer(value)?.0);
    let shape = |v: ValueId| graph.value(v).ty.shape.as_ref();
    let matrix = node.input(0)?;
    let (own, all) = (shape(matrix)?, shape(value)?);
    (matches!(node.op, Op::Expand) && own.rank() == 2 && all.0.ends_with(&own.0)).then_some(matrix)
}

fn transposed(graph: &Graph, value: ValueId) -> Option<ValueId> {
    let node = graph.node(graph.producer(value)?.0);
    match &node.op {
        Op::Transpose { perm } if perm.as_deref().is_none_or(|p| p == [1, 0]) => node.input(0),
        _ => None,
    }
}

fn linear(graph: &Graph, weight: ValueId, node: &Node, product: Product) -> Option<Linear> {
    let value = graph.value(weight);
    let (parameter, class) = (value.name.clone(), class(node));
    let turned = matches!(node.op, Op::MatMul) && node.input(1) == Some(weight);
    let module = if turned {
        // It has no name of its own, so the layer must be known for one.
        module(node).filter(|_| class.as_deref() == Some(TORCH_LINEAR))?
    } else {
        parameter.strip_suffix(".weight")?.to_owned()
    };
    let [mut rows, mut columns] = *value.ty.shape.as_ref()?.as_concrete()? else { return None };
    if rows == 0 || columns == 0 {
        return None;
    }
    if turned {
        std::mem::swap(&mut rows, &mut columns);
    }
    let products = vec![product];
    Some(Linear { module, class, parameter, weight, turned, rows, columns, products, other_reader: None })
}

/// The class of the module that a node was called in.
fn class(node: &Node) -> Option<String> {
    if let Some(class) = node.provenance.class() {
        return Some(class.to_owned());
    }
    listed(node, ONNX_CLASSES).rfind(|c| !c.starts_with("aten.")).map(str::to_owned)
}

/// The module that torch's exporter of ONNX says a node is in: the last of its scopes but for the call itself.
fn module(node: &Node) -> Option<String> {
    listed(node, ONNX_SCOPES).rev().nth(1).map(str::to_owned)
}

/// The entries of a list in Python's spelling: `['a.Model', 'torch.nn.modules.linear.Linear', 'aten.linear.default']`.
fn listed<'n>(node: &'n Node, key: &str) -> impl DoubleEndedIterator<Item = &'n str> {
    let list = node.provenance.metadata.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
    let parts: Vec<&str> = list.unwrap_or_default().split('\'').collect();
    (1..parts.len()).step_by(2).map(|i| parts[i]).collect::<Vec<_>>().into_iter()
}

/// A reader of the weight that is none of the layer's products, or a transposition or copies of it for one.
fn other_reader(graph: &Graph, linear: &Linear) -> Option<String> {
    let other = graph.uses(linear.weight).map(|(id, _)| id).find(|id| !serves(graph, linear, *id));
    let result = || graph.is_output(linear.weight).then(|| "a result of the graph".to_owned());
    other.map(|id| graph.node(id).name.clone()).or_else(result)
}

/// True for a product of the layer, and for what only brings the weight there.
fn serves(graph: &Graph, linear: &Linear, id: NodeId) -> bool {
    let node = graph.node(id);
    let feeds = |v: &ValueId| !graph.is_output(*v) && graph.uses(*v).all(|(user, _)| serves(graph, linear, user));
    linear.products.iter().any(|p| p.node == id)
        || (matches!(node.op, Op::Transpose { .. } | Op::Expand) && node.outputs.iter().all(feeds))
}
