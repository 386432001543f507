//! Tests of ops that other files do not test beside themselves.
