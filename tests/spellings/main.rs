//! Every legal spelling of RMSNorm is recognised with the right meaning, bit for bit, and no lookalike is: two tables. A third
//! has what dequantises codes of a norm's op, and must stay an op.
//!
//! With `SPELLINGS` naming a folder, each graph is written there, for `tests/onnx_checks.py` to look at.
//!
//! What nearly all graphs have (`%x`, `%w`, `%eps`, ...) is declared where a row does not do it itself.

#[path = "../common/mod.rs"]
mod common;
mod dequantise;
mod legal;
mod lookalike;
mod onnx;

use normfuse_ir::DType;

/// Lines that spellings share: the torch exporter's norm, step by step.
const PIECES: &[(&str, &str)] = &[
    ("@x32", "%x32 = cast(%x) {to=f32}"),
    ("@sq", "%sq = mul(%x32, %x32)"),
    ("@ms", "%ms = reduce_mean(%sq) {axes=[-1]}"),
    ("@ve", "%ve = add(%ms, %eps)"),
    ("@rt", "%rt = sqrt(%ve)"),
    ("@r", "%r = reciprocal(%rt)"),
    ("@n", "%n = mul(%x32, %r)"),
    ("@y", "%nc = cast(%n) {to=T}\n%y = mul(%nc, %w)"),
    (
        "@quant",
        "%y32 = cast(%y) {to=f32}\n%m = mul(%y32, %inv)\n%mc = clip(%m, %fmin, %fmax)\n%q = cast(%mc) {to=f8e4m3fn}\noutput %q",
    ),
    ("@norm", "@x32 @sq @ms @ve @rt @r @n @y"),
    (
        "@given",
        "%y32 = cast(%y) {to=f32}\n%q = quantize_linear(%y32, %sc, %zp) {axis=1, block_size=0, to=i8, saturate=true}",
    ),
    (
        "@groups",
        "%y32 = cast(%y) {to=f32}\n%v = reshape(%y32, %by8)\n%a = abs(%v)\n%am = reduce_max(%a) {axes=[-1], keepdims=false}\n\
         %gs = div(%am, %fmax)\n%q = quantize_linear(%y32, %gs) {axis=-1, block_size=8, to=f8e4m3fn, saturate=true}",
    ),
];

/// What a graph has unless it says otherwise.
const USUAL: &[(&str, &str)] = &[
    ("%x", "input %x: T[batch, seq, 24]"),
    ("%w", "const %w: T[24] = fill(1.25)"),
    ("%w32", "const %w32: f32[24] = fill(1.2000000477)"),
    ("%res", "input %res: T[batch, seq, 24]"),
    ("%eps", "const %eps: f32[] = 1e-6"),
    ("%two", "const %two: f32[] = 2.0"),
    ("%one", "const %one: f32[] = 1.0"),
    ("%n24", "const %n24: f32[] = 24.0"),
    ("%inv", "const %inv: f32[] = 103.1367"),
    ("%fmax", "const %fmax: f32[] = 448.0"),
    ("%fmin", "const %fmin: f32[] = -448.0"),
    ("%sc", "const %sc: f32[] = 0.03125"),
    ("%zp", "const %zp: i8[] = 3"),
    ("%by8", "const %by8: i64[4] = [0, 0, 3, 8]"),
];

/// A row of a table.
struct Row {
    name: &'static str,
    dtypes: Vec<DType>,
    /// What follows name and dtypes.
    says: Vec<&'static str>,
    lines: Vec<&'static str>,
}

/// The rows of a table: `== name | dtypes | ...`, then the lines of a graph.
fn table(text: &'static str) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        if let Some(head) = line.strip_prefix("== ") {
            let mut fields = head.split(" | ");
            let name = fields.next().unwrap();
            assert!(rows.iter().all(|r| r.name != name), "{name} is there twice");
            let dtypes = fields.next().unwrap().split(' ').map(|d| d.parse().unwrap()).collect();
            rows.push(Row { name, dtypes, says: fields.collect(), lines: Vec::new() });
        } else {
            rows.last_mut().unwrap().lines.push(line);
        }
    }
    rows
}

impl Row {
    fn cases(&self) -> impl Iterator<Item = (&Self, DType)> {
        self.dtypes.iter().map(move |d| (self, *d))
    }

    /// The graph in one of the dtypes, written down if somebody wants it.
    fn graph(&self, dtype: DType) -> String {
        let text = self.text(dtype);
        if let Some(folder) = folder() {
            std::fs::write(folder.join(format!("{}_{dtype}.nf", self.name)), &text).unwrap();
        }
        text
    }

    fn text(&self, dtype: DType) -> String {
        let mut body = String::new();
        for line in &self.lines {
            spell(line, &mut body);
        }
        if !body.contains("output ") {
            body.push_str("output %y\n");
        }
        let used = |v: &str| body.split(|c: char| !(c.is_alphanumeric() || c == '%' || c == '_')).any(|w| w == v);
        let declared = |v: &str| {
            let starts = [format!("input {v}:"), format!("const {v}:"), format!("{v} = ")];
            body.lines().any(|l| starts.iter().any(|s| l.starts_with(s)))
        };
        let usual: Vec<&str> = USUAL.iter().filter(|(v, _)| used(v) && !declared(v)).map(|(_, line)| *line).collect();
        let text = format!("graph \"norm\"\nopset \"\" 24\n{}\n{body}", usual.join("\n"));
        text.replace("T[", &format!("{dtype}[")).replace("=T}", &format!("={dtype}}}"))
    }
}

/// A line, or the lines of the pieces that it names.
fn spell(line: &str, text: &mut String) {
    if !line.starts_with('@') {
        text.extend([line, "\n"]);
        return;
    }
    for name in line.split(' ') {
        let piece = PIECES.iter().find(|(n, _)| *n == name).map(|(_, text)| *text).unwrap();
        piece.lines().for_each(|line| spell(line, text));
    }
}

/// The folder for graphs, if somebody wants them.
fn folder() -> Option<std::path::PathBuf> {
    let folder = std::path::PathBuf::from(std::env::var_os("SPELLINGS")?);
    std::fs::create_dir_all(&folder).unwrap();
    Some(folder)
}

/// Checks every case, and only then fails: a change that breaks one row is judged by all that it breaks.
fn each<T: Send>(cases: impl Iterator<Item = T>, check: impl Fn(T) + Sync) {
    let cases: Vec<T> = cases.collect();
    let count = cases.len();
    let next = std::sync::Mutex::new(cases.into_iter());
    let failed = std::sync::atomic::AtomicUsize::new(0);
    let work = || {
        while let Some(case) = { next.lock().unwrap().next() } {
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(case))).is_err() {
                failed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|s| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            s.spawn(work);
        }
    });
    let failed = failed.into_inner();
    assert_eq!(failed, 0, "of {count} cases");
}
