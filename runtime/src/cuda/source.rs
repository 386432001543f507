//! CUDA C++ for one descriptor: which pieces of `kernels/norm.cuh`, in which order, on which operands.
//!
//! The text depends on the descriptor, the launch shape and nothing else, so that a compiled kernel can be found again.

use std::fmt::Write;

use normfuse_ir::{
    DType, FusedNorm, Granularity, Scheme,
    fused::{InPort, OutPort, Prologue, Root, Sibling, Source},
    scheme::{Apply, Encode, F32, Origin, Packing, ScaleLayout, Step, ZeroPoint},
};

use super::shape::LaunchShape;

mod gated;

/// The name of the kernel in the text.
pub const ENTRY: &str = "fused_norm";

/// The files that the text includes, by the names that it includes them by.
pub const HEADERS: [(&str, &str); 5] = [
    ("num.cuh", include_str!("../../kernels/num.cuh")),
    ("row.cuh", include_str!("../../kernels/row.cuh")),
    ("layout.cuh", include_str!("../../kernels/layout.cuh")),
    ("norm.cuh", include_str!("../../kernels/norm.cuh")),
    ("gate.cuh", include_str!("../../kernels/gate.cuh")),
];

/// The kernel's one parameter, all of 8 bytes: pointers of the operands, their row strides in elements (0 where an
/// operand is no rows), pointers of the results, and per job its number of rows.
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
}

impl Params {
    /// As the kernel reads them.
    pub fn words(&self) -> Vec<u64> {
        [&self.inputs[..], &self.strides, &self.outputs, &self.rows].concat()
    }
}

/// Siblings that read the same rows.
pub fn jobs(norm: &FusedNorm) -> Vec<Vec<usize>> {
    match norm.source {
        Source::Shared => vec![(0..norm.siblings.len()).collect()],
        Source::Separate => (0..norm.siblings.len()).map(|k| vec![k]).collect(),
    }
}

/// The text of the kernel. Registers are such that a multiprocessor holds at least so many blocks at a time, or as the assembler
/// likes.
pub fn write(norm: &FusedNorm, shape: &LaunchShape, blocks: Option<u32>) -> String {
    let mut out = format!("#include \"{}\"\n\n", gated::header(norm));
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
        "struct Params {{\n    const void* in[{n}];\n    i64 stride[{n}];\n    void* out[{}];\n    i64 rows[{}];\n}};\n\n",
        outputs.len(),
        jobs.len(),
        n = inputs.len(),
    );
    let kernel = Kernel { norm, shape, inputs, outputs };
    for (j, siblings) in jobs.iter().enumerate() {
        out += &kernel.job(j, siblings);
    }
    out += &kernel.entry(&jobs, blocks);
    out
}

