//! Chains that join pieces and read parts of operands: by their own texts on a CPU, and on a GPU.

use std::{
    fmt::Write as _,
    io::Write as _,
    ops::Range,
    process::{Command, Stdio},
};

use normfuse_ir::{
    DType, Op, Tensor,
    body::{bits_equal, hostile::Rng},
    op::{BinaryOp, UnaryOp},
};
use normfuse_runtime::cuda::ops::{Chain, Leaf, Lowered, Source, Strided, Word, lower_chain};

use super::{
    cases::noise,
    chains::{Given, compare, expected, step},
    compile,
};

/// Chains are made of these, one after another.
struct Making {
    rng: Rng,
    dtype: DType,
    chain: Chain,
    inputs: Vec<Tensor>,
}

impl Making {
    fn below(&mut self, n: usize) -> usize {
        self.rng.bits() as usize % n
    }

    /// An operand of these sizes, of which some are 1, but for one axis: whole, or a part of a larger one in another order.
    fn leaf(&mut self, mut shape: Vec<usize>, piece: Option<Range<usize>>, kept: Option<usize>) -> Source {
        for (axis, n) in shape.iter_mut().enumerate() {
            if Some(axis) != kept && self.below(3) == 0 {
                *n = 1;
            }
        }
        let mut lies = Strided::dense(&shape);
        if self.below(4) > 0 {
            // Every other element of rows that vectors begin at, as pairs of neighbours have them; otherwise anything.
            let rank = shape.len();
            let pairs = self.below(3) == 0;
            let mut pick = |of_pairs: [usize; 2], of_all: &[usize]| -> Vec<usize> {
                let chosen = |axis| {
                    if !pairs {
                        of_all[self.below(of_all.len())]
                    } else if axis + 1 == rank {
                        of_pairs[self.below(2)]
                    } else {
                        0
                    }
                };
                (0..rank).map(chosen).collect()
            };
            let steps: Vec<usize> = pick([2, 2], &[1, 1, 1, 2]).into_iter().map(|step| step.max(1)).collect();
            let before = pick([0, 16], &[0, 0, 8, 4, 3, 1]);
            let behind = pick([0, 16], &[0, 0, 8, 1]);
            let size = |axis: usize| before[axis] + shape[axis] * steps[axis] + behind[axis];
            // Axes in an order that begins anywhere; the last one mostly stays.
            let turn = if !pairs && self.below(3) == 0 { self.below(rank) } else { 0 };
            let order: Vec<usize> = (0..rank).map(|a| (a + turn) % rank).collect();
            let back: Vec<usize> = (0..rank).map(|a| (a + rank - turn) % rank).collect();
            lies = Strided::dense(&order.iter().map(|a| size(*a)).collect::<Vec<_>>()).permuted(&back);
            for axis in 0..rank {
                lies = lies.cut(axis, before[axis], steps[axis], shape[axis]);
            }
            let more = if pairs { self.below(2) } else { [0, 0, 0, self.below(20)][self.below(4)] };
            lies.offset += more;
        }
        let last: usize = lies.shape.iter().zip(&lies.strides).map(|(n, s)| n.saturating_sub(1) * s).sum();
        let held = if lies.shape.contains(&0) { 0 } else { lies.offset + last + 1 + self.below(2) };
        let seed = self.inputs.len() as u64 + 1;
        self.inputs.push(numbers(self.dtype, held, seed));
        self.chain.inputs.push(Leaf { dtype: self.dtype, lies, held, piece });
        Source::Input(self.inputs.len() - 1)
    }

    fn push(&mut self, op: Op, operands: &[Source], ends: Vec<usize>) -> Source {
        self.chain.steps.push(normfuse_runtime::cuda::ops::Step { ends, ..step(op, operands, self.dtype) });
        Source::Step(self.chain.steps.len() - 1)
    }

    /// Of some indices along the axis of pieces.
    fn piece(&mut self, own: &Range<usize>, deep: bool) -> Source {
        let mut shape = self.chain.shape.clone();
        shape[self.chain.axis] = own.len();
        if deep && self.below(3) == 0 {
            return self.joined(own, false);
        }
        let x = self.leaf(shape.clone(), Some(own.clone()), Some(self.chain.axis));
        match self.below(3) {
            _ if self.dtype == DType::F4E2M1 => x,
            0 => x,
            1 => self.push(Op::Unary(UnaryOp::Neg), &[x], Vec::new()),
            _ => {
                let y = self.leaf(shape, Some(own.clone()), None);
                self.push(Op::Binary(BinaryOp::Mul), &[x, y], Vec::new())
            }
        }
    }

    fn joined(&mut self, own: &Range<usize>, deep: bool) -> Source {
        let parts = 1 + self.below(3);
        let mut ends: Vec<usize> = (1..parts).map(|_| own.start + self.below(own.len() + 1)).collect();
        if self.below(2) == 0 {
            ends = ends.iter().map(|end| own.start + (end - own.start) / 8 * 8).collect();
        }
        ends.push(own.end);
        ends.sort_unstable();
        let mut start = own.start;
        let mut operands = Vec::new();
        for end in &ends {
            operands.push(self.piece(&(start..*end), deep));
            start = *end;
        }
        self.push(Op::Concat { axis: self.chain.axis as i64 }, &operands, ends)
    }
}

/// Numbers without those that are none.
fn numbers(dtype: DType, held: usize, seed: u64) -> Tensor {
    let mut rng = Rng::new(seed);
    let values: Vec<f32> = (0..held).map(|_| (rng.bits() % 4096) as f32 / 64.0 - 32.0).collect();
    match dtype {
        DType::F4E2M1 => noise(dtype, &[held], seed),
        _ => normfuse_ir::eval::cast(&Tensor::from_f32(&[held], &values), dtype, true).unwrap(),
    }
}

