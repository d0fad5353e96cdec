//! Numbers for tests, as arguments of the test binary: `cargo test --test damage -- random rounds=1000 seed=7`.
//!
//! The test harness takes such a word for one more name to look for, and finds no test of that name. So the name of the
//! test must be given too.

/// The number behind `name=`, if it was given.
pub fn argument(name: &str) -> Option<u64> {
    std::env::args().filter_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok()).next_back()
}
