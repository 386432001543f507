#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| normfuse_fuzz::config(bytes));
