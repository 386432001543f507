//! Plans, executed step by step on the CPU in memory that is laid out as the plan says: chains, views and places are right if the
//! results are those of the graph, though scratch is overwritten and nothing is cleared.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use cudarc::driver::sys::CUstream;
use normfuse_ir::{
    DType, Error, ErrorKind, FusedNorm, Graph, Op, Result, Shape, Tensor, Type,
    body::bits_equal,
    eval,
    fused::OutPort,
    infer,
    op::AttentionOp,
    scaled::{ScalePer, ScaledMatMul},
    scheme::{F32, ScaleLayout},
    text,
};

use super::{
    super::{
        ops::{AttentionSoftmax, Call, Chain, Launch, Lowered, Source, Word},
        product::{Scaled, Scales},
    },
    Backend, Plan, Product,
    executable::given,
    host_inputs,
    step::{Place, Root, Step, Value, Work},
};
use crate::cpu;

/// What was asked for, by number.
enum Asked {
    Op(Op),
    Chain(Chain),
    Softmax(AttentionSoftmax),
    Scaled(Scaled),
}

/// Notes what it is asked for; the text of a kernel is its number.
#[derive(Default)]
struct Notes(Mutex<Vec<Asked>>);

impl Notes {
    fn note(&self, asked: Asked) -> usize {
        let mut all = self.0.lock().unwrap();
        all.push(asked);
        all.len() - 1
    }

    fn kernel(&self, asked: Asked, inputs: &[bool], outputs: usize, scratch: u64) -> Lowered {
        let number = self.note(asked);
        let present = (0..inputs.len()).filter(|i| inputs[*i]).map(Word::Input);
        let words = present.chain((0..outputs).map(Word::Output)).collect();
        let text = Arc::from(number.to_string());
        Lowered { launches: vec![Launch { text, entry: "k", blocks: 1, threads: 1, words, together: false }], scratch }
    }
}

/// A product that says its number when it is printed.
struct Numbered(usize);

impl fmt::Debug for Numbered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl Product for Numbered {
    fn scratch(&self) -> u64 {
        700
    }

    unsafe fn launch(&self, _: CUstream, _: &[u64], _: &[u64], _: u64) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "is not launched"))
    }
}

impl Backend for Notes {
    fn node(&self, call: &Call<'_>) -> Result<Lowered> {
        let present: Vec<bool> = call.inputs.iter().map(Option::is_some).collect();
        Ok(self.kernel(Asked::Op(call.op.clone()), &present, call.outputs.len(), 1000))
    }

    fn chain(&self, chain: &Chain) -> Result<Lowered> {
        Ok(self.kernel(Asked::Chain(chain.clone()), &vec![true; chain.inputs.len()], chain.outputs.len(), 0))
    }

    fn softmax(&self, softmax: &AttentionSoftmax) -> Result<Lowered> {
        let inputs = vec![true; 1 + usize::from(softmax.mask.is_some())];
        let outputs = 1 + usize::from(softmax.kept.is_some());
        Ok(self.kernel(Asked::Softmax(softmax.clone()), &inputs, outputs, 0))
    }

    /// Two heads or so, of the tests' sizes.
    fn most_scores(&self) -> usize {
        800
    }

    fn product(&self, call: &Call<'_>) -> Result<Arc<dyn Product>> {
        Ok(Arc::new(Numbered(self.note(Asked::Op(call.op.clone())))))
    }

    fn scaled(&self, product: &Scaled) -> Result<Arc<dyn Product>> {
        Ok(Arc::new(Numbered(self.note(Asked::Scaled(product.clone())))))
    }
}

/// Memory as a plan lays it out.
struct Machine<'a> {
    plan: &'a Plan,
    asked: &'a [Asked],
    arena: Vec<u8>,
    /// Of roots outside of the arena.
    roots: Vec<Vec<u8>>,
}

