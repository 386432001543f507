use std::sync::Arc;

use super::*;
use crate::{
    FusedNorm, Granularity, Scheme, ValueId,
    fused::{Prologue, ResidualAdd, Root, Sibling, Source, Weight},
    op::{BinaryOp, ReduceOp, UnaryOp},
    scheme::{F32, Step},
};

/// Builds bodies one op a line.
struct Builder(Graph);

impl Builder {
    fn scalar(&mut self, v: f32) -> ValueId {
        let name = format!("c{}", self.0.value_bound());
        self.0.add_const(name, Tensor::from_f32(&[], &[v]))
    }

    fn op(&mut self, op: Op, inputs: &[ValueId]) -> ValueId {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        let name = format!("n{}", self.0.node_bound());
        let id = self.0.add_node(name.clone(), op, &inputs, [format!("{name}.y")]).unwrap();
        self.0.node(id).outputs[0]
    }

    fn un(&mut self, op: UnaryOp, x: ValueId) -> ValueId {
        self.op(Op::Unary(op), &[x])
    }

    fn bin(&mut self, op: BinaryOp, a: ValueId, b: ValueId) -> ValueId {
        self.op(Op::Binary(op), &[a, b])
    }

    fn cast(&mut self, x: ValueId, to: DType) -> ValueId {
        self.op(Op::Cast { to, saturate: true }, &[x])
    }
}

/// What a test changes in the body that it builds.
#[derive(Clone, Copy, PartialEq)]
enum Twist {
    None,
    Eps,
    RoundLate,
    MultiplyInverse,
    NoFloor,
    SwapOutputs,
    MaxIgnoresNan,
}

const N: usize = 256;

/// bf16 residual add, norm in f32, weight in bf16, then groups of 128 to e4m3 with `max(amax, 1e-10) / 448`.
fn source(twist: Twist) -> Graph {
    let mut b = Builder(Graph::new("body"));
    let ty = |shape: Vec<Dim>| Type::tensor(DType::BF16, shape);
    let row = vec![Dim::sym("m"), Dim::from(N as i64)];
    let x = b.0.add_input("x", ty(row.clone()));
    let residual = b.0.add_input("residual", ty(row));
    let w = b.0.add_input("w", ty(vec![Dim::from(N as i64)]));
    let sum = b.bin(BinaryOp::Add, x, residual);
    let h = b.cast(sum, DType::F32);
    let two = b.scalar(2.0);
    let squares = b.bin(BinaryOp::Pow, h, two);
    let mean = b.op(Op::Reduce { op: ReduceOp::Mean, axes: Some(vec![-1]), keepdims: true }, &[squares]);
    let eps = b.scalar(if twist == Twist::Eps { 1e-5 } else { 1e-6 });
    let v = b.bin(BinaryOp::Add, mean, eps);
    let root = b.un(UnaryOp::Sqrt, v);
    let r = b.un(UnaryOp::Reciprocal, root);
    let n = b.bin(BinaryOp::Mul, h, r);
    let y = if twist == Twist::RoundLate {
        let w = b.cast(w, DType::F32);
        let y = b.bin(BinaryOp::Mul, n, w);
        b.cast(y, DType::BF16)
    } else {
        let n = b.cast(n, DType::BF16);
        b.bin(BinaryOp::Mul, n, w)
    };
    let wide = b.cast(y, DType::F32);
    let split = b.0.add_const("groups", Tensor::from_i64(&[3], &[-1, 2, 128]));
    let groups = b.op(Op::Reshape { allow_zero: false }, &[wide, split]);
    let magnitude = b.un(UnaryOp::Abs, groups);
    let magnitude = if twist == Twist::MaxIgnoresNan {
        let nan = b.un(UnaryOp::IsNan, magnitude);
        let zero = b.scalar(0.0);
        b.op(Op::Where, &[nan, zero, magnitude])
    } else {
        magnitude
    };
    let amax = b.op(Op::Reduce { op: ReduceOp::Max, axes: Some(vec![-1]), keepdims: true }, &[magnitude]);
    let floor = b.scalar(if twist == Twist::NoFloor { 0.0 } else { 1e-10 });
    let amax = b.bin(BinaryOp::Max, amax, floor);
    let top = b.scalar(448.0);
    let scale = b.bin(BinaryOp::Div, amax, top);
    let q = if twist == Twist::MultiplyInverse {
        let inverse = b.un(UnaryOp::Reciprocal, scale);
        b.bin(BinaryOp::Mul, groups, inverse)
    } else {
        b.bin(BinaryOp::Div, groups, scale)
    };
    let q = b.cast(q, DType::F8E4M3FN);
    let flat = b.0.add_const("flat", Tensor::from_i64(&[2], &[-1, N as i64]));
    let q = b.op(Op::Reshape { allow_zero: false }, &[q, flat]);
    let scale = b.op(Op::Squeeze { axes: Some(vec![-1]) }, &[scale]);
    let mut g = b.0;
    g.add_output("sum", sum);
    g.add_output("y", y);
    let (q, scale) = if twist == Twist::SwapOutputs { (scale, q) } else { (q, scale) };
    g.add_output("q", q);
    g.add_output("scale", scale);
    g
}

