//! Long rounds.
fn main() {}