impl<'a> Machine<'a> {
    fn new(plan: &'a Plan, asked: &'a [Asked], graph: &Graph, inputs: &[Tensor]) -> Self {
        let bytes = |root: &super::step::Root| match &root.place {
            Place::Input(i) => inputs[*i].bytes().to_vec(),
            Place::Weight(id) | Place::PassingWeight(id) => graph.value(*id).as_const().unwrap().bytes().to_vec(),
            Place::Host(tensor) => tensor.bytes().to_vec(),
            Place::Output(_) | Place::Kept(_) | Place::Passing => vec![0xa5; root.bytes as usize],
            Place::Arena(_) => Vec::new(),
        };
        let roots = plan.roots.iter().map(bytes).collect();
        Self { plan, asked, arena: vec![0xa5; plan.arena.bytes as usize], roots }
    }

    fn memory(&mut self, value: &Value) -> &mut [u8] {
        let (offset, bytes) = (value.offset as usize, value.bytes() as usize);
        match self.plan.roots[value.root].place {
            Place::Arena(at) => &mut self.arena[at as usize + offset..][..bytes],
            _ => &mut self.roots[value.root][offset..offset + bytes],
        }
    }

    fn read(&mut self, value: usize) -> Tensor {
        let value = self.plan.values[value].clone();
        let bytes = self.memory(&value).to_vec();
        Tensor::from_bytes(value.typed.dtype, value.typed.shape.clone(), bytes).unwrap()
    }

    fn run(&mut self, step: &Step) {
        if !step.once {
            self.arena[step.scratch_at as usize..][..step.scratch as usize].fill(0x5a);
        }
        let inputs: Vec<Option<Tensor>> = step.inputs.iter().map(|v| v.map(|v| self.read(v))).collect();
        let refs: Vec<Option<&Tensor>> = inputs.iter().map(Option::as_ref).collect();
        let results = match &step.work {
            Work::Kernels(lowered) => {
                let number: usize = lowered.launches[0].text.parse().unwrap();
                match &self.asked[number] {
                    Asked::Op(op) => self.of_shape(op, &refs, step),
                    Asked::Chain(chain) => vec![of_chain(chain, &refs)],
                    Asked::Softmax(softmax) => of_softmax(softmax, &refs),
                    Asked::Scaled(_) => panic!("a product is no kernel"),
                }
            }
            Work::Norm(norm) => cpu::fused_norm(&norm.norm, &refs).unwrap(),
            Work::Product(product) => {
                let number: usize = format!("{product:?}").parse().unwrap();
                match &self.asked[number] {
                    Asked::Op(op) => cpu::execute(op, &refs).unwrap(),
                    Asked::Scaled(scaled) => return self.scaled(scaled, step),
                    _ => panic!("a product is an op"),
                }
            }
            Work::Copy(_) => vec![inputs[0].clone().unwrap()],
        };
        let laid_out = |(i, result): (usize, &Tensor)| match &step.work {
            Work::Norm(norm) => as_laid_out(&norm.norm, i, result),
            _ => result.bytes().to_vec(),
        };
        let memory: Vec<Vec<u8>> = results.iter().enumerate().map(laid_out).collect();
        for (value, bytes) in step.outputs.iter().zip(memory) {
            let value = self.plan.values[*value].clone();
            self.memory(&value).copy_from_slice(&bytes);
        }
    }
}

/// The bytes of a result of a fused op in the order that its layout says, with others in places that belong to no row.
fn as_laid_out(norm: &FusedNorm, port: usize, result: &Tensor) -> Vec<u8> {
    let layout = match norm.out_ports()[port] {
        OutPort::Scale(k, e) => norm.siblings[k].epilogues[e].layout,
        _ => ScaleLayout::RowMajor,
    };
    if layout.is_in_order() {
        return result.bytes().to_vec();
    }
    let (across, lead) = result.shape().split_last().unwrap();
    let rows: usize = lead.iter().product();
    // Words of packed exponents lie as aligned columns do.
    let layout = if layout == ScaleLayout::PackedUe8m0 { ScaleLayout::TmaAligned } else { layout };
    let size = result.dtype().bits() / 8;
    let mut memory = vec![0xee; layout.held(rows as u64, *across as u64).unwrap() as usize * size];
    for (i, element) in result.bytes().chunks_exact(size).enumerate() {
        let at = ((i / across) as u64, (i % across) as u64);
        let to = layout.index(at, (rows as u64, *across as u64)) as usize * size;
        memory[to..to + size].copy_from_slice(element);
    }
    memory
}

