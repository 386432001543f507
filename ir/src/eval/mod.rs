//! The reference evaluator: pure, small, slow, obviously right.