struct Kernel<'a> {
    norm: &'a FusedNorm,
    shape: &'a LaunchShape,
    inputs: Vec<InPort>,
    outputs: Vec<OutPort>,
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
    fn job(&self, j: usize, siblings: &[usize]) -> String {
        let aligned = self.shape.aligned;
        let first = &self.norm.siblings[siblings[0]];
        let (threads, rows) = (self.shape.jobs[j].threads, self.shape.rows(j));
        let mut out = format!(
            "__device__ __forceinline__ void job{j}(const Params& p, i64 block) {{\n    typedef Row<{}, {threads}, {}> R;\n",
            first.width, self.shape.ahead
        );
        let place = if rows == 1 {
            // There is a block for each row, and none more.
            format!("block, p.rows[{j}], true")
        } else {
            let _ = writeln!(out, "    const i64 own = block * {rows} + threadIdx.x / R::THREADS;");
            format!("own < p.rows[{j}] ? own : p.rows[{j}] - 1, p.rows[{j}], own < p.rows[{j}]")
        };
        let _ = write!(
            out,
            "    const int local = threadIdx.x / R::THREADS;\n    const Place at = {{(int)(threadIdx.x % R::THREADS), {place}}};\n"
        );
        let read = self.rows_read(siblings);
        if self.shape.bulk {
            out += &self.fetch(&read, rows);
        }
        // While the rows are on their way.
        out += &self.weights(siblings[0]);
        if self.shape.bulk {
            out += "    arrived(barrier);\n";
        }
        for (name, dtype, port) in &read {
            out += &self.read(name, *dtype, *port);
        }
        if let Prologue::ResidualAdd(add) = self.norm.prologue {
            let (a, b, sum) = (type_name(add.dtype), type_name(add.residual()), type_name(add.sum()));
            let _ = write!(out, "    Vector<{sum}> h[R::USED];\n    add_rows<{a}, {b}, {sum}, R>(h, x, residual);\n");
            if self.norm.emit_sum {
                let to = type_name(add.emitted());
                let _ = writeln!(
                    out,
                    "    write_row<{to}, {sum}, R, {aligned}>({}, h, at);",
                    self.out_pointer(OutPort::Sum)
                );
            }
        }
        if let Prologue::Gated(gated) = self.norm.prologue {
            let product = type_name(gated.product());
            let _ = write!(out, "    Vector<{product}> h[R::USED];\n    gate_rows<Gate, R>(h, x, up);\n");
        }
        for (i, k) in siblings.iter().enumerate() {
            if i > 0 {
                out += &self.weights(*k);
            }
            out += &self.sibling(*k, type_name(first.input), rows);
        }
        out + "}\n\n"
    }

    fn weights(&self, k: usize) -> String {
        let (aligned, from) = (self.shape.aligned, self.in_pointer(InPort::Weight(k)));
        format!("    const auto weights{k} = read_weights<Norm{k}, R, {aligned}>({from}, at);\n")
    }

    fn sibling(&self, k: usize, read: &str, rows: u32) -> String {
        let aligned = self.shape.aligned;
        let s = &self.norm.siblings[k];
        let (compute, squares, y) = (type_name(s.compute), type_name(s.squares()), type_name(s.output));
        let pitch = s.padded.map_or_else(String::new, |n| format!(", {n}"));
        let mut out = String::from("    {\n");
        if s.root.is_none() {
            let _ = write!(
                out,
                "        Vector<{y}> y[R::USED];\n        undivided<Norm{k}, {read}, R, {aligned}>(y, h, weights{k}, at);\n",
            );
        } else {
            let _ = write!(
                out,
                "        __shared__ float partials[{rows}][R::WARPS * 32];\n        \
                 const float sum = sum_of_squares<{compute}, {squares}, {read}, R>(h, partials[local], at);\n        \
                 Vector<{y}> y[R::USED];\n        normalise<Norm{k}, {read}, R, {aligned}>(y, h, sum, weights{k}, at);\n",
            );
        }
        if s.emit_normed {
            let _ = writeln!(
                out,
                "        write_row<{y}, {y}, R, {aligned}{pitch}>({}, y, at);",
                self.out_pointer(OutPort::Normed(k))
            );
        }
        for (e, scheme) in s.epilogues.iter().enumerate() {
            let numbers = scheme
                .dequantised
                .map_or_else(String::new, |_| format!(", {}", self.out_pointer(OutPort::Dequantised(k, e))));
            let _ = write!(
                out,
                "        {{\n            __shared__ u32 extremes[{rows}][R::WARPS];\n            \
                 quantise<Quant{k}_{e}, {y}, R, {aligned}{pitch}>(y, {}, {}, {}, {}, extremes[local], at{numbers});\n        }}\n",
                self.out_pointer(OutPort::Q(k, e)),
                self.out_pointer(OutPort::Scale(k, e)),
                self.in_pointer(InPort::Scale(k, e)),
                self.in_pointer(InPort::ZeroPoint(k, e)),
            );
        }
        out + "    }\n"
    }

    /// Blocks in order: those of the first job, then those of the second, and so on.
    fn entry(&self, jobs: &[Vec<usize>], blocks: Option<u32>) -> String {
        let block = self.shape.block;
        let bounds = blocks.map_or_else(|| block.to_string(), |least| format!("{block}, {least}"));
        let mut out = format!(
            "extern \"C\" __global__ void __launch_bounds__({bounds}) {ENTRY}(const __grid_constant__ Params p) {{\n    begin();\n    i64 block = blockIdx.x;\n"
        );
        for j in 0..jobs.len() {
            if j + 1 == jobs.len() {
                let _ = writeln!(out, "    job{j}(p, block);");
            } else {
                let rows = self.shape.rows(j);
                let _ = write!(
                    out,
                    "    const i64 blocks{j} = (p.rows[{j}] + {}) / {rows};\n    if (block < blocks{j}) {{\n        \
                     job{j}(p, block);\n        return;\n    }}\n    block -= blocks{j};\n",
                    rows - 1
                );
            }
        }
        out + "}\n"
    }
}

fn type_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "F16",
        DType::BF16 => "BF16",
        DType::F8E4M3FN => "E4M3FN",
        DType::F8E4M3FNUZ => "E4M3FNUZ",
        DType::F8E5M2 => "E5M2",
        DType::F8E5M2FNUZ => "E5M2FNUZ",
        DType::F4E2M1 => "E2M1",
        DType::F8E8M0 => "E8M0",
        DType::I8 => "I8",
        DType::U8 => "U8",
        // `supports` lets no other one through.
        _ => "F32",
    }
}

