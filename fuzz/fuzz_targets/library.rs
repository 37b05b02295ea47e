//! See `relmgr_fuzz::library`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| relmgr_fuzz::library(data));
