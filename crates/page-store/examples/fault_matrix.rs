//! Writes docs/fault-matrix.md: `cargo run --package hicache-page-store --example fault_matrix docs/fault-matrix.md`.
//! Rows that can't be had on this machine stay as they are.

#[path = "../tests/fixture/mod.rs"]
mod fixture;
#[path = "../tests/matrix/mod.rs"]
mod matrix;

fn main() -> std::io::Result<()> {
    let Some(path) = std::env::args_os().nth(1) else {
        return Err(std::io::Error::other("name the file to write, docs/fault-matrix.md"));
    };
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    std::fs::write(&path, matrix::table(&known))
}
