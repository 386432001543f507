//! Nodes and constants of a rewritten layer: names that nothing else has, constants that are there once.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use normfuse_ir::{
    DType, Error, ErrorKind, Graph, NodeId, Op, Provenance, Result, Tensor, Type, ValueId, op::BinaryOp, scheme::F32,
};

/// Constants that many layers read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Shared {
    Number(F32),
    Ints(Vec<i64>),
    /// Which of so many blocks a row is in: rows, rows a block.
    Rows(usize, usize),
}

/// Adds to a graph what belongs to one node of it.
pub struct Writer<'g> {
    pub graph: &'g mut Graph,
    names: HashSet<String, foldhash::fast::FixedState>,
    shared: HashMap<Shared, ValueId, foldhash::fast::FixedState>,
    base: String,
    provenance: Arc<Provenance>,
}

impl<'g> Writer<'g> {
    /// A writer that knows the names that are taken.
    pub fn new(graph: &'g mut Graph) -> Self {
        let values = graph.values().map(|(_, v)| v.name.clone());
        let names = values.chain(graph.nodes().map(|(_, n)| n.name.clone())).collect();
        Self { graph, names, shared: HashMap::default(), base: String::new(), provenance: Arc::default() }
    }

    /// From here on, nodes are named after this one and are at its place in the source.
    pub fn at(&mut self, node: NodeId) {
        let node = self.graph.node(node);
        self.base.clone_from(&self.graph.value(node.outputs[0]).name);
        self.provenance.clone_from(&node.provenance);
    }

    /// From here on, nodes are named after this, and are at no place in the source.
    pub fn called(&mut self, base: &str) {
        base.clone_into(&mut self.base);
        self.provenance = Arc::default();
    }

    fn free(&mut self, name: &str) -> String {
        let mut free = name.to_owned();
        let mut n = 0;
        while !self.names.insert(free.clone()) {
            n += 1;
            free = format!("{name}_{n}");
        }
        free
    }

    /// A node of one result, which has its name.
    pub fn node(&mut self, what: &str, op: Op, inputs: &[ValueId]) -> Result<ValueId> {
        let name = self.free(&format!("{}.{what}", self.base));
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        let id = self.graph.add_node(name.clone(), op, &inputs, [name])?;
        self.graph.node_meta_mut(id).1.clone_from(&self.provenance);
        Ok(self.graph.node(id).outputs[0])
    }

    /// A value in another dtype; itself, if it has that.
    pub fn cast(&mut self, what: &str, value: ValueId, from: DType, to: DType) -> Result<ValueId> {
        if from == to { Ok(value) } else { self.node(what, Op::Cast { to, saturate: true }, &[value]) }
    }

    /// A value in another shape; 0 keeps a size.
    pub fn reshape(&mut self, what: &str, value: ValueId, sizes: &[i64]) -> Result<ValueId> {
        let sizes = self.ints(sizes);
        self.node(what, Op::Reshape { allow_zero: false }, &[value, sizes])
    }

    /// An op of a value and a number.
    pub fn with(&mut self, what: &str, op: BinaryOp, value: ValueId, number: f32) -> Result<ValueId> {
        let number = self.number(number);
        self.node(what, Op::Binary(op), &[value, number])
    }

    /// An f32. Names of constants have a `/`: without a record of parameters, names of modules with dots are those.
    pub fn number(&mut self, number: f32) -> ValueId {
        self.shared(Shared::Number(F32::new(number)), |_| {
            (format!("quantise/f32_{number:e}"), Tensor::from_f32(&[], &[number]))
        })
    }

    /// A vector of i64.
    pub fn ints(&mut self, sizes: &[i64]) -> ValueId {
        self.shared(Shared::Ints(sizes.to_vec()), |_| {
            let words: Vec<String> = sizes.iter().map(ToString::to_string).collect();
            (format!("quantise/ints_{}", words.join("_")), Tensor::from_i64(&[sizes.len()], sizes))
        })
    }

    /// For each row, the block that it is in.
    pub fn rows(&mut self, rows: usize, block: usize) -> ValueId {
        self.shared(Shared::Rows(rows, block), |_| {
            let at: Vec<i64> = (0..rows).map(|row| (row / block) as i64).collect();
            (format!("quantise/rows_{rows}_by_{block}"), Tensor::from_i64(&[rows], &at))
        })
    }

    fn shared(&mut self, key: Shared, make: impl FnOnce(&Shared) -> (String, Tensor)) -> ValueId {
        if let Some(value) = self.shared.get(&key) {
            return *value;
        }
        let (name, tensor) = make(&key);
        let name = self.free(&name);
        let value = self.graph.add_const(name, tensor);
        self.shared.insert(key, value);
        value
    }

    /// A parameter without data.
    pub fn input(&mut self, name: &str, ty: Type) -> Result<ValueId> {
        let name = self.take(name)?;
        Ok(self.graph.add_input(name, ty))
    }

    /// A parameter with data.
    pub fn constant(&mut self, name: &str, tensor: Tensor) -> Result<ValueId> {
        let name = self.take(name)?;
        Ok(self.graph.add_const(name, tensor))
    }

    /// The name itself.
    fn take(&mut self, name: &str) -> Result<String> {
        if self.names.insert(name.to_owned()) {
            return Ok(name.to_owned());
        }
        let message =
            format!("expected the name `{name}` to be free for a parameter of the layer, found a value of that name");
        Err(Error::new(ErrorKind::Structure, message))
    }

    /// Frees the name of a weight for the quantised one; the weight itself goes once nobody reads it.
    pub fn retire(&mut self, weight: ValueId) {
        let name = self.graph.value(weight).name.clone();
        let other = self.free(&format!("{name}.unquantised"));
        self.names.remove(&name);
        self.graph.rename_value(weight, other);
    }
}
