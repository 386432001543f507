//! A graph under construction: ops by a method each, types inferred as it grows, decisions from the tape.

use normfuse_ir::{
    DType, Dim, Graph, Op, Shape, Tensor, Type, ValueId,
    body::hostile::{Rng, WeightKind, weight},
    eval::eval_node,
    infer::Facts,
    op::{BinaryOp, ReduceOp, UnaryOp},
};

use crate::tape::Tape;

/// The graph so far.
pub struct Maker<'t> {
    pub graph: Graph,
    pub tape: Tape<'t>,
    facts: Facts,
    /// One-element constants, which ops may share.
    numbers: Vec<(DType, u64, usize, ValueId)>,
    count: usize,
}

/// A one-element tensor, rounded to the dtype.
pub fn number(dtype: DType, value: f64, rank: usize) -> Tensor {
    let wide = Tensor::from_bytes(DType::F64, vec![1; rank], value.to_le_bytes().to_vec()).unwrap();
    eval_node(&Op::Cast { to: dtype, saturate: true }, &[Some(&wide)]).unwrap().remove(0)
}

impl<'t> Maker<'t> {
    pub fn new(tape: Tape<'t>) -> Self {
        let graph = Graph::new("generated");
        let facts = Facts::of(&graph).unwrap();
        Self { graph, tape, facts, numbers: Vec::new(), count: 0 }
    }

    // ---- what is there ----

    pub fn dtype(&self, v: ValueId) -> DType {
        self.graph.value(v).ty.dtype.unwrap()
    }

    pub fn shape(&self, v: ValueId) -> &Shape {
        self.graph.value(v).ty.shape.as_ref().unwrap()
    }

    pub fn rank(&self, v: ValueId) -> usize {
        self.shape(v).rank()
    }

    /// Size of the last axis.
    pub fn width(&self, v: ValueId) -> i64 {
        self.shape(v).last().and_then(Dim::as_const).unwrap()
    }

    // ---- leaves ----

    pub fn name(&mut self, what: &str) -> String {
        self.count += 1;
        format!("{what}{}", self.count)
    }

    pub fn input(&mut self, dtype: DType, shape: Shape) -> ValueId {
        let name = self.name("in");
        self.graph.add_input(name, Type::tensor(dtype, shape))
    }

    pub fn constant(&mut self, tensor: Tensor) -> ValueId {
        let name = self.name("c");
        self.graph.add_const(name, tensor)
    }

    pub fn ints(&mut self, values: &[i64]) -> ValueId {
        self.constant(Tensor::from_i64(&[values.len()], values))
    }

    /// A one-element constant of some rank up to `rank`, perhaps one that is there already.
    pub fn number(&mut self, dtype: DType, value: f64, rank: usize) -> ValueId {
        let rank = self.tape.pick(&[0, 0, 0, 1, rank]).min(rank);
        self.number_of_rank(dtype, value, rank)
    }

    /// A one-element constant, perhaps one that is there already.
    pub fn number_of_rank(&mut self, dtype: DType, value: f64, rank: usize) -> ValueId {
        let key = (dtype, value.to_bits(), rank);
        let known = self.numbers.iter().find(|n| (n.0, n.1, n.2) == key).map(|n| n.3);
        if let Some(v) = known.filter(|_| !self.tape.one_in(3)) {
            return v;
        }
        let v = self.constant(number(dtype, value, rank));
        self.numbers.push((key.0, key.1, key.2, v));
        v
    }

    /// A weight: trained-looking, half-way points of narrow formats, or special values.
    pub fn weight(&mut self, dtype: DType, shape: &[usize], plus_one: bool) -> ValueId {
        let kind = self.tape.pick(&WeightKind::ALL);
        let seed = self.tape.seed();
        let tensor = weight(dtype, shape, kind, (0.0625, plus_one), &mut Rng::new(seed)).unwrap();
        self.constant(tensor)
    }

    // ---- ops ----

    /// All results of an op.
    pub fn ops(&mut self, op: Op, inputs: &[ValueId]) -> Vec<ValueId> {
        let name = self.name("n");
        let names: Vec<String> =
            (0..op.num_outputs()).map(|i| if i == 0 { name.clone() } else { format!("{name}_{i}") }).collect();
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        let describe = format!("{op:?}");
        let node = self.graph.add_node(name, op, &inputs, names).unwrap();
        self.facts.infer_new(&mut self.graph, node).unwrap_or_else(|e| panic!("the generator made {describe}: {e}"));
        self.graph.node(node).outputs.clone()
    }

    pub fn op(&mut self, op: Op, inputs: &[ValueId]) -> ValueId {
        self.ops(op, inputs)[0]
    }

    pub fn unary(&mut self, op: UnaryOp, x: ValueId) -> ValueId {
        self.op(Op::Unary(op), &[x])
    }

