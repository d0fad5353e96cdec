//! See [`hicache_tests::actor`].

fn main() -> std::process::ExitCode {
    hicache_tests::actor::run()
}
