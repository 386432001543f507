//! The reader of torch.export archives, on small programs that the tests write call by call.

mod archive;
mod bad_input;
mod build;
mod checkpoint;
mod in_place;
mod ops;
mod program;
mod scaled;
