//! libFuzzer's way into `splitter`; what must hold is said in `src/splitter.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| grpclb_engine_fuzz::splitter::run(data));
