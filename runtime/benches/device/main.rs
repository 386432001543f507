//! Fused norms on a GPU beside their limit and beside what others need for the same.
//!
//! `cargo bench -p normfuse-runtime --bench device -- [--rivals PYTHON] [--all-shapes] [--width N] [FILTER]` prints a line for
//! each op whose name has FILTER in it, width and number of rows. Our time is that of the launch shape that the runtime picks; with
//! `--all-shapes` that of the fastest of all. How it is measured, and what the limit is, [`normfuse_runtime::cuda::measure`]
//! says. With a Python that has torch and Triton there are `torch.compile` of the plain form and kernels written by hand in
//! Triton too (`rivals.py`), and the limit is the fastest of three: torch.compile's cast of the same bytes counts as well.

use std::{
    collections::HashMap,
    env,
    fmt::Write as _,
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

use normfuse_runtime::cuda::{
    Compiler, Device,
    measure::{self, Bench, Measured, Op, ROWS},
};

const WIDTHS: [u64; 2] = [4096, 7168];
const QUANTISERS: [&str; 10] = [
    "",
    "+fp8_static",
    "+fp8_tensor",
    "+fp8_token",
    "+fp8_group128",
    "+fp8_group128_columns",
    "+ue8m0_group128",
    "+mxfp8",
    "+mxfp4",
    "+nvfp4",
];
/// Of gated activations: an expert's, and a whole layer's.
const GATED_WIDTHS: [u64; 2] = [2048, 18_432];
const REPLAYS: usize = 15;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Median microseconds, by op, width, rows and who it is.
type Rivals = HashMap<(String, u64, u64, String), f64>;

fn ops(filter: &str) -> Outcome<Vec<Op>> {
    let mut all = Vec::new();
    for norm in ["rms_norm", "add+rms_norm"] {
        for quantiser in QUANTISERS {
            for width in WIDTHS {
                all.push(Op::of(&format!("{norm}{quantiser}"), width)?);
            }
        }
    }
    all.push(Op::of("dual_rms_norm+fp8_group128", 0)?);
    for quantiser in QUANTISERS.iter().filter(|q| q.contains('8')) {
        for width in GATED_WIDTHS {
            all.push(Op::of(&format!("silu_mul{quantiser}"), width)?);
        }
    }
    all.retain(|op| op.name.contains(filter));
    Ok(all)
}

/// Runs the script under a Python; its first line says which versions it has.
fn rivals(python: &str, ops: &[Op]) -> Outcome<Rivals> {
    let folder = env::temp_dir().join(format!("normfuse-rivals-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let script = folder.join("rivals.py");
    fs::write(&script, include_str!("rivals.py"))?;
    let mut child = Command::new(python).arg(&script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut lines = String::new();
    for op in ops {
        for rows in ROWS {
            writeln!(lines, "{op} {} {rows} {}", op.width(), measure::bytes(op, rows))?;
        }
    }
    // A script that cannot start reads nothing, and says why on standard error.
    let _ = child.stdin.take().ok_or("no standard input")?.write_all(lines.as_bytes());
    let done = child.wait_with_output()?;
    fs::remove_dir_all(&folder)?;
    if !done.status.success() {
        return Err(format!("{python} rivals.py ended with {}", done.status).into());
    }
    let mut found = Rivals::new();
    for line in String::from_utf8(done.stdout)?.lines() {
        if let Some(versions) = line.strip_prefix("# ") {
            println!("beside {versions}");
        } else if let [op, n, m, who, us, ..] = line.split_whitespace().collect::<Vec<_>>()[..] {
            found.insert((op.to_owned(), n.parse()?, m.parse()?, who.to_owned()), us.parse()?);
        }
    }
    Ok(found)
}

/// The columns of rivals behind a line: microseconds of each, and how many times ours that is.
fn beside(measured: &Measured, rivals: &Rivals) -> String {
    let of = |who: &str| rivals.get(&(measured.op.name.clone(), measured.op.width(), measured.rows, who.to_owned()));
    let ours = measured.plain.time.us;
    let columns = ["torch", "triton"].map(|who| {
        of(who).map_or_else(|| format!("{:>8} {:>6}", "-", "-"), |us| format!("{us:>8.2} {:>6.2}", us / ours))
    });
    columns.join(" ")
}

fn main() -> Outcome<()> {
    let mut args: Vec<String> = env::args().skip(1).filter(|a| a != "--bench").collect();
    if args.iter().any(|a| a == "--test") {
        return Ok(());
    }
    let all_shapes = args.iter().position(|a| a == "--all-shapes").map(|i| args.remove(i)).is_some();
    let mut option = |name: &str| match args.iter().position(|a| a == name) {
        Some(i) if i + 1 < args.len() => Ok(args.drain(i..i + 2).nth(1)),
        Some(_) => Err(format!("{name} needs a value")),
        None => Ok(None),
    };
    let python = option("--rivals")?;
    let width = option("--width")?.map(|n| n.parse::<u64>()).transpose()?;
    let mut ops = ops(args.first().map_or("", String::as_str))?;
    ops.retain(|op| width.is_none_or(|n| n == op.width()));
    let (device, compiler) = match Device::open(0).and_then(|d| Ok((d, Compiler::load()?))) {
        Ok(found) => found,
        Err(e) => {
            eprintln!("skipped: {e}");
            return Ok(());
        }
    };
    let rivals = python.as_ref().map_or_else(|| Ok(Rivals::new()), |python| rivals(python, &ops))?;
    let bench = Bench::new(&device, compiler, REPLAYS)?;
    let (cache, copy) = (device.l2_bytes()? >> 20, bench.bandwidth() / 1e9);
    println!("{}, {cache} MB of L2; device copy {copy:.0} GB/s", device.name());
    let shapes = if all_shapes { "the fastest launch shape" } else { "the launch shape that the runtime picks" };
    println!(
        "us a launch of {shapes}: the median of replays of a CUDA graph, and half of what lies between the fastest and slowest tenth"
    );
    println!("{:>8} {:>6} {:>8} {:>6}  {}", "torch", "/ us", "triton", "/ us", Measured::header());
    for op in &ops {
        let every = if all_shapes { bench.kernels(op, measure::shapes(op))? } else { Vec::new() };
        for rows in ROWS {
            let picked =
                if all_shapes { Vec::new() } else { bench.kernels(op, vec![device.shape(&op.norm, rows, true)])? };
            let mut measured = bench.measure(op, if all_shapes { &every } else { &picked }, rows)?;
            if let Some(cast) = rivals.get(&(op.name.clone(), op.width(), rows, "torch_cast".to_owned())) {
                measured.plain.limit = measured.plain.limit.min(*cast);
            }
            println!("{}  {measured}", beside(&measured, &rivals));
        }
    }
    Ok(())
}
