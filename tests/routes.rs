//! One model by two routes, ONNX and torch.export: the same sites, of the same kinds, with the same schemes.
//!
//! What differs is what the exporter of ONNX cannot say, or says otherwise:
//!
//! | torch | ONNX | same bits |
//! |---|---|---|
//! | `rsqrt(x)` | `1 / sqrt(x)`: it has no rsqrt | no: two roundings in the place of one |
//! | `log2(x)` | `log(x) / ln 2`: it has no log2 | no, at a handful of inputs |
//! | `exp2(x)` | `2 ^ x`: it has no exp2 | yes, of whole exponents |
//! | `1 + w`, of a weight in 16 bits | a weight in f32: the exporter has added the one | yes |
//! | the reciprocal of a given scale | a given reciprocal: the exporter has divided | yes |
//! | codes times that given scale | codes times a constant of its own, which nothing says to be the scale: the dequantiser stays an op | yes |
//! | a weight's codes times their scale | a weight that the exporter has multiplied, so that a product with it is none of codes and scales | yes |
//!
//! `ROOTS` and `SPELLINGS` are that table, and the last line is left out, by products that are as they are spelled (`whole_products`). Whatever else differed would be a fault of a reader or of the pass. A quantiser that is repeated
//! for each reader, with equal buffers as scales, is one initializer and one node in ONNX: there it is recognised once, and
//! here as often as it is there, with `merged_quants` saying how many became one.

mod common;

use std::path::{Path, PathBuf};

use common::{files, model};
use normfuse::{
    ir::{
        FusedNorm, Op, Scheme,
        fused::{Root, Weight},
        scheme::{F32, Origin, Step},
    },
    passes::{self, Options},
};

/// The reciprocal root of every norm, as each route says it: torch's exporter, and ONNX's.
const ROOTS: [(&str, Root); 2] = [("pt2", Root::Rsqrt), ("onnx", Root::ReciprocalSqrt)];

/// A spelling that only torch has, and what it becomes in ONNX.
enum Spelling {
    Steps(&'static [Step], &'static [Step]),
    /// `1 + w` in the dtype of the product, and the sum as a weight of that dtype.
    OnePlus,
    /// A factor that is one over what is given, and one that is given, by which nothing is dequantised.
    OneOverGiven,
}

const SPELLINGS: [Spelling; 4] = [
    Spelling::Steps(&[Step::Log2], &[Step::Log, Step::Div(F32::new(std::f32::consts::LN_2))]),
    Spelling::Steps(&[Step::Exp2], &[Step::Power(F32::new(2.0))]),
    Spelling::OnePlus,
    Spelling::OneOverGiven,
];

/// Torch's steps in ONNX's words.
fn respell(steps: &mut Vec<Step>, from: &[Step], to: &[Step]) {
    let mut at = 0;
    while at + from.len() <= steps.len() {
        if steps[at..].starts_with(from) {
            steps.splice(at..at + from.len(), to.iter().copied());
            at += to.len();
        } else {
            at += 1;
        }
    }
}

fn scheme_in_onnx(scheme: &mut Scheme) {
    for spelling in &SPELLINGS {
        match spelling {
            Spelling::Steps(from, to) => {
                let chains = [&mut scheme.factor, &mut scheme.post];
                for steps in chains.into_iter().chain(scheme.scale.as_mut().map(|s| &mut s.steps)) {
                    respell(steps, from, to);
                }
            }
            Spelling::OneOverGiven
                if scheme.origin == Origin::Given && scheme.factor == [Step::Over(F32::new(1.0))] =>
            {
                scheme.factor.clear();
                scheme.dequantised = None;
            }
            Spelling::OnePlus | Spelling::OneOverGiven => {}
        }
    }
}

