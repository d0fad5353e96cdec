//! `cargo xtask bench`: the program of that name, in release, with every competitor; with `--sglang` the bench beside
//! SGLang's own backends.

use anyhow::Result;

use crate::{cargo, sglang};

#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if let Some((first, rest)) = arguments.arguments.split_first()
        && first == "--sglang"
    {
        return sglang::bench(rest);
    }
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
