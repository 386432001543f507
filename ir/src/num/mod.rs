//! Scalar numerics: the one definition of every rounding, conversion and elementary function, and of the row sum.
