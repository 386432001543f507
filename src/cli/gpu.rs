//! A graph on a GPU, for commands.

use std::{path::Path, sync::Arc};

use normfuse::{
    cuda::{Compiler, Device, exec::Executable, product::Products},
    ir::Graph,
};

use super::{
    args,
    bench::usage,
    failure::{Failure, Result},
    progress::Progress,
};

/// A GPU, with what compiles for it.
pub struct Gpu {
    device: Device,
    compiler: Compiler,
}

impl Gpu {
    /// The GPU that was asked for, if one was. Before inputs and weights are made: that may take minutes.
    pub fn open(device: args::Device) -> Result<Option<Self>> {
        let args::Device::Cuda(number) = device else { return Ok(None) };
        let device = Device::open(number).map_err(usage)?;
        Ok(Some(Self { device, compiler: Compiler::load().map_err(usage)? }))
    }

    /// Prepares a graph. How its weights come in is shown in the place of the step.
    pub fn load(&self, graph: &Arc<Graph>, path: &Path, progress: &Progress) -> Result<Executable> {
        let products = Box::new(Products::new(&self.device));
        let executable = Executable::load(graph.clone(), &self.device, self.compiler, products);
        Ok(executable.map_err(Failure::of_graph(path))?.with_progress(progress.weights()))
    }
}
