//! `cargo xtask soak`: tests that the gate keeps short, for as long as is asked for.

use anyhow::Result;

use crate::{cargo, sglang};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    soak: Soak,
}

#[derive(clap::Subcommand)]
enum Soak {
    /// Random damage to the files of a closed store.
    Damage {
        /// How often.
        #[arg(long, default_value_t = 1000)]
        rounds: u64,
        /// Seed of the first round; a round that failed says its own.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Power failures: subsets of what was not synced, of recorded stores.
    Power {
        /// How many subsets.
        #[arg(long, default_value_t = 1000)]
        rounds: u64,
    },
    /// The larger worlds of the model of the protocol.
    Protocol,
    /// Random steps of the controller, against a model.
    Controller {
        /// How many sequences, for each policy.
        #[arg(long, default_value_t = 2000)]
        rounds: u64,
    },
    /// The whole workload through device, host and storage, with faults of the device and of the page store's engine.
    Tiers,
    /// Processes on one root that are killed; `kills --help` says more.
    Kills(Rest),
    /// Requests to a real SGLang without a GPU: memory flat, outputs equal.
    Sglang {
        /// How many.
        #[arg(long, default_value_t = 2000)]
        requests: u64,
        /// A recorded workload (Mooncake JSONL) whose blocks become the prompts' pages.
        #[arg(long)]
        trace: Option<String>,
    },
    /// Everything at random; `mixed --help` says more.
    Mixed(Rest),
}

#[derive(clap::Args)]
#[command(disable_help_flag = true)]
struct Rest {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.soak {
        Soak::Damage { rounds, seed } => {
            let rounds = [format!("rounds={rounds}"), format!("seed={seed}")];
            test("hicache-page-store", "damage", &["random_damage"], &rounds)
        }
        Soak::Power { rounds } => {
            test("hicache-tests", "power_loss", &["power"], &[format!("rounds={rounds}")])
        }
        Soak::Controller { rounds } => {
            test("hicache-controller", "random_steps", &["random"], &[format!("rounds={rounds}")])
        }
        Soak::Sglang { requests, trace } => {
            let mut arguments =
                vec!["-s".to_owned(), "-k".to_owned(), "soak".to_owned(), format!("--requests={requests}")];
            arguments.extend(trace.iter().map(|path| format!("--workload={path}")));
            sglang::run(&sglang::Arguments::pytest(arguments))
        }
        Soak::Tiers => test("hicache-tests", "tier_faults", &["faults"], &["whole=1".to_owned()]),
        Soak::Protocol => test("hicache-page-store", "protocol", &["--include-ignored"], &[]),
        Soak::Kills(rest) => soak("kills", &rest.arguments),
        Soak::Mixed(rest) => soak("mixed", &rest.arguments),
    }
}

/// A test that takes `rounds=` and the like as arguments of its binary.
fn test(package: &str, test: &str, filter: &[&str], arguments: &[String]) -> Result<()> {
    let mut cargo = cargo::cargo();
    cargo.args(["test", "--release", "--package", package, "--test", test, "--", "--nocapture"]);
    cargo::run(cargo.args(filter).args(arguments))
}

fn soak(name: &str, arguments: &[String]) -> Result<()> {
    let soak = ["run", "--release", "--package", "hicache-tests", "--bin", "hicache-soak", "--", name];
    cargo::run(cargo::cargo().args(soak).args(arguments))
}
