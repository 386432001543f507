//! Programs of `torch.export` with ops whose meaning is not in their name, against what torch computed, bit for bit: as
//! they are and after `run_decompositions()`, on the reference evaluator and on the CPU, and once more out of the files
//! that they are written to.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use normfuse::{
    Format, cpu,
    formats::{onnx::WriteOptions, tensors},
    ir::{DType, Graph, Op, Tensor, eval},
    passes,
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
    in_forms(name, &["pt2", "decomposed.pt2"]);
}

fn in_forms(name: &str, endings: &[&str]) {
    let want = stored(name, "out.");
    let inputs: Vec<Tensor> = stored(name, "in.").into_iter().map(|(_, t)| t).collect();
    let folder = tempfile::tempdir().unwrap();
    for ending in endings {
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
fn scaled_products_are_ops_of_their_own() {
    as_torch("scaled");
    let graph = normfuse::open(&file("scaled.pt2")).unwrap();
    let products = graph.nodes().filter(|(_, n)| matches!(n.op, Op::ScaledMatMul(_))).count();
    assert_eq!(products, 6);
    assert!(graph.nodes().all(|(_, n)| !matches!(n.op, Op::MatMul | Op::Foreign(_))));
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

#[test]
fn casts_to_8_bit_floats_beyond_their_range() {
    as_torch("narrow");
}

#[test]
fn numbers_beside_16_bits_come_in_as_on_a_gpu() {
    as_torch("numbers");
}

#[test]
fn norms_of_torch_s_own() {
    as_torch("norms");
}

#[test]
fn sums_with_a_factor_remainders_padding_and_tensors_of_rank_0() {
    as_torch("sums");
}

#[test]
fn attention_without_heads_or_batch() {
    in_forms("heads", &["pt2"]);
}

#[test]
fn in_place_ops_on_memory_of_the_program_s_own() {
    as_torch("writes");
}

#[test]
fn new_memory_that_is_filled_place_by_place() {
    in_forms("fresh", &["pt2"]);
}

#[test]
fn complex_buffers_are_pairs() {
    as_torch("complex_buffer");
}

#[test]
fn ends_of_ranges_nans_fractions_and_a_bias_in_16_bits() {
    as_torch("corners");
}

#[test]
fn results_have_the_names_that_the_model_gives_them() {
    as_torch("named");
}

/// A program of another version of torch: the text of its record in the archive, replaced by one as long.
fn altered(name: &str, from: &str, to: &str) -> Graph {
    let mut bytes = std::fs::read(file(name)).unwrap();
    assert_eq!(from.len(), to.len());
    let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap_or_else(|| panic!("no {from}"));
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    normfuse::open(&path).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn bounds_may_be_tensors_and_bases_numbers() {
    as_torch("bounds");
}

#[test]
fn whole_numbers_are_counted_as_such_in_any_type() {
    as_torch("ranges");
}

#[test]
fn floats_made_of_integers_have_the_default_type_of_the_export() {
    as_torch("promoted_bf16");
    as_torch("promoted_f64");
}

#[test]
fn new_memory_takes_elements_at_some_places() {
    as_torch("experts");
}

#[test]
fn all_names_of_some_memory_change_together() {
    as_torch("aliases");
}

/// Bounds that are numbers or tensors, powers of two as powers of a number: all that mean the same are one.
#[test]
fn quantisers_have_one_scheme_however_torch_spells_them() {
    for ending in ["pt2", "decomposed.pt2"] {
        let mut graph = normfuse::open(&file(&format!("spelled.{ending}"))).unwrap();
        let options = passes::Options { verify: true, ..passes::Options::default() };
        let s = passes::run(&mut graph, &options).unwrap().summary;
        assert_eq!((s.norms, s.quants, s.fused.norm_quant, s.rejected), (11, 11, 11, 0), "{ending}");
        let plain = "scale f32 = amax, max 1e-10, / 448.0; q = v / scale, max -448.0, min 448.0, cast f8e4m3fn";
        let power = plain.replace("/ 448.0;", "/ 448.0, log2, ceil, 2.0 ^ it;");
        let mut found = BTreeMap::new();
        for (_, node) in graph.nodes() {
            if let Op::FusedNorm(norm) = &node.op {
                *found.entry(norm.siblings[0].epilogues[0].arithmetic()).or_insert(0) += 1;
            }
        }
        assert_eq!(found, BTreeMap::from([(plain.to_owned(), 9), (power, 2)]), "{ending}");
    }
}

/// Before torch 2.13 what rounds to more than 448 became NaN; a program without a version is taken for such a one.
#[test]
fn casts_to_e4m3fn_are_those_of_the_program_s_version() {
    let inputs: Vec<Tensor> = stored("narrow", "in.").into_iter().map(|(_, t)| t).collect();
    let want = stored("narrow", "out.");
    let floats = |t: &Tensor| -> Vec<f32> {
        t.bytes().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let x = floats(inputs.iter().find(|t| t.dtype() == DType::F32).unwrap());
    let new = floats(&want[0].1);
    let before: Vec<f32> = x.iter().zip(&new).map(|(x, y)| if x.abs() > 464.0 { 1000.0 } else { *y }).collect();
    assert_ne!(before, new);
    for (from, to, noted) in [("2.15.0+cu132", "2.12.1+cu132", false), ("\"torch_version\"", "\"torch_versiox\"", true)]
    {
        let graph = altered("narrow.pt2", from, to);
        let found = eval::run(&graph, &inputs).unwrap();
        assert_eq!(floats(&found[0]), before, "{to}");
        assert_eq!(found[1].bytes(), want[1].1.bytes(), "{to}: other types never saturated");
        assert_eq!(graph.info.notes.iter().any(|n| n.contains("before 2.13")), noted, "{to}: {:?}", graph.info.notes);
    }
}

fn reasons(graph: &Graph) -> Vec<String> {
    let foreign = |(_, node): (_, &normfuse::ir::Node)| match &node.op {
        Op::Foreign(f) => Some(format!("{}: {}", node.op.name(), f.reason)),
        _ => None,
    };
    graph.nodes().filter_map(foreign).collect()
}

#[test]
fn an_eps_that_versions_chose_differently_is_not_guessed() {
    let reasons = reasons(&altered("norms.pt2", "\"torch_version\"", "\"torch_versiox\""));
    assert_eq!(reasons.len(), 3, "{reasons:?}");
    assert!(reasons.iter().all(|r| r.starts_with("aten::rms_norm.default: its eps is left to torch")), "{reasons:?}");
}

#[test]
fn what_backends_compute_differently_stays_foreign_with_the_reason() {
    let found = reasons(&normfuse::open(&file("left.pt2")).unwrap());
    let want = [
        "aten::add.Tensor: `alpha` is no power of two",
        "aten::pad.default: `mode` is `reflect`",
        "aten::native_layer_norm.default: its mean or deviation is read",
        "aten::linalg_vector_norm.default: its order is 3",
    ];
    assert_eq!(found.len(), want.len(), "{found:?}");
    for w in want {
        assert!(found.iter().any(|f| f.starts_with(w)), "{w}: {found:?}");
    }
}

/// One that an input has already gets a number.
#[test]
fn keys_of_a_dictionary_are_names_of_results() {
    let graph = normfuse::open(&file("named.pt2")).unwrap();
    let names: Vec<&str> = graph.outputs().iter().map(|o| o.name.as_str()).collect();
    assert_eq!(names, ["logits", "cache.0", "cache.1.0", "cache.1.1", "x_1"]);
}
