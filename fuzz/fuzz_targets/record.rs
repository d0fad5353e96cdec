//! Journal records.
#![no_main]

libfuzzer_sys::fuzz_target!(|raw: &[u8]| hicache_page_store::fuzzing::records(raw));
