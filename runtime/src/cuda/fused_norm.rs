//! A fused norm on a GPU: from a descriptor to a loaded kernel, and from tensors to tensors.

use normfuse_ir::{
    DType, Error, ErrorKind, FusedNorm, Result, Tensor,
    fused::{InPort, OutPort, Source},
    scheme::ScaleLayout,
};

use super::{
    arguments::{Arguments, Operand},
    build::build,
    device::{Buffer, Device},
    kernel::{Kernel, Start},
    nvrtc::Compiler,
    shape::LaunchShape,
    source::{PASSES, Params, jobs, scratch_bytes},
    supports::supports,
};

/// A fused norm, compiled for one launch shape and loaded.
#[derive(Debug, Clone)]
pub struct FusedNormKernel {
    norm: FusedNorm,
    shape: LaunchShape,
    kernel: Kernel,
    passes: Option<Passes>,
    spills: bool,
}

/// Where a scale is of a whole tensor: the two kernels for more rows than the GPU holds at a time.
#[derive(Debug, Clone)]
struct Passes {
    measure: Kernel,
    apply: Kernel,
    /// Blocks that it does hold.
    resident: u64,
}

impl FusedNormKernel {
    /// Compiles and loads the kernel of a descriptor.
    ///
    /// # Errors
    /// `Unsupported` for a descriptor that [`supports`] refuses, or with what the compiler or the driver says.
    pub fn new(device: &Device, compiler: Compiler, norm: &FusedNorm, shape: LaunchShape) -> Result<Self> {
        supports(norm).map_err(|why| Error::new(ErrorKind::Unsupported, why))?;
        if shape.jobs.len() != jobs(norm).len() {
            let (expected, found) = (jobs(norm).len(), shape.jobs.len());
            let message = format!("the launch shape: expected threads of {expected} jobs, found {found}");
            return Err(Error::new(ErrorKind::Structure, message));
        }
        if shape.bulk && !shape.can_copy(norm) {
            let message = "the launch shape: rows that are copied to shared memory are aligned, whole vectors and no more than fit";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        if !shape.can_cluster(norm) {
            let message = "the launch shape: threads of several blocks share the rows of one job, by loads, and no scale is of a whole tensor";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        if !LaunchShape::can_divide(norm, shape.pieces) {
            let message = format!("the launch shape: rows of this op are no {} pieces", shape.pieces);
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let compiled = build(norm, &shape, |text| device.compile(compiler, text))?;
        let kernel = Kernel::load(device, &compiled.cubin)?;
        let mut passes = None;
        if scratch_bytes(norm) > 0 {
            let [measure, apply] = PASSES.map(|name| kernel.beside(name));
            passes = Some(Passes { measure: measure?, apply: apply?, resident: kernel.resident(shape.block)? });
        }
        let spills = compiled.spills().is_some_and(|bytes| bytes > 0);
        Ok(Self { norm: norm.clone(), shape, kernel, passes, spills })
    }

    /// True if its compiler said that some of its registers went to memory.
    pub fn spills(&self) -> bool {
        self.spills
    }

    /// The launch shape that it was compiled for.
    pub fn shape(&self) -> &LaunchShape {
        &self.shape
    }

    /// The descriptor that it was compiled for.
    pub fn norm(&self) -> &FusedNorm {
        &self.norm
    }

    /// The GPU that it is loaded on.
    pub fn device(&self) -> &Device {
        self.kernel.device()
    }

    /// Checks what a launch would read and write, for [`FusedNormKernel::launch`]: once for as many launches as use it.
    ///
    /// # Errors
    /// As [`Arguments::check`].
    pub fn check(&self, arguments: &Arguments) -> Result<Params> {
        arguments.check(&self.norm, &self.shape)
    }

    /// Kernels that a launch for these rows of each job puts on the stream: none where there is nothing to do, and two where a scale
    /// is of a whole tensor that the GPU does not hold at a time.
    pub fn launches(&self, rows: &[u64]) -> usize {
        let blocks = self.shape.blocks(rows);
        match &self.passes {
            None => usize::from(blocks > 0),
            Some(passes) => 1 + usize::from(blocks > passes.resident),
        }
    }

    /// Puts it on a stream of its GPU. No rows at all launch nothing, unless a scale is of the whole tensor. With `early`, it may
    /// begin while the kernel before it on the stream ends (programmatic dependent launch); a launch whose blocks wait for one
    /// another does not.
    ///
    /// # Errors
    /// `Shape` if there are too many rows, or none for one of several siblings; `Unsupported` with what the driver says.
    ///
    /// # Safety
    /// The stream is one of the kernel's GPU, and lives. The parameter is what [`FusedNormKernel::check`] gave for memory of
    /// that GPU, which is there until the launch is done; until then nothing else writes what it reads, or touches what it writes.
    /// Its scratch, if there is one, holds zeros when the launch begins, as it does again when it ends.
    pub unsafe fn launch(&self, stream: cudarc::driver::sys::CUstream, params: &Params, early: bool) -> Result<()> {
        let blocks = self.shape.blocks(&params.rows);
        if blocks == 0 && self.passes.is_none() {
            return Ok(());
        }
        if blocks > 0 && params.rows.contains(&0) {
            let message = "siblings with rows of their own: expected rows for each, found none for one";
            return Err(Error::new(ErrorKind::Shape, message));
        }
        let blocks = i32::try_from(blocks)
            .map_err(|_| Error::new(ErrorKind::Shape, format!("expected at most 2^31 blocks, found {blocks}")))?;
        let words = params.words();
        let put = |kernel: &Kernel, start| {
            // SAFETY: the words are in the order of the text's parameter; the caller answers for what they point to.
            unsafe { kernel.launch(stream, blocks.unsigned_abs().max(1), self.shape.block, &words, start) }
        };
        match &self.passes {
            None => put(&self.kernel, early.into()),
            Some(passes) if u64::from(blocks.unsigned_abs()) > passes.resident => {
                put(&passes.measure, early.into())?;
                put(&passes.apply, Start::Early)
            }
            Some(_) => put(&self.kernel, Start::Together),
        }
    }

    /// Uploads operands, runs, and gives the results back: in the descriptor's port order, scales in row-major order, in tiles or
    /// as flat arrays in the order of their layout. For tests, and for hosts whose tensors are not on the GPU.
    ///
    /// # Errors
    /// Operands that are missing or do not fit, by port; `Unsupported` with what the driver says.
    pub fn run(&self, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>> {
        let device = self.kernel.device();
        let mut arguments = Arguments::default();
        let mut buffers = Vec::new();
        let mut leads: Vec<Vec<usize>> = Vec::new();
        for (i, port) in self.norm.in_ports().into_iter().enumerate() {
            let missing = || Error::new(ErrorKind::Structure, "this operand is missing").at_port(port.to_string());
            let tensor = inputs.get(i).copied().flatten().ok_or_else(missing)?;
            self.expect(port, tensor).map_err(|e| e.at_port(port.to_string()))?;
            if matches!(port, InPort::X | InPort::Rows(_)) {
                leads.push(tensor.shape()[..tensor.shape().len() - 1].to_vec());
            }
            let buffer = device.upload(tensor.bytes())?;
            arguments.inputs.push(Operand::from(buffer.region()));
            buffers.push(buffer);
        }
        arguments.rows = leads.iter().map(|lead| lead.iter().product::<usize>() as u64).collect();
        let mut results: Vec<(DType, Vec<usize>, Buffer)> = Vec::new();
        for port in self.norm.out_ports() {
            let (dtype, shape) = self.result(port, &leads)?;
            let bytes = normfuse_ir::tensor::byte_len(dtype, &shape)?;
            let buffer = device.alloc(bytes)?;
            arguments.outputs.push(buffer.region());
            results.push((dtype, shape, buffer));
        }
        let scratch = device.upload(&vec![0; scratch_bytes(&self.norm) as usize])?;
        arguments.scratch = Some(scratch.region());
        let params = self.check(&arguments)?;
        // SAFETY: the buffers live until the results are downloaded, which waits, and nobody else has them.
        unsafe { self.launch(device.stream().cu_stream(), &params, false) }?;
        results.iter().map(|(dtype, shape, b)| Tensor::from_bytes(*dtype, shape.clone(), b.download()?)).collect()
    }

    fn expect(&self, port: InPort, tensor: &Tensor) -> Result<()> {
        let norm = &self.norm;
        let none = || Error::new(ErrorKind::Structure, "the descriptor has no such operand");
        let (dtype, width) = norm.operand_dtype(port).zip(norm.operand_width(port)).ok_or_else(none)?;
        if tensor.dtype() != dtype {
            return Err(Error::new(ErrorKind::DType, format!("expected {dtype}, found {}", tensor.dtype())));
        }
        let width = width as usize;
        let message = if norm.rows_dtype(port).is_some() {
            let fits = tensor.shape().last() == Some(&width);
            (!fits).then(|| format!("expected rows of {width}, found {:?}", tensor.shape()))
        } else {
            (tensor.len() != width).then(|| format!("expected {width} elements, found {}", tensor.len()))
        };
        message.map_or(Ok(()), |message| Err(Error::new(ErrorKind::Shape, message)))
    }

    /// Dtype and shape of a result.
    fn result(&self, port: OutPort, leads: &[Vec<usize>]) -> Result<(DType, Vec<usize>)> {
        let norm = &self.norm;
        let none = || Error::new(ErrorKind::Structure, format!("the descriptor has no result {port} of rows"));
        let dtype = norm.result_dtype(port).ok_or_else(none)?;
        // What is of the whole tensor is one element.
        let Some(a_row) = norm.result_width(port) else { return Ok((dtype, Vec::new())) };
        let (a_row, k) = (a_row as usize, port.sibling());
        let lead = &leads[if norm.source == Source::Shared { 0 } else { k }];
        let count: usize = lead.iter().product();
        let layout = match port {
            OutPort::Scale(_, e) => norm.siblings[k].epilogues[e].layout,
            _ => ScaleLayout::RowMajor,
        };
        let (count, groups) = (count as u64, a_row as u64);
        let shape = match layout {
            ScaleLayout::RowMajor => [&lead[..], &[a_row]].concat(),
            ScaleLayout::Swizzle128x4 | ScaleLayout::Shuffle32x8 => {
                let (rows, across) = layout.extents(count, groups).ok_or_else(none)?;
                vec![rows as usize, across as usize]
            }
            ScaleLayout::ColumnMajor | ScaleLayout::TmaAligned | ScaleLayout::PackedUe8m0 => {
                vec![layout.held(count, groups).ok_or_else(none)? as usize]
            }
        };
        Ok((dtype, shape))
    }
}
