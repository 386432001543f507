//! The text form (`.nf`).
