//! The long rounds of tests whose length is an argument: what `cargo xtask soak` runs.

use clap::{Parser, Subcommand};
use hicache_tests::scenarios::kills::Kills;
use hicache_tests::scenarios::mixed::Mixed;

#[derive(Parser)]
#[command(name = "hicache-soak", about = "Long rounds of tests")]
struct Arguments {
    #[command(subcommand)]
    test: Test,
}

#[derive(Subcommand)]
enum Test {
    /// Processes on one root are killed at any instant.
    Kills {
        /// How often.
        #[arg(long, default_value_t = 200)]
        rounds: u64,
        /// Start of the random numbers; said at the beginning.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// One process a namespace, not two writers and a reader.
        #[arg(long)]
        alone: bool,
        /// So little room that pages are evicted all the time.
        #[arg(long)]
        tight: bool,
    },
    /// Random work, kills, clears, damage, full disks, slow and failing engines, all at once.
    Mixed {
        /// For how long.
        #[arg(long, default_value_t = 10.0)]
        minutes: f64,
        /// Start of the random numbers; said at the beginning.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// One process a namespace, not two writers and a reader.
        #[arg(long)]
        alone: bool,
    },
}

fn main() {
    match Arguments::parse().test {
        Test::Kills { rounds, seed, alone, tight } => {
            let (writers, readers) = if alone { (1, 0) } else { (2, 1) };
            let capacity = if tight { 6 << 20 } else { 64 << 20 };
            Kills { rounds, seed, writers, readers, capacity, ample: !tight }.play();
        }
        Test::Mixed { minutes, seed, alone } => {
            Mixed { seconds: (minutes * 60.0) as u64, seed, sharing: !alone }.play();
        }
    }
}