impl Machine<'_> {
    /// Results of an op that the plan made up: what the host knows of it is said by the result's sizes.
    fn of_shape(&self, op: &Op, refs: &[Option<&Tensor>], step: &Step) -> Vec<Tensor> {
        let shape: Vec<i64> = self.plan.values[step.outputs[0]].typed.shape.iter().map(|n| *n as i64).collect();
        match (op, refs) {
            (Op::Expand, [Some(x)]) => vec![eval::movement::expand(x, &shape).unwrap()],
            (Op::Pad, [Some(x)]) => {
                let behind = shape.iter().zip(x.shape()).map(|(to, from)| to - *from as i64);
                let pads: Vec<i64> = vec![0; shape.len()].into_iter().chain(behind).collect();
                vec![eval::movement::pad(x, &pads, None, None).unwrap()]
            }
            _ => cpu::execute(op, refs).unwrap(),
        }
    }

    /// So many bytes from where a value lies: of its own, and behind them.
    fn bytes(&mut self, value: usize, count: usize) -> &mut [u8] {
        let Value { root, offset, .. } = self.plan.values[value].clone();
        let Root { place, bytes } = self.plan.roots[root].clone();
        assert!(offset as usize + count <= bytes as usize, "{count} bytes of {bytes} from {offset} on");
        match place {
            Place::Arena(at) => &mut self.arena[at as usize + offset as usize..][..count],
            _ => &mut self.roots[root][offset as usize..][..count],
        }
    }

    /// As the library does it: by the sizes that it was told, whatever the values are.
    fn scaled(&mut self, p: &Scaled, step: &Step) {
        let groups = p.k.div_ceil(128);
        let inputs: Vec<usize> = step.inputs.iter().map(|v| v.unwrap()).collect();
        let mut read = |port: usize, dtype: DType, shape: &[usize]| {
            let count = shape.iter().product::<usize>() * dtype.bits() / 8;
            Tensor::from_bytes(dtype, shape.to_vec(), self.bytes(inputs[port], count).to_vec()).unwrap()
        };
        let (a, b) = (read(0, p.codes[0], &[p.m, p.k]), read(1, p.codes[1], &[p.n, p.k]));
        let mut side = |port: usize, rows: usize| match p.scales[port - 2] {
            Scales::One => (ScalePer::Tensor, read(port, DType::F32, &[1])),
            Scales::Rows => (ScalePer::Row, read(port, DType::F32, &[rows, 1])),
            Scales::Groups => {
                assert!(rows.is_multiple_of(4));
                let by_columns = read(port, DType::F32, &[groups, rows]);
                (ScalePer::Block(1, 128), eval::movement::transpose(&by_columns, None).unwrap())
            }
            Scales::Blocks => {
                let whole = read(port, DType::F32, &[rows.div_ceil(128), groups.next_multiple_of(4)]);
                let own = eval::movement::slice(&whole, &[0], &[groups as i64], Some(&[1]), None).unwrap();
                (ScalePer::Block(128, 128), own)
            }
        };
        let ((of_a, scale_a), (of_b, scale_b)) = (side(2, p.m), side(3, p.n));
        let op = Op::ScaledMatMul(ScaledMatMul { a: of_a, b: of_b, to: p.to });
        let y = eval::eval_node(&op, &[Some(&a), Some(&b), Some(&scale_a), Some(&scale_b)]).unwrap().remove(0);
        self.bytes(step.outputs[0], y.bytes().len()).copy_from_slice(y.bytes());
    }
}

fn of_chain(chain: &Chain, inputs: &[Option<&Tensor>]) -> Tensor {
    let mut made: Vec<Tensor> = Vec::new();
    for step in &chain.steps {
        let operand = |source: &Option<Source>| match source {
            Some(Source::Input(i)) => inputs[*i].cloned(),
            Some(Source::Step(i)) => Some(made[*i].clone()),
            None => None,
        };
        let operands: Vec<Option<Tensor>> = step.operands.iter().map(operand).collect();
        let refs: Vec<Option<&Tensor>> = operands.iter().map(Option::as_ref).collect();
        let result = cpu::execute(&step.op, &refs).unwrap().remove(0);
        assert_eq!(result.dtype(), step.dtype);
        made.push(result);
    }
    let last = made.swap_remove(chain.outputs[0]);
    assert_eq!(last.shape(), chain.shape);
    last
}

