//! Gated activations, and rows without a norm, against their semantics spelled as single operations.

use std::sync::Arc;

use crate::{
    DType, ErrorKind, FusedNorm, Granularity, Op, Scheme, Tensor,
    body::hostile::{self, Rng, Row},
    eval::{fused_norm, quantize},
    fused::{Activation, Gated, Prologue, Root, Sibling, Weight},
    op::{BinaryOp, UnaryOp},
    scheme::{F32, Step},
    text,
};

const TYPES: [DType; 3] = [DType::BF16, DType::F16, DType::F32];

fn one(op: &Op, inputs: &[&Tensor]) -> Tensor {
    super::eval(op, inputs).unwrap().remove(0)
}

fn cast(x: &Tensor, to: DType) -> Tensor {
    one(&Op::Cast { to, saturate: true }, &[x])
}

fn mul(a: &Tensor, b: &Tensor) -> Tensor {
    one(&Op::Binary(BinaryOp::Mul), &[a, b])
}

fn number(dtype: DType, value: F32) -> Tensor {
    cast(&Tensor::from_f32(&[], &[value.get()]), dtype)
}

/// The gate op by op: every op in the dtype of its operands.
fn spelled(gated: Gated, gate: &Tensor, up: &Tensor) -> Tensor {
    let binary = |op, a: &Tensor, b: &Tensor| one(&Op::Binary(op), &[a, b]);
    let mut x = cast(gate, gated.compute());
    if let Some(most) = gated.gate_max {
        x = binary(BinaryOp::Min, &x, &number(gated.compute(), most));
    }
    let scaled = gated.alpha.map_or_else(
        || x.clone(),
        |alpha| cast(&mul(&cast(&x, DType::F32), &number(DType::F32, alpha)), gated.compute()),
    );
    let mut up = up.clone();
    if let Some(limit) = gated.up_limit {
        let least = binary(BinaryOp::Max, &up, &number(gated.up(), F32::new(-limit.get())));
        up = binary(BinaryOp::Min, &least, &number(gated.up(), limit));
    }
    if let Some(dtype) = gated.shifted {
        up = cast(&binary(BinaryOp::Add, &cast(&up, DType::F32), &number(DType::F32, F32::new(1.0))), dtype);
    }
    let unary = |op| one(&Op::Unary(op), &[&x]);
    let a = match gated.activation {
        Activation::Silu => unary(UnaryOp::Silu),
        Activation::SigmoidProduct => mul(&x, &one(&Op::Unary(UnaryOp::Sigmoid), &[&scaled])),
        Activation::Gelu => unary(UnaryOp::Gelu),
        Activation::GeluTanh => unary(UnaryOp::GeluTanh),
    };
    // A product of what is no wider than f32, rounded once.
    let wide = mul(&cast(&cast(&a, gated.activated()), DType::F32), &cast(&up, DType::F32));
    cast(&wide, gated.product())
}

fn token() -> Scheme {
    Scheme::dynamic(DType::F8E4M3FN, Granularity::Token, vec![Step::Div(F32::new(448.0))])
}

#[test]
fn every_rounding_is_where_the_semantics_put_it() {
    const N: usize = 96;
    let mut seen = std::collections::BTreeSet::new();
    for activation in Activation::ALL {
        for dtype in TYPES {
            for (up, compute, activated, product) in [
                (dtype, dtype, dtype, dtype),
                (dtype, DType::F32, dtype, dtype),
                (dtype, DType::F32, DType::F32, dtype),
                (DType::F32, DType::F16, DType::BF16, DType::F32),
                (DType::BF16, DType::BF16, DType::F16, DType::F16),
            ] {
                let gated = Gated::new(activation, [dtype, up], compute, activated, product);
                let mut op = FusedNorm::gated(gated, N as u64, vec![token()]);
                op.siblings[0].emit_normed = true;
                let mut rng = Rng::new(3);
                let shape = [Row::ALL.len(), N];
                let gate = hostile::rows(dtype, &shape, &Row::ALL, &mut rng).unwrap();
                let mut kinds = Row::ALL;
                kinds.rotate_left(4);
                let up = hostile::rows(up, &shape, &kinds, &mut rng).unwrap();
                let out = fused_norm(&op, &[Some(&gate), Some(&up)]).unwrap();
                let want = spelled(gated, &gate, &up);
                assert_eq!(crate::body::bits_equal(&want, &out[0]), None, "{gated:?}");
                let codes = quantize(&token(), &want, None, None).unwrap();
                assert_eq!((out[1].bytes(), out[2].bytes()), (codes[0].bytes(), codes[1].bytes()));
                seen.insert(out[0].bytes().to_vec());
            }
        }
    }
    // Of 60. What has the same bits: f32 gates whose dtypes are all f32, and one op that is rounded to f32 before bf16 or f16.
    assert_eq!(seen.len(), 44);
}

