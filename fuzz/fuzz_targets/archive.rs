//! See `relmgr_fuzz::archive`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| relmgr_fuzz::archive(data));