/// True for constants by which `divide_by` divides.
fn quick_divisor(c: F32) -> bool {
    (2f32.powi(-20)..2f32.powi(20)).contains(&c.get()) && c.get().to_bits() & 0x7f_ffff != 0x7f_ffff
}

fn number(v: F32) -> String {
    format!("__uint_as_float({:#010x}u)", v.get().to_bits())
}

fn sibling_traits(k: usize, s: &Sibling) -> String {
    let root = match s.root {
        Some(Root::ReciprocalSqrt) => "RECIPROCAL_SQRT",
        Some(Root::Rsqrt) => "RSQRT",
        Some(Root::DivideBySqrt) => "DIVIDE_BY_SQRT",
        None => "UNDIVIDED",
    };
    format!(
        "struct Norm{k} {{\n    typedef {} Compute;\n    typedef {} Normed;\n    typedef {} Product;\n    typedef {} Weight;\n    \
         typedef {} Output;\n    static constexpr Root ROOT = {root};\n    static constexpr bool WEIGHTED = {}, PLUS_ONE = {};\n    \
         static __device__ __forceinline__ float eps() {{ return {}; }}\n}};\n",
        type_name(s.compute),
        type_name(s.normed),
        type_name(s.product()),
        type_name(s.weight.map_or(DType::F32, |w| w.dtype)),
        type_name(s.output),
        s.weight.is_some(),
        s.weight.is_some_and(|w| w.plus_one),
        number(s.eps),
    )
}

fn scheme_traits(name: &str, s: &Scheme) -> String {
    let granularity = match s.granularity {
        Granularity::Tensor => "TENSOR",
        Granularity::Token => "TOKEN",
        Granularity::Group(_) => "GROUP",
        Granularity::Channel => "CHANNEL",
    };
    let group = if let Granularity::Group(g) = s.granularity { g } else { 1 };
    let encode = match s.encode {
        Encode::Cast => "CAST",
        Encode::Saturate => "SATURATE",
        Encode::Compare => "COMPARE",
    };
    let layout = match s.layout {
        ScaleLayout::RowMajor => "ROW_MAJOR",
        ScaleLayout::ColumnMajor => "COLUMN_MAJOR",
        ScaleLayout::TmaAligned => "TMA_ALIGNED",
        ScaleLayout::PackedUe8m0 => "PACKED_UE8M0",
        ScaleLayout::Swizzle128x4 => "SWIZZLE_128X4",
        ScaleLayout::Shuffle32x8 => "SHUFFLE_32X8",
    };
    let scale = match &s.scale {
        // One computation, where both are the same.
        Some(scale) if scale.steps == s.factor => "    return factor;\n".into(),
        Some(scale) => chain(&scale.steps, s.compute, "origin"),
        None => "    return factor;\n".into(),
    };
    format!(
        "struct {name} {{\n    typedef {} Element;\n    typedef {} Compute;\n    typedef {} Given;\n    typedef {} Scale;\n    \
         static constexpr Granularity GRANULARITY = {granularity};\n    static constexpr int GROUP_SIZE = {group};\n    \
         static constexpr Origin ORIGIN = {};\n    static constexpr Encode ENCODE = {encode};\n    \
         static constexpr Packing PACKING = {};\n    static constexpr Layout LAYOUT = {layout};\n    \
         static constexpr bool DIVIDE = {}, TOLERANT = {}, POWER = {}, POSTED = {}, HAS_GIVEN = {}, HAS_SCALE = {}, ZERO = {};\n    \
         typedef {} Number;\n    static constexpr bool CODES = {}, NUMBERS = {};\n    \
         static __device__ __forceinline__ float factor(float origin, float given) {{\n{}    }}\n    \
         static __device__ __forceinline__ float scale(float origin, float given, float factor) {{\n{scale}    }}\n    \
         static __device__ __forceinline__ float post(float origin) {{\n{}    }}\n}};\n",
        type_name(s.element),
        type_name(s.compute),
        type_name(s.given.unwrap_or(DType::F32)),
        type_name(s.scale.as_ref().map_or(DType::F32, |s| s.dtype)),
        if s.origin == Origin::Given { "GIVEN" } else { "AMAX" },
        if s.element.bits() == 4 && s.packing != Packing::Codes { "NIBBLES" } else { "BYTES" },
        s.apply == Apply::Divide,
        tolerant(&s.post),
        power_of_two(&s.factor),
        !post(s).is_empty(),
        s.given.is_some(),
        s.has_scale_output(),
        s.zero_point == ZeroPoint::Given,
        type_name(s.dequantised.map_or(DType::F32, |d| d.dtype)),
        s.has_codes_output(),
        s.dequantised.is_some(),
        chain(&s.factor, s.compute, "origin"),
        chain(post(s), s.compute, "origin"),
    )
}

