//! A loop of decode steps on a GPU, as an engine would serve them: the cache of keys and values lies in two sets of buffers of the
//! caller's, and each step reads one and writes the other. The model is one step: token ids, positions and a mask, and a cache that
//! comes back one token longer. What depends on its length is made when that length first comes, and is there the next time.
//!
//! ```sh
//! cargo run --release --example decode -- MODEL [TOKENS [SEQUENCES [PAST]]]
//! ```

use std::{env, error::Error, path::Path, sync::Arc, time::Instant};

use indicatif::{ProgressBar, ProgressStyle};
use normfuse::{
    cuda::{
        self, Buffer, Compiler, Device,
        exec::{Bound, Executable, Given},
        product::Products,
    },
    ir::{DType, Dim, Graph, Value, infer},
    passes::{self, Options},
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What an input of a step is for.
enum Role {
    Tokens,
    Positions,
    Mask,
    /// The cache of a number.
    Cache(usize),
}

/// How many sequences, how long their caches are at first, and how many tokens each gets.
#[derive(Clone, Copy)]
struct Sizes {
    sequences: usize,
    past: usize,
    tokens: usize,
}

/// Roles by what inputs are called and are.
fn roles(graph: &Graph) -> Result<Vec<Role>> {
    let mut caches = 0;
    let mut role = |value: &Value| match value.ty.dtype {
        Some(DType::I64) if value.name.contains("position") => Ok(Role::Positions),
        Some(DType::I64 | DType::Bool) if value.name.contains("mask") => Ok(Role::Mask),
        Some(DType::I64) => Ok(Role::Tokens),
        Some(dtype) if dtype.is_float() => {
            caches += 1;
            Ok(Role::Cache(caches - 1))
        }
        _ => Err(format!("`{}` is no input of a decode step", value.name).into()),
    };
    graph.inputs().iter().map(|id| role(graph.value(*id))).collect()
}

/// One graph's steps, with everything that they read and write.
struct Engine {
    device: Device,
    executable: Executable,
    roles: Vec<Role>,
    /// Dtype and sizes of each cache when it holds so many tokens.
    caches: Vec<(DType, Vec<Dim>)>,
    sizes: Sizes,
    ids: Buffer,
    positions: Buffer,
    /// Nothing is hidden: as many ones as the longest cache has places.
    mask: Buffer,
    logits: Buffer,
    vocabulary: usize,
    /// The two sets of caches.
    sets: [Vec<Buffer>; 2],
    /// Steps by the length of their cache, from the first one on.
    steps: Vec<Arc<Bound>>,
}

/// `[SEQUENCES, ..., LENGTH, ...]`: the first axis is of sequences, the other one that has no number is of tokens.
fn cache_sizes(dims: &[Dim], sequences: usize, length: usize) -> Vec<usize> {
    let size = |(axis, dim): (usize, &Dim)| match dim.as_const() {
        Some(n) => n as usize,
        None if axis == 0 => sequences,
        None => length,
    };
    dims.iter().enumerate().map(size).collect()
}

impl Engine {
    fn new(device: &Device, compiler: Compiler, graph: Graph, sizes: Sizes) -> Result<Self> {
        let Sizes { sequences, past, tokens } = sizes;
        let roles = roles(&graph)?;
        let cached = |(role, id): (&Role, &_)| {
            let ty = &graph.value(*id).ty;
            matches!(role, Role::Cache(_)).then(|| Some((ty.dtype?, ty.shape.clone()?.0)))
        };
        let caches: Option<Vec<_>> = roles.iter().zip(graph.inputs()).filter_map(cached).collect();
        let caches = caches.ok_or("a cache has no type")?;
        if graph.outputs().len() != caches.len() + 1 {
            return Err(format!("expected logits and {} caches as results", caches.len()).into());
        }
        let logits = &graph.value(graph.outputs()[0].value).ty;
        let last = logits.shape.as_ref().and_then(|s| s.0.last()?.as_const());
        let vocabulary = usize::try_from(last.ok_or("the logits have no fixed width")?)?;
        if logits.dtype != Some(DType::BF16) {
            return Err("expected logits of bf16".into());
        }
        let room = |(dtype, dims): &(DType, Vec<Dim>)| {
            let count: usize = cache_sizes(dims, sequences, past + tokens).iter().product();
            device.alloc(count * dtype.bits() / 8)
        };
        let set = || caches.iter().map(room).collect::<normfuse::ir::Result<Vec<_>>>();
        let sets = [set()?, set()?];
        let ones = 1i64.to_le_bytes().repeat(sequences * (past + tokens));
        Ok(Self {
            executable: Executable::load(Arc::new(graph), device, compiler, Box::new(Products::new(device)))?,
            ids: device.alloc(8 * sequences)?,
            positions: device.alloc(8 * sequences)?,
            mask: device.upload(&ones)?,
            logits: device.alloc(2 * sequences * vocabulary)?,
            device: device.clone(),
            steps: Vec::with_capacity(tokens),
            roles,
            caches,
            sizes,
            vocabulary,
            sets,
        })
    }

    /// What the inputs of a step are, by the length of the cache that it reads.
    fn given(&self, length: usize) -> Vec<Given> {
        let n = self.sizes.sequences;
        let typed = |role: &Role| match role {
            Role::Tokens | Role::Positions => (DType::I64, vec![n, 1]),
            Role::Mask => (DType::I64, vec![n, length + 1]),
            Role::Cache(i) => (self.caches[*i].0, cache_sizes(&self.caches[*i].1, n, length)),
        };
        self.roles.iter().map(|role| Given { typed: typed(role), contents: None }).collect()
    }

    /// What came before: numbers that look like none.
    fn fill(&mut self) -> Result<()> {
        let mut state = 1u32;
        for buffer in &mut self.sets[0] {
            let mut draw = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // A bf16 between 1/4 and 1, of either sign.
                let bits = 0x3e80 | (state >> 16 & 0x80ff);
                [bits as u8, (bits >> 8) as u8]
            };
            let bytes: Vec<u8> = (0..buffer.len() / 2).flat_map(|_| draw()).collect();
            buffer.write(&bytes)?;
        }
        Ok(())
    }

    /// Decodes every token of every sequence, the likeliest each time.
    fn decode(&mut self, told: &ProgressBar) -> Result<Vec<u32>> {
        let Sizes { sequences, past, tokens } = self.sizes;
        self.fill()?;
        let mut next: Vec<u32> = (1..=sequences as u32).collect();
        let mut said = Vec::with_capacity(sequences * tokens);
        for at in 0..tokens {
            if self.steps.len() == at {
                self.steps.push(self.executable.bind(&self.given(past + at))?);
            }
            let numbers = |all: &mut dyn Iterator<Item = i64>| all.flat_map(i64::to_le_bytes).collect::<Vec<u8>>();
            self.ids.write(&numbers(&mut next.iter().map(|id| i64::from(*id))))?;
            self.positions.write(&numbers(&mut (0..sequences).map(|_| (past + at) as i64)))?;
            let (from, to) = (&self.sets[at % 2], &self.sets[1 - at % 2]);
            let address = |role: &Role| match role {
                Role::Tokens => self.ids.address(),
                Role::Positions => self.positions.address(),
                Role::Mask => self.mask.address(),
                Role::Cache(i) => from[*i].address(),
            };
            let inputs: Vec<u64> = self.roles.iter().map(address).collect();
            let outputs: Vec<u64> =
                std::iter::once(self.logits.address()).chain(to.iter().map(Buffer::address)).collect();
            let step = &self.steps[at];
            // SAFETY: the stream is the device's; all buffers are its, hold the longest cache, are apart from one another, and are
            // not touched before the logits' download has waited for the stream.
            unsafe { step.run_on(self.device.stream().cu_stream(), &inputs, &outputs) }?;
            let logits = self.logits.download()?;
            step.check()?;
            next = logits.chunks_exact(2 * self.vocabulary).map(likeliest).collect();
            said.extend(&next);
            told.inc(sequences as u64);
        }
        Ok(said)
    }
}