    pub fn binary(&mut self, op: BinaryOp, a: ValueId, b: ValueId) -> ValueId {
        self.op(Op::Binary(op), &[a, b])
    }

    /// A commutative op with its operands in either order.
    pub fn either(&mut self, op: BinaryOp, a: ValueId, b: ValueId) -> ValueId {
        if self.tape.one_in(2) { self.binary(op, b, a) } else { self.binary(op, a, b) }
    }

    /// An op with a constant.
    pub fn with(&mut self, op: BinaryOp, x: ValueId, c: f64) -> ValueId {
        let c = self.number(self.dtype(x), c, self.rank(x));
        self.binary(op, x, c)
    }

    pub fn cast(&mut self, x: ValueId, to: DType) -> ValueId {
        self.op(Op::Cast { to, saturate: true }, &[x])
    }

    /// A cast, left out where it would do nothing.
    pub fn cast_to(&mut self, x: ValueId, to: DType) -> ValueId {
        if self.dtype(x) == to && !self.tape.one_in(8) { x } else { self.cast(x, to) }
    }

    /// A reduction over the last axis.
    pub fn reduce(&mut self, op: ReduceOp, x: ValueId, keepdims: bool) -> ValueId {
        let last = self.rank(x) as i64 - 1;
        let axis = self.tape.pick(&[-1, last]);
        self.op(Op::Reduce { op, axes: Some(vec![axis]), keepdims }, &[x])
    }

    pub fn unsqueeze_last(&mut self, x: ValueId) -> ValueId {
        self.op(Op::Unsqueeze { axes: vec![-1] }, &[x])
    }

    pub fn squeeze_last(&mut self, x: ValueId) -> ValueId {
        self.op(Op::Squeeze { axes: Some(vec![-1]) }, &[x])
    }

    pub fn reshape(&mut self, x: ValueId, to: &[i64]) -> ValueId {
        let to = self.ints(to);
        self.op(Op::Reshape { allow_zero: false }, &[x, to])
    }

    /// The value in another shape's sizes, if a constant can say them.
    pub fn like(&mut self, x: ValueId, shape: &Shape) -> Option<ValueId> {
        let own = self.shape(x).clone();
        let mut open = 0;
        let size = |(i, d): (usize, &Dim)| match d.as_const() {
            Some(n) => n,
            None if own.0.get(i) == Some(d) => 0,
            None => {
                open += 1;
                -1
            }
        };
        let sizes: Vec<i64> = shape.0.iter().enumerate().map(size).collect();
        (open <= 1).then(|| self.reshape(x, &sizes))
    }

    /// The value, perhaps through something that changes no bits.
    pub fn copied(&mut self, x: ValueId) -> ValueId {
        match self.tape.below(16) {
            13 => self.unary(UnaryOp::Identity, x),
            14 => {
                let shape = self.shape(x).clone();
                self.like(x, &shape).unwrap_or(x)
            }
            15 => {
                let more = self.op(Op::Unsqueeze { axes: vec![0] }, &[x]);
                self.op(Op::Squeeze { axes: Some(vec![0]) }, &[more])
            }
            _ => x,
        }
    }

    /// The graph as its author wrote it: without inferred types, and with results.
    pub fn finish(mut self) -> Graph {
        let unread: Vec<ValueId> = (self.graph.nodes())
            .flat_map(|(_, n)| n.outputs.clone())
            .filter(|v| self.graph.users(*v).is_empty())
            .collect();
        let mut results = 0;
        for v in unread {
            // Now and then nobody wants a value, and what makes it is dead code.
            if results == 0 || !self.tape.one_in(12) {
                self.output(v);
                results += 1;
            }
        }
        // A value that somebody else wants, too.
        for _ in 0..[0, 0, 0, 0, 1, 1, 2][self.tape.below(7)] {
            let all: Vec<ValueId> = self.graph.nodes().flat_map(|(_, n)| n.outputs.clone()).collect();
            let v = self.tape.pick(&all);
            let floats = self.graph.value(v).ty.dtype.is_some_and(DType::is_arithmetic_float);
            let v = if floats && self.tape.one_in(2) { self.unary(UnaryOp::Neg, v) } else { v };
            self.output(v);
        }
        forget_types(&mut self.graph);
        self.graph
    }

    pub fn output(&mut self, v: ValueId) {
        let name = self.name("out");
        self.graph.add_output(name, v);
    }
}

/// Takes away what was inferred.
pub fn forget_types(graph: &mut Graph) {
    let made: Vec<ValueId> = graph.nodes().flat_map(|(_, n)| n.outputs.clone()).collect();
    for v in made {
        *graph.type_mut(v) = Type::default();
    }
}
