//! See `relmgr_fuzz::controls`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| relmgr_fuzz::controls(data));
