//! Everything that can happen to a store, at random and all at once. Longer: `cargo xtask soak mixed --minutes 10`.

use hicache_tests::scenarios::mixed::Mixed;

/// Another one each time; it is printed, and `--seed` plays it again as far as the processes' timing allows.
fn seed() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn one_process_a_namespace() {
    Mixed { seconds: 12, seed: seed(), sharing: false }.play();
}

#[test]
fn several_processes_a_namespace() {
    Mixed { seconds: 15, seed: seed(), sharing: true }.play();
}
