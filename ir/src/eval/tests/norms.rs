//! onnxruntime's norms: the bits are those of its CPU kernels (1.32), on rows whose squares add up exactly in any order.

use super::{f, u16s};
use crate::{
    DType, Tensor,
    eval::{
        numbers::{floats, from_floats},
        rms_norm, skip_rms_norm,
    },
    fused::Root,
    op::CastBack,
};

const ORT: (Root, CastBack) = (Root::ReciprocalSqrt, CastBack::AfterScale);

fn half(shape: &[usize], v: &[f32]) -> Tensor {
    from_floats(DType::F16, shape, v).unwrap()
}

/// 1/8, -2/8, ... -16/8 and the scale 0.1, 0.2, ... 1.6.
fn row_and_scale() -> (Vec<f32>, Vec<f32>) {
    let x = (1i16..=16).map(|i| f32::from(if i % 2 == 0 { -i } else { i }) / 8.0).collect();
    (x, (1u8..=16).map(|i| f32::from(i) / 10.0).collect())
}

#[test]
fn simplified_layer_norm_multiplies_by_the_reciprocal_and_casts_last() {
    let (x, scale) = row_and_scale();
    let norm = |x: &Tensor, scale: &Tensor, form| rms_norm(x, scale, -1, 1e-5, DType::F32, form).unwrap();
    let y = norm(&f(&[1, 16], &x), &f(&[16], &scale), ORT);
    let want: [u32; 16] = [
        0x3c29_7050,
        0xbd29_7050,
        0x3dbe_9e5a,
        0xbe29_7050,
        0x3e84_5fbe,
        0xbebe_9e5a,
        0x3f01_b9fd,
        0xbf29_7050,
        0x3f56_7224,
        0xbf84_5fbe,
        0x3fa0_2c2c,
        0xbfbe_9e5a,
        0x3fdf_b649,
        0xc001_b9fd,
        0x4014_ebb6,
        0xc029_7050,
    ]; // fmt: skip
    assert_eq!(floats(&y).unwrap().iter().map(|v| v.to_bits()).collect::<Vec<_>>(), want);
    // A division, as in RMSNormalization, is another function: element 10 tells.
    let divided = norm(&f(&[1, 16], &x), &f(&[16], &scale), (Root::DivideBySqrt, CastBack::AfterScale));
    assert_ne!(floats(&divided).unwrap()[10].to_bits(), want[10]);

    let (x, scale) = (half(&[1, 16], &x), half(&[16], &scale));
    let want = [
        0x214b, 0xa94b, 0x2df5, 0xb14b, 0x3423, 0xb5f5, 0x380e, 0xb94b, 0x3ab3, 0xbc23, 0x3d01, 0xbdf5, 0x3efd, 0xc00e,
        0x40a7, 0xc14b,
    ]; // fmt: skip
    assert_eq!(u16s(&norm(&x, &scale, ORT)), want);
    // And so is a cast before the scale: element 12 tells.
    assert_ne!(u16s(&norm(&x, &scale, (Root::ReciprocalSqrt, CastBack::BeforeScale)))[12], want[12]);
    // The result has the scale's dtype, and of another stage one every step is rounded.
    let wide = norm(&x, &f(&[16], &[1.0; 16]), ORT);
    assert_eq!(wide.dtype(), DType::F32);
    let narrow = rms_norm(&x, &f(&[16], &[1.0; 16]), -1, 1e-5, DType::BF16, ORT).unwrap();
    assert!(floats(&narrow).unwrap().iter().all(|v| v.to_bits().trailing_zeros() >= 16));
}

#[test]
fn skip_simplified_layer_norm_reads_the_sum_before_it_is_rounded() {
    let x = half(&[1, 4], &[8.0, -4.0, 2.0, 6.0]);
    let skip = half(&[1, 4], &[3.0 / 1024.0, -1.0 / 512.0, 1.0 / 1024.0, 5.0 / 1024.0]);
    let scale = half(&[4], &[0.3, 1.1, -0.7, 2.3]);
    let [y, sum] = skip_rms_norm(&x, &skip, &scale, None, 1e-6).unwrap();
    // A norm of the rounded sum would have 0xba6c.
    assert_eq!(u16s(&y), [0x3703, 0xba6d, 0xb417, 0x410b]);
    assert_eq!(u16s(&sum), [0x4800, 0xc400, 0x4000, 0x4601]);
    // The bias comes after the sum of the two: in the other order the small ones would be lost.
    let row = |v: f32| f(&[1, 1], &[v]);
    let [_, sum] = skip_rms_norm(&row(1e8), &row(-1e8), &f(&[1], &[1.0]), Some(&f(&[1], &[1.0])), 1e-6).unwrap();
    assert_eq!(floats(&sum).unwrap(), [1.0]);
    // Operands broadcast to x; a skip that is larger does not fit, nor does one of another dtype.
    let two = f(&[2, 1], &[3.0, 4.0]);
    let [_, sum] = skip_rms_norm(&two, &f(&[1], &[1.0]), &f(&[1], &[1.0]), None, 1e-6).unwrap();
    assert_eq!(floats(&sum).unwrap(), [4.0, 5.0]);
    assert!(skip_rms_norm(&row(1.0), &two, &f(&[1], &[1.0]), None, 1e-6).is_err());
    assert!(skip_rms_norm(&row(1.0), &half(&[1, 1], &[1.0]), &f(&[1], &[1.0]), None, 1e-6).is_err());
}
