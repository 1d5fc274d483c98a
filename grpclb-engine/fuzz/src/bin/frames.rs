#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| grpclb_engine_fuzz::frames::run(data));
