//! What every text has: its files, its parameter, its kernel.

use std::{fmt::Write as _, sync::Arc};

use normfuse_ir::{DType, Result};

use super::{Launch, Word, place};

/// The name of every kernel of an op.
pub const ENTRY: &str = "op";

/// Threads of a block where nothing else decides.
pub const THREADS: u32 = 256;

/// The name of a dtype in `kernels/value.cuh`.
pub const fn tag(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "F32",
        DType::F16 => "F16",
        DType::BF16 => "BF16",
        DType::F64 => "F64",
        DType::F8E4M3FN => "E4M3FN",
        DType::F8E4M3FNUZ => "E4M3FNUZ",
        DType::F8E5M2 => "E5M2",
        DType::F8E5M2FNUZ => "E5M2FNUZ",
        DType::F8E8M0 => "E8M0",
        DType::F4E2M1 => "E2M1",
        DType::I8 => "I8",
        DType::I16 => "I16",
        DType::I32 => "I32",
        DType::I64 => "I64",
        DType::U8 => "U8",
        DType::U16 => "U16",
        DType::U32 => "U32",
        DType::U64 => "U64",
        DType::Bool => "BOOL",
    }
}

/// The words of a kernel's parameter, named as its text reads them.
#[derive(Debug, Default)]
pub struct Params {
    fields: String,
    words: Vec<Word>,
}

impl Params {
    /// An address that is read.
    pub fn input(&mut self, name: &str, word: Word) {
        let _ = writeln!(self.fields, "    const void* {name};");
        self.words.push(word);
    }

    /// An address that is written.
    pub fn output(&mut self, name: &str, word: Word) {
        let _ = writeln!(self.fields, "    void* {name};");
        self.words.push(word);
    }

    /// Where faults are reported.
    pub fn fault(&mut self) {
        let _ = writeln!(self.fields, "    u32* fault;");
        self.words.push(Word::Fault);
    }

    /// A number.
    pub fn number(&mut self, name: &str, value: u64) {
        let _ = writeln!(self.fields, "    u64 {name};");
        self.words.push(Word::Number(value));
    }

    /// Numbers; none is no field.
    pub fn numbers(&mut self, name: &str, values: impl IntoIterator<Item = u64>) {
        let before = self.words.len();
        self.words.extend(values.into_iter().map(Word::Number));
        let count = self.words.len() - before;
        if count > 0 {
            let _ = writeln!(self.fields, "    u64 {name}[{count}];");
        }
    }

    /// Numbers with a sign.
    pub fn signed(&mut self, name: &str, values: &[i64]) {
        self.words.extend(values.iter().map(|&v| Word::Number(v.cast_unsigned())));
        if !values.is_empty() {
            let _ = writeln!(self.fields, "    i64 {name}[{}];", values.len());
        }
    }

    /// A launch of `blocks` of `threads` of the kernel whose statements are `body`, with `before` in front of it.
    pub fn launch_blocks(self, header: &str, before: &str, body: &str, blocks: u32, threads: u32) -> Launch {
        let text = format!(
            "#include \"{header}\"\nstruct Params {{\n{}}};\n{before}extern \"C\" __global__ void __launch_bounds__({threads}, 1) \
             {ENTRY}(const __grid_constant__ Params p) {{\n    begin();\n{body}}}\n",
            self.fields
        );
        Launch { text: Arc::from(text), entry: ENTRY, blocks, threads, words: self.words, together: false }
    }

    /// A launch of one thread for each of `count`, whose number `body` has as `own`, of type `I`: divisions of 64 bits take ten times as
    /// long, so that it has 32 where they hold twice the number of threads.
    ///
    /// # Errors
    /// `Unsupported` if there are more than a launch can have.
    pub fn launch(self, header: &str, before: &str, body: &str, count: u64) -> Result<Launch> {
        let index = if count < 1 << 31 { "u32" } else { "u64" };
        let body =
            format!("    typedef {index} I;\n    const I own = (I)blockIdx.x * {THREADS} + threadIdx.x;\n{body}");
        Ok(self.launch_blocks(header, before, &body, place::blocks(count, u64::from(THREADS))?, THREADS))
    }
}
