//! `cargo xtask soak`: tests whose rounds the gate keeps few, for as many rounds as are asked for.

use anyhow::{Result, bail};

use crate::{cargo, say};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Which; all of them if none is named.
    name: Option<String>,
    /// Rounds of each.
    #[arg(long, default_value_t = 1000)]
    rounds: u64,
    /// Seed of the first round; a round that failed says its own.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// A test that takes `rounds=` and `seed=` as arguments of its binary (`hicache_testkit::argument`).
struct Soak {
    name: &'static str,
    package: &'static str,
    /// The file under `tests/`.
    test: &'static str,
    /// The test in it.
    function: &'static str,
}

const SOAKS: &[Soak] =
    &[Soak { name: "damage", package: "hicache-page-store", test: "damage", function: "random_damage" }];

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let asked = |soak: &&Soak| arguments.name.as_ref().is_none_or(|name| name == soak.name);
    let soaks: Vec<&Soak> = SOAKS.iter().filter(asked).collect();
    if soaks.is_empty() {
        let names: Vec<&str> = SOAKS.iter().map(|soak| soak.name).collect();
        bail!(
            "no soak is called {:?}; there are {}",
            arguments.name.as_deref().unwrap_or(""),
            names.join(", ")
        );
    }
    for soak in soaks {
        say(&format!("\n=== {}: {} rounds from seed {}", soak.name, arguments.rounds, arguments.seed));
        let mut test = cargo::cargo();
        test.args(["test", "--release", "--package", soak.package, "--test", soak.test, "--", "--nocapture"]);
        test.arg(soak.function);
        test.args([format!("rounds={}", arguments.rounds), format!("seed={}", arguments.seed)]);
        cargo::run(&mut test)?;
    }
    Ok(())
}
