//! A graph under construction: names, types, constants and sizes.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use normfuse_ir::{
    DType, Dim, Graph, NodeId, Op, Tensor, Type, ValueId,
    infer::Facts,
    op::{BinaryOp, UnaryOp},
};

use super::{
    dtype,
    expr::{Expr, Operator},
    memory::Memory,
    schema::{SymInt, TensorMeta},
    version::TorchVersion,
};
use crate::{
    error::{FormatError, Result},
    reject::{Reject, foreign},
};

/// An axis of a rank, counted from the front.
pub fn axis_of(axis: i64, rank: usize) -> Result<usize, Reject> {
    let positive = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(positive)
        .ok()
        .filter(|a| *a < rank)
        .ok_or_else(|| FormatError::mismatch(format!("an axis of a tensor of rank {rank}"), axis).into())
}

/// The graph, and what is known while it grows.
pub struct Builder<'p> {
    pub graph: Graph,
    pub memory: Memory,
    pub version: TorchVersion,
    /// There is a cast whose meaning depends on the version, which is not known.
    pub version_assumed: bool,
    /// The float that the call in hand results in, and torch's default type as far as the program has shown it.
    result_float: Option<DType>,
    default_float: DType,
    /// Where tensors are read last, and where we are: places of nodes in order, results behind them all.
    pub last_read: HashMap<&'p str, usize>,
    pub place: usize,
    facts: Facts,
    metas: &'p BTreeMap<String, TensorMeta>,
    sym_ints: &'p BTreeMap<String, SymInt>,
    names: HashSet<String>,
    exprs: HashMap<&'p str, Arc<Expr>>,
    /// Where a symbol's number can be read: an axis of a value.
    symbols: HashMap<Arc<str>, (ValueId, i64)>,
    sizes: HashMap<Dim, ValueId>,
    shapes: HashMap<Vec<Dim>, ValueId>,
    constants: HashMap<(DType, Vec<usize>, Vec<u8>), ValueId>,
    /// Nodes by what they compute: exporters write one quantiser for each Linear that reads a tensor.
    known: HashMap<(Op, Vec<Option<ValueId>>), NodeId>,
    /// The call in hand: its name, its nodes' metadata, its first node, which of its nodes have a name of the file.
    label: String,
    metadata: Vec<(String, String)>,
    start: usize,
    named: HashSet<NodeId>,
}

impl<'p> Builder<'p> {
    /// An empty graph of a program.
    pub fn new(
        name: &str,
        version: TorchVersion,
        metas: &'p BTreeMap<String, TensorMeta>,
        sym_ints: &'p BTreeMap<String, SymInt>,
    ) -> Self {
        Self {
            graph: Graph::new(name),
            memory: Memory::default(),
            version,
            version_assumed: false,
            result_float: None,
            default_float: DType::F32,
            last_read: HashMap::new(),
            place: 0,
            facts: Facts::default(),
            metas,
            sym_ints,
            names: metas.keys().cloned().collect(),
            exprs: HashMap::new(),
            symbols: HashMap::new(),
            sizes: HashMap::new(),
            shapes: HashMap::new(),
            constants: HashMap::new(),
            known: HashMap::new(),
            label: String::new(),
            metadata: Vec::new(),
            start: 0,
            named: HashSet::new(),
        }
    }

    // ---- names and types ----

    /// `base`, or `base_1`, `base_2`, ...: the first that is free, taken.
    pub fn fresh_name(&mut self, base: &str) -> String {
        if self.names.insert(base.to_owned()) {
            return base.to_owned();
        }
        let mut n = 1;
        loop {
            let name = format!("{base}_{n}");
            if self.names.insert(name.clone()) {
                return name;
            }
            n += 1;
        }
    }

