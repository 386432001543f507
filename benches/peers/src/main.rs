//! One tool on one model, for `peers.py`: `peers TOOL MODEL RUNS [FOLDER]` prints a line of JSON. FOLDER holds the inputs
//! (for rten and tract), or is where normfuse writes its result.

mod ours;
mod tensors;
mod with_rten;
mod with_tract;

use std::{error::Error, path::Path, process::ExitCode};

use serde_json::{Value, json};

/// The allocator of normfuse's program, for all three.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn measure(args: &[String]) -> Result<Value, Box<dyn Error>> {
    let [tool, model, runs, rest @ ..] = args else { return Err("usage: peers TOOL MODEL RUNS [FOLDER]".into()) };
    let (model, runs) = (Path::new(model), runs.parse()?);
    let folder = rest.first().map(Path::new);
    match tool.as_str() {
        "normfuse" => ours::measure(model, runs, folder.ok_or("where to write the result")?),
        "rten" => with_rten::measure(model, runs, folder),
        "tract" => with_tract::measure(model, runs, folder),
        other => Err(format!("no tool {other}").into()),
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match measure(&args) {
        Ok(found) => println!("{found}"),
        // A tool that cannot read a model says so in the table.
        Err(e) => println!("{}", json!({ "error": e.to_string() })),
    }
    ExitCode::SUCCESS
}
