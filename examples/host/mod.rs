//! A compiler's own program type, as small as it can be: instructions in order, each with one result, and ops that only
//! this compiler knows. What matters here is the way to normfuse's IR.
#![allow(dead_code, reason = "each example uses its own part")]

use std::{collections::BTreeMap, fmt, sync::Arc};

use normfuse::ir::{
    DType, FusedNorm, Graph, Op, Result, Shape, Tensor, Type, ValueId,
    fused::OutPort,
    op::{BinaryOp, ForeignOp, ReduceOp, UnaryOp},
};

/// What an instruction does.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Comes from outside.
    Param,
    /// A weight or a number; a program of real size would refer to its data here.
    Const(Vec<f32>),
    Add,
    Mul,
    Rsqrt,
    /// Mean of each row, which stays as an axis of size 1.
    RowMean,
    Convert,
    Clamp,
    /// An op of this compiler's own, by its name.
    Own(&'static str),
    /// The fused op; its results are instructions of their own.
    Fused(Box<FusedNorm>),
    /// One result of a fused op.
    Port(OutPort),
}

/// An instruction; operands are positions of earlier ones.
#[derive(Debug, Clone, PartialEq)]
pub struct Inst {
    pub name: String,
    pub kind: Kind,
    pub args: Vec<usize>,
    pub dtype: DType,
    pub shape: Vec<i64>,
    /// Where the user wrote it: what a compiler wants to keep and normfuse knows nothing of.
    pub line: u32,
}

/// A program; the last instruction is its result.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Program(pub Vec<Inst>);

impl Program {
    pub fn push(&mut self, name: &str, kind: Kind, args: &[usize], dtype: DType, shape: &[i64]) -> usize {
        let line = 10 * (self.0.len() as u32 + 1);
        self.0.push(Inst { name: name.into(), kind, args: args.to_vec(), dtype, shape: shape.to_vec(), line });
        self.0.len() - 1
    }

    /// A decoder's norm between attention and an fp8 product, as this compiler has it after its own lowering.
    pub fn example() -> Self {
        use DType::{BF16, F8E4M3FN, F32};
        let (rows, stat) = ([4, 256], [4, 1]);
        let mut p = Self::default();
        let scalar = |p: &mut Self, name: &str, v: f32| p.push(name, Kind::Const(vec![v]), &[], F32, &[]);
        let x = p.push("x", Kind::Param, &[], BF16, &rows);
        let w = p.push("layer0.norm.weight", Kind::Const(vec![1.25; 256]), &[], BF16, &[256]);
        let eps = scalar(&mut p, "eps", 1e-6);
        let inverse = scalar(&mut p, "layer0.inverse_scale", 0.5);
        let (lo, hi) = (scalar(&mut p, "lo", -448.0), scalar(&mut p, "hi", 448.0));
        let h = p.push("h", Kind::Own("attention"), &[x], BF16, &rows);
        let h32 = p.push("h32", Kind::Convert, &[h], F32, &rows);
        let sq = p.push("sq", Kind::Mul, &[h32, h32], F32, &rows);
        let ms = p.push("ms", Kind::RowMean, &[sq], F32, &stat);
        let v = p.push("v", Kind::Add, &[ms, eps], F32, &stat);
        let r = p.push("r", Kind::Rsqrt, &[v], F32, &stat);
        let n = p.push("n", Kind::Mul, &[h32, r], F32, &rows);
        let n16 = p.push("n16", Kind::Convert, &[n], BF16, &rows);
        let y = p.push("y", Kind::Mul, &[n16, w], BF16, &rows);
        let y32 = p.push("y32", Kind::Convert, &[y], F32, &rows);
        let scaled = p.push("scaled", Kind::Mul, &[y32, inverse], F32, &rows);
        let clamped = p.push("clamped", Kind::Clamp, &[scaled, lo, hi], F32, &rows);
        let q = p.push("q", Kind::Convert, &[clamped], F8E4M3FN, &rows);
        p.push("out", Kind::Own("fp8_matmul"), &[q], BF16, &[4, 512]);
        p
    }

