//! The check that a fused op and its body are one function.