fn descriptor() -> FusedNorm {
    let scheme = Scheme::dynamic(
        DType::F8E4M3FN,
        Granularity::Group(128),
        vec![Step::Max(F32::new(1e-10)), Step::Div(F32::new(448.0))],
    );
    FusedNorm {
        prologue: Prologue::ResidualAdd(ResidualAdd::of(DType::BF16)),
        source: Source::Shared,
        emit_sum: true,
        siblings: vec![Sibling {
            width: N as u64,
            input: DType::BF16,
            compute: DType::F32,
            squares: None,
            eps: F32::new(1e-6),
            root: Root::ReciprocalSqrt,
            normed: DType::BF16,
            weight: Some(Weight { dtype: DType::BF16, plus_one: false, product: None }),
            output: DType::BF16,
            emit_normed: true,
            epilogues: vec![scheme],
        }],
    }
}

fn node(op: FusedNorm, body: Option<Graph>) -> (Graph, NodeId) {
    let mut g = Graph::new("outer");
    let ty = |shape: Vec<Dim>| Type::tensor(DType::BF16, shape);
    let row = vec![Dim::sym("batch") * Dim::sym("seq"), Dim::from(N as i64)];
    let x = g.add_input("x", ty(row.clone()));
    let residual = g.add_input("residual", ty(row));
    let w = g.add_input("w", ty(vec![Dim::from(N as i64)]));
    let names: Vec<String> = op.out_ports().iter().map(ToString::to_string).collect();
    let id = g.add_node("norm0", Op::FusedNorm(Arc::new(op)), &[Some(x), Some(residual), Some(w)], names).unwrap();
    *g.node_meta_mut(id).2 = body.map(Arc::new);
    (g, id)
}

#[test]
fn a_faithful_body_passes() {
    let (g, id) = node(descriptor(), Some(source(Twist::None)));
    check_in(&g, id).unwrap();
}

#[test]
fn every_departure_is_found_and_named() {
    let twists = [
        (Twist::Eps, "y0"),
        (Twist::RoundLate, "y0"),
        (Twist::MultiplyInverse, "q0_0"),
        (Twist::NoFloor, "q0_0"),
        (Twist::SwapOutputs, "q0_0"),
        (Twist::MaxIgnoresNan, "q0_0"),
    ];
    for (i, (twist, port)) in twists.into_iter().enumerate() {
        let (g, id) = node(descriptor(), Some(source(twist)));
        let e = check_in(&g, id).expect_err(&format!("twist {i}"));
        assert_eq!((e.kind, e.node.as_deref()), (ErrorKind::Value, Some("norm0")), "twist {i}: {e}");
        assert_eq!(e.port, Some(format!("output `{port}`")), "twist {i}: {e}");
        assert!(e.message.contains("0x") || e.message.contains("f8e4m3fn["), "twist {i}: {e}");
    }
}

#[test]
fn every_field_of_the_descriptor_counts() {
    type Edit = fn(&mut Sibling);
    let edits: [Edit; 6] = [
        |s| s.root = Root::Rsqrt,
        |s| s.root = Root::DivideBySqrt,
        |s| s.weight = Some(Weight { dtype: DType::BF16, plus_one: true, product: None }),
        |s| s.normed = DType::F32,
        |s| s.compute = DType::BF16,
        |s| s.epilogues[0] = s.epilogues[0].clone().by_reciprocal(),
    ];
    for (i, edit) in edits.into_iter().enumerate() {
        let mut op = descriptor();
        edit(&mut op.siblings[0]);
        let (g, id) = node(op, Some(source(Twist::None)));
        assert_eq!(check_in(&g, id).expect_err(&format!("edit {i}")).kind, ErrorKind::Value);
    }
}

#[test]
fn malformed_bodies_are_errors() {
    let (g, id) = node(descriptor(), None);
    assert_eq!(check_in(&g, id).unwrap_err().kind, ErrorKind::Structure);
    let mut short = source(Twist::None);
    short.add_output("extra", short.inputs()[0]);
    let (g, id) = node(descriptor(), Some(short));
    assert_eq!(check_in(&g, id).unwrap_err().kind, ErrorKind::Structure);
    let (g, id) = node(descriptor(), Some(source(Twist::None)));
    let mut types = vec![Type::tensor(DType::BF16, vec![Dim::sym("m"), Dim::from(N as i64)]); 2];
    assert_eq!(check(g.node(id), &types).unwrap_err().kind, ErrorKind::Structure);
    types.push(Type::tensor(DType::F16, vec![Dim::from(N as i64)]));
    assert_eq!(check(g.node(id), &types).unwrap_err().kind, ErrorKind::DType);
    types[2] = Type::default();
    check(g.node(id), &types).unwrap();
    types[0] = Type::tensor(DType::BF16, vec![Dim::sym("m"), Dim::from(128)]);
    assert_eq!(check(g.node(id), &types).unwrap_err().kind, ErrorKind::Shape);
}

#[test]
fn bits_are_compared() {
    let t = |v: &[f32]| Tensor::from_f32(&[1, v.len()], v);
    assert_eq!(bits_equal(&t(&[1.0, f32::NAN]), &t(&[1.0, f32::from_bits(0xffc0_1234)])), None);
    let m = bits_equal(&t(&[1.0, 0.0]), &t(&[1.0, -0.0])).unwrap();
    let want = Mismatch::Element { index: vec![0, 1], left: "0x00000000".into(), right: "0x80000000".into() };
    assert_eq!(m, want);
    assert!(matches!(bits_equal(&t(&[1.0]), &Tensor::from_f32(&[1], &[1.0])), Some(Mismatch::Type { .. })));
    let fp4 = |b: u8| Tensor::from_bytes(DType::F4E2M1, vec![1], vec![b]).unwrap();
    assert_eq!(bits_equal(&fp4(0x12), &fp4(0x52)), None, "padding is not data");
    assert!(bits_equal(&fp4(0x12), &fp4(0x13)).is_some());
}
