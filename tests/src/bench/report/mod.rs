//! What is shown: lines while it runs, a table, JSON, and a page with plots that needs nothing beside itself.

mod costs;
mod html;
mod plot;

use std::fs;
use std::path::{Path, PathBuf};

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

use super::Problem;
use super::machine::Machine;
use super::measure::{Measure, median};
use super::rounds::{Judged, Outcome, Played};

/// All of it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) machine: Machine,
    pub(super) results: Vec<Outcome>,
}

/// The middle, the least and the most.
pub(super) fn spread(values: &[f64]) -> (f64, f64, f64) {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (median(values.iter().copied()), least, most)
}

fn of(played: &Played, figure: impl Fn(&Measure) -> f64) -> f64 {
    median(played.measures.iter().map(figure))
}

fn with_spread(values: &[f64]) -> String {
    let (middle, least, most) = spread(values);
    format!("{middle:.2} ({least:.2}–{most:.2})")
}

fn verdict(judged: &Judged) -> String {
    let sign = if judged.is_cost { '≤' } else { '≥' };
    let met = if judged.is_met() { "met" } else { "NOT MET" };
    format!("{} {} {sign} {}: {met}", with_spread(&judged.values), judged.what, judged.limit)
}

/// A case in a line.
pub(super) fn line(outcome: &Outcome) -> String {
    let verdicts: Vec<String> = outcome.judged.iter().map(verdict).collect();
    let shown = if verdicts.is_empty() { "no bar".to_owned() } else { verdicts.join("; ") };
    format!("{}: {shown}", outcome.name)
}

/// A figure, or nothing where there is none.
fn number(value: f64, decimals: usize) -> String {
    if value.is_finite() && value > 0.0 { format!("{value:.decimals$}") } else { String::new() }
}

impl Report {
    /// Where the CPU goes, as a table; `None` where the cases that tell it were not played.
    pub(super) fn costs(&self) -> Option<String> {
        costs::costs(self)
    }

    pub(super) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header([
            "case",
            "who",
            "GB/s",
            "ours / it",
            "CPU s/GB",
            "syscalls/page",
            "allocations/page",
            "bar",
        ]);
        for outcome in &self.results {
            for (at, played) in outcome.played.iter().enumerate() {
                let ratio = if at == 0 || played.measures.iter().all(|measure| measure.bytes == 0) {
                    String::new()
                } else {
                    with_spread(&outcome.ratios(at))
                };
                let bars: Vec<String> = outcome.judged.iter().map(verdict).collect();
                let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
                table.add_row([
                    Cell::new(if at == 0 { &outcome.name } else { "" }),
                    Cell::new(played.name),
                    right(number(of(played, Measure::gigabytes_a_second), 2)),
                    right(ratio),
                    right(number(of(played, Measure::cpu_seconds_a_gigabyte), 3)),
                    right(played.syscalls_a_page.map_or_else(String::new, |calls| format!("{calls:.3}"))),
                    right(format!("{:.1}", of(played, Measure::allocations_a_page))),
                    Cell::new(if at == 0 { bars.join("\n") } else { String::new() }),
                ]);
            }
        }
        table.to_string()
    }

    /// Writes `bench.json` and `bench.html`.
    pub(super) fn write(&self, out: &Path) -> Result<[PathBuf; 2], Problem> {
        fs::create_dir_all(out)?;
        let paths = [out.join("bench.json"), out.join("bench.html")];
        fs::write(&paths[0], serde_json::to_string_pretty(self)?)?;
        fs::write(&paths[1], html::page(self)?)?;
        Ok(paths)
    }
}
