//! Who notes what a plan asks for, and memory in which that is done.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use cudarc::driver::sys::CUstream;
use normfuse_ir::{
    DType, Error, ErrorKind, FusedNorm, Graph, Op, Result, Tensor, eval,
    fused::OutPort,
    scaled::{ScalePer, ScaledMatMul},
    scheme::{F32, ScaleLayout},
};

use super::super::{
    super::{
        ops::{AttentionSoftmax, Call, Chain, Launch, Leaf, Lowered, Source, Word},
        product::{Addend, Plain, Scaled, Scales, Side, Sizes, Strided},
    },
    Backend, Plan, Product,
    step::{Place, Root, Step, Value, Work},
};
use crate::cpu;

/// What was asked for, by number.
pub enum Asked {
    Op(Op),
    Plain(Plain),
    Chain(Chain),
    WrittenOut(DType, Strided),
    Softmax(AttentionSoftmax),
    Scaled(Scaled),
}

/// Notes what it is asked for; the text of a kernel is its number.
#[derive(Default)]
pub struct Notes(pub Mutex<Vec<Asked>>);

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

    fn written_out(&self, dtype: DType, lies: &Strided) -> Result<Lowered> {
        Ok(self.kernel(Asked::WrittenOut(dtype, lies.clone()), &[true], 1, 0))
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

    fn product(&self, product: &Plain) -> Result<Arc<dyn Product>> {
        Ok(Arc::new(Numbered(self.note(Asked::Plain(product.clone())))))
    }

    fn scaled(&self, product: &Scaled) -> Result<Arc<dyn Product>> {
        Ok(Arc::new(Numbered(self.note(Asked::Scaled(product.clone())))))
    }
}

/// Memory as a plan lays it out.
pub struct Machine<'a> {
    plan: &'a Plan,
    asked: &'a [Asked],
    arena: Vec<u8>,
    /// Of roots outside of the arena.
    roots: Vec<Vec<u8>>,
}