/// As attention has it, in f32.
fn of_softmax(a: &AttentionSoftmax, inputs: &[Option<&Tensor>]) -> Vec<Tensor> {
    let wide = |t: &Tensor| -> Vec<f32> {
        let t = eval::cast(t, DType::F32, true).unwrap();
        t.bytes().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let [batch, heads, queries, keys] = a.sizes;
    let mut scores = wide(inputs[0].unwrap());
    assert_eq!(scores.len(), batch * heads * queries * keys);
    let mask = inputs.get(1).copied().flatten().map(|mask| {
        let whole: Vec<i64> = a.sizes.iter().map(|n| *n as i64).collect();
        let values = if mask.dtype() == DType::Bool {
            let hidden = wide(mask).iter().map(|v| if *v == 0.0 { f32::NEG_INFINITY } else { 0.0 }).collect::<Vec<_>>();
            Tensor::from_f32(mask.shape(), &hidden)
        } else {
            eval::cast(mask, DType::F32, true).unwrap()
        };
        wide(&eval::movement::expand(&values, &whole).unwrap())
    });
    for (i, v) in scores.iter_mut().enumerate() {
        *v *= a.scale;
        let (key, query) = (i % keys, i / keys % queries);
        let hidden = a.causal.is_some_and(|past| key > query + past);
        *v += if hidden { f32::NEG_INFINITY } else { mask.as_ref().map_or(0.0, |m| m[i]) };
    }
    let kept = Tensor::from_f32(&[scores.len()], &scores);
    let rows = Tensor::from_f32(&[batch * heads * queries, keys], &scores);
    let probabilities = eval::softmax(&rows, -1, false).unwrap();
    let mut results = vec![eval::cast(&probabilities, a.probabilities, true).unwrap()];
    results.extend(a.kept.map(|(mode, dtype)| {
        assert_eq!(mode, 2);
        eval::cast(&kept, dtype, true).unwrap()
    }));
    results
}

fn inputs(graph: &Graph, size: i64) -> Vec<Tensor> {
    let mut state = 0x9e37_79b9u32;
    let mut tensor = |id: &normfuse_ir::ValueId| {
        let ty = &graph.value(*id).ty;
        let sizes = ty.shape.iter().flat_map(|s| &s.0).map(|d| d.eval(&|_| Some(size)).unwrap() as usize);
        let shape: Vec<usize> = sizes.collect();
        let dtype = ty.dtype.unwrap();
        let mut number = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let n = state >> 8;
            if dtype.is_int() || dtype == DType::Bool { (n % 2) as f32 } else { n as f32 / (1 << 22) as f32 - 2.0 }
        };
        let numbers: Vec<f32> = (0..shape.iter().product()).map(|_| number()).collect();
        eval::cast(&Tensor::from_f32(&shape, &numbers), dtype, true).unwrap()
    };
    graph.inputs().iter().map(&mut tensor).collect()
}

/// Plans and executes; what differs from the graph's own results. Nothing where the graph is not of such sizes.
fn differs(graph: &Graph, size: i64) -> Option<String> {
    let inputs = inputs(graph, size);
    let want = cpu::Plan::new(graph).and_then(|plan| plan.run(&inputs)).ok()?;
    let found = match executed(graph, &inputs) {
        Ok(found) => found,
        Err(e) => return Some(e.to_string()),
    };
    assert_eq!(found.len(), want.len());
    let mut pairs = want.iter().zip(&found);
    pairs.find_map(|(want, found)| bits_equal(want, found)).map(|d| d.to_string())
}

/// The results of the plan.
fn executed(graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    let notes = Notes::default();
    let given = given(&host_inputs(graph).unwrap(), inputs);
    let plan = Plan::new(graph, &given, &notes)?;
    let asked = notes.0.into_inner().unwrap();
    let mut machine = Machine::new(&plan, &asked, graph, inputs);
    for step in plan.once.iter().chain(&plan.steps) {
        machine.run(step);
    }
    Ok(plan.outputs.iter().map(|v| machine.read(*v)).collect())
}

