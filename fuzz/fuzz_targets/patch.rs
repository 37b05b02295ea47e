//! See `relmgr_fuzz::patch`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| relmgr_fuzz::patch(data));
