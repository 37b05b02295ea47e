//! See `relmgr_fuzz::delta`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| relmgr_fuzz::delta(data));