#[test]
fn bounds_alpha_and_the_one_that_is_added_are_where_the_semantics_put_them() {
    const N: usize = 64;
    let number = |v: f32| Some(F32::new(v));
    for activation in Activation::ALL {
        for (dtype, compute) in [(DType::BF16, DType::BF16), (DType::BF16, DType::F32), (DType::F16, DType::BF16)] {
            let plain = Gated::new(activation, [dtype; 2], compute, dtype, dtype);
            let sigmoid = activation == Activation::SigmoidProduct;
            let all = [
                Gated { gate_max: number(1.5), ..plain },
                Gated { up_limit: number(0.25), ..plain },
                Gated { shifted: Some(dtype), ..plain },
                Gated { shifted: Some(DType::F32), up_limit: number(7.0), ..plain },
                Gated { alpha: number(1.702).filter(|_| sigmoid), gate_max: number(0.5), ..plain },
                Gated { alpha: number(-3.1).filter(|_| sigmoid), ..plain },
            ];
            for gated in all {
                let mut op = FusedNorm::gated(gated, N as u64, vec![token()]);
                op.siblings[0].emit_normed = true;
                let mut rng = Rng::new(9);
                let gate = hostile::rows(dtype, &[Row::ALL.len(), N], &Row::ALL, &mut rng).unwrap();
                let mut kinds = Row::ALL;
                kinds.rotate_left(3);
                let up = hostile::rows(dtype, &[Row::ALL.len(), N], &kinds, &mut rng).unwrap();
                let out = fused_norm(&op, &[Some(&gate), Some(&up)]).unwrap();
                assert_eq!(crate::body::bits_equal(&spelled(gated, &gate, &up), &out[0]), None, "{gated:?}");
                if gated != plain {
                    let other =
                        fused_norm(&FusedNorm::gated(plain, N as u64, vec![token()]), &[Some(&gate), Some(&up)]);
                    assert_ne!(other.unwrap()[0].bytes(), out[1].bytes(), "{gated:?}");
                }
            }
        }
    }
}

#[test]
fn bounds_that_mean_nothing_are_refused() {
    let bf16 = Gated::of(Activation::SigmoidProduct, DType::BF16);
    let number = |v: f32| Some(F32::new(v));
    for (gated, why) in [
        (Gated { alpha: number(1.0), ..bf16 }, "alpha"),
        (Gated { alpha: number(f32::NAN), ..bf16 }, "alpha"),
        (Gated { alpha: number(1.5), ..Gated::of(Activation::Silu, DType::BF16) }, "alpha"),
        (Gated { gate_max: number(7.01), ..bf16 }, "gate_max"),
        (Gated { gate_max: number(-7.0), ..bf16 }, "gate_max"),
        (Gated { up_limit: number(f32::INFINITY), ..bf16 }, "up_limit"),
        (Gated { shifted: Some(DType::F64), ..bf16 }, "shifted"),
    ] {
        let found = FusedNorm::gated(gated, 64, vec![token()]).check().unwrap_err();
        assert!(found.contains(why), "{found}");
    }
}

#[test]
fn a_gate_may_be_normed() {
    const N: usize = 40;
    let gated = Gated::of(Activation::Silu, DType::BF16);
    let op =
        FusedNorm { prologue: Prologue::Gated(gated), ..FusedNorm::of(vec![Sibling::plain(N as u64, DType::BF16)]) };
    let mut rng = Rng::new(5);
    let mut rows = || hostile::rows(DType::BF16, &[2, N], &[Row::Bell], &mut rng).unwrap();
    let (gate, up) = (rows(), rows());
    let weight = Tensor::from_bytes(DType::BF16, vec![N], [0x80, 0x3f].repeat(N)).unwrap();
    let out = fused_norm(&op, &[Some(&gate), Some(&up), Some(&weight)]).unwrap();
    let plain = FusedNorm::of(op.siblings.clone());
    let want = fused_norm(&plain, &[Some(&spelled(gated, &gate, &up)), Some(&weight)]).unwrap();
    assert_eq!(crate::body::bits_equal(&want[0], &out[0]), None);
    let narrow = Tensor::from_bytes(DType::BF16, vec![1, N], up.bytes()[..2 * N].to_vec()).unwrap();
    let wrong = fused_norm(&op, &[Some(&gate), Some(&narrow), Some(&weight)]).unwrap_err();
    assert_eq!((wrong.kind, wrong.port.as_deref()), (ErrorKind::Shape, Some("up")));
}

