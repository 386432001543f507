//! Weights on a GPU: each constant once, whatever sizes the inputs have.

use std::{collections::HashMap, ptr, slice, sync::Arc};

use cudarc::driver::{result, sys::CUevent_flags};
use normfuse_ir::{Result, Tensor, ValueId};

use super::{
    super::device::{Buffer, Device, failed},
    arena::ALIGNMENT,
};

/// Bytes of each of the two buffers that weights go through.
const STAGING: usize = 16 << 20;
/// Bytes that go through none: pinned memory takes longer to get than they take to copy.
const DIRECT: u64 = 1 << 20;

/// Told of bytes that are on the GPU, and of how many will be.
pub type Progress = dyn Fn(u64, u64) + Send + Sync;

/// What of a graph is on a GPU for good.
#[derive(Debug, Default)]
pub struct Weights {
    /// Constants, and what was made of them once.
    places: HashMap<ValueId, (Arc<Buffer>, u64)>,
}

impl Weights {
    /// Where a value is, if it is there.
    pub fn address(&self, value: ValueId) -> Option<u64> {
        self.places.get(&value).map(|(buffer, offset)| buffer.address() + offset)
    }

    /// The memory of a value, to be kept while it is used.
    pub fn buffer(&self, value: ValueId) -> Option<Arc<Buffer>> {
        self.places.get(&value).map(|(buffer, _)| buffer.clone())
    }

    /// Takes what was made of weights.
    pub fn keep(&mut self, value: ValueId, buffer: Arc<Buffer>) {
        self.places.insert(value, (buffer, 0));
    }

    /// Uploads constants in one piece, through pinned memory: while one part is on its way, the next is read from the file.
    ///
    /// # Errors
    /// `Unsupported` with what the driver says.
    pub fn upload(&mut self, device: &Device, constants: &[(ValueId, Tensor)], progress: &Progress) -> Result<()> {
        let (buffer, offsets) = upload(device, constants.iter().map(|(_, t)| t), progress)?;
        let buffer = Arc::new(buffer);
        for ((id, _), offset) in constants.iter().zip(offsets) {
            self.places.insert(*id, (buffer.clone(), offset));
        }
        Ok(())
    }
}

/// Bytes that tensors take one behind the other.
pub fn packed<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> u64 {
    tensors.map(|t| (t.bytes().len() as u64).next_multiple_of(ALIGNMENT)).sum()
}

/// Tensors one behind the other in memory of a GPU, and where each begins.
///
/// # Errors
/// `Unsupported` with what the driver says.
pub fn upload<'a>(
    device: &Device,
    tensors: impl Iterator<Item = &'a Tensor>,
    progress: &Progress,
) -> Result<(Buffer, Vec<u64>)> {
    let tensors: Vec<&Tensor> = tensors.collect();
    let total = packed(tensors.iter().copied());
    let mut buffer = device.alloc(total as usize)?;
    let mut offsets = Vec::with_capacity(tensors.len());
    let mut at = 0u64;
    for tensor in &tensors {
        offsets.push(at);
        at += (tensor.bytes().len() as u64).next_multiple_of(ALIGNMENT);
    }
    if total <= DIRECT {
        let mut bytes = vec![0; total as usize];
        for (tensor, offset) in tensors.iter().zip(&offsets) {
            bytes[*offset as usize..][..tensor.bytes().len()].copy_from_slice(tensor.bytes());
        }
        buffer.write(&bytes)?;
        progress(total, total);
        return Ok((buffer, offsets));
    }
    let room = STAGING.min(total as usize).max(1);
    let mut staging = [Pinned::new(device, room)?, Pinned::new(device, room)?];
    let mut busy = [None, None];
    let stream = device.stream();
    let (mut first, mut window) = (0usize, 0u64);
    let mut turn = 0;
    while window < total {
        let end = (window + room as u64).min(total);
        if let Some(event) = busy[turn].take() {
            let done: cudarc::driver::CudaEvent = event;
            done.synchronize().map_err(|e| failed("cuEventSynchronize", e))?;
        }
        let part = &mut staging[turn].bytes()[..(end - window) as usize];
        while let Some((begin, tensor)) = offsets.get(first).zip(tensors.get(first)).filter(|(begin, _)| **begin < end)
        {
            let (begin, bytes) = (*begin, tensor.bytes());
            let (from, to) = (window.max(begin), end.min(begin + bytes.len() as u64));
            if from < to {
                let source = &bytes[(from - begin) as usize..(to - begin) as usize];
                part[(from - window) as usize..(to - window) as usize].copy_from_slice(source);
            }
            if begin + bytes.len() as u64 > end {
                // The rest goes with the next part.
                break;
            }
            first += 1;
        }
        // SAFETY: the part lies in pinned memory that is not written before the event says that the copy is done, and in the
        // buffer, which nobody else has yet.
        let copied = unsafe { result::memcpy_htod_async(buffer.address() + window, part, stream.cu_stream()) };
        copied.map_err(|e| failed("cuMemcpyHtoDAsync", e))?;
        let event = stream.record_event(Some(CUevent_flags::CU_EVENT_DISABLE_TIMING));
        busy[turn] = Some(event.map_err(|e| failed("cuEventRecord", e))?);
        turn = 1 - turn;
        window = end;
        progress(window, total);
    }
    device.wait()?;
    Ok((buffer, offsets))
}

/// Memory of the host that a GPU reads without the driver's help.
struct Pinned {
    device: Device,
    address: *mut u8,
    len: usize,
}

impl Pinned {
    fn new(device: &Device, len: usize) -> Result<Self> {
        device.bind()?;
        // SAFETY: the context is current; all of it is written before it is read.
        let address = unsafe { result::malloc_host(len, 0) }.map_err(|e| failed("cuMemHostAlloc", e))?.cast::<u8>();
        // SAFETY: it has as many bytes, and nobody else has it.
        unsafe { ptr::write_bytes(address, 0, len) };
        Ok(Self { device: device.clone(), address, len })
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: it has as many bytes, all of them written, and this is the only reference.
        unsafe { slice::from_raw_parts_mut(self.address, self.len) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // A copy may still be on its way. There is nothing to be done about a failure.
        let _ = self.device.wait();
        if self.device.bind().is_ok() {
            // SAFETY: it was allocated by this driver and is given back once.
            let _ = unsafe { result::free_host(self.address.cast()) };
        }
    }
}
