//! CUDA C++ for one descriptor: which pieces of `kernels/`, in which order, on which operands.
//!
//! The text depends on the descriptor, the launch shape and nothing else, so that a compiled kernel can be found again.

use std::fmt::Write;

use normfuse_ir::{
    DType, FusedNorm, Granularity,
    fused::{InPort, OutPort, Prologue, Source},
    scheme::{Origin, ZeroPoint},
};

use self::traits::{scheme_traits, sibling_traits, type_name};
use super::shape::LaunchShape;

mod gated;
mod traits;

/// The name of the kernel in the text.
pub const ENTRY: &str = "fused_norm";
/// The names of the two that do the same one after the other, where a scale is of a whole tensor.
pub const PASSES: [&str; 2] = ["fused_norm_measure", "fused_norm_apply"];

/// The files that the text includes, by the names that it includes them by.
pub const HEADERS: [(&str, &str); 15] = [
    ("power.cuh", include_str!("../../kernels/power.cuh")),
    ("num.cuh", include_str!("../../kernels/num.cuh")),
    ("row.cuh", include_str!("../../kernels/row.cuh")),
    ("layout.cuh", include_str!("../../kernels/layout.cuh")),
    ("norm.cuh", include_str!("../../kernels/norm.cuh")),
    ("quant.cuh", include_str!("../../kernels/quant.cuh")),
    ("gate.cuh", include_str!("../../kernels/gate.cuh")),
    ("meet.cuh", include_str!("../../kernels/meet.cuh")),
    ("wide.cuh", include_str!("../../kernels/wide.cuh")),
    ("value.cuh", include_str!("../../kernels/value.cuh")),
    ("scalar.cuh", include_str!("../../kernels/scalar.cuh")),
    ("group.cuh", include_str!("../../kernels/group.cuh")),
    ("move.cuh", include_str!("../../kernels/move.cuh")),
    ("linear.cuh", include_str!("../../kernels/linear.cuh")),
    ("integer.cuh", include_str!("../../kernels/integer.cuh")),
];

/// The kernel's one parameter, all of 8 bytes: pointers of the operands, their row strides in elements (0 where an
/// operand is no rows), pointers of the results, per job its number of rows, and where blocks meet if they do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Params {
    /// Device addresses of operands, in port order.
    pub inputs: Vec<u64>,
    /// Elements from one row of an operand to the next.
    pub strides: Vec<u64>,
    /// Device addresses of results, in port order.
    pub outputs: Vec<u64>,
    /// Rows of each job: one where siblings share their rows, else one a sibling.
    pub rows: Vec<u64>,
    /// Device address of [`scratch_bytes`] that are zeros, if there are any.
    pub scratch: Option<u64>,
}

impl Params {
    /// As the kernel reads them.
    pub fn words(&self) -> Vec<u64> {
        [&self.inputs[..], &self.strides, &self.outputs, &self.rows, self.scratch.as_slice()].concat()
    }
}

/// Siblings that read the same rows.
pub fn jobs(norm: &FusedNorm) -> Vec<Vec<usize>> {
    match norm.source {
        Source::Shared => vec![(0..norm.siblings.len()).collect()],
        Source::Separate => (0..norm.siblings.len()).map(|k| vec![k]).collect(),
    }
}

/// The place of a scale of a whole tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Met {
    k: usize,
    e: usize,
    /// The first of the words that it is found in.
    word: usize,
}

/// Quantisers whose scale follows from the rows of a whole tensor, and how many words that is found in: a largest magnitude, of a
/// range one on either side of 0.
fn of_tensor(norm: &FusedNorm) -> (Vec<Met>, usize) {
    let mut found = Vec::new();
    let mut word = 0;
    for (k, sibling) in norm.siblings.iter().enumerate() {
        for (e, scheme) in sibling.epilogues.iter().enumerate() {
            if scheme.granularity == Granularity::Tensor && scheme.origin != Origin::Given {
                found.push(Met { k, e, word });
                word += if scheme.origin == Origin::Range { 2 } else { 1 };
            }
        }
    }
    (found, word)
}

/// Bytes in which the blocks of a launch meet: two counters and what is found of each whole tensor. None where there is no scale of
/// one.
pub fn scratch_bytes(norm: &FusedNorm) -> u64 {
    match of_tensor(norm).1 as u64 {
        0 => 0,
        n => 4 * (2 + n),
    }
}

