//! `hicache stat`: the sizes of a store.

use std::path::PathBuf;

use clap::Args;
use hicache_page_store::inspect::{self, SetStat, SetView};
use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::output::{Output, align_numbers, count, size, table};

/// Arguments of `hicache stat`.
#[derive(Debug, Args)]
pub(crate) struct StatArguments {
    /// Storage directory
    dir: PathBuf,
    /// Print one JSON object: `pages`, `page_bytes`, `slots`, `segments`, `physical_bytes`, `bad_records`,
    /// `bad_snapshots`, `lost_pages` (found damaged or missing now), `sets`
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    directory: PathBuf,
    pages: u64,
    page_bytes: u64,
    slots: u64,
    segments: u64,
    physical_bytes: u64,
    bad_records: u64,
    bad_snapshots: u64,
    lost_pages: u64,
    sets: Vec<SetStat>,
}

pub(crate) fn run(arguments: &StatArguments, output: &mut Output) -> Result<Exit, Failure> {
    let views = inspect::sets(&arguments.dir).map_err(|error| Failure::unreadable(&error))?;
    let sets: Vec<SetStat> = views.iter().map(SetView::stat).collect();
    let sum = |of: fn(&SetStat) -> u64| sets.iter().map(of).sum();
    let report = Report {
        directory: arguments.dir.clone(),
        pages: sum(|set| set.pages),
        page_bytes: sum(|set| set.page_bytes),
        slots: sum(|set| set.slots),
        segments: sum(|set| set.segments),
        physical_bytes: sum(|set| set.physical_bytes),
        bad_records: sum(|set| set.bad_records),
        bad_snapshots: sum(|set| set.bad_snapshots),
        lost_pages: sum(|set| set.lost_pages),
        sets,
    };
    if arguments.json {
        output.json(&report)?;
    } else {
        show(&report, output)?;
    }
    Ok(Exit::Good)
}

fn show(report: &Report, output: &mut Output) -> Result<(), Failure> {
    let mut rows = table(["set", "model", "pages", "bytes", "slots", "segments", "on disk", "generation"]);
    for set in &report.sets {
        let directory = set.directory.strip_prefix(&report.directory).unwrap_or(&set.directory);
        rows.add_row([
            directory.display().to_string(),
            set.namespace.model.clone(),
            count(set.pages),
            size(set.page_bytes),
            count(set.slots),
            count(set.segments),
            size(set.physical_bytes),
            count(set.generation),
        ]);
    }
    align_numbers(&mut rows, 2);
    output.line(rows)?;
    output.line(format_args!(
        "{} pages, {}, in {} slots; {} on disk",
        count(report.pages),
        size(report.page_bytes),
        count(report.slots),
        size(report.physical_bytes)
    ))?;
    if report.bad_records + report.bad_snapshots + report.lost_pages == 0 {
        return Ok(());
    }
    output.line(format_args!(
        "damaged: {} records, {} snapshots; {} pages lost. The next server that opens it goes on with what is left, and so \
         does `hicache verify --repair`",
        count(report.bad_records),
        count(report.bad_snapshots),
        count(report.lost_pages)
    ))
}
