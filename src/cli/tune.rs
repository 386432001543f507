//! `normfuse tune`: which launch shapes are the fastest on this GPU.

use std::io::Write;

use normfuse::{
    cuda::{
        Compiler,
        measure::{self, Tuned},
        regimes::Class,
    },
    formats::atomic::AtomicFile,
};

use super::{
    args, bench,
    failure::{Failure, Result},
    output,
};

pub fn main(args: &args::Tune) -> Result<()> {
    let (widths, rows) = bench::sizes(&args.dims, &measure::WIDTHS, &measure::ROWS)?;
    // Before the GPU has worked for minutes.
    let file = args.output.as_deref().map(AtomicFile::create).transpose()?;
    let gpu = bench::open(&args.gpu)?;
    let (major, minor) = Compiler::load().and_then(Compiler::version).map_err(bench::usage)?;
    let name = format!("{}, NVRTC {major}.{minor}", gpu.device().name());
    let head = format!("# Launch shapes by class of op, width and rows, as `normfuse tune` measured them on {name}.\n");
    let columns = "# class                width   rows threads rows-a-block weights copy us\n";
    output::print(&format!("{head}{columns}"))?;
    let classes = if args.classes.is_empty() { &Class::ALL[..] } else { &args.classes };
    let mut gains = Vec::new();
    let mut broken = None;
    let table = gpu.tune(classes, &widths, &rows, |tuned| {
        let gain = tuned.worked_out / tuned.entry.us;
        gains.push(gain);
        broken = broken.take().or_else(|| output::print(&line(tuned, gain)).err());
    });
    let table = table.map_err(bench::usage)?;
    if let Some(failure) = broken {
        return Err(failure);
    }
    gains.sort_by(f64::total_cmp);
    let mean = (gains.iter().map(|g| g.ln()).sum::<f64>() / gains.len() as f64).exp();
    let largest = gains.last().copied().unwrap_or(1.0);
    output::print(&format!(
        "# against shapes worked out without a table: {mean:.3} times on average, at most {largest:.2}\n"
    ))?;
    let Some(mut file) = file else { return Ok(()) };
    let mut lines = table.entries().iter();
    let written = write!(file, "{head}{columns}").and_then(|()| lines.try_for_each(|e| writeln!(file, "{e}")));
    let path = file.target().display().to_string();
    written.map_err(|e| Failure::Usage(format!("{path}: {e}")))?;
    Ok(file.commit()?)
}

fn line(tuned: &Tuned, gain: f64) -> String {
    format!("{}  # of {}, {gain:.2} times as fast as without a table\n", tuned.entry, tuned.tried)
}