fn made(seed: u64) -> Given {
    const SHAPES: [&[usize]; 9] =
        [&[40], &[2, 3, 16], &[3, 5, 7], &[2, 3, 1, 24], &[33, 8], &[1, 1], &[2, 1, 5, 16], &[4, 4, 4, 4], &[17]];
    let mut rng = Rng::new(seed);
    let shape = SHAPES[rng.bits() as usize % SHAPES.len()].to_vec();
    let axis = rng.bits() as usize % shape.len();
    let dtype = [DType::F32, DType::BF16, DType::BF16, DType::F4E2M1][rng.bits() as usize % 4];
    let whole = 0..shape[axis];
    let chain = Chain { shape: shape.clone(), axis, inputs: Vec::new(), steps: Vec::new(), outputs: Vec::new() };
    let mut making = Making { rng, dtype, chain, inputs: Vec::new() };
    let mut last = making.joined(&whole, true);
    if dtype != DType::F4E2M1 {
        let all = making.leaf(shape.clone(), None, None);
        let factor = making.leaf(shape, None, None);
        let product = making.push(Op::Binary(BinaryOp::Mul), &[last, factor], Vec::new());
        last = making.push(Op::Binary(BinaryOp::Add), &[product, all], Vec::new());
    }
    let Source::Step(last) = last else { unreachable!("a join is a step") };
    let Making { mut chain, inputs, .. } = making;
    chain.outputs = vec![last];
    Given { chain, inputs }
}

fn all() -> Vec<Given> {
    (0..300).map(made).collect()
}

/// The program that runs all launches one after another, and what it reads.
fn program(all: &[(&Given, &Lowered)]) -> (String, Vec<u8>) {
    let (mut text, mut calls) = (include_str!("emulated.hpp").to_owned(), String::new());
    let mut words = Vec::new();
    for (k, (given, lowered)) in all.iter().enumerate() {
        let launch = &lowered.launches[0];
        let own = launch.text.replace("#include \"scalar.cuh\"\n", "").replace("extern \"C\" ", "static ");
        let _ = writeln!(text, "namespace n{k} {{\n{own}}}");
        let _ = writeln!(calls, "    launch(n{k}::{});", launch.entry);
        let mut put = |n: u64| words.extend(n.to_le_bytes());
        put(launch.words.len() as u64);
        for word in &launch.words {
            let mut put = |n: u64| words.extend(n.to_le_bytes());
            match *word {
                Word::Number(n) => [0, n].map(&mut put),
                Word::Input(i) => [1, given.inputs[i].bytes().len() as u64].map(&mut put),
                _ => [2, expected(given)[0].bytes().len() as u64].map(&mut put),
            };
            if let Word::Input(i) = *word {
                words.extend(given.inputs[i].bytes());
            }
        }
        words.extend([launch.blocks, launch.threads].iter().flat_map(|n| u64::from(*n).to_le_bytes()));
    }
    let _ = writeln!(text, "int main() {{\n{calls}}}");
    (text, words)
}

/// What the host's compiler makes of a text; nothing if there is none that watches memory.
fn compiled(text: &str, to: &std::path::Path) -> Option<()> {
    let watched = |text: &str| {
        std::fs::write(to.with_extension("cpp"), text).unwrap();
        let mut command = Command::new("g++");
        let flags =
            ["-std=c++17", "-w", "-ffp-contract=off", "-fsanitize=address,alignment", "-fno-sanitize-recover=all"];
        command.args(flags).arg(to.with_extension("cpp")).arg("-o").arg(to);
        command.output().ok()
    };
    let there = watched("int main() {}").is_some_and(|o| o.status.success());
    if !there {
        eprintln!("skipped: no g++ with sanitizers");
        return None;
    }
    let output = watched(text)?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).get(..4000).unwrap_or_default());
    Some(())
}

#[test]
fn texts_of_pieces_have_the_bits_of_their_ops_on_a_cpu() {
    let all = all();
    let lowered: Vec<Lowered> = all.iter().map(|g| lower_chain(&g.chain).unwrap()).collect();
    // Vectors of which every other element is read.
    let alternate = lowered.iter().filter(|l| l.launches[0].text.contains("both.read")).count();
    assert!(alternate >= 5, "{alternate}");
    let pairs: Vec<_> = all.iter().zip(&lowered).collect();
    let (text, words) = program(&pairs);
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("pieces");
    if compiled(&text, &program).is_none() {
        return;
    }
    let mut child =
        Command::new(&program).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let feeder = std::thread::spawn(move || stdin.write_all(&words));
    let output = child.wait_with_output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}", log.get(..3000).unwrap_or(&log));
    feeder.join().unwrap().unwrap();
    let mut rest = &output.stdout[..];
    for (given, lowered) in &pairs {
        let want = expected(given).remove(0);
        let (own, behind) = rest.split_at(want.bytes().len());
        rest = behind;
        let found = Tensor::from_bytes(want.dtype(), want.shape().to_vec(), own.to_vec()).unwrap();
        assert_eq!(bits_equal(&want, &found), None, "{:?}\n{}", given.chain, lowered.launches[0].text);
    }
    assert!(rest.is_empty());
}

#[test]
fn pieces_compile_without_spills() {
    let lowered: Vec<_> = all().iter().take(40).map(|g| lower_chain(&g.chain).unwrap()).collect();
    compile(lowered.iter().flat_map(|l| &l.launches), "sm_90");
}

#[test]
fn pieces_have_the_bits_of_their_ops() {
    compare(&all());
}
