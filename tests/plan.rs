//! Plans of whole graphs for a GPU, made without one: every model of `tests/models` and every graph of `tests/in`.

#[path = "common/graphs.rs"]
mod files;

use std::{
    collections::BTreeSet,
    io::{self, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use normfuse::{
    cuda::{
        Compiler,
        exec::{Backend, Given, OnPaper, Plan, Product, host_inputs},
        ops::{Call, Chain, Launch, Lowered, Word},
        product::{Plain, Scaled},
    },
    ir::{self, ErrorKind, Graph, Op, Result, infer},
};

use files::{graphs, input_shapes, open};

const NON_ZERO: &str = r#"graph "g"
opset "" 20
input %x: f32[n]
%some = non_zero(%x)
output %some
"#;

/// The largest index of the data is a size.
const SHAPE_OF_DATA: &str = r#"graph "g"
opset "" 20
input %x: f32[128]
const %v: f32[1] = [2.0]
%i = arg_reduce(%x) {axis=0, keepdims=true, max=true, select_last=false}
%y = expand(%v, %i)
output %y
"#;

/// What reads a foreign op's result has sizes that depend on its data, and would be blamed.
const FOREIGN: &str = r#"graph "g"
opset "" 20
input %x: f32[n]
const %v: f32[1] = [2.0]
%some = non_zero(%x)
%magic = "com.acme"."Magic"(%some) {reason="no kernel"}
%i = cast(%magic) {to=i64}
%y = expand(%v, %i)
%trick = "com.acme"."Trick"(%y)
output %trick
output %i
"#;

/// Only the size of a foreign op's result is read, and the graph says it.
const SIZE_OF_FOREIGN: &str = r#"graph "g"
opset "" 20
input %x: f32[n]
%magic: f32[n] = "com.acme"."Magic"(%x)
%sizes = shape(%magic)
%y = expand(%x, %sizes)
output %y
"#;

/// A causal mask out of ranges, a chain with a broadcast operand, views, and a product.
const MASKED: &str = r#"graph "g"
opset "" 20
input %x: f32[seq, 64]
const %w: f32[64, 64] = fill(0.5)
const %zero: i64[] = 0
const %one: i64[] = 1
const %low: f32[] = -3.0e38
const %nothing: f32[] = 0.0
const %column: i64[2] = [-1, 1]
%sizes = shape(%x) {end=1}
%n = squeeze(%sizes) {axes=[0]}
%range = range(%zero, %n, %one)
%rows = reshape(%range, %column)
%later = greater(%range, %rows)
%mask = where(%later, %low, %nothing)
%y = matmul(%x, %w)
%t = transpose(%y) {perm=[1, 0]}
%s = matmul(%y, %t)
%scaled = mul(%s, %s)
%kept = add(%scaled, %mask)
%small = tanh(%kept)
output %small
"#;

/// Every op has a kernel, which reads all operands and needs some scratch.
struct Any;

fn kernel(inputs: usize, outputs: usize, scratch: u64) -> Lowered {
    let words = (0..inputs).map(Word::Input).chain((0..outputs).map(Word::Output)).collect();
    let launch = Launch { text: Arc::from(""), entry: "k", blocks: 1, threads: 32, words, together: false };
    Lowered { launches: vec![launch], scratch }
}

impl Backend for Any {
    fn node(&self, call: &Call<'_>) -> Result<Lowered> {
        Ok(kernel(call.inputs.len(), call.outputs.len(), 1000))
    }

    fn chain(&self, chain: &Chain) -> Result<Lowered> {
        Ok(kernel(chain.inputs.len(), chain.outputs.len(), 0))
    }

    fn product(&self, product: &Plain) -> Result<Arc<dyn Product>> {
        OnPaper.product(product)
    }

    fn scaled(&self, product: &Scaled) -> Result<Arc<dyn Product>> {
        OnPaper.scaled(product)
    }
}

fn fused(graph: &Graph) -> Graph {
    files::fused(graph, Arc::new(normfuse::cuda::supports))
}

/// Inputs of small sizes, those that the host reads filled with ones.
fn given(graph: &Graph, size: i64) -> Vec<Given> {
    let read = host_inputs(graph).unwrap();
    let given = |(i, (id, shape)): (usize, (&_, Vec<usize>))| {
        let dtype = graph.value(*id).ty.dtype.unwrap();
        let count: usize = shape.iter().product();
        let one = || {
            let mut one = vec![0; dtype.bits() / 8];
            one[0] = 1;
            one.repeat(count)
        };
        Given { contents: (read.contains(&i) && count <= 64).then(one), typed: (dtype, shape) }
    };
    graph.inputs().iter().zip(input_shapes(graph, size)).enumerate().map(given).collect()
}

#[test]
fn arenas_are_hardly_larger_than_they_must_be() {
    let mut planned = 0;
    for path in graphs("tests/models").into_iter().chain(graphs("tests/in")) {
        let source = open(&path);
        if source.nodes().any(|(_, n)| matches!(n.op, Op::Foreign(_))) {
            continue;
        }
        for graph in [&source, &fused(&source)] {
            for size in [1, 7, 64] {
                let plan = match Plan::new(graph, &given(graph, size), &Any) {
                    Ok(plan) => plan,
                    // Some graphs are of certain sizes only.
                    Err(e) if e.kind == ErrorKind::Shape => continue,
                    Err(e) => panic!("{} at {size}: {e}", path.display()),
                };
                let arena = plan.arena();
                let ratio = arena.bytes as f64 / arena.lower_bound.max(1) as f64;
                assert!(
                    ratio <= 1.15 || arena.bytes == 0,
                    "{}: {} of {}",
                    path.display(),
                    arena.bytes,
                    arena.lower_bound
                );
                planned += 1;
            }
        }
    }
    assert!(planned > 100);
}

/// Every op has a kernel on paper, and where NVRTC is found, all of them compile.
#[test]
fn every_graph_has_kernels() {
    let mut texts = BTreeSet::new();
    for path in graphs("tests/models").into_iter().chain(graphs("tests/in")) {
        let source = open(&path);
        for graph in [&source, &fused(&source)] {
            match Plan::new(graph, &given(graph, 7), &OnPaper) {
                Ok(plan) => texts.extend(plan.texts()),
                Err(e) if e.kind == ErrorKind::Shape => {}
                Err(e) => panic!("{}: {e}", path.display()),
            }
        }
    }
    let compiler = match Compiler::load() {
        Ok(compiler) => compiler,
        Err(e) => {
            let _ = writeln!(io::stderr(), "skipped: {e}");
            return;
        }
    };
    let texts: Vec<Arc<str>> = texts.into_iter().collect();
    let failed = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, std::num::NonZero::get) {
            scope.spawn(|| {
                while let Some(text) = texts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(e) = compiler.compile(text, "sm_90") {
                        failed.lock().unwrap().push(format!("{e}\n{text}"));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    let message = failed.first().map_or("", String::as_str);
    assert!(failed.is_empty(), "{} of {} do not compile, the first: {message}", failed.len(), texts.len());
    assert!(texts.len() > 50, "{}", texts.len());
}

/// What a node asks for that depends on data is named before anything runs, and so is every op without a kernel.
#[test]
fn what_cannot_run_is_named() {
    let refused = |text: &str| {
        let mut graph = ir::text::parse(text, &mut |w| panic!("{}", w.name)).unwrap();
        infer::infer(&mut graph).unwrap();
        Plan::new(&graph, &given(&graph, 7), &OnPaper).unwrap_err().to_string()
    };
    let said = refused(NON_ZERO);
    assert!(said.contains("node `some`") && said.contains("depend on data"), "{said}");
    let said = refused(SHAPE_OF_DATA);
    assert!(said.contains("node `y`") && said.contains("depends on data"), "{said}");
    let said = refused(FOREIGN);
    assert!(said.starts_with("node `magic`: `com.acme::Magic` is a foreign op and has no form on the GPU"), "{said}");
    assert!(said.contains("no kernel; so it is with `trick` (`com.acme::Trick`)"), "{said}");
    let mut graph = ir::text::parse(SIZE_OF_FOREIGN, &mut |w| panic!("{}", w.name)).unwrap();
    infer::infer(&mut graph).unwrap();
    assert!(Plan::new(&graph, &given(&graph, 7), &OnPaper).unwrap().launches() <= 1);
}

/// The mask is made on the host, three elementwise nodes are one kernel, and what is not read is not planned.
#[test]
fn masks_are_made_on_the_host_and_chains_are_one_kernel() {
    let mut graph = ir::text::parse(MASKED, &mut |w| panic!("{}", w.name)).unwrap();
    infer::infer(&mut graph).unwrap();
    let plan = Plan::new(&graph, &given(&graph, 12), &OnPaper).unwrap();
    let steps: Vec<(String, usize)> = plan.list().into_iter().map(|s| (s.op, s.nodes.len())).collect();
    let want = [("matmul", 1), ("matmul", 1), ("mul add tanh", 3)];
    assert_eq!(steps, want.map(|(op, nodes)| (op.to_owned(), nodes)));
    // y, which is read across, too, and the scores; the result is the caller's.
    let (y, scores) = (12 * 64 * 4, 12 * 12 * 4u64);
    assert_eq!(plan.arena().bytes, y + scores.next_multiple_of(256));
    assert_eq!(plan.arena().bytes, plan.arena().lower_bound);
}