impl<'a> Machine<'a> {
    pub fn new(plan: &'a Plan, asked: &'a [Asked], graph: &Graph, inputs: &[Tensor]) -> Self {
        let bytes = |root: &Root| match &root.place {
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

    pub fn read(&mut self, value: usize) -> Tensor {
        let value = self.plan.values[value].clone();
        let bytes = self.memory(&value).to_vec();
        Tensor::from_bytes(value.typed.dtype, value.typed.shape.clone(), bytes).unwrap()
    }

    pub fn run(&mut self, step: &Step) {
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
                    Asked::WrittenOut(dtype, lies) => vec![gathered(refs[0].unwrap(), *dtype, lies)],
                    Asked::Softmax(softmax) => of_softmax(softmax, &refs),
                    _ => panic!("a product is no kernel"),
                }
            }
            Work::Norm(norm) => cpu::fused_norm(&norm.norm, &refs).unwrap(),
            Work::Product(product) => {
                let number: usize = format!("{product:?}").parse().unwrap();
                match &self.asked[number] {
                    Asked::Plain(plain) => return self.plain(plain, step),
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
            (Op::Expand, [Some(x), ..]) => vec![eval::movement::expand(x, &shape).unwrap()],
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

    /// As the library does it: matrix by matrix, each from where it is said to begin, as it is said to lie.
    fn plain(&mut self, p: &Plain, step: &Step) {
        let Sizes { m, k, n, a, b, ref runs } = p.sizes;
        let operands: Vec<Value> = step.inputs.iter().flatten().map(|v| self.plan.values[*v].clone()).collect();
        let memory: Vec<Vec<u8>> = operands.iter().map(|value| self.memory(value).to_vec()).collect();
        let size = p.dtype.bits() / 8;
        let matrix = |port: usize, [rows, columns]: [usize; 2], side: Side, begin: usize| {
            assert!(side.lead >= if side.trans { rows } else { columns });
            let at = |i: usize, j: usize| if side.trans { j * side.lead + i } else { i * side.lead + j };
            let mut bytes = Vec::with_capacity(rows * columns * size);
            for (i, j) in (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j))) {
                bytes.extend(&memory[port][(begin + at(i, j)) * size..][..size]);
            }
            let own = Tensor::from_bytes(p.dtype, vec![rows, columns], bytes).unwrap();
            // Sums are kept as they are.
            if p.result == DType::F32 { eval::cast(&own, DType::F32, true).unwrap() } else { own }
        };
        let added = operands.get(2).zip(memory.get(2)).map(|(value, bytes)| {
            let Value { typed, .. } = value;
            Tensor::from_bytes(typed.dtype, typed.shape.clone(), bytes.clone()).unwrap()
        });
        assert_eq!(added.is_some(), p.addend != Addend::None);
        let op = match (p.dtype, &added) {
            (DType::I8, _) => Op::MatMulInteger,
            (_, None) if p.alpha == 1.0 => Op::MatMul,
            _ => Op::Gemm { alpha: F32::new(p.alpha), beta: F32::new(p.beta), trans_a: false, trans_b: false },
        };
        let mut result = vec![0; p.bytes];
        for run in runs {
            for i in 0..run.count {
                let left = matrix(0, [m, k], a, run.a + i * run.a_step);
                let right = matrix(1, [k, n], b, run.b + i * run.b_step);
                let operands = [Some(&left), Some(&right), added.as_ref()];
                let made = cpu::execute(&op, &operands[..2 + usize::from(added.is_some())]).unwrap().remove(0);
                assert_eq!(made.dtype(), p.result);
                let begin = (run.d + i * m * n) * p.result.bits() / 8;
                result[begin..][..made.bytes().len()].copy_from_slice(made.bytes());
            }
        }
        self.bytes(step.outputs[0], result.len()).copy_from_slice(&result);
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

/// Elements of a tensor that lie as it is said, row by row.
fn gathered(x: &Tensor, dtype: DType, lies: &Strided) -> Tensor {
    assert_eq!(x.dtype(), dtype);
    let dense = Strided::dense(&lies.shape);
    if *lies == dense {
        assert_eq!(x.len(), lies.shape.iter().product::<usize>());
        return Tensor::from_bytes(dtype, lies.shape.clone(), x.bytes().to_vec()).unwrap();
    }
    let size = dtype.bits() / 8;
    let mut bytes = Vec::new();
    for i in 0..lies.shape.iter().product::<usize>() {
        let indices = dense.shape.iter().zip(&dense.strides).map(|(n, step)| i / step % n);
        let at = lies.offset + indices.zip(&lies.strides).map(|(index, step)| index * step).sum::<usize>();
        bytes.extend(&x.bytes()[at * size..][..size]);
    }
    Tensor::from_bytes(dtype, lies.shape.clone(), bytes).unwrap()
}

fn of_chain(chain: &Chain, inputs: &[Option<&Tensor>]) -> Tensor {
    let read = |(leaf, x): (&Leaf, &Tensor)| gathered(x, leaf.dtype, &leaf.lies);
    let inputs: Vec<Tensor> = chain.inputs.iter().zip(inputs.iter().flatten().copied()).map(read).collect();
    let mut made: Vec<Tensor> = Vec::new();
    for step in &chain.steps {
        let operand = |source: &Option<Source>| match source {
            Some(Source::Input(i)) => Some(inputs[*i].clone()),
            Some(Source::Step(i)) => Some(made[*i].clone()),
            None => None,
        };
        let mut operands: Vec<Option<Tensor>> = step.operands.iter().map(operand).collect();
        if matches!(step.op, Op::Concat { .. }) {
            all_alike(&mut operands, chain.axis);
        }
        let refs: Vec<Option<&Tensor>> = operands.iter().map(Option::as_ref).collect();
        let result = cpu::execute(&step.op, &refs).unwrap().remove(0);
        assert_eq!(result.dtype(), step.dtype);
        made.push(result);
    }
    eval::movement::broadcast_to(&made[chain.outputs[0]], &chain.shape).unwrap()
}

/// Broadcasts pieces to what they are all of, but for the axis along which they are joined.
fn all_alike(pieces: &mut [Option<Tensor>], axis: usize) {
    let shapes: Vec<Vec<usize>> = pieces.iter().flatten().map(|p| p.shape().to_vec()).collect();
    for piece in pieces.iter_mut().flatten() {
        let mut whole = piece.shape().to_vec();
        for (at, n) in whole.iter_mut().enumerate().filter(|(at, n)| *at != axis && **n == 1) {
            *n = shapes.iter().map(|s| s[at]).find(|n| *n != 1).unwrap_or(1);
        }
        *piece = eval::movement::broadcast_to(piece, &whole).unwrap();
    }
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
