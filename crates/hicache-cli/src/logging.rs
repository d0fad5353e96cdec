//! Log lines on standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::filter::LevelFilter;

/// Sends what the crates log from `level` on to standard error.
pub(crate) fn start(level: LevelFilter) {
    let subscriber = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_max_level(level)
        .with_target(false)
        .finish();
    // Refused where a program that calls `run` logs already: then its way of logging stays.
    let _ = tracing::subscriber::set_global_default(subscriber);
}
