//! The replay of a whole set, whose files are made from the input.
#![no_main]

use std::sync::LazyLock;

use tempfile::TempDir;

static DIRECTORY: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a temporary directory"));

libfuzzer_sys::fuzz_target!(|raw: &[u8]| {
    hicache_page_store::fuzzing::set(&DIRECTORY.path().join("set-0000"), raw);
});