/// What of its work a kernel does. Where a scale is of a whole tensor, the rows stay on the chip until all blocks have met; or, where
/// there are too many of them, one kernel reads them for the scale, and the next one for all else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    Whole,
    Measure,
    Apply,
}

impl Pass {
    /// What its functions are called by.
    fn job(self) -> &'static str {
        match self {
            Self::Whole => "job",
            Self::Measure => "measure",
            Self::Apply => "apply",
        }
    }
}

/// The text of the kernel. Registers are such that a multiprocessor holds at least so many blocks at a time, or as the assembler
/// likes.
pub fn write(norm: &FusedNorm, shape: &LaunchShape, blocks: Option<u32>) -> String {
    let (of_tensor, words_met) = of_tensor(norm);
    let meets = if of_tensor.is_empty() { "" } else { "#include \"meet.cuh\"\n" };
    let mut out = format!("#include \"{}\"\n{meets}\n", gated::header(norm));
    if let Prologue::Gated(gated) = norm.prologue {
        out += &gated::traits(gated);
    }
    for (k, sibling) in norm.siblings.iter().enumerate() {
        out += &sibling_traits(k, sibling);
        for (e, scheme) in sibling.epilogues.iter().enumerate() {
            out += &scheme_traits(&format!("Quant{k}_{e}"), scheme);
        }
    }
    let (inputs, outputs, jobs) = (norm.in_ports(), norm.out_ports(), jobs(norm));
    let _ = write!(
        out,
        "struct Params {{\n    const void* in[{n}];\n    i64 stride[{n}];\n    void* out[{}];\n    i64 rows[{}];\n{}}};\n\n",
        outputs.len(),
        jobs.len(),
        if of_tensor.is_empty() { "" } else { "    u32* scratch;\n" },
        n = inputs.len(),
    );
    let passes: &[Pass] =
        if of_tensor.is_empty() { &[Pass::Whole] } else { &[Pass::Whole, Pass::Measure, Pass::Apply] };
    let kernel = Kernel { norm, shape, inputs, outputs, of_tensor, words_met };
    for (pass, name) in passes.iter().zip([ENTRY, PASSES[0], PASSES[1]]) {
        for (j, siblings) in jobs.iter().enumerate() {
            out += &kernel.job(*pass, j, siblings);
        }
        out += &kernel.entry(*pass, name, &jobs, blocks);
    }
    out
}

struct Kernel<'a> {
    norm: &'a FusedNorm,
    shape: &'a LaunchShape,
    inputs: Vec<InPort>,
    outputs: Vec<OutPort>,
    of_tensor: Vec<Met>,
    words_met: usize,
}

