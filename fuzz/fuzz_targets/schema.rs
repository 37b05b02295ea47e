//! See `relmgr_fuzz::schema`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| relmgr_fuzz::schema(data));
