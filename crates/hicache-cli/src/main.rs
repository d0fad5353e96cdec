//! The `hicache` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    hicache_cli::run(std::env::args_os())
}