impl Kernel<'_> {
    fn input(&self, port: InPort) -> Option<usize> {
        self.inputs.iter().position(|p| *p == port)
    }

    fn in_pointer(&self, port: InPort) -> String {
        self.input(port).map_or_else(|| "nullptr".into(), |i| format!("p.in[{i}]"))
    }

    fn out_pointer(&self, port: OutPort) -> String {
        self.outputs.iter().position(|p| *p == port).map_or_else(|| "nullptr".into(), |i| format!("p.out[{i}]"))
    }

    /// Reads rows of a dtype into a new array: from where they lie, or from where a copy has come to.
    fn read(&self, name: &str, dtype: DType, port: InPort) -> String {
        let (ty, aligned) = (type_name(dtype), self.shape.aligned);
        if self.shape.bulk {
            return format!("    Vector<{ty}> {name}[R::USED];\n    staged_{name}[local].take({name}, at);\n");
        }
        let at = self.input(port).unwrap_or_default();
        format!(
            "    Vector<{ty}> {name}[R::USED];\n    read_row<{ty}, R, {aligned}>({name}, p.in[{at}], p.stride[{at}], at);\n"
        )
    }

    /// Copies of rows to shared memory, by the first thread of each row.
    fn fetch(&self, read: &[(&'static str, DType, InPort)], rows: u32) -> String {
        let mut out = format!("    __shared__ unsigned long long barriers[{rows}];\n");
        for (name, dtype, _) in read {
            let _ = writeln!(out, "    __shared__ Staged<{}, R> staged_{name}[{rows}];", type_name(*dtype));
        }
        let bytes: Vec<String> = read.iter().map(|(name, ..)| format!("staged_{name}[local].BYTES")).collect();
        let _ = write!(
            out,
            "    const u32 barrier = barrier_at(barriers[local]);\n    if (at.thread == 0) {{\n        \
             expect(barrier, {});\n",
            bytes.join(" + ")
        );
        for (name, _, port) in read {
            let i = self.input(*port).unwrap_or_default();
            let _ = writeln!(out, "        staged_{name}[local].fetch(p.in[{i}], p.stride[{i}], at.row, barrier);");
        }
        out + "    }\n    __syncthreads();\n"
    }

    /// What of its rows a job reads, under which name.
    fn rows_read(&self, siblings: &[usize]) -> Vec<(&'static str, DType, InPort)> {
        match self.norm.prologue {
            Prologue::None => {
                let port = if self.norm.source == Source::Shared { InPort::X } else { InPort::Rows(siblings[0]) };
                vec![("h", self.norm.siblings[siblings[0]].input, port)]
            }
            Prologue::ResidualAdd(add) => {
                vec![("x", add.dtype, InPort::X), ("residual", add.residual(), InPort::Residual)]
            }
            Prologue::Gated(gated) => vec![("x", gated.dtype, InPort::X), ("up", gated.up(), InPort::Up)],
        }
    }

    /// What the threads of one job do.
    fn job(&self, pass: Pass, j: usize, siblings: &[usize]) -> String {
        let aligned = self.shape.aligned;
        let first = &self.norm.siblings[siblings[0]];
        let (threads, rows, cluster) = (self.shape.jobs[j].threads, self.shape.rows(j), self.shape.cluster(j));
        let pieces = self.shape.pieces;
        let parts = match (cluster, pieces) {
            (1, 1) => String::new(),
            (_, 1) => format!(", {cluster}"),
            _ => format!(", {cluster}, {pieces}"),
        };
        let mut out = format!(
            "__device__ __forceinline__ void {}{j}(const Params& p, i64 block) {{\n    typedef Row<{}, {threads}, {}{parts}> R;\n",
            pass.job(),
            first.width / u64::from(pieces),
            self.shape.ahead
        );
        let many = if pieces > 1 { format!("p.rows[{j}] * {pieces}") } else { format!("p.rows[{j}]") };
        let place = if cluster > 1 {
            format!("block / {cluster}, {many}, true")
        } else if rows == 1 {
            // There is a block for each row, and none more.
            format!("block, {many}, true")
        } else {
            let _ = writeln!(out, "    const i64 own = block * {rows} + threadIdx.x / R::THREADS;");
            format!("own < {many} ? own : {many} - 1, {many}, own < {many}")
        };
        let thread = if cluster > 1 {
            format!("(int)((threadIdx.x / 32 * {cluster} + block % {cluster}) * 32 + threadIdx.x % 32)")
        } else {
            "(int)(threadIdx.x % R::THREADS)".into()
        };
        let _ = write!(
            out,
            "    const int local = threadIdx.x / R::THREADS;\n    const Place at = {{{thread}, {place}}};\n"
        );
        if cluster > 1 {
            out += "    begun<R>();\n";
        }
        let read = self.rows_read(siblings);
        if self.shape.bulk {
            out += &self.fetch(&read, rows);
        }
        // While the rows are on their way.
        out += &self.weights(siblings[0]);
        out += &self.given(pass, siblings);
        if self.shape.bulk {
            out += "    arrived(barrier);\n";
        }
        for (name, dtype, port) in &read {
            out += &self.read(name, *dtype, *port);
        }
        if cluster > 1 {
            out += "    all_begun<R>();\n";
        }
        if let Prologue::ResidualAdd(add) = self.norm.prologue {
            let (a, b, sum) = (type_name(add.dtype), type_name(add.residual()), type_name(add.sum()));
            let _ = write!(out, "    Vector<{sum}> h[R::USED];\n    add_rows<{a}, {b}, {sum}, R>(h, x, residual);\n");
            if self.norm.emit_sum && pass != Pass::Measure {
                let to = type_name(add.emitted());
                let _ = writeln!(
                    out,
                    "    write_row<{to}, {sum}, R, {aligned}>({}, h, at);",
                    self.out_pointer(OutPort::Sum)
                );
            }
        }
        if let Prologue::Gated(gated) = self.norm.prologue {
            out += &gated::product(gated);
        }
        for (i, k) in siblings.iter().enumerate() {
            if i > 0 {
                out += &self.weights(*k);
            }
            out += &self.sibling(pass, *k, type_name(first.input), rows);
        }
        if !self.of_tensor.is_empty() {
            out += &self.meeting(pass, siblings);
        }
        out + "}\n\n"
    }

    fn weights(&self, k: usize) -> String {
        let (aligned, from) = (self.shape.aligned, self.in_pointer(InPort::Weight(k)));
        format!("    const auto weights{k} = read_weights<Norm{k}, R, {aligned}>({from}, at);\n")
    }

    /// What all rows meet, read before they are there.
    fn given(&self, pass: Pass, siblings: &[usize]) -> String {
        let mut out = String::new();
        for (k, e) in siblings.iter().flat_map(|k| (0..self.norm.siblings[*k].epilogues.len()).map(move |e| (*k, e))) {
            if pass != Pass::Measure {
                let (scale, zero) = (self.in_pointer(InPort::Scale(k, e)), self.zero_pointer(k, e));
                let _ = writeln!(out, "    const Given given{k}_{e} = read_given<Quant{k}_{e}>({scale}, {zero});");
            }
        }
        out
    }

    fn sibling(&self, pass: Pass, k: usize, read: &str, rows: u32) -> String {
        let aligned = self.shape.aligned;
        let s = &self.norm.siblings[k];
        let (compute, squares, y) = (type_name(s.compute), type_name(s.squares()), type_name(s.output));
        let pitch = s.padded.map_or_else(String::new, |n| format!(", {n}"));
        // What waits for the scale of a tensor outlives the sibling.
        let waits = self.of_tensor.iter().any(|met| met.k == k);
        let name = if waits { format!("y{k}") } else { "y".into() };
        let declared = format!("Vector<{y}> {name}[R::USED];\n");
        let mut out = if waits { format!("    {declared}    {{\n") } else { "    {\n".into() };
        let declared = if waits { String::new() } else { format!("        {declared}") };
        if s.root.is_none() {
            let _ = writeln!(
                out,
                "{declared}        undivided<Norm{k}, {read}, R, {aligned}>({name}, h, weights{k}, at);",
            );
        } else {
            let _ = write!(
                out,
                "        __shared__ float partials[{rows}][R::SUM_WORDS];\n        \
                 const float sum = sum_of_squares<{compute}, {squares}, {read}, R>(h, partials[local], at);\n\
                 {declared}        normalise<Norm{k}, {read}, R, {aligned}>({name}, h, sum, weights{k}, at);\n",
            );
        }
        if s.emit_normed && pass != Pass::Measure {
            // Quantisers say it themselves.
            out += if s.epilogues.is_empty() { "        others_may_begin();\n" } else { "" };
            let _ = writeln!(
                out,
                "        write_row<{y}, {y}, R, {aligned}{pitch}>({}, {name}, at);",
                self.out_pointer(OutPort::Normed(k))
            );
        }
        for e in 0..s.epilogues.len() {
            let met = self.of_tensor.iter().find(|met| (met.k, met.e) == (k, e));
            let (words, step) = match (met, pass) {
                (None, Pass::Whole | Pass::Apply) => {
                    ("R::LARGEST_WORDS", self.quantise(k, e, &name, "extremes[local]"))
                }
                (Some(Met { word, .. }), Pass::Whole | Pass::Measure) => {
                    let raise =
                        format!("raise<Quant{k}_{e}, {y}, R>(p.scratch, {word}, {name}, extremes[local], at);\n");
                    ("2 * R::LARGEST_WORDS", raise)
                }
                _ => continue,
            };
            let _ = write!(
                out,
                "        {{\n            __shared__ u32 extremes[{rows}][{words}];\n            {step}        }}\n"
            );
        }
        out + "    }\n"
    }

    /// Quantises a sibling's values, with words of shared memory to find the scale in.
    fn quantise(&self, k: usize, e: usize, value: &str, shared: &str) -> String {
        let s = &self.norm.siblings[k];
        let numbers = match s.epilogues[e].dequantised {
            Some(_) => format!(", {}", self.out_pointer(OutPort::Dequantised(k, e))),
            None => String::new(),
        };
        format!(
            "quantise<Quant{k}_{e}, {}, R, {}{}>({value}, {}, {}, {}, {}, given{k}_{e}, {shared}, at{numbers});\n",
            type_name(s.output),
            self.shape.aligned,
            s.padded.map_or_else(String::new, |n| format!(", {n}")),
            self.out_pointer(OutPort::Q(k, e)),
            self.out_pointer(OutPort::Scale(k, e)),
            self.in_pointer(InPort::Scale(k, e)),
            self.zero_pointer(k, e),
        )
    }

    /// Where a zero point is, or is to be.
    fn zero_pointer(&self, k: usize, e: usize) -> String {
        match self.norm.siblings[k].epilogues[e].zero_point {
            ZeroPoint::Given => format!("const_cast<void*>({})", self.in_pointer(InPort::ZeroPoint(k, e))),
            ZeroPoint::Range => self.out_pointer(OutPort::ZeroPoint(k, e)),
            ZeroPoint::None => "nullptr".into(),
        }
    }

    /// What follows when the largest magnitudes of whole tensors are known.
    fn meeting(&self, pass: Pass, siblings: &[usize]) -> String {
        let count = self.words_met;
        let meet = match pass {
            Pass::Measure => return String::new(),
            Pass::Whole => "meet",
            Pass::Apply => "recall",
        };
        let mut out = format!("    __shared__ u32 met[{count}];\n    {meet}<{count}>(p.scratch, met);\n");
        for Met { k, e, word } in self.of_tensor.iter().filter(|met| siblings.contains(&met.k)) {
            let _ = write!(out, "    {}", self.quantise(*k, *e, &format!("y{k}"), &format!("met + {word}")));
        }
        let _ = writeln!(out, "    leave<{count}>(p.scratch);");
        out
    }

    /// Blocks in order: those of the first job, then those of the second, and so on.
    fn entry(&self, pass: Pass, name: &str, jobs: &[Vec<usize>], blocks: Option<u32>) -> String {
        let (block, job) = (self.shape.block, pass.job());
        let cluster = match self.shape.cluster(0) {
            1 => String::new(),
            n => format!("__cluster_dims__({n}, 1, 1) "),
        };
        let bounds = blocks.map_or_else(|| block.to_string(), |least| format!("{block}, {least}"));
        // The rows that were read last may still be in the cache.
        let first = if pass == Pass::Apply { "gridDim.x - 1 - blockIdx.x" } else { "blockIdx.x" };
        let mut out = format!(
            "extern \"C\" __global__ void {cluster}__launch_bounds__({bounds}) {name}(const __grid_constant__ Params p) {{\n"
        );
        for (k, weight) in self.norm.siblings.iter().enumerate().filter_map(|(k, s)| Some((k, s.weight.as_ref()?))) {
            let bytes = self.norm.siblings[k].width * weight.dtype.bits() as u64 / 8;
            let _ = writeln!(out, "    soon<{bytes}, {block}>({});", self.in_pointer(InPort::Weight(k)));
        }
        let _ = write!(out, "    begin();\n    i64 block = {first};\n");
        if pass == Pass::Whole && !self.of_tensor.is_empty() {
            out += "    if (p.rows[0] == 0) {\n";
            for Met { k, e, .. } in &self.of_tensor {
                let _ = writeln!(
                    out,
                    "        scale_of_nothing<Quant{k}_{e}>({}, {}, {});",
                    self.out_pointer(OutPort::Scale(*k, *e)),
                    self.in_pointer(InPort::Scale(*k, *e)),
                    self.zero_pointer(*k, *e)
                );
            }
            out += "        return;\n    }\n";
        }
        for j in 0..jobs.len() {
            if j + 1 == jobs.len() {
                let _ = writeln!(out, "    {job}{j}(p, block);");
            } else {
                let rows = self.shape.rows(j);
                let _ = write!(
                    out,
                    "    const i64 blocks{j} = (p.rows[{j}] + {}) / {rows};\n    if (block < blocks{j}) {{\n        \
                     {job}{j}(p, block);\n        return;\n    }}\n    block -= blocks{j};\n",
                    rows - 1
                );
            }
        }
        out + "}\n"
    }
}