/// The norm in ONNX's words, and without its roots, which are those that the route is known to say.
fn norm_in_onnx(norm: &mut FusedNorm, root: Root) {
    for sibling in &mut norm.siblings {
        if let Some(found) = sibling.root.take() {
            assert_eq!(found, root, "the root of a norm");
        }
        for spelling in &SPELLINGS {
            match spelling {
                Spelling::OnePlus if sibling.weight.is_some_and(|w| w.plus_one) => {
                    sibling.weight = Some(Weight { dtype: sibling.product(), plus_one: false, product: None });
                }
                _ => {}
            }
        }
        sibling.epilogues.iter_mut().for_each(scheme_in_onnx);
    }
}

/// Sites in order: what became of each, and what its fused op computes, in ONNX's words.
fn sites(path: &Path) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let mut graph = normfuse::open(path)?;
    let (_, root) = ROOTS.into_iter().find(|(e, _)| path.extension().is_some_and(|x| x == *e)).expect("a known route");
    let report = passes::run(&mut graph, &Options { whole_products: true, ..Options::default() })?;
    let descriptor = |op: &String| {
        let (_, node) = graph.nodes().find(|(_, n)| n.name == *op).expect("the report names ops of the graph");
        match &node.op {
            Op::FusedNorm(norm) => {
                let mut norm = FusedNorm::clone(norm);
                norm_in_onnx(&mut norm, root);
                format!("{norm:?}")
            }
            Op::Quantize(scheme) => {
                let mut scheme = Scheme::clone(scheme);
                scheme_in_onnx(&mut scheme);
                format!("{scheme:?}")
            }
            other => other.name(),
        }
    };
    let line = |s: &passes::Site| {
        let op = s.op.as_ref().map(descriptor);
        format!("{:?} {:?} by {} {:?}, {} siblings: {op:?}", s.kind, s.outcome, s.rule, s.precondition, s.siblings)
    };
    Ok(report.sites.iter().map(line).collect())
}

/// Fails unless both files end in the same sites, so many of them.
#[track_caller]
fn assert_same(name: &str, count: usize) {
    let [onnx, pt2] = ["onnx", "pt2"].map(|e| sites(&model(&format!("{name}.{e}"))).unwrap());
    assert_eq!(onnx.len(), count);
    assert_equal(name, &onnx, &pt2);
}

#[track_caller]
fn assert_equal(name: &str, onnx: &[String], pt2: &[String]) {
    for (n, (a, b)) in onnx.iter().zip(pt2).enumerate() {
        assert_eq!(a, b, "{name}, site {n}");
    }
    assert_eq!(onnx.len(), pt2.len(), "{name}");
}

#[test]
fn groups() {
    assert_same("deepseek_v3_fp8", 5);
}

#[test]
fn given_scales() {
    assert_same("deepseek_v3_static", 5);
}

#[test]
fn scales_of_rows() {
    assert_same("llama_token", 3);
}

/// Every model of a folder that is there in both forms: `NORMFUSE_GRAPHS=FOLDER cargo test --test routes -- --ignored --nocapture`,
/// of files that are named `MODEL.onnx.onnx` and `MODEL.pt2.pt2`, or `MODEL.onnx` and `MODEL.pt2`. An ONNX file that is
/// refused is passed over, and said.
#[test]
#[ignore = "needs a folder of exported models"]
fn models_of_a_folder() {
    let folder = PathBuf::from(std::env::var_os("NORMFUSE_GRAPHS").unwrap_or_else(|| "target/graphs".into()));
    let mut pairs = 0;
    for pt2 in files(&folder) {
        let Some(stem) = pt2.strip_suffix(".pt2").map(|s| s.trim_end_matches(".pt2")) else { continue };
        for onnx in [format!("{stem}.onnx.onnx"), format!("{stem}.onnx")].iter().map(|f| folder.join(f)) {
            if !onnx.exists() {
                continue;
            }
            match sites(&onnx) {
                Ok(all) => {
                    assert_equal(stem, &all, &sites(&folder.join(&pt2)).unwrap());
                    println!("{stem}: {} sites, the same", all.len());
                    pairs += 1;
                }
                Err(e) => println!("{stem}: not compared, its ONNX file is refused: {e}"),
            }
        }
    }
    assert!(pairs > 0, "{}: no model in both forms", folder.display());
}
