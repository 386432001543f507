//! What is not computed is said before anything runs, and bad data by the fault word.

use normfuse_ir::{DType, Op, Tensor, op::BinaryOp};
use normfuse_runtime::cuda::ops::{Typed, supports};

use super::{Case, Gpu, cases::i64s};

fn typed(dtype: DType, shape: &[usize]) -> Typed {
    Typed { dtype, shape: shape.to_vec() }
}

#[test]
fn what_depends_on_data_names_the_op() {
    let said = supports(&Op::NonZero).unwrap_err();
    assert!(said.contains("as its operand's data say"), "{said}");
    assert!(supports(&Op::MatMul).is_err() && supports(&Op::Expand).is_ok());
    let unknown = Case::new(Op::Slice, [i64s(&[1, 2]), i64s(&[0]), i64s(&[1])]);
    let said = unknown.lowered(&[typed(DType::I64, &[1])]).unwrap_err().to_string();
    assert_eq!(said, "`slice` needs operand 1 before anything runs, and it depends on data");
    let mixed = Case::new(Op::Binary(BinaryOp::Add), [i64s(&[1]), Tensor::from_f32(&[1], &[1.0])]);
    let said = mixed.lowered(&[typed(DType::I64, &[1])]).unwrap_err().to_string();
    assert!(said.contains("one dtype"), "{said}");
}

#[test]
fn bad_data_is_a_fault() {
    let cases = [
        (Case::new(Op::Gather { axis: 0 }, [i64s(&[1, 2]), i64s(&[0, 2])]), "an index is out of range"),
        (Case::new(Op::Gather { axis: 0 }, [i64s(&[1, 2]), i64s(&[0, -3])]), "an index is out of range"),
        (Case::new(Op::Binary(BinaryOp::Div), [i64s(&[1, 2]), i64s(&[1, 0])]), "an integer is divided by zero"),
        (Case::new(Op::Binary(BinaryOp::Mod), [i64s(&[1, 2]), i64s(&[0, 1])]), "an integer is divided by zero"),
    ];
    let outputs = [typed(DType::I64, &[2])];
    let all: Vec<_> = cases.iter().map(|(case, said)| (case, case.lowered(&outputs).unwrap(), said)).collect();
    let Some(gpu) = Gpu::with(all.iter().flat_map(|(_, l, _)| &l.launches)) else { return };
    for (case, lowered, said) in &all {
        assert!(case.expected().is_err());
        let found = gpu.run(lowered, &case.inputs, &outputs).unwrap_err().to_string();
        assert!(found.contains(**said), "{found}");
    }
}
