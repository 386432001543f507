//! From a descriptor to machine code.

use normfuse_ir::{FusedNorm, Result};

use super::{nvrtc::Compiled, shape::LaunchShape, source};

/// Registers of a multiprocessor, from Hopper on.
const REGISTERS: u32 = 65_536;
/// Registers a thread more than the assembler took, until none goes to memory: it likes more blocks at a time better than a
/// register or two.
const MORE: [u32; 3] = [8, 16, 32];

/// Compiles the kernel of a descriptor with a compiler of texts; again, with room for more registers, where some went to memory.
///
/// # Errors
/// What `compile` says.
pub fn build(
    norm: &FusedNorm,
    shape: &LaunchShape,
    mut compile: impl FnMut(&str) -> Result<Compiled>,
) -> Result<Compiled> {
    let first = compile(&source::write(norm, shape, None))?;
    let spills = |c: &Compiled| c.spills().is_some_and(|bytes| bytes > 0);
    let Some(taken) = first.registers().filter(|_| spills(&first)) else { return Ok(first) };
    for more in MORE {
        let blocks = REGISTERS / ((taken + more) * shape.block.next_multiple_of(32));
        let roomier = compile(&source::write(norm, shape, Some(blocks.max(1))))?;
        if !spills(&roomier) {
            return Ok(roomier);
        }
    }
    Ok(first)
}
