//! The fused norm against its semantics spelled as single operations.

use super::{f, floats};
use crate::{
    DType, ErrorKind, FusedNorm, Granularity, Scheme, Tensor,
    eval::{fused_norm, numbers::from_floats, quantize},
    fused::{Prologue, ResidualAdd, Root, Sibling, Source, Weight},
    num,
    scheme::{Apply, F32, Step},
};

fn sibling(width: u64) -> Sibling {
    Sibling { root: Some(Root::ReciprocalSqrt), ..Sibling::plain(width, DType::BF16) }
}

fn token_scheme() -> Scheme {
    Scheme::dynamic(DType::F8E4M3FN, Granularity::Token, vec![Step::Div(F32::new(448.0))])
}

fn bf16(shape: &[usize], v: &[f32]) -> Tensor {
    from_floats(DType::BF16, shape, v).unwrap()
}

fn values(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = crate::body::hostile::Rng::new(seed);
    (0..n).map(|_| num::round_to(DType::BF16, rng.bell())).collect()
}

fn r(v: f32) -> f32 {
    num::round_to(DType::BF16, v)
}

#[test]
fn every_rounding_is_where_the_semantics_put_it() {
    const N: usize = 40;
    let (a, b, w) = (values(2 * N, 1), values(2 * N, 2), values(N, 3));
    let op = FusedNorm {
        prologue: Prologue::ResidualAdd(ResidualAdd::of(DType::BF16)),
        source: Source::Shared,
        emit_sum: true,
        siblings: vec![Sibling { epilogues: vec![token_scheme()], ..sibling(N as u64) }],
    };
    let (ta, tb, tw) = (bf16(&[2, N], &a), bf16(&[2, N], &b), bf16(&[N], &w));
    let out = fused_norm(&op, &[Some(&ta), Some(&tb), Some(&tw)]).unwrap();
    let sum: Vec<f32> = a.iter().zip(&b).map(|(a, b)| r(a + b)).collect();
    assert_eq!(floats(&out[0]).unwrap(), sum);
    let y: Vec<f32> = sum
        .chunks(N)
        .flat_map(|h| {
            let rstd = 1.0 / (num::row_sum_squares(h) / N as f32 + 1e-6).sqrt();
            h.iter().zip(&w).map(move |(h, w)| r(r(h * rstd) * w)).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(floats(&out[1]).unwrap(), y);
    let want = quantize(&token_scheme(), &bf16(&[2, N], &y), None, None).unwrap();
    assert_eq!((out[2].bytes(), out[3].bytes()), (want[0].bytes(), want[1].bytes()));
    assert_eq!(out[3].shape(), [2, 1]);
}

#[test]
fn variants_are_different_functions() {
    const N: usize = 512;
    let (x, w) = (values(N, 7), values(N, 8));
    let (tx, tw) = (bf16(&[1, N], &x), bf16(&[N], &w));
    let run = |edit: &dyn Fn(&mut Sibling)| {
        let mut s = Sibling { normed: DType::F32, output: DType::F32, ..sibling(N as u64) };
        edit(&mut s);
        let op = FusedNorm::of(vec![s.clone()]);
        let weight = s.weight.map(|_| &tw);
        let inputs: Vec<Option<&Tensor>> = [Some(&tx), weight].into_iter().flatten().map(Some).collect();
        floats(&fused_norm(&op, &inputs).unwrap()[0]).unwrap()
    };
    let v = num::row_sum_squares(&x) / N as f32 + 1e-6;
    let with = |g: &dyn Fn(f32, f32) -> f32| x.iter().zip(&w).map(|(&x, &w)| g(x, w)).collect::<Vec<_>>();
    let rstd = 1.0 / v.sqrt();
    assert_eq!(run(&|_| ()), with(&|x, w| x * rstd * w));
    assert_eq!(run(&|s| s.root = Some(Root::Rsqrt)), with(&|x, w| x * num::rsqrt(v) * w));
    assert_eq!(run(&|s| s.root = Some(Root::DivideBySqrt)), with(&|x, w| x / v.sqrt() * w));
    assert_eq!(run(&|s| s.weight = None), with(&|x, _| x * rstd));
    let plus_one = |s: &mut Sibling| s.weight = Some(Weight { dtype: DType::BF16, plus_one: true, product: None });
    assert_eq!(run(&plus_one), with(&|x, w| x * rstd * (1.0 + w)));
    assert_eq!(run(&|s| s.output = DType::BF16), with(&|x, w| r(x * rstd * w)));
    assert_eq!(run(&|s| s.normed = DType::BF16), with(&|x, w| r(r(x * rstd) * w)));
    let squares: Vec<f32> = x.iter().map(|v| r(v * v)).collect();
    let rounded = r(1.0 / r(r(r(num::row_sum(&squares) / N as f32) + r(1e-6)).sqrt()));
    assert_eq!(run(&|s| s.compute = DType::BF16), with(&|x, w| r(x * rounded) * w));
    let narrow = 1.0 / (num::row_sum(&squares) / N as f32 + 1e-6).sqrt();
    assert_eq!(run(&|s| s.squares = Some(DType::BF16)), with(&|x, w| x * narrow * w));
    let wide = |plus_one| Some(Weight { dtype: DType::BF16, plus_one, product: Some(DType::F32) });
    let rounded_first = |s: &mut Sibling, plus_one| (s.normed, s.weight) = (DType::BF16, wide(plus_one));
    assert_eq!(run(&|s| rounded_first(s, false)), with(&|x, w| r(x * rstd) * w));
    assert_eq!(run(&|s| rounded_first(s, true)), with(&|x, w| r(x * rstd) * (1.0 + w)));
}

#[test]
fn a_sum_is_read_as_it_is_kept_and_handed_out_as_it_is_emitted() {
    const N: usize = 40;
    let (a, b) = (values(N, 1), values(N, 2).iter().map(|v| v * 1.01).collect::<Vec<_>>());
    let (ta, tb) = (bf16(&[1, N], &a), f(&[1, N], &b));
    let op = FusedNorm {
        prologue: Prologue::ResidualAdd(ResidualAdd::new([DType::BF16, DType::F32], DType::F32, DType::BF16)),
        source: Source::Shared,
        emit_sum: true,
        siblings: vec![Sibling {
            input: DType::F32,
            weight: None,
            normed: DType::F32,
            output: DType::F32,
            ..sibling(N as u64)
        }],
    };
    let out = fused_norm(&op, &[Some(&ta), Some(&tb)]).unwrap();
    let sum: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
    assert_eq!((out[0].dtype(), floats(&out[0]).unwrap()), (DType::BF16, sum.iter().map(|v| r(*v)).collect()));
    let rstd = 1.0 / (num::row_sum_squares(&sum) / N as f32 + 1e-6).sqrt();
    assert_eq!(floats(&out[1]).unwrap(), sum.iter().map(|h| h * rstd).collect::<Vec<_>>());
    let swapped = fused_norm(&op, &[Some(&tb), Some(&ta)]).unwrap_err();
    assert_eq!((swapped.kind, swapped.port.as_deref()), (ErrorKind::DType, Some("x")));
}

#[test]
fn a_descriptor_says_each_dtype_in_one_way() {
    let op = |edit: &dyn Fn(&mut FusedNorm)| {
        let mut op = FusedNorm {
            prologue: Prologue::ResidualAdd(ResidualAdd::of(DType::BF16)),
            source: Source::Shared,
            emit_sum: true,
            siblings: vec![sibling(4)],
        };
        edit(&mut op);
        op.check().map_or_else(|e| e, |()| "sound".into())
    };
    assert_eq!(op(&|_| ()), "sound");
    let add = |residual, sum, emitted| {
        op(&|o| o.prologue = Prologue::ResidualAdd(ResidualAdd { dtype: DType::BF16, residual, sum, emitted }))
    };
    assert!(add(Some(DType::BF16), None, None).contains("left out"));
    assert!(add(None, Some(DType::BF16), None).contains("left out"));
    assert!(add(None, None, Some(DType::BF16)).contains("left out"));
    assert!(add(None, None, Some(DType::F64)).contains("prologue.emitted"));
    assert!(add(None, Some(DType::F32), None).contains("siblings[0].input"));
    assert!(op(&|o| o.siblings[0].squares = Some(DType::F32)).contains("siblings[0].squares"));
    let product = |d| op(&|o| o.siblings[0].weight.as_mut().unwrap().product = Some(d));
    assert!(product(DType::BF16).contains("left out") && product(DType::F64).contains("weight.product"));
    let unread = ResidualAdd { emitted: Some(DType::F32), ..ResidualAdd::of(DType::BF16) };
    let silent = op(&|o| (o.prologue, o.emit_sum) = (Prologue::ResidualAdd(unread), false));
    assert!(silent.contains("not handed out"), "{silent}");
}

#[test]
fn siblings_have_rows_widths_and_scales_of_their_own() {
    let given = Scheme::fixed(DType::F8E4M3FN, Apply::Divide);
    let op = FusedNorm {
        prologue: Prologue::None,
        source: Source::Separate,
        emit_sum: false,
        siblings: vec![
            Sibling { epilogues: vec![given, token_scheme()], emit_normed: false, ..sibling(4) },
            Sibling { weight: None, ..sibling(2) },
        ],
    };
    let (x0, x1, w) = (bf16(&[3, 4], &values(12, 1)), bf16(&[3, 2], &values(6, 2)), bf16(&[4], &[1.0; 4]));
    let scale = f(&[1], &[0.5]);
    let out = fused_norm(&op, &[Some(&x0), Some(&x1), Some(&w), Some(&scale)]).unwrap();
    let shapes: Vec<&[usize]> = out.iter().map(Tensor::shape).collect();
    assert_eq!(shapes, [&[3, 4][..], &[3, 4], &[3, 1], &[3, 2]]);
    assert_ne!(out[0].bytes(), out[1].bytes());
}

#[test]
fn results_have_zeros_behind_each_row() {
    let nibbles = Scheme {
        element: DType::F4E2M1,
        packing: crate::scheme::Packing::Nibbles,
        ..Scheme::dynamic(DType::F4E2M1, Granularity::Group(2), vec![Step::Div(F32::new(6.0))])
    };
    let plain = FusedNorm::of(vec![Sibling { epilogues: vec![token_scheme(), nibbles], ..sibling(4) }]);
    let mut op = plain.clone();
    op.siblings[0].padded = Some(10);
    let (x, w) = (bf16(&[2, 4], &values(8, 1)), bf16(&[4], &[1.0; 4]));
    let inputs = [Some(&x), Some(&w)];
    let (narrow, out) = (fused_norm(&plain, &inputs).unwrap(), fused_norm(&op, &inputs).unwrap());
    let shapes: Vec<&[usize]> = out.iter().map(Tensor::shape).collect();
    assert_eq!(shapes, [&[2, 10][..], &[2, 10], &[2, 1], &[2, 5], &[2, 2]]);
    for (i, (from, to)) in [(8, 20), (4, 10), (4, 4), (2, 5), (8, 8)].into_iter().enumerate() {
        let rows = narrow[i].bytes().chunks(from).zip(out[i].bytes().chunks(to));
        assert!(rows.clone().all(|(n, p)| p[..from] == *n && p[from..].iter().all(|b| *b == 0)), "{i}");
        assert_eq!(rows.count(), 2);
    }
    let mut graph = crate::Graph::new("g");
    let ty = |shape: &[i64]| {
        let dims: Vec<crate::Dim> = shape.iter().map(|n| crate::Dim::from(*n)).collect();
        crate::Type::tensor(DType::BF16, dims)
    };
    let inputs = [graph.add_input("x", ty(&[2, 4])), graph.add_input("w", ty(&[4]))].map(Some);
    let names = ["y", "q0", "s0", "q1", "s1"];
    let id = graph.add_node("norm", crate::Op::FusedNorm(op.clone().into()), &inputs, names).unwrap();
    crate::infer::infer(&mut graph).unwrap();
    let inferred = graph.node(id).outputs.iter().map(|v| graph.value(*v).ty.shape.as_ref().unwrap().to_string());
    assert_eq!(inferred.collect::<Vec<_>>(), ["[2, 10]", "[2, 10]", "[2, 1]", "[2, 5]", "[2, 2]"]);
    let mut said = |padded| {
        op.siblings[0].padded = Some(padded);
        op.check().unwrap_err()
    };
    let said: Vec<String> = [4, 9].map(&mut said).into();
    assert!(said[0].contains("siblings[0].padded: expected more than the width of 4"), "{said:?}");
    assert!(said[1].contains("packing: two codes in a byte need even rows, found 4 and 9"), "{said:?}");
}

#[test]
fn operands_that_do_not_fit_are_named() {
    let op = FusedNorm::of(vec![sibling(4)]);
    let (x, w) = (bf16(&[2, 4], &[1.0; 8]), bf16(&[4], &[1.0; 4]));
    assert!(fused_norm(&op, &[Some(&x), Some(&w)]).is_ok());
    let fails = |inputs: &[Option<&Tensor>], kind, port: Option<&str>| {
        let e = fused_norm(&op, inputs).unwrap_err();
        assert_eq!((e.kind, e.port.as_deref()), (kind, port), "{e}");
    };
    fails(&[Some(&x)], ErrorKind::Structure, None);
    fails(&[Some(&x), None], ErrorKind::Structure, Some("weight0"));
    fails(&[Some(&w), Some(&x)], ErrorKind::Shape, Some("weight0"));
    fails(&[Some(&f(&[1, 4], &[1.0; 4])), Some(&w)], ErrorKind::DType, Some("x"));
    fails(&[Some(&bf16(&[1, 3], &[1.0; 3])), Some(&w)], ErrorKind::Shape, Some("x"));
    let unsound = FusedNorm { siblings: Vec::new(), ..op.clone() };
    assert_eq!(fused_norm(&unsound, &[]).unwrap_err().kind, ErrorKind::Scheme);
}
