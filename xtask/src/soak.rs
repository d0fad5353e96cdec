//! `cargo xtask soak`: the long rounds of tests whose length is an argument.

use anyhow::Result;

use crate::cargo;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Which, and how long: `kills --rounds 200`, `mixed --minutes 10`; `--help` behind `--` lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, default_values_t = ["mixed".to_owned()])]
    test: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let soak = ["run", "--release", "--package", "hicache-tests", "--bin", "hicache-soak", "--"];
    cargo::run(cargo::cargo().args(soak).args(&arguments.test))
}
