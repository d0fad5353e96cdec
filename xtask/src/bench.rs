//! `cargo xtask bench`: the program of that name, in release, with every competitor.

use anyhow::Result;

use crate::cargo;

#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let bench = [
        "run",
        "--release",
        "--package",
        "hicache-tests",
        "--features",
        "foyer",
        "--bin",
        "hicache-bench",
        "--",
    ];
    cargo::run(cargo::cargo().args(bench).args(&arguments.arguments))
}
