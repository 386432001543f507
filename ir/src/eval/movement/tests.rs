use super::*;
use crate::eval::numbers::{Numbers, from_codes, ints};

fn iota(shape: &[usize]) -> Tensor {
    let n: usize = shape.iter().product();
    Tensor::from_i64(shape, &(0..n as i64).collect::<Vec<_>>())
}

fn i(v: &[i64]) -> Tensor {
    Tensor::from_i64(&[v.len()], v)
}

fn got(t: &Tensor) -> (Vec<usize>, Vec<i64>) {
    (t.shape().to_vec(), ints(t).unwrap())
}

#[test]
fn views() {
    let x = iota(&[2, 3]);
    assert_eq!(got(&transpose(&x, None).unwrap()), (vec![3, 2], vec![0, 3, 1, 4, 2, 5]));
    let y = transpose(&iota(&[2, 3, 2]), Some(&[1, 0, 2])).unwrap();
    assert_eq!(got(&y), (vec![3, 2, 2], vec![0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]));
    assert!(transpose(&x, Some(&[0, 0])).is_err());
    assert_eq!(reshape(&x, &[-1, 2], false).unwrap().shape(), [3, 2]);
    assert_eq!(reshape(&x, &[0, 1, -1], false).unwrap().shape(), [2, 1, 3]);
    assert_eq!(reshape(&iota(&[0, 4]), &[0, 9], true).unwrap().shape(), [0, 9]);
    for bad in [&[4, -1][..], &[-1, -1], &[7], &[-2, 3], &[2, 3, 0], &[0, -1, i64::MAX, i64::MAX]] {
        assert!(reshape(&x, bad, false).is_err(), "{bad:?}");
    }
    assert_eq!(squeeze(&iota(&[1, 3, 1]), None).unwrap().shape(), [3]);
    assert_eq!(squeeze(&iota(&[1, 3, 1]), Some(&[-1])).unwrap().shape(), [1, 3]);
    assert!(squeeze(&x, Some(&[0])).is_err());
    assert_eq!(unsqueeze(&x, &[0, -1]).unwrap().shape(), [1, 2, 3, 1]);
    assert!(unsqueeze(&x, &[0, -4]).is_err());
    assert_eq!(flatten(&iota(&[2, 3, 4]), 2).unwrap().shape(), [6, 4]);
    assert_eq!(flatten(&iota(&[2, 3, 4]), 0).unwrap().shape(), [1, 24]);
    assert_eq!(flatten(&iota(&[2, 3]), 2).unwrap().shape(), [6, 1]);
    assert_eq!(got(&expand(&i(&[1, 2]), &[2, 1]).unwrap()), (vec![2, 2], vec![1, 2, 1, 2]));
    assert_eq!(expand(&iota(&[3, 1]), &[2, 1, 4]).unwrap().shape(), [2, 3, 4]);
    assert!(expand(&x, &[i64::MAX, 1, 1]).is_err() && expand(&x, &[-1]).is_err());
}

#[test]
fn slices_clamp_as_numpy_does() {
    let x = iota(&[5]);
    let cut = |s: i64, e: i64, step: i64| ints(&slice(&x, &[s], &[e], None, Some(&[step])).unwrap()).unwrap();
    assert_eq!(cut(1, 4, 1), [1, 2, 3]);
    assert_eq!(cut(-2, i64::MAX, 1), [3, 4]);
    assert_eq!(cut(-1, i64::MIN, -2), [4, 2, 0]);
    assert_eq!(cut(i64::MAX, -6, -1), [4, 3, 2, 1, 0]);
    assert_eq!(cut(3, -6, -1), [3, 2, 1, 0]);
    assert_eq!(cut(4, 1, 1), [0i64; 0]);
    assert_eq!(cut(0, 5, i64::MAX), [0]);
    let y = slice(&iota(&[2, 4]), &[1, 0], &[3, 1], Some(&[-1, 0]), None).unwrap();
    assert_eq!(got(&y), (vec![1, 2], vec![1, 2]));
    let all = slice(&iota(&[2, 2]), &[1, 1], &[-9, -9], None, Some(&[-1, -1])).unwrap();
    assert_eq!(got(&all), (vec![2, 2], vec![3, 2, 1, 0]));
    assert!(slice(&x, &[0], &[1], None, Some(&[0])).is_err());
    assert!(slice(&x, &[0], &[1], Some(&[1]), None).is_err());
    assert!(slice(&x, &[0, 0], &[1], None, None).is_err());
    assert_eq!(slice(&iota(&[0]), &[0], &[9], None, Some(&[-1])).unwrap().shape(), [0]);
}

