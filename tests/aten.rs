//! Programs of `torch.export` with ops whose meaning is not in their name, against what torch computed, bit for bit: as
//! they are and after `run_decompositions()`, on the reference evaluator and on the CPU, and once more out of the files
//! that they are written to.

use std::path::{Path, PathBuf};

use normfuse::{
    Format, cpu,
    formats::{onnx::WriteOptions, tensors},
    ir::{DType, Graph, Op, Tensor, eval},
};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/aten").join(name)
}

/// The tensors of a `.npz` whose names begin so.
fn stored(name: &str, begin: &str) -> Vec<(String, Tensor)> {
    let all = tensors::read(&file(&format!("{name}.npz"))).unwrap();
    all.into_iter().filter_map(|(n, t)| Some((n.strip_prefix(begin)?.to_owned(), t))).collect()
}

fn assert_same(what: &str, found: &[Tensor], want: &[(String, Tensor)]) {
    assert_eq!(found.len(), want.len(), "{what}");
    for (f, (i, w)) in found.iter().zip(want) {
        assert_eq!((f.dtype(), f.shape()), (w.dtype(), w.shape()), "{what}, result {i}");
        assert_eq!(f.bytes(), w.bytes(), "{what}, result {i}: {f:?} instead of {w:?}");
    }
}

fn runs(what: &str, graph: &Graph, inputs: &[Tensor], want: &[(String, Tensor)]) {
    assert_same(what, &eval::run(graph, inputs).unwrap_or_else(|e| panic!("{what}: {e}")), want);
    let plan = cpu::Plan::new(graph).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_same(what, &plan.run(inputs).unwrap_or_else(|e| panic!("{what}: {e}")), want);
}

/// Both programs of a name.
fn as_torch(name: &str) {
    let want = stored(name, "out.");
    let inputs: Vec<Tensor> = stored(name, "in.").into_iter().map(|(_, t)| t).collect();
    let folder = tempfile::tempdir().unwrap();
    for ending in ["pt2", "decomposed.pt2"] {
        let what = format!("{name}.{ending}");
        // Weights stay in the archive, and what is written lies beside it.
        let path = folder.path().join(&what);
        std::fs::copy(file(&what), &path).unwrap();
        let graph = normfuse::open(&path).unwrap_or_else(|e| panic!("{e}"));
        for (_, node) in graph.nodes() {
            if let Op::Foreign(f) = &node.op {
                panic!("{what}: {} is foreign: {}", node.op.name(), f.reason);
            }
        }
        runs(&what, &graph, &inputs, &want);
        for format in [Format::Onnx, Format::Nf, Format::Json] {
            let copy = folder.path().join(format!("copy.{}", format.name()));
            normfuse::save(&graph, &copy, format, &WriteOptions::default()).unwrap_or_else(|e| panic!("{what}: {e}"));
            let again = normfuse::open(&copy).unwrap_or_else(|e| panic!("{what}: {e}"));
            runs(&format!("{what} as {}", format.name()), &again, &inputs, &want);
        }
    }
}

#[test]
fn complex_numbers_are_pairs() {
    as_torch("complex_rope");
}

#[test]
fn arguments_that_are_no_tensors_are_part_of_the_program() {
    as_torch("constants");
}

#[test]
fn einsum_is_transposes_and_a_product() {
    as_torch("einsum");
}

#[test]
fn index_put_by_indices_and_by_masks() {
    as_torch("put");
}

#[test]
fn lookups_by_several_indices_of_any_axes() {
    as_torch("lookup");
}

#[test]
fn whole_quotients_and_repeats() {
    as_torch("whole");
}

#[test]
fn bits_of_floats_and_shifts_of_signed_integers() {
    as_torch("bits");
}

#[test]
fn parts_of_other_autograd_modes_are_inlined() {
    as_torch("modes");
}

/// What the IR cannot say stays, and whoever runs it hears why.
#[test]
fn a_selection_by_a_mask_is_foreign_and_says_so_when_it_is_run() {
    let graph = normfuse::open(&file("mask.pt2")).unwrap();
    let inputs = [Tensor::from_f32(&[2], &[1., 2.]), Tensor::from_bytes(DType::Bool, vec![2], vec![1, 0]).unwrap()];
    let e = cpu::Plan::new(&graph).and_then(|plan| plan.run(&inputs)).unwrap_err().to_string();
    for part in ["aten::index.Tensor", "it selects by a mask"] {
        assert!(e.contains(part), "{e}");
    }
}

#[test]
fn memory_that_is_filled_in_pieces() {
    as_torch("pieces");
}
