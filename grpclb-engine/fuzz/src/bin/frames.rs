//! libFuzzer's way into `frames`; what must hold is said in `src/frames.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| grpclb_engine_fuzz::frames::run(data));
