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
        /// Writers of the first namespace; the other has one.
        #[arg(long, default_value_t = 2)]
        writers: u64,
        /// Its readers.
        #[arg(long, default_value_t = 1)]
        readers: u64,
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
        Test::Kills { rounds, seed, writers, readers, tight } => {
            let capacity = if tight { 6 << 20 } else { 64 << 20 };
            Kills { rounds, seed, writers, readers, capacity, ample: !tight }.play();
        }
        Test::Mixed { minutes, seed, alone } => {
            Mixed { seconds: (minutes * 60.0) as u64, seed, sharing: !alone }.play();
        }
    }
}