#[test]
fn joins() {
    let (a, b) = (iota(&[2, 1]), iota(&[2, 2]));
    assert_eq!(got(&concat(&[&a, &b], 1).unwrap()), (vec![2, 3], vec![0, 0, 1, 1, 2, 3]));
    assert!(concat(&[&a, &b], 0).is_err());
    let parts = split(&iota(&[2, 5]), -1, None, 3).unwrap();
    assert_eq!(parts.iter().map(|p| p.shape()[1]).collect::<Vec<_>>(), [2, 2, 1]);
    assert_eq!(ints(&parts[1]).unwrap(), [2, 3, 7, 8]);
    assert_eq!(ints(&split(&iota(&[3]), 0, Some(&[1, 2]), 2).unwrap()[1]).unwrap(), [1, 2]);
    assert!(split(&iota(&[3]), 0, Some(&[1, 1]), 2).is_err() && split(&iota(&[3]), 0, Some(&[4, -1]), 2).is_err());
    assert_eq!(got(&tile(&iota(&[1, 2]), &[2, 2]).unwrap()), (vec![2, 4], vec![0, 1, 0, 1, 0, 1, 0, 1]));
    assert_eq!(ints(&tile(&iota(&[2, 2]), &[1, 2]).unwrap()).unwrap(), [0, 1, 0, 1, 2, 3, 2, 3]);
    assert!(tile(&a, &[1]).is_err() && tile(&a, &[-1, 1]).is_err() && tile(&a, &[i64::MAX, i64::MAX]).is_err());
    let y = pad(&iota(&[2, 2]), &[1, 0, 0, 1], Some(&i(&[9])), None).unwrap();
    assert_eq!(got(&y), (vec![3, 3], vec![9, 9, 9, 0, 1, 9, 2, 3, 9]));
    let y = pad(&iota(&[2, 3]), &[-1, 1], None, Some(&[1])).unwrap();
    assert_eq!(got(&y), (vec![2, 3], vec![1, 2, 0, 4, 5, 0]));
    assert!(pad(&iota(&[2]), &[-2, -1], None, None).is_err() && pad(&iota(&[2]), &[1], None, None).is_err());
    let c = Tensor::from_bytes(DType::Bool, vec![2, 1], vec![1, 0]).unwrap();
    let y = where_select(&c, &i(&[1, 2]), &i(&[5])).unwrap();
    assert_eq!(got(&y), (vec![2, 2], vec![1, 2, 5, 5]));
    assert_eq!(ints(&trilu(&iota(&[3, 3]), 1, true).unwrap()).unwrap(), [0, 1, 2, 0, 0, 5, 0, 0, 0]);
    assert_eq!(ints(&trilu(&iota(&[2, 2]), 0, false).unwrap()).unwrap(), [0, 0, 2, 3]);
    let y = constant_of_shape(DType::I64, &7i64.to_le_bytes(), &[2]).unwrap();
    assert_eq!(got(&y), (vec![2], vec![7, 7]));
    assert!(constant_of_shape(DType::F32, &[0; 4], &[1 << 40]).is_err());
}

#[test]
fn indexing() {
    let x = iota(&[3, 2]);
    let idx = Tensor::from_i64(&[2, 1], &[2, -3]);
    assert_eq!(got(&gather(&x, &idx, 0).unwrap()), (vec![2, 1, 2], vec![4, 5, 0, 1]));
    assert_eq!(got(&gather(&x, &Tensor::from_i64(&[], &[1]), 1).unwrap()), (vec![3], vec![1, 3, 5]));
    assert!(gather(&x, &i(&[3]), 0).is_err() && gather(&x, &i(&[-4]), 0).is_err());
    let y = gather_elements(&x, &Tensor::from_i64(&[2, 2], &[0, 1, 2, -1]), 0).unwrap();
    assert_eq!(got(&y), (vec![2, 2], vec![0, 3, 4, 5]));
    assert!(gather_elements(&x, &i(&[0]), 0).is_err());
    let y = gather_nd(&x, &Tensor::from_i64(&[2, 2], &[0, 1, -1, 0]), 0).unwrap();
    assert_eq!(got(&y), (vec![2], vec![1, 4]));
    let y = gather_nd(&iota(&[2, 2, 2]), &Tensor::from_i64(&[2, 1], &[1, 0]), 1).unwrap();
    assert_eq!(got(&y), (vec![2, 2], vec![2, 3, 4, 5]));
    assert!(gather_nd(&x, &Tensor::from_i64(&[1, 3], &[0, 0, 0]), 0).is_err());
    let plan = scatter_elements_plan(&x, &Tensor::from_i64(&[1, 2], &[2, 0]), &Tensor::from_i64(&[1, 2], &[8, 9]), 0);
    let y = scatter_copy(&x, &Tensor::from_i64(&[1, 2], &[8, 9]), &plan.unwrap()).unwrap();
    assert_eq!(ints(&y).unwrap(), [0, 9, 2, 3, 8, 5]);
    let updates = Tensor::from_i64(&[2, 2], &[7, 7, 8, 8]);
    let plan = scatter_nd_plan(&x, &Tensor::from_i64(&[2, 1], &[1, 1]), &updates).unwrap();
    assert_eq!(ints(&scatter_copy(&x, &updates, &plan).unwrap()).unwrap(), [0, 1, 8, 8, 4, 5]);
    assert!(scatter_nd_plan(&x, &Tensor::from_i64(&[1, 1], &[1]), &updates).is_err());
    let y = one_hot(&[1, -1, 5], &[3], 2, &i(&[3, 4]), 0).unwrap();
    assert_eq!(got(&y), (vec![2, 3], vec![3, 3, 3, 4, 4, 3]));
}

#[test]
fn nibbles_move_as_elements() {
    let x = from_codes(DType::F4E2M1, &[3, 1], vec![1, 2, 3]).unwrap();
    let y = concat(&[&x, &x], 1).unwrap();
    assert_eq!(y.bytes(), [0x11, 0x22, 0x33]);
    let row = slice(&x, &[1], &[3], None, None).unwrap();
    assert_eq!(row.bytes(), [0x32]);
    let Numbers::F32(v) = Numbers::of(&transpose(&x, None).unwrap()) else { panic!("floats") };
    assert_eq!(v, [0.5, 1.0, 1.5]);
}

#[test]
fn every_element_size_moves() {
    for dtype in [DType::U8, DType::F16, DType::F32, DType::F64] {
        let size = dtype.bits() / 8;
        let bytes: Vec<u8> = (0..6 * size).map(|b| b as u8).collect();
        let x = Tensor::from_bytes(dtype, vec![2, 3], bytes.clone()).unwrap();
        let there = transpose(&x, None).unwrap();
        assert_ne!(there.bytes(), bytes);
        assert_eq!(transpose(&there, None).unwrap().bytes(), bytes, "{dtype}");
    }
}