fn graphs() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/in")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "nf") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn parsed(source: &str) -> Graph {
    let mut graph = text::parse(source, &mut |w| panic!("{}", w.name)).unwrap();
    infer::infer(&mut graph).unwrap();
    graph
}

#[test]
fn every_small_graph_is_itself_when_its_plan_is_executed() {
    let graphs = graphs();
    assert!(graphs.len() > 100);
    for path in graphs {
        let source = std::fs::read_to_string(&path).unwrap();
        let graph = parsed(&source);
        if graph.nodes().any(|(_, n)| matches!(n.op, Op::Foreign(_))) {
            continue;
        }
        for size in [1, 5] {
            if let Some(differs) = differs(&graph, size) {
                panic!("{} at {size}: {differs}", path.display());
            }
        }
    }
}

/// Views of views, results that are views, constants and inputs, one value twice, weights that are turned once, chains between
/// products.
#[test]
fn views_results_and_weights_lie_where_the_plan_says() {
    let graph = parsed(
        r#"graph "g"
opset "" 20
input %x: f32[n, 64]
input %ids: i64[n]
const %w: f32[96, 64] = fill(0.125)
const %bias: f32[96] = fill(0.5)
const %parts: i64[2] = [32, 64]
const %first: i64[1] = [0]
const %two: i64[1] = [2]
const %flat: i64[1] = [-1]
const %back: i64[2] = [-1, 32]
const %table: f32[4, 96] = fill(1.5)
%wt = transpose(%w) {perm=[1, 0]}
%h = matmul(%x, %wt)
%hb = add(%h, %bias)
%act = tanh(%hb)
%turned = transpose(%act) {perm=[1, 0]}
%a, %b = split(%turned, %parts) {axis=0, outputs=2}
%at = transpose(%a) {perm=[1, 0]}
%rows = gather(%table, %ids) {axis=0}
%sum = add(%rows, %act)
%long = reshape(%sum, %flat)
%short = reshape(%long, %back)
%top = slice(%short, %first, %two, %first)
%e = exp(%at)
output %long
output %top
output %e
output %b
output %x
output %w
output %e
"#,
    );
    for size in [1, 3, 8] {
        assert_eq!(differs(&graph, size), None, "{size}");
    }
}

/// Scales that a fused op writes by columns, read as they lie and row by row; twice, as a result, and of rows that are no multiple of 4.
#[test]
fn scales_that_lie_by_columns_are_read_row_by_row() {
    for (layout, dtype, steps, across) in [
        ("column_major", "f32", "", 2),
        ("tma_aligned", "f32", "", 2),
        ("packed_ue8m0", "i32", ", log2, ceil, exp2", 1),
    ] {
        let scale = if layout == "packed_ue8m0" { "f8e8m0" } else { "f32" };
        let graph = parsed(&format!(
            r#"scheme !s = {{element=f8e4m3fn, granularity={{group=128}}, compute=f32, origin=amax, factor=[{{div=448.0}}, {{max=4.359654e-6}}{steps}], apply=divide, post=[{{max=-448.0}}, {{min=448.0}}], encode=saturate, scale={{steps=[{{div=448.0}}, {{max=4.359654e-6}}{steps}], dtype={scale}}}, layout={layout}}}
graph "g"
opset "" 20
input %x: f32[n, 3, 256]
%q: f8e4m3fn[n, 3, 256] scheme !s, %s: {dtype}[n, 3, {across}] scheme !s = quantize(%x) !s
%across = transpose(%s) {{perm=[2, 0, 1]}}
%back = transpose(%across) {{perm=[1, 2, 0]}}
%other = transpose(%s) {{perm=[1, 0, 2]}}
output %q
output %s
output %across
output %back
output %other
"#
        ));
        for size in [1, 4, 5] {
            assert_eq!(differs(&graph, size), None, "{layout}, {size}");
        }
    }
}

