//! Names that are the same in both directions: ONNX's ops without attributes, and its reductions.

use normfuse_ir::{
    Op,
    op::{BinaryOp, ReduceOp, UnaryOp},
};

/// Which of a node's results a result of the op is.
pub fn result_port(op: &Op, result: usize) -> usize {
    match (op, result) {
        // Between the two are the mean and the inverse deviation, which inference does not use.
        (Op::SkipRmsNorm { .. }, 1) => 3,
        _ => result,
    }
}

/// (ONNX name, op, first opset that has it).
pub const UNARY: [(&str, UnaryOp, i64); 22] = [
    ("Identity", UnaryOp::Identity, 1),
    ("Abs", UnaryOp::Abs, 6),
    ("Neg", UnaryOp::Neg, 6),
    ("Sign", UnaryOp::Sign, 9),
    ("Sqrt", UnaryOp::Sqrt, 6),
    ("Reciprocal", UnaryOp::Reciprocal, 6),
    ("Exp", UnaryOp::Exp, 6),
    ("Log", UnaryOp::Log, 6),
    ("Sin", UnaryOp::Sin, 7),
    ("Cos", UnaryOp::Cos, 7),
    ("Tanh", UnaryOp::Tanh, 6),
    ("Erf", UnaryOp::Erf, 9),
    ("Sigmoid", UnaryOp::Sigmoid, 6),
    ("Relu", UnaryOp::Relu, 6),
    ("Softplus", UnaryOp::Softplus, 1),
    ("Floor", UnaryOp::Floor, 6),
    ("Ceil", UnaryOp::Ceil, 6),
    ("Round", UnaryOp::Round, 11),
    ("Not", UnaryOp::Not, 1),
    ("BitwiseNot", UnaryOp::BitwiseNot, 18),
    ("IsNaN", UnaryOp::IsNan, 9),
    ("IsInf", UnaryOp::IsInf, 10),
];

/// Functions that ONNX lacks: a node of our own domain each, with a local function that other runtimes can execute. What
/// that computes is the same up to roundings; read back by us, the node is the op.
pub const OWN: [(&str, UnaryOp); 3] = [("Rsqrt", UnaryOp::Rsqrt), ("Exp2", UnaryOp::Exp2), ("Log2", UnaryOp::Log2)];

/// With what the names of scaled products begin: nodes of our own domain as well, each with a function for its sizes.
pub const SCALED: &str = "ScaledMatMul";

/// (ONNX name, op, first opset that has it).
pub const BINARY: [(&str, BinaryOp, i64); 16] = [
    ("Add", BinaryOp::Add, 7),
    ("Sub", BinaryOp::Sub, 7),
    ("Mul", BinaryOp::Mul, 7),
    ("Div", BinaryOp::Div, 7),
    ("Pow", BinaryOp::Pow, 7),
    ("And", BinaryOp::And, 7),
    ("Or", BinaryOp::Or, 7),
    ("Xor", BinaryOp::Xor, 7),
    ("Equal", BinaryOp::Equal, 11),
    ("Less", BinaryOp::Less, 9),
    ("LessOrEqual", BinaryOp::LessOrEqual, 12),
    ("Greater", BinaryOp::Greater, 9),
    ("GreaterOrEqual", BinaryOp::GreaterOrEqual, 12),
    ("BitwiseAnd", BinaryOp::BitwiseAnd, 18),
    ("BitwiseOr", BinaryOp::BitwiseOr, 18),
    ("BitwiseXor", BinaryOp::BitwiseXor, 18),
];

/// (ONNX name, op, first opset that takes the axes as an operand).
pub const REDUCE: [(&str, ReduceOp, i64); 7] = [
    ("ReduceMean", ReduceOp::Mean, 18),
    ("ReduceSum", ReduceOp::Sum, 13),
    ("ReduceSumSquare", ReduceOp::SumSquare, 18),
    ("ReduceL2", ReduceOp::L2, 18),
    ("ReduceProd", ReduceOp::Prod, 18),
    ("ReduceMax", ReduceOp::Max, 18),
    ("ReduceMin", ReduceOp::Min, 18),
];