#[test]
fn rows_without_a_norm_are_quantised_as_they_are() {
    const N: usize = 64;
    let rows = hostile::rows(DType::F16, &[15, N], &Row::ALL, &mut Rng::new(1)).unwrap();
    let op = FusedNorm::of(vec![Sibling::undivided(N as u64, DType::F16, vec![token()])]);
    let (out, want) = (fused_norm(&op, &[Some(&rows)]).unwrap(), quantize(&token(), &rows, None, None).unwrap());
    assert_eq!((out[0].bytes(), out[1].bytes()), (want[0].bytes(), want[1].bytes()));
    // With a weight: a product, rounded.
    let weight = Some(Weight { dtype: DType::F16, plus_one: false, product: None });
    let scaled = Sibling { weight, emit_normed: true, epilogues: Vec::new(), ..op.siblings[0].clone() };
    let w = hostile::rows(DType::F16, &[N], &[Row::Bell], &mut Rng::new(2)).unwrap();
    let out = fused_norm(&FusedNorm::of(vec![scaled]), &[Some(&rows), Some(&w)]).unwrap();
    assert_eq!(crate::body::bits_equal(&mul(&rows, &w), &out[0]), None);
}

#[test]
fn a_descriptor_says_each_dtype_in_one_way() {
    let said = |edit: &dyn Fn(&mut FusedNorm)| {
        let mut op = FusedNorm::gated(Gated::of(Activation::Silu, DType::BF16), 64, vec![token()]);
        edit(&mut op);
        op.check().map_or_else(|e| e, |()| "sound".into())
    };
    assert_eq!(said(&|_| ()), "sound");
    let gate = |edit: &dyn Fn(&mut Gated)| {
        said(&|op| {
            let mut gated = Gated::of(Activation::Silu, DType::BF16);
            edit(&mut gated);
            op.prologue = Prologue::Gated(gated);
        })
    };
    assert!(gate(&|g| g.up = Some(DType::BF16)).contains("left out"));
    assert!(gate(&|g| g.compute = Some(DType::BF16)).contains("left out"));
    assert!(gate(&|g| g.activated = Some(DType::BF16)).contains("left out"));
    assert!(gate(&|g| g.activated = Some(DType::F64)).contains("prologue.activated"));
    assert!(gate(&|g| g.product = Some(DType::F32)).contains("siblings[0].input"));
    assert!(said(&|op| op.emit_sum = true).contains("emit_sum"));
    assert!(said(&|op| op.siblings[0].eps = F32::new(1e-6)).contains("no statistics"));
    assert!(said(&|op| op.siblings[0].squares = Some(DType::F32)).contains("no statistics"));
    assert!(said(&|op| op.siblings[0].compute = DType::F32).contains("no statistics"));
    assert_eq!(said(&|op| op.siblings[0] = Sibling { root: Some(Root::Rsqrt), ..op.siblings[0].clone() }), "sound");
    assert_eq!(said(&|op| op.siblings[0].normed = DType::F32), "sound");
}

#[test]
fn descriptors_round_trip_as_text_and_json() {
    let gated = Gated::new(Activation::SigmoidProduct, [DType::BF16, DType::F32], DType::F32, DType::BF16, DType::F16);
    let op = FusedNorm::gated(gated, 128, vec![token()]);
    let json = serde_json::to_string(&op).unwrap();
    assert!(json.contains(r#""gated":{"activation":"sigmoid_product","dtype":"bf16","up":"f32""#), "{json}");
    assert_eq!(serde_json::from_str::<FusedNorm>(&json).unwrap(), op);
    let mut graph = crate::Graph::new("g");
    let ty = |d| crate::Type::tensor(d, vec![crate::Dim::sym("m"), crate::Dim::from(128)]);
    let inputs = [graph.add_input("gate", ty(DType::BF16)), graph.add_input("up", ty(DType::F32))];
    let node = Op::FusedNorm(Arc::new(op));
    let id = graph.add_node("mlp", node, &inputs.map(Some), ["q", "s"]).unwrap();
    for value in graph.node(id).outputs.clone() {
        graph.add_output(graph.value(value).name.clone(), value);
    }
    let printed = text::print(&graph);
    assert!(printed.contains("root=null"), "{printed}");
    let read = text::parse(&printed, &mut |_| unreachable!("there are no weights")).unwrap();
    assert_eq!(text::print(&read), printed);
    crate::infer::infer(&mut graph).unwrap();
    let shapes: Vec<String> =
        graph.node(id).outputs.iter().map(|v| graph.value(*v).ty.shape.as_ref().unwrap().to_string()).collect();
    assert_eq!(shapes, ["[m, 128]", "[m, 1]"]);
}
