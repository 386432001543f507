//! Inference of dtypes, symbolic shapes, strides and known integer values.
