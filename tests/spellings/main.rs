//! Every legal spelling of RMSNorm is recognised with the right meaning, bit for bit, and no lookalike is: two tables.
//!
//! A row is the lines of a graph. `T` stands for the row's dtype, `@piece` for lines that spellings share, and what
//! nearly all graphs have (`%x`, `%w`, `%eps`, ...) is declared where a row does not do it itself.

#[path = "../common/mod.rs"]
mod common;
mod legal;
mod lookalike;
mod onnx;

use normfuse_ir::DType;

/// The dtypes that most rows are tried in.
const ALL: &[DType] = &[DType::F32, DType::F16, DType::BF16];
/// For rows that are about what happens in 16 bits.
const NARROW: &[DType] = &[DType::F16, DType::BF16];
/// For rows that are about a sum in f32.
const F32: &[DType] = &[DType::F32];

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
];

/// The graph of a row.
fn graph(name: &str, dtype: DType, lines: &str) -> String {
    let mut body = String::new();
    for word in lines.lines().map(str::trim).filter(|l| !l.is_empty()) {
        if word.starts_with('@') {
            for piece in word.split_whitespace() {
                let (_, text) = PIECES.iter().find(|(n, _)| *n == piece).unwrap_or_else(|| panic!("{name}: {piece}"));
                body.push_str(text);
                body.push('\n');
            }
        } else {
            body.push_str(word);
            body.push('\n');
        }
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
    let text = format!("graph \"norm\"\nopset \"\" 23\n{}\n{body}", usual.join("\n"));
    text.replace("T[", &format!("{dtype}[")).replace("=T}", &format!("={dtype}}}"))
}

/// Every row has a name of its own.
fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> usize {
    let names: Vec<&str> = names.collect();
    let set: std::collections::BTreeSet<&str> = names.iter().copied().collect();
    assert_eq!(set.len(), names.len(), "a name is there twice");
    set.len()
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
