//! The pass inside another program: a graph as text on standard input, the rewritten graph on standard output, and the
//! report on standard error. It uses `normfuse-ir` and `normfuse-passes` alone, as a host compiler would: no files, no
//! ONNX, no runtime.
//!
//! ```sh
//! cargo run --example embed < tests/in/fuse/quant_token.nf
//! ```

use std::error::Error;

use normfuse::{
    ir::{self, FusedNorm, fused::Prologue},
    passes::{self, Options, Outcome},
};

/// What this program's own kernels can do: here, everything but a residual add.
fn supports(fused: &FusedNorm) -> Result<(), String> {
    match fused.prologue {
        Prologue::None => Ok(()),
        Prologue::ResidualAdd { .. } => Err("no kernel adds a residual".into()),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let text = std::io::read_to_string(std::io::stdin())?;
    // A host with weights of its own hands them out here, by name.
    let mut graph = ir::text::parse(&text, &mut |weight| {
        Err(ir::Error::new(ir::ErrorKind::Value, format!("the weight `{}` is not in this program", weight.name)))
    })?;

    let report = passes::run(&mut graph, &Options { supports, verify: true, ..Options::default() })?;

    for site in &report.sites {
        let what = match site.outcome {
            Outcome::Fused => format!("fused by {}, {} nodes", site.rule, site.replaced.len()),
            Outcome::Rejected | Outcome::Nearest => format!("not fused: {}", site.hint.as_deref().unwrap_or("")),
        };
        eprintln!("{}: {what}", site.anchor);
    }
    print!("{}", ir::text::print(&graph));
    Ok(())
}
