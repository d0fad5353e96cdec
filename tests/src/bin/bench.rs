//! See [`hicache_tests::bench`].

use hicache_tests::bench::Counting;

/// Counts what is allocated, for every competitor alike.
#[global_allocator]
static COUNTING: Counting = Counting;

fn main() -> std::process::ExitCode {
    hicache_tests::bench::run()
}
