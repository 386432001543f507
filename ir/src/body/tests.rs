use std::sync::Arc;

use super::*;
use crate::{
    DType, Dim, FusedNorm, Granularity, Scheme, ValueId,
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
    source_at(twist, vec![Dim::sym("m")], &[-1], &[-1])
}

/// The same with rows of the sizes `rows`, which the body restates as `merged` before the groups and as `own` after them.
fn source_at(twist: Twist, rows: Vec<Dim>, merged: &[i64], own: &[i64]) -> Graph {
    let mut b = Builder(Graph::new("body"));
    let ty = |shape: Vec<Dim>| Type::tensor(DType::BF16, shape);
    let row = [rows, vec![Dim::from(N as i64)]].concat();
    let restated = |leading: &[i64], last: &[i64]| {
        let sizes = [leading, last].concat();
        Tensor::from_i64(&[sizes.len()], &sizes)
    };
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
    let split = b.0.add_const("groups", restated(merged, &[2, 128]));
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
    let flat = b.0.add_const("flat", restated(own, &[N as i64]));
    let q = b.op(Op::Reshape { allow_zero: false }, &[q, flat]);
    let scale = b.op(Op::Squeeze { axes: Some(vec![-1]) }, &[scale]);
    let flat = b.0.add_const("flat_scale", restated(own, &[2]));
    let scale = b.op(Op::Reshape { allow_zero: false }, &[scale, flat]);
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
            root: Some(Root::ReciprocalSqrt),
            epilogues: vec![scheme],
            ..Sibling::plain(N as u64, DType::BF16)
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
        |s| s.root = Some(Root::Rsqrt),
        |s| s.root = Some(Root::DivideBySqrt),
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

fn rows_of(leading: &[Dim], width: usize) -> Type {
    Type::tensor(DType::BF16, [leading, &[Dim::from(width as i64)]].concat())
}

/// Types of the operands of [`descriptor`] for rows of these sizes.
fn types_at(leading: &[Dim]) -> Vec<Type> {
    vec![rows_of(leading, N), rows_of(leading, N), rows_of(&[], N)]
}

#[test]
fn numbers_of_rows_that_are_too_large_become_small_ones() {
    let s = || Dim::sym("s");
    let large = 1i64 << 20;
    let number = Dim::from;
    let cases: [(Vec<Dim>, &[i64], &[i64]); 7] = [
        (vec![number(1), number(large)], &[-1], &[1, large]),
        (vec![number(1), number(large)], &[1, large], &[1, large]),
        (vec![number(4), number(large)], &[4 * large], &[4, large]),
        (vec![number(1 << 30), number(1 << 21)], &[1 << 51], &[1 << 30, 1 << 21]),
        (vec![s(); 5], &[0; 5], &[0; 5]),
        (vec![s() * number(large)], &[-1], &[-1]),
        (vec![s() - number(4)], &[-1], &[-1]),
    ];
    for (rows, merged, own) in cases {
        let types = types_at(&rows);
        let op = Op::FusedNorm(Arc::new(descriptor()));
        let extent = Extent::of(operands(&op, &types).unwrap()).unwrap();
        let sets = (0..sizes::ROUNDS).map(|n| extent.round(n)).chain([extent.bulk()]);
        for set in sets.map(Result::unwrap) {
            assert!(set.elements() <= sizes::DATA_SET, "{rows:?}: {:?}", set.shapes);
        }
        let checked = |twist| {
            let (g, id) = node(descriptor(), Some(source_at(twist, rows.clone(), merged, own)));
            check(g.node(id), &types)
        };
        checked(Twist::None).unwrap_or_else(|e| panic!("{rows:?}: {e}"));
        let e = checked(Twist::NoFloor).unwrap_err();
        assert_eq!(e.kind, ErrorKind::Value, "{rows:?}: {e}");
    }
}

#[test]
fn what_cannot_be_compared_says_so_before_anything_runs() {
    let large = 1i64 << 20;
    let rows = [Dim::from(large)];
    let fixed = |own: &[i64]| source_at(Twist::None, rows.to_vec(), &[-1], own);
    let op = Op::FusedNorm(Arc::new(descriptor()));
    checkable(&op, &fixed(&[large]), &types_at(&rows)).unwrap();
    // A body that makes a tensor of its own for a fixed number of rows fits no other number.
    let mut bound = fixed(&[large]);
    let sizes = bound.add_const("sizes", Tensor::from_i64(&[2], &[large, 1]));
    let zero = Tensor::from_f32(&[], &[0.0]);
    let zeros = Op::ConstantOfShape { dtype: DType::F32, value: zero.bytes().to_vec() };
    let made = bound.add_node("zeros", zeros, &[Some(sizes)], ["zeros"]).unwrap();
    let made = bound.node(made).outputs[0];
    let cast = Op::Cast { to: DType::BF16, saturate: true };
    let made = bound.add_node("narrow", cast, &[Some(made)], ["narrow"]).unwrap();
    let (made, sum) = (bound.node(made).outputs[0], bound.outputs()[0].value);
    let added = bound.add_node("add", Op::Binary(BinaryOp::Add), &[Some(sum), Some(made)], ["added"]).unwrap();
    bound.set_output(0, bound.node(added).outputs[0]);
    assert!(checkable(&op, &bound, &types_at(&rows)).is_err());
    let mut wide = descriptor();
    wide.siblings[0].width = 1 << 33;
    let wide_rows = vec![rows_of(&[Dim::sym("m")], 1 << 33); 2];
    let types = [wide_rows, vec![rows_of(&[], 1 << 33)]].concat();
    let (g, id) = node(wide, Some(source(Twist::None)));
    let e = check(g.node(id), &types).unwrap_err();
    assert_eq!((e.kind, e.node.as_deref()), (ErrorKind::Unsupported, Some("norm0")), "{e}");
    assert!(e.message.contains("x bf16[m, 8589934592]"), "{e}");
}

#[test]
fn bodies_that_make_too_much_of_their_rows_are_not_run() {
    let mut body = source(Twist::None);
    let sizes = body.add_const("sizes", Tensor::from_i64(&[3], &[1 << 30, 1, 1]));
    let y = body.outputs()[1].value;
    let spread = body.add_node("spread", Op::Expand, &[Some(y), Some(sizes)], ["spread"]).unwrap();
    let spread = body.node(spread).outputs[0];
    body.set_output(1, spread);
    let (g, id) = node(descriptor(), Some(body));
    let e = check_in(&g, id).unwrap_err();
    assert_eq!(e.kind, ErrorKind::Unsupported, "{e}");
    assert!(e.message.contains("value `spread` of the body has"), "{e}");
}

/// An RMSNorm in f16 throughout, as a mean or as a sum that is divided by the width.
fn f16_norm(divided: bool) -> (Graph, NodeId) {
    const WIDTH: usize = 512;
    let mut b = Builder(Graph::new("body"));
    let half = |v: f32| eval::numbers::from_floats(DType::F16, &[], &[v]).unwrap();
    let x = b.0.add_input("x", Type::tensor(DType::F16, vec![Dim::sym("m"), Dim::from(WIDTH as i64)]));
    let squares = b.bin(BinaryOp::Mul, x, x);
    let reduce = |op| Op::Reduce { op, axes: Some(vec![-1]), keepdims: true };
    let mean = if divided {
        let sum = b.op(reduce(ReduceOp::Sum), &[squares]);
        let count = b.0.add_const("count", half(WIDTH as f32));
        b.bin(BinaryOp::Div, sum, count)
    } else {
        b.op(reduce(ReduceOp::Mean), &[squares])
    };
    let eps = b.0.add_const("eps", half(1e-3));
    let v = b.bin(BinaryOp::Add, mean, eps);
    let root = b.un(UnaryOp::Sqrt, v);
    let y = b.bin(BinaryOp::Div, x, root);
    b.0.add_output("y", y);
    let op = FusedNorm::of(vec![Sibling {
        compute: DType::F16,
        eps: F32::new(0.001_000_404_4),
        root: Some(Root::DivideBySqrt),
        weight: None,
        ..Sibling::plain(WIDTH as u64, DType::F16)
    }]);
    let mut g = Graph::new("outer");
    let x = g.add_input("x", Type::tensor(DType::F16, vec![Dim::sym("m"), Dim::from(WIDTH as i64)]));
    let id = g.add_node("norm0", Op::FusedNorm(Arc::new(op)), &[Some(x)], ["y0"]).unwrap();
    *g.node_meta_mut(id).2 = Some(Arc::new(b.0));
    (g, id)
}

#[test]
fn a_16_bit_sum_that_is_divided_is_no_mean() {
    let (g, id) = f16_norm(false);
    check_in(&g, id).unwrap();
    let (g, id) = f16_norm(true);
    assert_eq!(check_in(&g, id).unwrap_err().kind, ErrorKind::Value);
}

/// A quantiser of rows alone, one scale a token, and the body that `edit` makes of its steps.
fn lone(scheme: Scheme, floor: f32, divide: bool, given: Option<Type>) -> (Graph, NodeId) {
    let mut b = Builder(Graph::new("body"));
    let ty = Type::tensor(DType::BF16, vec![Dim::sym("m"), Dim::from(64)]);
    let x = b.0.add_input("x", ty.clone());
    let given_in = given.as_ref().map(|ty| b.0.add_input("given", ty.clone()));
    let wide = b.cast(x, DType::F32);
    let scale = given_in.unwrap_or_else(|| {
        let abs = b.un(UnaryOp::Abs, wide);
        let amax = b.op(Op::Reduce { op: ReduceOp::Max, axes: Some(vec![-1]), keepdims: true }, &[abs]);
        let (floor, top) = (b.scalar(floor), b.scalar(448.0));
        let amax = b.bin(BinaryOp::Max, amax, floor);
        b.bin(BinaryOp::Div, amax, top)
    });
    let q = if divide {
        b.bin(BinaryOp::Div, wide, scale)
    } else {
        let inverse = b.un(UnaryOp::Reciprocal, scale);
        b.bin(BinaryOp::Mul, wide, inverse)
    };
    let q = b.cast(q, DType::F8E4M3FN);
    let mut body = b.0;
    body.add_output("q", q);
    if given.is_none() {
        body.add_output("scale", scale);
    }
    let mut g = Graph::new("outer");
    let mut operands = vec![Some(g.add_input("x", ty))];
    operands.extend(given.map(|ty| Some(g.add_input("given", ty))));
    let op = Op::Quantize(Arc::new(scheme));
    let names = op.output_names();
    let id = g.add_node("quant0", op, &operands, names).unwrap();
    *g.node_meta_mut(id).2 = Some(Arc::new(body));
    (g, id)
}

#[test]
fn a_quantiser_alone_is_held_to_its_body_too() {
    let token = || {
        let steps = vec![Step::Max(F32::new(1e-10)), Step::Div(F32::new(448.0))];
        Scheme::dynamic(DType::F8E4M3FN, Granularity::Token, steps)
    };
    let (g, id) = lone(token(), 1e-10, true, None);
    check_in(&g, id).unwrap();
    assert_eq!(check_all(&g).unwrap(), 1);
    for (floor, divide, scheme) in [
        (1e-4, true, token()),
        (1e-10, false, token()),
        (1e-10, true, Scheme { granularity: Granularity::Group(32), ..token() }),
        (1e-10, true, token().by_reciprocal()),
        (1e-10, true, Scheme { compute: DType::BF16, ..token() }),
        (1e-10, true, Scheme { encode: crate::scheme::Encode::Cast, ..token().clamped(-1.0, 1.0) }),
    ] {
        let (g, id) = lone(scheme.clone(), floor, divide, None);
        let e = check_all(&g).expect_err(&format!("{floor} {divide} {scheme:?}"));
        assert_eq!((e.kind, e.node.as_deref()), (ErrorKind::Value, Some("quant0")), "{e}");
        assert_eq!(check_in(&g, id).unwrap_err(), e);
    }
    let scalar = Type::tensor(DType::F32, Vec::new());
    let fixed = || Scheme::fixed(DType::F8E4M3FN, crate::scheme::Apply::Divide);
    let (g, id) = lone(fixed(), 0.0, true, Some(scalar.clone()));
    check_in(&g, id).unwrap();
    let (g, id) = lone(fixed(), 0.0, false, Some(scalar.clone()));
    assert_eq!(check_in(&g, id).unwrap_err().kind, ErrorKind::Value);
    // What the graph does not say of the operands is made up; what it says wrongly is an error.
    check(g.node(id), &[Type::default(), Type::default()]).unwrap_err();
    let (g, id) = lone(fixed(), 0.0, true, Some(scalar));
    check(g.node(id), &[Type::default(), Type::default()]).unwrap();
    let wrong = [Type::tensor(DType::F64, vec![Dim::from(2), Dim::from(64)]), Type::default()];
    assert_eq!(check(g.node(id), &wrong).unwrap_err().kind, ErrorKind::DType);
    assert_eq!(check(g.node(id), &wrong[..1]).unwrap_err().kind, ErrorKind::Structure);
    let (mut g, id) = lone(token(), 1e-10, true, None);
    *g.node_meta_mut(id).2 = None;
    assert_eq!(check_in(&g, id).unwrap_err().kind, ErrorKind::Structure);
}
