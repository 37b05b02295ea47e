//! See `relmgr_fuzz::app_conf`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| relmgr_fuzz::app_conf(data));
