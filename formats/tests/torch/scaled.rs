//! Products of codes and their scales: which calls are the op, with what scales, and which stay foreign.

use normfuse_ir::{
    DType, Graph, Op, Tensor,
    eval::{cast, numbers::floats},
    scaled::{ScalePer, ScaledMatMul},
};
use serde_json::{Value, json};

use crate::build::{BF16, F32, Program, call, ints, t, ts};

const F16: i64 = 6;
const E4M3: i64 = 29;
const E5M2: i64 = 30;
const E4M3_UZ: i64 = 31;
const E8M0: i64 = 33;

/// A call over `a` and a `w` that was turned around, with these scales: element type and sizes.
struct Product {
    a: (i64, &'static str),
    w: (i64, &'static str),
    scales: [(i64, &'static str); 2],
    /// Further arguments, and with them further inputs.
    more: Vec<(&'static str, Value)>,
    inputs: Vec<(&'static str, i64, &'static str)>,
    to: i64,
    /// Torch's numbers of recipes; the first call has none.
    recipes: Option<[&'static [i64]; 2]>,
}

impl Product {
    fn new(a: &'static str, w: &'static str, scales: [&'static str; 2]) -> Self {
        let scales = scales.map(|s| (F32, s));
        Self { a: (E4M3, a), w: (E4M3, w), scales, more: vec![], inputs: vec![], to: BF16, recipes: None }
    }

    fn by(self, a: &'static [i64], b: &'static [i64]) -> Self {
        Self { recipes: Some([a, b]), ..self }
    }

    fn program(&self) -> Program {
        let [(sa_type, sa), (sb_type, sb)] = self.scales;
        let mut inputs = vec![("a", self.a.0, self.a.1), ("w", self.w.0, self.w.1)];
        inputs.extend([("sa", sa_type, sa), ("sb", sb_type, sb)]);
        inputs.extend(&self.inputs);
        let (n, k) = self.w.1.split_once(';').unwrap();
        let (turned, result) = (format!("{k};{n}"), format!("{};{n}", self.a.1.split(';').next().unwrap()));
        let permute = [("self", t("w")), ("dims", ints(&[1, 0]))];
        let mut p = Program::new(&inputs).then("aten.permute.default", &permute, "wt", self.w.0, &turned);
        let mut args = vec![("self", t("a")), ("mat2", t("wt"))];
        let to = ("out_dtype", json!({"as_scalar_type": self.to}));
        let target = match self.recipes {
            None => {
                args.extend([("scale_a", t("sa")), ("scale_b", t("sb")), to]);
                "aten._scaled_mm.default"
            }
            Some([a, b]) => {
                args.extend([("scale_a", ts(&["sa"])), ("recipe_a", ints(a)), ("swizzle_a", ints(&[]))]);
                args.extend([("scale_b", ts(&["sb"])), ("recipe_b", ints(b)), ("swizzle_b", ints(&[0])), to]);
                "aten._scaled_mm_v2.default"
            }
        };
        args.push(("use_fast_accum", json!({"as_bool": true})));
        for (name, value) in &self.more {
            args.retain(|(n, _)| n != name);
            args.push((name, value.clone()));
        }
        p.value("y", self.to, &result);
        p.node(call(target, &args, &["y"])).output("y")
    }
}

fn found(graph: &Graph) -> Option<ScaledMatMul> {
    graph.nodes().find_map(|(_, n)| if let Op::ScaledMatMul(op) = &n.op { Some(*op) } else { None })
}

fn foreign(graph: &Graph) -> String {
    let reason = |op: &Op| if let Op::Foreign(f) = op { Some(f.reason.clone()) } else { None };
    graph.nodes().find_map(|(_, n)| reason(&n.op)).unwrap_or_default()
}

const TENSOR: ScalePer = ScalePer::Tensor;
const ROW: ScalePer = ScalePer::Row;
const GROUP: ScalePer = ScalePer::Block(1, 128);
const BLOCK: ScalePer = ScalePer::Block(128, 128);

#[test]
fn shapes_of_scales_say_what_shares_them() {
    for (a, w, scales, per) in [
        ("s0;256", "384;256", ["", ""], (TENSOR, TENSOR)),
        ("s0;256", "384;256", ["1", "1;1"], (TENSOR, TENSOR)),
        ("s0;256", "384;256", ["s0;1", "1;384"], (ROW, ROW)),
        ("s0;256", "384;256", ["s0;2", "2;384"], (GROUP, GROUP)),
        ("s0;256", "384;256", ["s0;2", "2;3"], (GROUP, BLOCK)),
        ("4;256", "384;256", ["4;2", "2;3"], (GROUP, BLOCK)),
        // The last block is cut off.
        ("s0;272", "400;272", ["s0;3", "3;4"], (GROUP, BLOCK)),
        // One block of columns is as good as whole rows.
        ("s0;128", "384;128", ["s0;1", "1;3"], (ROW, BLOCK)),
    ] {
        let graph = Product::new(a, w, scales).program().read();
        let op = found(&graph).unwrap_or_else(|| panic!("{scales:?}: {}", foreign(&graph)));
        assert_eq!((op.a, op.b, op.to), (per.0, per.1, DType::BF16), "{scales:?}");
        // The weight is read as it lies.
        let (_, node) = graph.nodes().find(|(_, n)| matches!(n.op, Op::ScaledMatMul(_))).unwrap();
        assert_eq!(graph.value(node.inputs[1].unwrap()).name, "w", "{scales:?}");
    }
}

#[test]
fn recipes_say_what_shares_a_scale() {
    for (w, scales, recipes, per) in [
        ("384;256", ["", "1"], [&[0][..], &[0]], (TENSOR, TENSOR)),
        ("384;256", ["s0;1", "1;384"], [&[1], &[1]], (ROW, ROW)),
        ("384;256", ["s0;1", "384;1"], [&[1], &[1]], (ROW, ROW)),
        ("384;256", ["s0;2", "384;2"], [&[4], &[4]], (GROUP, GROUP)),
        ("384;256", ["s0;2", "2;3"], [&[4], &[5]], (GROUP, BLOCK)),
        // Filled up to four blocks.
        ("384;256", ["s0;2", "4;3"], [&[4], &[5]], (GROUP, BLOCK)),
    ] {
        let graph = Product::new("s0;256", w, scales).by(recipes[0], recipes[1]).program().read();
        let op = found(&graph).unwrap_or_else(|| panic!("{scales:?}: {}", foreign(&graph)));
        assert_eq!((op.a, op.b), per, "{scales:?}");
    }
}

#[test]
fn what_the_op_cannot_say_stays_foreign_and_says_why() {
    let plain = || Product::new("s0;256", "384;256", ["s0;2", "2;3"]);
    let e8m0 = [(E8M0, "s0;2"), (E8M0, "2;384")];
    let result = vec![("scale_result", t("r"))];
    let none = "its scales are none of a tensor, rows or blocks of 128";
    let right = "the scales of its right side have another shape";
    let swizzled = vec![("swizzle_a", ints(&[1]))];
    let two = vec![("recipe_b", ints(&[2, 0]))];
    for (product, why) in [
        (Product { to: E4M3, ..plain() }, "its result is quantised, too"),
        (Product { more: result, inputs: vec![("r", F32, "")], ..plain() }, "its result is scaled, too"),
        (Product::new("s0;256", "384;256", ["s0;2", "3;2"]), none),
        (Product::new("s0;256", "384;256", ["s0;3", "2;3"]), none),
        (Product::new("s0;256", "384;256", ["s0", "1;384"]), none),
        (Product::new("s0;256", "384;256", ["s0;2", "1;384"]), "of blocks on one side alone"),
        (Product::new("s0;256", "384;256", ["s0;1", "2;3"]), "of blocks on one side alone"),
        (Product::new("4;256", "384;256", ["1;2", "2;384"]), "a: expected blocks of 1 row"),
        (Product { scales: e8m0, ..plain() }, "its scales are f8e8m0"),
        (Product { a: (E4M3_UZ, "s0;256"), ..plain() }, "no blocks of scales of such operands"),
        (plain().by(&[3], &[3]), "blocks of 32 (MX)"),
        (Product { more: two, ..plain().by(&[4], &[4]) }, "blocks of 16 (NVFP4)"),
        (plain().by(&[4], &[9]), "a recipe that normfuse does not know: [9]"),
        (Product { more: swizzled, ..plain().by(&[4], &[5]) }, "its scales are swizzled"),
        (Product { more: vec![("scale_a", ts(&["sa", "sb"]))], ..plain().by(&[4], &[5]) }, "2 tensors of scales"),
        (Product { more: vec![("contraction_dim", ints(&[0, 1]))], ..plain().by(&[4], &[5]) }, "other axes"),
        (plain().by(&[4], &[4]), right),
        (Product::new("s0;256", "384;256", ["s0;2", "8;3"]).by(&[4], &[5]), right),
        (Product::new("s0;256", "384;256", ["s0;2", "384;2"]).by(&[1], &[4]), "its left side"),
        (Product::new("4;256", "384;256", ["1;2", "384;2"]).by(&[5], &[4]), "a: expected blocks of 1 row"),
    ] {
        let graph = product.program().read();
        let reason = foreign(&graph);
        assert!(reason.contains(why) && found(&graph).is_none(), "`{why}`: `{reason}`");
    }
    let same = vec![("contraction_dim", ints(&[-1, -2]))];
    assert!(found(&Product { more: same, ..plain().by(&[4], &[5]) }.program().read()).is_some());
}

#[test]
fn codes_that_the_op_does_not_take_are_spelled() {
    let scales = ["s0;1", "1;384"];
    let graph = Product { a: (E4M3_UZ, "s0;256"), ..Product::new("s0;256", "384;256", scales) }.program().read();
    assert!(foreign(&graph).is_empty() && found(&graph).is_none());
    assert!(graph.nodes().any(|(_, n)| matches!(n.op, Op::MatMul)));
    let graph = Product { a: (E5M2, "s0;256"), ..Product::new("s0;256", "384;256", scales) }.program().read();
    assert!(found(&graph).is_some());
}

/// Small whole numbers, so that all sums are exact.
fn code(i: usize) -> f32 {
    ((i * 7 + i / 5) % 9) as f32 - 4.0
}

fn codes(shape: [usize; 2], first: usize) -> Tensor {
    let all: Vec<f32> = (0..shape[0] * shape[1]).map(|i| code(i + first)).collect();
    cast(&Tensor::from_f32(&shape, &all), DType::F8E4M3FN, true).unwrap()
}

fn rounded(all: &[f32], to: DType) -> Vec<f32> {
    floats(&cast(&Tensor::from_f32(&[all.len()], all), to, true).unwrap()).unwrap()
}

/// Every element meets the scales of its own row and block: as both calls lay them.
#[test]
fn blocks_meet_their_scales() {
    let (m, n, k) = (2, 144, 272);
    let [groups, rows] = [3, 2];
    let (a, w) = (codes([m, k], 0), codes([n, k], 3));
    let sa = |i: usize, g: usize| ((i + 2 * g) as f32).exp2() / 8.0;
    let sb = |block: usize, g: usize| ((3 * block + g) as f32).exp2() / 64.0;
    let bias: Vec<f32> = (0..n).map(|j| (j % 5) as f32 / 4.0).collect();
    let want: Vec<f32> = (0..m * n)
        .map(|at| {
            let (i, j) = (at / n, at % n);
            let term = |x: usize| code(i * k + x) * code(j * k + x + 3) * sa(i, x / 128) * sb(j / 128, x / 128);
            (0..k).map(term).sum::<f32>() + bias[j]
        })
        .collect();
    let want = rounded(&want, DType::F16);
    assert!(want.iter().all(|v| v.is_finite()) && want.iter().any(|v| *v != want[0]));
    let scales_a: Vec<f32> = (0..m * groups).map(|at| sa(at / groups, at % groups)).collect();
    let scales_a = Tensor::from_f32(&[m, groups], &scales_a);
    let by_groups = |count: usize| {
        let one = |at: usize| if at / rows < groups { sb(at % rows, at / rows) } else { f32::NAN };
        Tensor::from_f32(&[count, rows], &(0..count * rows).map(one).collect::<Vec<_>>())
    };
    let bias = cast(&Tensor::from_f32(&[n], &bias), DType::F16, true).unwrap();
    let with = |scales: &'static str, recipes| Product {
        more: vec![("bias", t("c"))],
        inputs: vec![("c", F16, "144")],
        to: F16,
        recipes,
        ..Product::new("2;272", "144;272", ["2;3", scales])
    };
    for (product, scales_b) in [(with("3;2", None), by_groups(3)), (with("4;2", Some([&[4][..], &[5]])), by_groups(4))]
    {
        let inputs = [a.clone(), w.clone(), scales_a.clone(), scales_b, bias.clone()];
        assert!(found(&product.program().read()).is_some());
        assert_eq!(floats(&product.program().run(&inputs)[0]).unwrap(), want);
    }
}
