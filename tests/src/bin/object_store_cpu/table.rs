//! What was measured, and whether it is enough.

use std::collections::BTreeMap;

use super::clients::Kind;
use super::{LENGTHS, Operation};

/// Microseconds, a round each.
#[derive(Default)]
pub(crate) struct Table(BTreeMap<(Operation, usize), BTreeMap<Kind, Vec<f64>>>);

/// The middle one of several, with the least and the most.
#[derive(Clone, Copy)]
struct Spread {
    least: f64,
    median: f64,
    most: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        Self { least: sorted[0], median: sorted[sorted.len() / 2], most: sorted[sorted.len() - 1] }
    }
}

impl Table {
    pub(crate) fn add(&mut self, operation: Operation, bytes: usize, kind: Kind, time: f64) {
        self.0.entry((operation, bytes)).or_default().entry(kind).or_default().push(time);
    }

    #[allow(clippy::print_stdout, reason = "it prints its result")]
    pub(crate) fn print(&self, name: &str) {
        println!("| CPU µs an operation | {} |", Kind::ALL.map(Kind::name).join(" | "));
        println!("|---|{}", "---:|".repeat(Kind::ALL.len()));
        for ((operation, bytes), kinds) in &self.0 {
            let cells = kinds.values().map(|times| {
                let Spread { least, median, most } = Spread::of(times);
                format!("{median:.0} ({least:.0} to {most:.0})")
            });
            let length = if *operation == Operation::Head { String::new() } else { length(*bytes) };
            let cells: Vec<String> = cells.collect();
            println!("| {}{length} | {} |", operation.name(), cells.join(" | "));
        }
        println!("\n| bar | seen | |\n|---|---|---|");
        let reads = LENGTHS.map(|bytes| (Operation::Get, bytes));
        for (operation, bytes) in reads.into_iter().chain([(Operation::Head, LENGTHS[0])]) {
            let to_bare = self.ratio(operation, bytes, Kind::Hicache, Kind::Bare);
            let to_other = self.ratio(operation, bytes, Kind::Hicache, Kind::ObjectStore);
            bar(operation, bytes, "at most 1.25 of bare", to_bare, 1.25);
            bar(operation, bytes, "not above object_store", to_other, 1.0);
            // What decides which of the two sends them.
            let saved = self.ratio(operation, bytes, Kind::Hicache, Kind::HicacheSdk);
            bar(operation, bytes, "lean saves a third of the SDK's", saved, 2.0 / 3.0);
        }
        // Over HTTP a signature covers the bytes, unless it is asked not to.
        let ours = if name == "TLS" { Kind::Hicache } else { Kind::HicacheUnsigned };
        let put = self.ratio(Operation::Put, LENGTHS[2], ours, Kind::Sdk);
        bar(Operation::Put, LENGTHS[2], &format!("{} at most half of the plain SDK", ours.name()), put, 0.5);
    }

    /// How many times as much one takes as the other, round by round: what slows a round down slows both.
    fn ratio(&self, operation: Operation, bytes: usize, one: Kind, other: Kind) -> Spread {
        let kinds = &self.0[&(operation, bytes)];
        let pairs = kinds[&one].iter().zip(&kinds[&other]);
        Spread::of(&pairs.map(|(one, other)| one / other).collect::<Vec<f64>>())
    }
}

#[allow(clippy::print_stdout, reason = "it prints its result")]
fn bar(operation: Operation, bytes: usize, bar: &str, seen: Spread, limit: f64) {
    let length = if operation == Operation::Head { String::new() } else { length(bytes) };
    let met = if seen.median <= limit { "met" } else { "missed" };
    let Spread { least, median, most } = seen;
    println!("| {}{length}: {bar} | {median:.2} ({least:.2} to {most:.2}) | {met} |", operation.name());
}

fn length(bytes: usize) -> String {
    match bytes >> 20 {
        0 => format!(" {} KiB", bytes >> 10),
        mebibytes => format!(" {mebibytes} MiB"),
    }
}