/// True if the chain ends in a power of 2 with a whole exponent: rounded, and then moved and bounded by whole numbers.
fn power_of_two(steps: &[Step]) -> bool {
    let Some((Step::Exp2, rest)) = steps.split_last() else { return false };
    let whole = |step: &&Step| match step {
        Step::Add(c) | Step::Max(c) | Step::Min(c) => c.get().fract() == 0.0 && c.get().abs() <= 256.0,
        _ => false,
    };
    matches!(rest.iter().rev().find(|step| !whole(step)), Some(Step::Ceil | Step::Floor | Step::Round))
}

/// True if the code does not depend on a quotient below 2^-40 but for its sign, since it is rounded to nothing, whatever the element;
/// nor on more of it than `quotient` in `kernels/num.cuh` has right.
fn tolerant(post: &[Step]) -> bool {
    post.iter().all(|step| match step {
        Step::Max(_) | Step::Min(_) | Step::Round => true,
        Step::Cast { to, .. } => matches!(to, DType::F32 | DType::BF16),
        _ => false,
    })
}

/// The steps before the code, but for a clip that the conversion to the element does as well.
fn post(s: &Scheme) -> &[Step] {
    let bounds = match (s.element, s.encode) {
        (DType::F8E4M3FN, Encode::Saturate) => (-448.0, 448.0),
        (DType::F4E2M1, _) => (-6.0, 6.0),
        _ => return &s.post,
    };
    match s.post.split_last_chunk::<2>() {
        Some((rest, [Step::Max(low), Step::Min(high)])) if (low.get(), high.get()) == bounds => rest,
        _ => &s.post,
    }
}

/// A chain of steps as statements, after [`normfuse_ir::scheme::run`].
fn chain(steps: &[Step], compute: DType, from: &str) -> String {
    let mut at = compute;
    let mut out = format!("    float x = rnd<{}>({from});\n", type_name(compute));
    for (i, step) in steps.iter().enumerate() {
        let before = i.checked_sub(1).map(|i| &steps[i]);
        let whole = matches!(step, Step::Log2) && matches!(steps.get(i + 1), Some(Step::Ceil | Step::Floor));
        if whole && at == DType::F32 {
            // With the next step it is one.
            continue;
        }
        let value = match *step {
            Step::Ceil if before == Some(&Step::Log2) && at == DType::F32 => "ceil_log2_f(x)".into(),
            Step::Floor if before == Some(&Step::Log2) && at == DType::F32 => "floor_log2_f(x)".into(),
            Step::Max(c) => format!("max_nan(x, {})", number(c)),
            Step::Min(c) => format!("min_nan(x, {})", number(c)),
            Step::Add(c) => format!("x + {}", number(c)),
            Step::Mul(c) => format!("x * {}", number(c)),
            Step::Div(c) if quick_divisor(c) => format!("divide_by<{:#010x}u>(x)", c.get().to_bits()),
            Step::Div(c) => format!("x / {}", number(c)),
            Step::Over(c) => format!("{} / x", number(c)),
            Step::Power(c) => format!("pow_f({}, x)", number(c)),
            Step::Log => "log_f(x)".into(),
            Step::Log2 => "log2_f(x)".into(),
            Step::Exp2 => "exp2_f(x)".into(),
            Step::Floor => "floorf(x)".into(),
            Step::Ceil => "ceilf(x)".into(),
            Step::Round => "rintf(x)".into(),
            Step::MulGiven => "x * given".into(),
            Step::DivGiven => "x / given".into(),
            Step::GivenOver => "given / x".into(),
            Step::GivenOverOrZero => "x == 0.0f ? 0.0f : given / x".into(),
            Step::MaxGiven => "max_nan(x, given)".into(),
            Step::MinGiven => "min_nan(x, given)".into(),
            Step::IfZero(c) => format!("x == 0.0f ? {} : x", number(c)),
            Step::Cast { to, .. } if to.is_arithmetic_float() => {
                at = to;
                "x".into()
            }
            Step::Cast { to, saturate } => {
                let ty = type_name(to);
                let _ = writeln!(out, "    x = {ty}::decode({ty}::encode(x, {saturate}));");
                continue;
            }
        };
        let _ = writeln!(out, "    x = rnd<{}>({value});", type_name(at));
    }
    out + "    return x;\n"
}