/// A step of the past's length decides sizes: the host reads it.
#[test]
fn inputs_that_decide_sizes_are_read_by_the_host() {
    let graph = parsed(
        r#"graph "g"
opset "" 20
input %x: f32[8]
input %n: i64[1]
const %zero: i64[1] = [0]
%y = slice(%x, %zero, %n)
%z = abs(%y)
output %z
"#,
    );
    assert_eq!(host_inputs(&graph).unwrap().into_iter().collect::<Vec<_>>(), [1]);
    assert_eq!(differs(&graph, 1), None);
}

/// Attention in all its forms, in parts and at once: heads side by side and apart, heads that share keys, a past, masks of each head
/// and of all, causal ones, scores that are handed out.
#[test]
fn attention_is_products_and_a_softmax() {
    let op = |causal: bool, heads: Option<u64>, kv_heads: Option<u64>, outputs: usize| {
        Op::Attention(AttentionOp {
            is_causal: causal,
            scale: None,
            softcap: F32::new(0.0),
            q_num_heads: heads,
            kv_num_heads: kv_heads,
            qk_matmul_output_mode: 2,
            softmax_dtype: None,
            outputs,
        })
    };
    let f32s = |shape: &[usize]| (DType::F32, shape.to_vec());
    let (q, kv) = (f32s(&[2, 4, 5, 8]), f32s(&[2, 2, 12, 8]));
    let past = f32s(&[2, 2, 4, 8]);
    let side = |heads: usize, sequence: usize| f32s(&[2, sequence, heads * 8]);
    let none = None;
    let cases = [
        (op(false, None, None, 1), vec![Some(q.clone()), Some(kv.clone()), Some(kv.clone())]),
        (op(true, None, None, 1), vec![Some(q.clone()), Some(kv.clone()), Some(kv.clone())]),
        (
            op(false, None, None, 4),
            vec![
                Some(q.clone()),
                Some(kv.clone()),
                Some(kv.clone()),
                Some(f32s(&[2, 4, 5, 16])),
                Some(past.clone()),
                Some(past.clone()),
            ],
        ),
        (
            op(true, None, None, 3),
            vec![Some(q.clone()), Some(kv.clone()), Some(kv.clone()), none, Some(past.clone()), Some(past)],
        ),
        (
            op(false, Some(4), Some(2), 1),
            vec![Some(side(4, 5)), Some(side(2, 12)), Some(side(2, 12)), Some((DType::F32, vec![5, 12]))],
        ),
        (op(true, Some(4), Some(4), 1), vec![Some(side(4, 1)), Some(side(4, 1)), Some(side(4, 1))]),
    ];
    for (i, (op, operands)) in cases.into_iter().enumerate() {
        let mut graph = Graph::new("g");
        let mut inputs = Vec::new();
        for (port, operand) in operands.iter().enumerate() {
            let value = operand.clone().map(|(dtype, shape)| {
                graph.add_input(format!("x{port}"), Type::tensor(dtype, Shape::from_concrete(&shape)))
            });
            inputs.push(value);
        }
        let names: Vec<String> = (0..op.num_outputs()).map(|o| format!("y{o}")).collect();
        let node = graph.add_node("a", op, &inputs, names.clone()).unwrap();
        for (name, value) in names.into_iter().zip(graph.node(node).outputs.clone()) {
            graph.add_output(name, value);
        }
        infer::infer(&mut graph).unwrap();
        let given = self::inputs(&graph, 1);
        let want = cpu::Plan::new(&graph).unwrap().run(&given).unwrap();
        let found = executed(&graph, &given).unwrap();
        for (want, found) in want.iter().zip(&found) {
            assert_eq!(want.shape(), found.shape());
            let numbers = |t: &Tensor| -> Vec<f32> {
                t.bytes().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
            };
            for (a, b) in numbers(want).iter().zip(numbers(found)) {
                assert!((a - b).abs() < 1e-5 || *a == b, "case {i}: {a} and {b}");
            }
        }
    }
}

#[test]
fn graphs_on_a_gpu_may_be_used_from_any_thread() {
    fn shared<T: Send + Sync>() {}
    shared::<super::Executable>();
    shared::<super::Bound>();
    shared::<Plan>();
}