    /// The program as a normfuse graph, and which value stands for which instruction.
    pub fn to_ir(&self) -> Result<(Graph, BTreeMap<ValueId, usize>)> {
        let mut graph = Graph::new("host");
        let mut values: Vec<ValueId> = Vec::new();
        for inst in &self.0 {
            let ty = Type::tensor(inst.dtype, Shape(inst.shape.iter().map(|d| (*d).into()).collect()));
            let value = match &inst.kind {
                Kind::Param => graph.add_input(&inst.name, ty),
                Kind::Const(numbers) => graph.add_const(&inst.name, tensor(inst, numbers)?),
                kind => {
                    let args: Vec<Option<ValueId>> = inst.args.iter().map(|a| Some(values[*a])).collect();
                    let node = graph.add_node(&inst.name, op(kind, inst.dtype), &args, [&inst.name])?;
                    let value = graph.node(node).outputs[0];
                    // What the IR knows it infers; of our own ops it believes this.
                    *graph.type_mut(value) = ty;
                    value
                }
            };
            values.push(value);
        }
        if let Some(last) = values.last() {
            graph.add_output("result", *last);
        }
        Ok((graph, values.into_iter().enumerate().map(|(i, v)| (v, i)).collect()))
    }
}

/// The IR's op for an instruction. What it does not have goes through as a foreign op.
fn op(kind: &Kind, to: DType) -> Op {
    match kind {
        Kind::Add => Op::Binary(BinaryOp::Add),
        Kind::Mul => Op::Binary(BinaryOp::Mul),
        Kind::Rsqrt => Op::Unary(UnaryOp::Rsqrt),
        Kind::RowMean => Op::Reduce { op: ReduceOp::Mean, axes: Some(vec![-1]), keepdims: true },
        Kind::Convert => Op::Cast { to, saturate: true },
        Kind::Clamp => Op::Clip,
        Kind::Fused(descriptor) => Op::FusedNorm(Arc::new((**descriptor).clone())),
        Kind::Own(_) | Kind::Param | Kind::Const(_) | Kind::Port(_) => Op::Foreign(Arc::new(ForeignOp {
            domain: "host".into(),
            op_type: if let Kind::Own(name) = kind { (*name).into() } else { format!("{kind:?}") },
            overload: String::new(),
            encoding: String::new(),
            attributes: Vec::new(),
            captures: 0,
            outputs: 1,
            reason: "an op of the host".into(),
        })),
    }
}

fn tensor(inst: &Inst, numbers: &[f32]) -> Result<Tensor> {
    let bytes = numbers.iter().flat_map(|v| match inst.dtype {
        // Exact for the numbers here; a real host has the bytes already.
        DType::BF16 => v.to_bits().to_le_bytes()[2..].to_vec(),
        _ => v.to_le_bytes().to_vec(),
    });
    Tensor::from_bytes(inst.dtype, inst.shape.iter().map(|d| *d as usize).collect(), bytes.collect::<Vec<u8>>())
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for inst in self.0.iter().filter(|i| !matches!(i.kind, Kind::Const(_))) {
            let args: Vec<&str> = inst.args.iter().map(|a| self.0[*a].name.as_str()).collect();
            let kind = match &inst.kind {
                Kind::Own(name) => (*name).to_owned(),
                Kind::Fused(_) => "fused_norm".into(),
                Kind::Port(port) => format!("port {port}"),
                other => format!("{other:?}").to_lowercase(),
            };
            writeln!(
                f,
                "{:>4}  {} = {kind}({}) : {}{:?}",
                inst.line,
                inst.name,
                args.join(", "),
                inst.dtype,
                inst.shape
            )?;
        }
        Ok(())
    }
}
