//! The CPU backend against the reference evaluator, bit for bit, on data that hurts; and under pools of one thread and of
//! four, which must not differ.

mod attention;
mod check;
mod elementwise;
mod fused_norm;
mod gated;
mod plan;
mod products;
mod quantise;
mod rows;
mod schemes;