    /// How the file types a tensor.
    ///
    /// # Errors
    /// A tensor that the file does not type.
    pub fn meta(&self, name: &str) -> Result<&'p TensorMeta> {
        self.metas.get(name).ok_or_else(|| FormatError::mismatch("a type of the tensor", format!("none of `{name}`")))
    }

    /// The sizes of a tensor as the file has them.
    ///
    /// # Errors
    /// As [`Builder::meta`] and [`Builder::expr`].
    pub fn meta_sizes(&mut self, name: &str) -> Result<Vec<Arc<Expr>>> {
        let meta = self.meta(name)?;
        meta.sizes.iter().map(|s| self.expr(s)).collect()
    }

    /// A tensor's type as the file has it.
    ///
    /// # Errors
    /// As [`Builder::meta_sizes`], and element types that the IR lacks.
    pub fn declared(&mut self, name: &str) -> Result<Type> {
        let dtype = dtype::of(self.meta(name)?.dtype)?;
        let sizes = self.meta_sizes(name)?;
        Ok(Type::tensor(dtype, sizes.iter().map(|e| e.dim()).collect::<Vec<_>>()))
    }

    /// The kind of device that a tensor is on, where the file says it.
    pub fn device(&self, name: &str) -> Option<&'p str> {
        self.metas.get(name).map(|m| m.device.r#type.as_str())
    }

    /// True for complex numbers, as the file types a tensor.
    pub fn is_complex(&self, name: &str) -> bool {
        self.metas.get(name).is_some_and(|m| dtype::of_parts(m.dtype).is_some())
    }

    /// The type of the value that stands for a tensor: of complex numbers it is their parts.
    ///
    /// # Errors
    /// As [`Builder::declared`].
    pub fn form(&mut self, name: &str) -> Result<Type> {
        let Some(part) = dtype::of_parts(self.meta(name)?.dtype) else { return self.declared(name) };
        let sizes = self.meta_sizes(name)?;
        Ok(Type::tensor(part, sizes.iter().map(|e| e.dim()).chain([Dim::from(2)]).collect::<Vec<_>>()))
    }

    /// A size of the file.
    ///
    /// # Errors
    /// An expression that does not parse.
    pub fn expr(&mut self, size: &'p SymInt) -> Result<Arc<Expr>> {
        match size {
            SymInt::Int(i) => Ok(Arc::new(Expr::Int(*i))),
            SymInt::Unknown(key) => Err(FormatError::mismatch("a size of torch's schema", format!("`{key}`"))),
            SymInt::Expr(text) => {
                if let Some(e) = self.exprs.get(text.as_str()) {
                    return Ok(e.clone());
                }
                let e = Expr::parse(text).map_err(|why| {
                    // Enough of it to find it by.
                    let begin: String = text.chars().take(80).collect();
                    let dots = if begin.len() < text.len() { " ..." } else { "" };
                    FormatError::mismatch("a size expression", format!("`{begin}{dots}`: {why}"))
                })?;
                let e = Arc::new(e);
                self.exprs.insert(text, e.clone());
                Ok(e)
            }
        }
    }

    /// The size that a computed integer is.
    ///
    /// # Errors
    /// An integer that nothing makes, or whose expression does not parse.
    pub fn sym_int(&mut self, name: &str) -> Result<Arc<Expr>> {
        let size = self.sym_ints.get(name).ok_or_else(|| {
            FormatError::mismatch("an integer that an earlier node makes", format!("`{name}`, which nothing makes"))
        })?;
        self.expr(size)
    }

    /// What is known of a value.
    pub fn ty(&self, value: ValueId) -> &Type {
        &self.graph.value(value).ty
    }

    /// A value's element type.
    pub fn dtype(&self, value: ValueId) -> Result<DType, Reject> {
        self.ty(value).dtype.ok_or_else(|| Reject::Foreign("the element type of an operand is not known".into()))
    }

    /// A value's sizes.
    pub fn shape(&self, value: ValueId) -> Result<Vec<Dim>, Reject> {
        let shape = self.ty(value).shape.as_ref();
        shape.map(|s| s.0.clone()).ok_or_else(|| Reject::Foreign("the shape of an operand is not known".into()))
    }

    /// An axis, counted from the front.
    pub fn axis(&self, value: ValueId, axis: i64) -> Result<usize, Reject> {
        axis_of(axis, self.shape(value)?.len())
    }

    // ---- calls ----

    /// Starts a call: nodes from here on are its own.
    pub fn begin(&mut self, label: &str, metadata: Vec<(String, String)>) {
        label.clone_into(&mut self.label);
        self.metadata = metadata;
        self.start = self.graph.node_bound();
        self.named.clear();
    }

    /// Notes what a call results in: a float that it makes of integers alone is torch's default type at export.
    pub fn results_in(&mut self, names: &[&str]) {
        let float = |name: &&str| self.declared(name).ok()?.dtype.filter(|d| d.is_arithmetic_float());
        self.result_float = names.first().and_then(float);
    }

    /// The type of floats that are made of integers, as the result in hand has it, or the last one before it that had one.
    pub fn default_float(&mut self) -> DType {
        self.default_float = self.result_float.unwrap_or(self.default_float);
        self.default_float
    }

    /// Takes back the nodes of the call in hand that nothing reads.
    pub fn abandon(&mut self) {
        let own: Vec<NodeId> = self.graph.nodes().map(|(id, _)| id).filter(|id| id.index() >= self.start).collect();
        self.graph.remove_dead(own);
        // Sizes may be among them.
        self.sizes.clear();
        self.shapes.clear();
    }

    /// Adds a node, or finds the one that computes the same; returns its results.
    ///
    /// # Errors
    /// What inference says of its operands.
    pub fn emit(&mut self, op: Op, inputs: &[Option<ValueId>]) -> Result<Vec<ValueId>> {
        let key = (op, inputs.to_vec());
        if let Some(node) = self.known.get(&key).and_then(|id| self.graph.try_node(*id)) {
            return Ok(node.outputs.clone());
        }
        let id = self.add(key.0.clone(), inputs)?;
        self.known.insert(key, id);
        Ok(self.graph.node(id).outputs.clone())
    }

    /// Adds a node that may do more than compute its results.
    ///
    /// # Errors
    /// As [`Builder::emit`].
    pub fn add(&mut self, op: Op, inputs: &[Option<ValueId>]) -> Result<NodeId> {
        let base = format!("{}.{}", self.label, op.name());
        let names: Vec<String> = (0..op.num_outputs()).map(|_| self.fresh_name(&base)).collect();
        let title = names.first().cloned().unwrap_or(base);
        // People know the call, not the nodes that it became.
        let named = |mut e: normfuse_ir::Error| {
            e.node = Some(self.label.clone());
            e
        };
        let id = self.graph.add_node(title, op, inputs, names).map_err(named)?;
        self.facts.infer_new(&mut self.graph, id).map_err(named)?;
        Arc::make_mut(self.graph.node_meta_mut(id).1).metadata.clone_from(&self.metadata);
        Ok(id)
    }

    /// Adds a node with one result.
    ///
    /// # Errors
    /// As [`Builder::emit`].
    pub fn one(&mut self, op: Op, inputs: &[ValueId]) -> Result<ValueId> {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        self.emit(op, &inputs)?.first().copied().ok_or_else(|| FormatError::invalid("a node without results"))
    }

    /// A unary node.
    ///
    /// # Errors
    /// As [`Builder::emit`]; so for all below.
    pub fn unary(&mut self, op: UnaryOp, x: ValueId) -> Result<ValueId> {
        self.one(Op::Unary(op), &[x])
    }

    /// A binary node.
    pub fn binary(&mut self, op: BinaryOp, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.one(Op::Binary(op), &[a, b])
    }

    /// The value in another element type, as torch converts: what it does with values that an 8-bit float does not hold
    /// is a matter of its version, and 64 bits become less than 32 by way of f32.
    pub fn cast(&mut self, x: ValueId, to: DType) -> Result<ValueId> {
        let from = self.ty(x).dtype;
        if from == Some(to) {
            return Ok(x);
        }
        let narrow =
            matches!(to, DType::F8E4M3FN | DType::F8E4M3FNUZ | DType::F8E5M2 | DType::F8E5M2FNUZ | DType::F8E8M0);
        let saturate = match to {
            DType::F8E4M3FN => {
                self.version_assumed |= !self.version.is_known();
                self.version.saturates_e4m3fn()
            }
            _ => !narrow,
        };
        let by_f32 = from == Some(DType::F64) && (narrow || matches!(to, DType::F16 | DType::BF16));
        let x = if by_f32 { self.cast(x, DType::F32)? } else { x };
        self.one(Op::Cast { to, saturate }, &[x])
    }

    /// Gives a value of the call in hand the name that the file has for it, if it is made by one of its nodes.
    ///
    /// # Errors
    /// If the file types it otherwise.
    pub fn name_result(&mut self, value: ValueId, name: &str) -> Result<()> {
        let declared = self.form(name)?;
        let own = self.graph.producer(value).filter(|(node, _)| node.index() >= self.start);
        let ty = self.graph.type_mut(value);
        ty.dtype = ty.dtype.or(declared.dtype);
        if ty.dtype != declared.dtype {
            let text = |d: Option<DType>| d.map_or_else(String::new, |d| d.to_string());
            return Err(FormatError::mismatch(format!("a result of {}", text(ty.dtype)), text(declared.dtype)));
        }
        match (&mut ty.shape, declared.shape) {
            (None, shape) => ty.shape = shape,
            (Some(found), Some(shape)) => {
                let differ = found.rank() != shape.rank()
                    || found
                        .0
                        .iter()
                        .zip(&shape.0)
                        .any(|(a, b)| a.as_const().zip(b.as_const()).is_some_and(|(a, b)| a != b));
                if differ {
                    return Err(FormatError::mismatch(format!("a result of shape {found}"), shape));
                }
                for (a, b) in found.0.iter_mut().zip(shape.0) {
                    if a.has_unknown() {
                        *a = b;
                    }
                }
            }
            (Some(_), None) => {}
        }
        if let Some((node, port)) = own {
            let first = self.named.is_empty();
            if self.graph.value(value).name.starts_with(&format!("{}.", self.label)) {
                self.graph.rename_value(value, name);
            }
            if self.named.insert(node) {
                let title = if first { self.label.clone() } else { name.to_owned() };
                if port == 0 || first {
                    *self.graph.node_meta_mut(node).0 = title;
                }
            }
        }
        Ok(())
    }

    // ---- constants ----

    /// A constant that the file does not have as one, once however often it is asked for.
    pub fn constant(&mut self, base: &str, tensor: Tensor) -> ValueId {
        let key = (tensor.dtype(), tensor.shape().to_vec(), tensor.bytes().to_vec());
        if let Some(v) = self.constants.get(&key) {
            return *v;
        }
        let name = self.fresh_name(base);
        let v = self.graph.add_const(name, tensor);
        self.constants.insert(key, v);
        v
    }

    /// A vector of integers.
    pub fn ints(&mut self, values: &[i64]) -> ValueId {
        let list: Vec<String> = values.iter().map(ToString::to_string).collect();
        self.constant(&format!("ints_{}", list.join("_")), Tensor::from_i64(&[values.len()], values))
    }

    /// An integer of rank 0.
    pub fn int(&mut self, value: i64) -> ValueId {
        self.constant(&format!("int_{value}"), Tensor::from_i64(&[], &[value]))
    }

    // ---- sizes ----

    /// Notes that a symbol's number is an axis of a value.
    pub fn symbol_at(&mut self, size: &Expr, value: ValueId, axis: usize) {
        if let Expr::Sym(s) = size {
            self.symbols.entry(s.clone()).or_insert((value, axis as i64));
        }
    }

    /// A size as a vector of one integer.
    ///
    /// # Errors
    /// A symbol that is no axis of anything.
    pub fn size(&mut self, size: &Expr) -> Result<ValueId, Reject> {
        let dim = size.dim();
        if let Some(c) = dim.as_const() {
            return Ok(self.ints(&[c]));
        }
        if let Some(v) = self.sizes.get(&dim) {
            return Ok(*v);
        }
        let made = match size {
            Expr::Int(i) => self.ints(&[*i]),
            Expr::Sym(s) => {
                let Some((value, axis)) = self.symbols.get(s).copied() else {
                    return foreign(format!("the size `{s}` is computed from data"));
                };
                self.one(Op::Shape { start: axis, end: Some(axis + 1) }, &[value])?
            }
            Expr::Op(op, ab) => {
                let a = self.size(&ab.0)?;
                let b = self.size(&ab.1)?;
                let one = self.ints(&[1]);
                match op {
                    Operator::Add => self.binary(BinaryOp::Add, a, b)?,
                    Operator::Mul => self.binary(BinaryOp::Mul, a, b)?,
                    Operator::FloorDiv => self.binary(BinaryOp::Div, a, b)?,
                    Operator::CeilDiv => {
                        let less = self.binary(BinaryOp::Sub, b, one)?;
                        let sum = self.binary(BinaryOp::Add, a, less)?;
                        self.binary(BinaryOp::Div, sum, b)?
                    }
                    Operator::Mod => self.binary(BinaryOp::Mod, a, b)?,
                    Operator::Max => self.binary(BinaryOp::Max, a, b)?,
                    Operator::Min => self.binary(BinaryOp::Min, a, b)?,
                    Operator::Pow => self.binary(BinaryOp::Pow, a, b)?,
                }
            }
        };
        self.sizes.insert(dim, made);
        Ok(made)
    }

    /// Sizes as one vector.
    pub fn shape_operand(&mut self, sizes: &[Arc<Expr>]) -> Result<ValueId, Reject> {
        let dims: Vec<Dim> = sizes.iter().map(|e| e.dim()).collect();
        if let Some(numbers) = dims.iter().map(Dim::as_const).collect::<Option<Vec<_>>>() {
            return Ok(self.ints(&numbers));
        }
        if let Some(v) = self.shapes.get(&dims) {
            return Ok(*v);
        }
        let mut parts = Vec::new();
        let mut numbers: Vec<i64> = Vec::new();
        for (e, d) in sizes.iter().zip(&dims) {
            if let Some(c) = d.as_const() {
                numbers.push(c);
                continue;
            }
            if !numbers.is_empty() {
                parts.push(self.ints(&std::mem::take(&mut numbers)));
            }
            parts.push(self.size(e)?);
        }
        if !numbers.is_empty() {
            parts.push(self.ints(&numbers));
        }
        let v = if let [one] = parts.as_slice() { *one } else { self.one(Op::Concat { axis: 0 }, &parts)? };
        self.shapes.insert(dims, v);
        Ok(v)
    }

    /// The value in another shape of as many elements. Sizes that stay are copied, and one that is not a number follows
    /// from the rest, so that few shapes are computed.
    pub fn reshape(&mut self, x: ValueId, to: &[Arc<Expr>]) -> Result<ValueId, Reject> {
        let from = self.shape(x)?;
        let dims: Vec<Dim> = to.iter().map(|e| e.dim()).collect();
        if from == dims && !from.iter().any(Dim::is_collapsed) {
            return Ok(x);
        }
        let zero = dims.iter().any(|d| d.as_const() == Some(0));
        let mut target: Vec<Option<i64>> = dims
            .iter()
            .enumerate()
            .map(|(i, d)| d.as_const().or_else(|| (!zero && from.get(i) == Some(d) && !d.is_collapsed()).then_some(0)))
            .collect();
        let open = target.iter().filter(|t| t.is_none()).count();
        if open == 1 && !zero {
            for t in &mut target {
                *t = t.or(Some(-1));
            }
        }
        let operand = match target.iter().copied().collect::<Option<Vec<i64>>>() {
            Some(numbers) => self.ints(&numbers),
            None => self.shape_operand(to)?,
        };
        Ok(self.one(Op::Reshape { allow_zero: zero }, &[x, operand])?)
    }

    /// The value repeated along axes of size 1 and new ones in front.
    pub fn expand(&mut self, x: ValueId, to: &[Arc<Expr>]) -> Result<ValueId, Reject> {
        let from = self.shape(x)?;
        let Some(new) = to.len().checked_sub(from.len()) else {
            let found = format!("{} and {}", from.len(), to.len());
            return Err(FormatError::mismatch("a shape of at least the tensor's rank", found).into());
        };
        // Two-way broadcasting: a 1 keeps what is there.
        let one = Arc::new(Expr::Int(1));
        let target: Vec<Arc<Expr>> = to
            .iter()
            .enumerate()
            .map(|(i, e)| match i.checked_sub(new).and_then(|j| from.get(j)) {
                Some(d) if *d == e.dim() => one.clone(),
                _ => e.clone(),
            })
            .collect();
        if new == 0 && target.iter().all(|e| **e == Expr::Int(1)) {
            return Ok(x);
        }
        let operand = self.shape_operand(&target)?;
        Ok(self.one(Op::Expand, &[x, operand])?)
    }
}
