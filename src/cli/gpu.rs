//! A graph on a GPU, for commands.

use std::{path::Path, sync::Arc};

use indicatif::{ProgressBar, ProgressStyle};
use normfuse::{
    cuda::{Compiler, Device, exec::Executable, product::Products},
    ir::Graph,
};

use super::{
    bench::usage,
    failure::{Failure, Result},
};

/// Prepares a graph for the GPU of a number. A bar on standard error, where that is a terminal, shows how weights come in.
pub fn load(graph: &Arc<Graph>, path: &Path, gpu: usize) -> Result<Executable> {
    let device = Device::open(gpu).map_err(usage)?;
    let compiler = Compiler::load().map_err(usage)?;
    let executable = Executable::load(graph.clone(), &device, compiler, Box::new(Products::new(&device)));
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("weights {bar:30} {bytes}/{total_bytes} {bytes_per_sec}") {
        bar.set_style(style);
    }
    let shown = move |done: u64, total: u64| {
        bar.set_length(total);
        bar.set_position(done);
        if done >= total {
            bar.finish_and_clear();
        }
    };
    Ok(executable.map_err(Failure::of_graph(path))?.with_progress(shown))
}
