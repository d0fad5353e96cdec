//! The CPU of a page, taken apart: what a bare ring takes, what the checksum takes, and what is left.

use comfy_table::{Cell, CellAlignment, Table, presets};

use super::{Report, of};
use crate::bench::measure::Measure;
use crate::bench::spec::{Kind, Work};

/// What the table says.
pub(super) const COSTS: &str = "CPU seconds a GB, medians of this run. The checksum has to bring every byte from memory; \
    what that alone takes is the floor under any store that verifies, on this machine.";

/// A row for each case past the page cache that was compared with a raw ring; `None` without a case that tells what a
/// checksum takes.
pub(super) fn costs(report: &Report) -> Option<String> {
    let cost = |kind: Kind| {
        let played = report.results.iter().flat_map(|outcome| &outcome.played);
        played
            .filter(|played| played.spec.kind == kind)
            .map(|played| of(played, Measure::cpu_seconds_a_gigabyte))
            .next()
    };
    let (checksum, memory) = (cost(Kind::Checksum)?, cost(Kind::Reading)?);
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["case", "ours", "raw ring", "checksum", "of it: memory", "the rest"]);
    for outcome in &report.results {
        let [ours, raw, ..] = outcome.played.as_slice() else { continue };
        let moves = matches!(ours.spec.work, Work::Get | Work::Reuse | Work::FirstFill);
        if !(moves && ours.spec.direct && raw.spec.kind == Kind::RawRing) {
            continue;
        }
        let figures = [of(ours, Measure::cpu_seconds_a_gigabyte), of(raw, Measure::cpu_seconds_a_gigabyte)];
        let rest = figures[0] - figures[1] - checksum;
        let mut row = vec![Cell::new(&outcome.name)];
        for figure in figures.into_iter().chain([checksum, memory, rest]) {
            row.push(Cell::new(format!("{figure:.3}")).set_alignment(CellAlignment::Right));
        }
        table.add_row(row);
    }
    (table.row_count() > 0).then(|| table.to_string())
}
