//! See `relmgr_fuzz::package`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| relmgr_fuzz::package(data));
