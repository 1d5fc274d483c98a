//! libFuzzer's way into `hpack`; what must hold is said in `src/hpack.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| grpclb_engine_fuzz::hpack::run(data));