/// The place of the largest of some bf16.
fn likeliest(row: &[u8]) -> u32 {
    let number = |b: &[u8]| f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16);
    let numbers = row.chunks_exact(2).map(number).enumerate();
    numbers.fold((0, f32::NEG_INFINITY), |best, (i, v)| if v > best.1 { (i as u32, v) } else { best }).0
}

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let model = arguments.first().ok_or("expected: decode MODEL [TOKENS [SEQUENCES [PAST]]]")?;
    let number = |i: usize, usual: usize| arguments.get(i).map_or(Ok(usual), |n| n.parse());
    let sizes = Sizes { tokens: number(1, 256)?, sequences: number(2, 8)?, past: number(3, 16)? };
    let mut source = normfuse::open(Path::new(model))?;
    infer::infer(&mut source)?;
    let mut fused = source.clone();
    passes::run(&mut fused, &Options { supports: Arc::new(cuda::supports), ..Options::default() })?;
    let (device, compiler) = (Device::open(0)?, Compiler::load()?);
    let Sizes { sequences, past, tokens } = sizes;
    println!("{model} on {}: {sequences} sequences, {tokens} tokens each behind {past}", device.name());
    let style = ProgressStyle::with_template("{msg} {bar:40} {pos}/{len} tokens, {per_sec}")?;
    let mut answers = Vec::new();
    for (what, graph) in [("source", source), ("fused", fused)] {
        let mut engine = Engine::new(&device, compiler, graph, sizes)?;
        // The first round plans each length, the second one records it, and from the third on it is replayed.
        for round in ["planned", "recorded", "replayed"] {
            let bar = ProgressBar::new((sequences * tokens) as u64).with_style(style.clone());
            bar.set_message(format!("{what}, {round}"));
            let began = Instant::now();
            answers.push(engine.decode(&bar)?);
            let seconds = began.elapsed().as_secs_f64();
            bar.finish_and_clear();
            let rate = (sequences * tokens) as f64 / seconds;
            println!("  {what:<6}  {round:<8}  {rate:>9.0} tokens/s  {:>8.1} us a step", seconds / tokens as f64 * 1e6);
        }
    }
    if answers.iter().any(|answer| *answer != answers[0]) {
        return Err("the answers differ".into());
    }
    println!("  the same {} tokens in every round, before and after fusion", answers[0].len());
    Ok(())
}
