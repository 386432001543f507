//! Which fused norms have a kernel.

use normfuse_ir::{DType, FusedNorm, Granularity, Scheme, scheme::Packing};

use super::shape::VECTOR;

/// Widest row: its elements stay in registers of one block.
const MAX_WIDTH: u64 = 65_536;
/// Widest row of a result with zeros behind the values.
const MAX_PADDED: u64 = 1 << 20;
/// Threads in a warp.
const WARP: u64 = 32;

/// Says whether a GPU runs a descriptor, and if not, what stands in the way.
///
/// # Errors
/// A sentence that names the field.
pub fn supports(norm: &FusedNorm) -> Result<(), String> {
    norm.check()?;
    for (k, sibling) in norm.siblings.iter().enumerate() {
        let at = format!("siblings[{k}]");
        if sibling.width > MAX_WIDTH {
            return Err(format!("{at}.width: the kernels take rows of at most {MAX_WIDTH}, found {}", sibling.width));
        }
        if let Some(padded) = sibling.padded.filter(|n| !n.is_multiple_of(VECTOR) || *n > MAX_PADDED) {
            let message =
                format!("{at}.padded: the kernels take multiples of {VECTOR} up to {MAX_PADDED}, found {padded}");
            return Err(message);
        }
        if let Some(weight) = sibling.weight
            && !matches!(weight.dtype, DType::F32 | DType::F16 | DType::BF16)
        {
            return Err(format!("{at}.weight: expected f32, f16 or bf16, found {}", weight.dtype));
        }
        for (e, scheme) in sibling.epilogues.iter().enumerate() {
            quantiser(scheme, sibling.width).map_err(|why| format!("{at}.epilogues[{e}].{why}"))?;
        }
    }
    Ok(())
}

/// The same of a quantiser that is in no norm's op; its rows are even ones that its groups divide.
///
/// # Errors
/// A sentence that names the field.
pub fn supports_quantize(scheme: &Scheme) -> Result<(), String> {
    scheme.check()?;
    quantiser(scheme, 0)
}

fn quantiser(scheme: &Scheme, width: u64) -> Result<(), String> {
    if let Granularity::Group(g) = scheme.granularity
        && !(g.is_power_of_two() && (VECTOR..=VECTOR * WARP).contains(&u64::from(g)))
    {
        return Err(format!("granularity: the kernels take groups of 8, 16, 32, 64, 128 or 256, found {g}"));
    }
    // Codes of four bits that are no packing's lie in one array, in which an odd row ends within a byte.
    if scheme.element.bits() == 4 && scheme.packing == Packing::None && width % 2 == 1 {
        return Err(format!("packing: two codes in a byte need an even row, found {width}"));
    }
    Ok(())
}
