//! Prints docs/configuration.md: `cargo run --package hicache --example configuration_docs > docs/configuration.md`.

use std::io::Write;

fn main() -> std::io::Result<()> {
    std::io::stdout().write_all(hicache::config::docs().as_bytes())
}
